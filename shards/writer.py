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
from shards.atomic import replacing

BLOCK_BYTES = tarfile.BLOCKSIZE
_EXTENSION = re.compile(r"[a-z0-9]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


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
        for sample, image_bytes, extension in entries:
            if sample.key <= previous:
                raise ValidationError(f"key: expected one after `{previous}`, got `{sample.key}`")
            if not _EXTENSION.fullmatch(extension) or extension == "json":
                raise ValidationError(f"{sample.key}: `{extension}` is no picture's extension")
            if not _SHA256.fullmatch(sample.image.sha256):
                raise ValidationError(f"{sample.key}: image.sha256: expected 64 hexadecimal digits")
            previous = sample.key
            json_bytes = encode_sample(sample)
            image_offset = _add_member(file, f"{sample.key}.{extension}", image_bytes)
            json_offset = _add_member(file, f"{sample.key}.json", json_bytes)
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
        file.write(b"\0" * (2 * BLOCK_BYTES))
        file.write(b"\0" * (-file.tell() % tarfile.RECORDSIZE))
    return rows


def member_header(name: str, length: int) -> bytes:
    """Return a member's 512-byte ustar header: mode 0644, owner and time 0, no names of people."""
    info = tarfile.TarInfo(name)
    info.size = length
    return info.tobuf(tarfile.USTAR_FORMAT)


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


def _add_member(file: BinaryIO, name: str, data: bytes) -> int:
    """Append one member and return the offset of its data."""
    file.write(member_header(name, len(data)))
    offset = file.tell()
    file.write(data)
    file.write(b"\0" * (-len(data) % BLOCK_BYTES))
    return offset
