"""Read samples back: all of a split, one by its key, one by its row in the index.

What is read is checked against the index (names, lengths, hashes), so that damaged bytes are an
error that names shard and member and never a wrong picture.
"""

import hashlib
import os
import tarfile
from collections import OrderedDict
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np

from roikit.errors import CorruptSampleError, UsageError, ValidationError
from roikit.sample import Sample, decode_sample
from shards.commit import list_datasets, load_dataset
from shards.index import SplitIndex, open_index
from shards.layout import parse_key, sample_key, split_prefix
from shards.range_cache import cache_of_this_node
from shards.remote import bring, committed_splits, url_of
from shards.remote_tars import RemoteTars
from shards.writer import BLOCK_BYTES, NAME_BYTES, member_header, padded

#: Shards kept open at once, well below the usual limit of 1,024 files a process.
_MAX_OPEN = 128


def iter_samples(
    root: Path | str,
    dataset: str,
    split: str,
    *,
    tasks: Collection[str] | None = None,
    limit: int | None = None,
) -> Iterator[tuple[Sample, bytes]]:
    """Yield a split's samples with their pictures' bytes, in the shards' order.

    Args:
        root: the shards' root folder.
        dataset: the dataset's name.
        split: the split's name.
        tasks: only samples with a conversation of one of these tasks; they come whole, with their
            other conversations too.
        limit: at most so many samples.

    Raises:
        UsageError: there is no such committed split.
        CorruptSampleError: stored bytes are not what the index says; names shard and member.
    """
    index = open_split(root, dataset, split)
    rows = np.arange(len(index))
    if tasks is not None:
        rows = np.unique(index.conversation_sample[index.is_task(tasks)])
    reader = ShardReader()
    for row in rows[:limit]:
        yield reader.read(index, int(row))


def read_sample(root: Path | str, key: str) -> tuple[Sample, bytes]:
    """Return the sample of that key, from whatever split below `root` holds it, with its picture.

    Raises:
        UsageError: `key` is no key, or no committed split holds it.
        CorruptSampleError: stored bytes are not what the index says.
    """
    prefix, number = parse_key(key)
    splits = [(info.dataset, info.split) for info in list_datasets(root)]
    if url_of(root) is not None and all(split_prefix(*names) != prefix for names in splits):
        splits = committed_splits(root)
    for dataset, split in splits:
        if split_prefix(dataset, split) != prefix:
            continue
        index = open_split(root, dataset, split)
        row = int(np.searchsorted(index.number, number))
        if row < len(index) and index.number[row] == number:
            return ShardReader().read(index, row)
    there = ", ".join(f"`{split_prefix(*names)}-…`" for names in splits)
    raise UsageError(
        f"{url_of(root) or root}: no sample `{key}`",
        hint=f"keys here look like {there}" if there else "no committed dataset lies there",
    )


def open_split(root: Path | str, dataset: str, split: str) -> SplitIndex:
    """Map the index of a committed split; where it lies behind a URL, as it is there now.

    Raises:
        UsageError: there is no such committed split, or its index is missing.
        RemoteError: the store does not answer.
    """
    bring(root, dataset, split)
    info = load_dataset(root, dataset, split)
    return open_index(root, dataset, split, info.merkle_root)


class ShardReader:
    """Reads samples by their row, one `pread` each. May be used by several threads at once.

    Where the root stands for a URL, a sample is one request to the store, or none once the cache of
    this node holds it.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[Path, _OpenFile] = OrderedDict()
        self._remote: dict[Path, RemoteTars | None] = {}
        self._lock = Lock()

    def read(self, index: SplitIndex, row: int) -> tuple[Sample, bytes]:
        """Return sample `row` of `index` and its picture's bytes.

        Raises:
            CorruptSampleError: the bytes are not what the index says; names shard and member.
            RemoteError: the store that they lie in does not answer.
            UsageError: the store lacks the shard, or holds another one now.
        """
        start = int(index.image_offset[row]) - BLOCK_BYTES
        length = BLOCK_BYTES + padded(int(index.image_length[row]))
        length += BLOCK_BYTES + int(index.json_length[row])
        tars = self._remote_tars(index.root)
        if tars is not None:
            check = partial(_members, index, row)
            return tars.read(index, row, start, length, check=check)
        path = index.tar_path(row)
        try:
            data = self._file(path).read(length, start)
        except OSError as error:
            key = sample_key(index.dataset, index.split, int(index.number[row]))
            raise CorruptSampleError(f"{path}: sample `{key}`: cannot read: {error}") from error
        return _members(index, row, data, path)

    def _remote_tars(self, root: Path) -> RemoteTars | None:
        """Return what reads the tars of a root that stands for a URL; None for other roots."""
        try:
            return self._remote[root]
        except KeyError:
            is_remote = url_of(root) is not None
            tars = RemoteTars(root, cache_of_this_node()) if is_remote else None
            return self._remote.setdefault(root, tars)

    def _file(self, path: Path) -> "_OpenFile":
        with self._lock:
            file = self._open.get(path)
            if file is None:
                file = self._open[path] = _OpenFile(path)
                if len(self._open) > _MAX_OPEN:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(path)
            return file


class _OpenFile:
    """An open file that closes when the last one who reads from it lets go of it."""

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, length: int, offset: int) -> bytes:
        """Return up to `length` bytes from `offset`; fewer only at the file's end."""
        data = os.pread(self._descriptor, length, offset)
        while len(data) < length:
            more = os.pread(self._descriptor, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _members(index: SplitIndex, row: int, data: bytes, shown: Path | str) -> tuple[Sample, bytes]:
    """Take apart and check a sample's two members, as they stand in the tar called `shown`."""
    key = sample_key(index.dataset, index.split, int(index.number[row]))
    image_length, json_length = int(index.image_length[row]), int(index.json_length[row])
    json_start = BLOCK_BYTES + padded(image_length) + BLOCK_BYTES
    if len(data) < json_start + json_length:
        raise CorruptSampleError(f"{shown}: sample `{key}`: the shard ends before it")
    image_name = _member_name(data[:BLOCK_BYTES], image_length)
    if image_name is None or image_name.partition(".")[0] != key:
        start = int(index.image_offset[row]) - BLOCK_BYTES
        raise CorruptSampleError(
            f"{shown}: expected the picture of `{key}` at byte {start}, found `{image_name}`"
        )
    image_bytes = data[BLOCK_BYTES : BLOCK_BYTES + image_length]
    if _short_sha256(image_bytes) != index.image_hash[row]:
        raise CorruptSampleError(f"{shown}: member `{image_name}`: its bytes have changed")
    json_bytes = data[json_start:]
    if _short_sha256(json_bytes) != index.json_hash[row]:
        raise CorruptSampleError(f"{shown}: member `{key}.json`: its bytes have changed")
    try:
        return decode_sample(json_bytes), image_bytes
    except ValidationError as error:
        raise CorruptSampleError(f"{shown}: member `{key}.json`: {error}") from error


def _member_name(header: bytes, length: int) -> str | None:
    """Return the name of a member of that length; None if its header is damaged."""
    try:
        name = header[:NAME_BYTES].rstrip(b"\0").decode()
        # What our writer made is compared as a whole: taking it apart took a sixth of a read.
        if header == member_header(name, length):
            return name
        return tarfile.TarInfo.frombuf(header, "utf-8", "strict").name
    except (tarfile.HeaderError, UnicodeDecodeError):
        return None


def _short_sha256(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
