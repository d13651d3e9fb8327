"""Write one shard: a plain tar whose bytes depend on its samples and nothing else.

In: samples with their picture's untouched bytes, in order. Out: the tar, renamed into place when it
is whole and on the disk, and a row for each sample saying where its two members lie and what they
hash to. Knows no dataset and no plan.
"""

import hashlib
import re
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from roikit.errors import ValidationError
from roikit.sample import Sample, encode_sample
from shards import merkle
from shards.atomic import replacing, start_writing_back, write_parts

BLOCK_BYTES = tarfile.BLOCKSIZE
#: Room for a member's name in its header.
NAME_BYTES = 100
#: Members are gathered until they are this much, then written at once.
_WRITE_BYTES = 1024 * 1024
_EXTENSION = re.compile(r"[a-z0-9]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")

# A ustar header, taken apart. In the sum of its bytes the checksum itself counts as eight blanks.
_ZEROS = b"\0" * BLOCK_BYTES
_MAX_LENGTH = 0o77777777777
_TEMPLATE = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
_MODE_AND_OWNER = _TEMPLATE[100:124]
_TIME = _TEMPLATE[135:148]  # with the byte that ends the length
_AFTER_SUM = _TEMPLATE[155:]  # with the checksum's last byte, a blank
_FIXED_SUM = sum(_MODE_AND_OWNER + _TIME + _AFTER_SUM) + 7 * ord(" ")


@dataclass(frozen=True, kw_only=True, slots=True)
class MemberRow:
    """Where a sample's two members lie in its tar. Offsets are of the data, not the header."""

    sample: Sample
    extension: str  #: of the picture's member, by its content: `jpg`, `png`
    image_offset: int  #: bytes from the tar's start
    image_length: int  #: bytes
    json_offset: int  #: bytes from the tar's start
    json_length: int  #: bytes
    json_sha256: str  #: hex; the picture's is `sample.image.sha256`

    @property
    def image_name(self) -> str:
        """The picture's member name."""
        return f"{self.sample.key}.{self.extension}"

    @property
    def json_name(self) -> str:
        """The record's member name."""
        return f"{self.sample.key}.json"


def write_shard(tar_path: Path, entries: Iterable[tuple[Sample, bytes, str]]) -> list[MemberRow]:
    """Write `entries` as one tar and put it at `tar_path`.

    Args:
        tar_path: where the tar goes; its folder must exist. An older file there is replaced.
        entries: (sample, the picture's bytes, the member's extension without a dot), keys
            ascending. `sample.image.sha256` must be that of the bytes: each byte is hashed once, by
            whoever reads it.

    Returns:
        One row a sample, in order.

    Raises:
        ValidationError: a sha256 or extension that cannot be one, or keys that do not ascend.
    """
    rows: list[MemberRow] = []
    previous = ""
    with replacing(tar_path) as file:
        tar = _Appender(file)
        for sample, image_bytes, extension in entries:
            if sample.key <= previous:
                raise ValidationError(f"key: expected one after `{previous}`, got `{sample.key}`")
            if not _EXTENSION.fullmatch(extension) or extension == "json":
                raise ValidationError(f"{sample.key}: `{extension}` is no picture's extension")
            if not _SHA256.fullmatch(sample.image.sha256):
                raise ValidationError(f"{sample.key}: image.sha256: expected 64 hexadecimal digits")
            previous = sample.key
            json_bytes = encode_sample(sample)
            image_offset = tar.add(f"{sample.key}.{extension}", image_bytes)
            json_offset = tar.add(f"{sample.key}.json", json_bytes)
            rows.append(
                MemberRow(
                    sample=sample,
                    extension=extension,
                    image_offset=image_offset,
                    image_length=len(image_bytes),
                    json_offset=json_offset,
                    json_length=len(json_bytes),
                    json_sha256=hashlib.sha256(json_bytes).hexdigest(),
                )
            )
        tar.end()
    return rows


def member_header(name: str, length: int) -> bytes:
    """Return a member's 512-byte ustar header: mode 0644, owner and time 0, no names of people."""
    raw_name = name.encode()
    if len(raw_name) > NAME_BYTES or length > _MAX_LENGTH:
        info = tarfile.TarInfo(name)
        info.size = length
        return info.tobuf(tarfile.USTAR_FORMAT)
    # What `tarfile` would write, by hand: that took a quarter of a small sample's time.
    digits = b"%011o" % length
    total = b"%06o\0" % (_FIXED_SUM + sum(raw_name) + sum(digits))
    filling = _ZEROS[len(raw_name) : NAME_BYTES]
    return b"".join((raw_name, filling, _MODE_AND_OWNER, digits, _TIME, total, _AFTER_SUM))


def padded(length: int) -> int:
    """Return `length` bytes rounded up to whole tar blocks."""
    return length + -length % BLOCK_BYTES


def shard_root(rows: Iterable[MemberRow]) -> str:
    """Return the Merkle root over a shard's members, in the order they stand in the tar."""
    leaves: list[bytes] = []
    for row in rows:
        leaves.append(merkle.leaf(row.image_name, row.sample.image.sha256))
        leaves.append(merkle.leaf(row.json_name, row.json_sha256))
    return merkle.root(leaves)


class _Appender:
    """Appends members to a tar in few large writes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._parts: list[bytes] = []
        self._waiting = 0  # bytes
        self._written = 0  # bytes

    def add(self, name: str, data: bytes) -> int:
        """Append one member and return the offset of its data."""
        self._parts += (member_header(name, len(data)), data, _ZEROS[: -len(data) % BLOCK_BYTES])
        offset = self._written + self._waiting + BLOCK_BYTES
        self._waiting += BLOCK_BYTES + padded(len(data))
        if self._waiting >= _WRITE_BYTES:
            self._flush()
        return offset

    def end(self) -> None:
        """Append the end of the archive."""
        end = self._written + self._waiting + 2 * BLOCK_BYTES
        closing = b"\0" * (2 * BLOCK_BYTES + -end % tarfile.RECORDSIZE)
        self._parts.append(closing)
        self._waiting += len(closing)
        self._flush()

    def _flush(self) -> None:
        write_parts(self._file, self._parts)
        # The disk works while the next samples are made, and the last fsync has little to wait for.
        start_writing_back(self._file, self._written, self._waiting)
        self._written += self._waiting
        self._parts.clear()
        self._waiting = 0
