"""What the stream needs of a split, in two Arrow files that are mapped, not read.

`samples.arrow` holds about 48 bytes a sample: in which shard it lies, where, and what it must hash
to. `conversations.arrow` holds 7 bytes a conversation: its sample, its place there, its task. Both
are derived from the sidecars, in shard order, and carry the Merkle root of the split they belong
to. Start-up touches these and `dataset.json` only, never an annotation file or a sidecar.

An extension's index lies under names that carry its Merkle root until its commit is there; then
it takes the plain names, and that of the commit before gets such names, for readers who began with
it. So at every moment each of the two commits has an index.
"""

import contextlib
import functools
import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from roikit.errors import CorruptSampleError, UsageError
from roikit.sample import TASKS
from shards import sidecar
from shards.atomic import put_in_place, replacing
from shards.layout import (
    CONVERSATIONS_INDEX_NAME,
    FORMAT_VERSION,
    SAMPLES_INDEX_NAME,
    parse_key,
    shard_stem,
    split_dir,
    tar_path,
)

_SAMPLES = pa.schema(
    [
        ("shard", pa.uint32()),
        ("number", pa.uint32()),  # the digits of the key; ascends
        ("image_offset", pa.uint64()),  # of the data, from the tar's start
        ("image_length", pa.uint32()),
        ("json_length", pa.uint32()),  # the record stands one header after the picture's last block
        ("image_hash", pa.uint64()),  # first 8 bytes of the sha256, big-endian; so the next
        ("json_hash", pa.uint64()),
        ("native_hash", pa.uint64()),  # of the native id's UTF-8 bytes
    ]
)
_CONVERSATIONS = pa.schema(
    [
        ("conversation_sample", pa.uint32()),  # row in the samples' index
        ("conversation_ordinal", pa.uint16()),  # place among the sample's conversations, from 0
        ("conversation_task", pa.uint8()),  # place in the metadata's `tasks`
    ]
)
_FILES = {SAMPLES_INDEX_NAME: _SAMPLES, CONVERSATIONS_INDEX_NAME: _CONVERSATIONS}
#: Of a Merkle root in a file's name.
_ROOT_DIGITS = 16
#: First bits of a hash that stand in the table of `_is_among`.
_TABLE_BITS = 22
_TABLE_SHIFT = np.uint64(64 - _TABLE_BITS)
#: Entries looked at in one go, so that what lies between two operations stays in the cache.
_AT_ONCE = 1 << 18
_HINT = "`roikit manifest rebuild` makes the index again from the sidecars"
_COLUMNS = (
    "key",
    "native_id",
    "image_sha256",
    "image_offset",
    "image_length",
    "json_sha256",
    "json_length",
    "conversations.list.element.task",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitIndex:
    """A split's index, mapped: read-only views of the files, one entry a sample or conversation."""

    root: Path
    dataset: str
    split: str
    merkle_root: str
    shard: npt.NDArray[np.uint32]
    number: npt.NDArray[np.uint32]
    image_offset: npt.NDArray[np.uint64]
    image_length: npt.NDArray[np.uint32]
    json_length: npt.NDArray[np.uint32]
    image_hash: npt.NDArray[np.uint64]
    json_hash: npt.NDArray[np.uint64]
    native_hash: npt.NDArray[np.uint64]
    conversation_sample: npt.NDArray[np.uint32]  #: which sample it belongs to
    conversation_ordinal: npt.NDArray[np.uint16]  #: which of that sample's conversations it is
    conversation_task: npt.NDArray[np.uint8]  #: index into `tasks`
    tasks: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.shard)

    def tar_path(self, row: int) -> Path:
        """Return the shard that holds sample `row`."""
        return tar_path(self.root, self.dataset, self.split, int(self.shard[row]))

    def is_task(self, tasks: Collection[str]) -> npt.NDArray[np.bool_]:
        """Return, for each conversation, whether its task is one of `tasks`."""
        wanted = [code for code, task in enumerate(self.tasks) if task in tasks]
        others = [code for code in range(len(self.tasks)) if code not in wanted]
        # few comparisons of bytes: `np.isin` over tens of millions takes 20 times as long
        if len(others) < len(wanted):
            return ~_is_one_of(self.conversation_task, others)
        return _is_one_of(self.conversation_task, wanted)

    def is_any_of(
        self, native_hashes: npt.NDArray[np.uint64], image_hashes: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.bool_]:
        """Return, for each sample, whether its picture's native id or bytes are among these."""
        return _is_among(self.native_hash, native_hashes) | _is_among(self.image_hash, image_hashes)

    def is_held_out(self, share: float) -> npt.NDArray[np.bool_]:
        """Return, for each sample, whether its picture is in the share that is never trained on.

        Chosen by the hash of its native id: a photograph is held out of every dataset or of none.
        """
        held_out: npt.NDArray[np.bool_] = self.native_hash < np.uint64(share * 2**64)
        return held_out


def _is_among(
    hashes: npt.NDArray[np.uint64], wanted: npt.NDArray[np.uint64]
) -> npt.NDArray[np.bool_]:
    """Return, for each hash, whether it is one of `wanted`.

    A table of the first bits, small enough for the processor's cache, settles nearly all; what is
    left is searched for. `np.isin` takes ten times as long for 100,000 among 10 million.
    """
    found = np.zeros(len(hashes), dtype=np.bool_)
    if not len(wanted):
        return found

    begins_one = np.zeros(1 << _TABLE_BITS, dtype=np.bool_)
    begins_one[wanted >> _TABLE_SHIFT] = True
    in_order = np.sort(wanted)
    for start in range(0, len(hashes), _AT_ONCE):
        some = hashes[start : start + _AT_ONCE]
        candidates = np.flatnonzero(begins_one[some >> _TABLE_SHIFT])
        asked = some[candidates]
        places = np.minimum(np.searchsorted(in_order, asked), len(in_order) - 1)
        found[start + candidates] = in_order[places] == asked
    return found


def _is_one_of(codes: npt.NDArray[np.uint8], wanted: Collection[int]) -> npt.NDArray[np.bool_]:
    if not wanted:
        return np.zeros(len(codes), dtype=np.bool_)
    # compared and joined, nothing else: over tens of millions every pass counts
    found: npt.NDArray[np.bool_] = functools.reduce(
        np.bitwise_or, (codes == code for code in wanted)
    )
    return found


def rows_where(is_kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    """Return where a mask over samples or conversations is true, in half the memory of numpy's."""
    rows = np.empty(np.count_nonzero(is_kept), dtype=np.uint32)
    end = 0
    for start in range(0, len(is_kept), _AT_ONCE):
        found = np.flatnonzero(is_kept[start : start + _AT_ONCE])
        rows[end : end + len(found)] = found + start
        end += len(found)
    return rows


def short_hashes(sha256s_hex: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return the first 8 bytes of each SHA-256, as the index keeps them."""
    digits = "".join([sha256[:16].zfill(16) for sha256 in sha256s_hex])
    return np.frombuffer(bytes.fromhex(digits), dtype=">u8").astype(np.uint64)


def native_hashes(native_ids: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return what the index keeps of each native id."""
    begins = b"".join([hashlib.sha256(name.encode()).digest()[:8] for name in native_ids])
    return np.frombuffer(begins, dtype=">u8").astype(np.uint64)


def build_index(
    folder: Path,
    num_shards: int,
    *,
    dataset: str,
    split: str,
    merkle_root: str,
    is_ahead: bool = False,
) -> None:
    """Write a split's index from its sidecars.

    Args:
        folder: the split's.
        num_shards: how many shards it has.
        dataset: the dataset's name.
        split: the split's name.
        merkle_root: the split's.
        is_ahead: another commit stands and keeps its index until `settle_index`.

    Raises:
        CorruptSampleError: a sidecar is missing or unreadable.
    """
    columns = derive_columns(folder, num_shards, dataset=dataset, split=split)
    write_index(folder, columns, merkle_root=merkle_root, is_ahead=is_ahead)


def write_index(
    folder: Path,
    columns: Mapping[str, npt.NDArray[Any]],
    *,
    merkle_root: str,
    is_ahead: bool = False,
) -> None:
    """Write a split's index from its columns; see `build_index` and `SplitIndex`."""
    metadata = {
        "format": str(FORMAT_VERSION),
        "merkle_root": merkle_root,
        "tasks": ",".join(TASKS),
    }
    for name, schema in _FILES.items():
        path = _named_by_root(folder / name, merkle_root) if is_ahead else folder / name
        _write(path, schema.with_metadata(metadata), columns)


def settle_index(folder: Path, merkle_root: str) -> None:
    """Give a commit's index the plain names, if it has others, once that commit is written.

    May be ended at any moment and run again.
    """
    for name in _FILES:
        ours = _named_by_root(folder / name, merkle_root)
        if not ours.is_file():
            continue
        try:
            before = _metadata(_map(folder / name)).get(b"merkle_root", b"").decode()
        except (UsageError, CorruptSampleError):  # lost or damaged: nobody reads it
            before = ""
        if before not in ("", merkle_root):
            (folder / name).replace(_named_by_root(folder / name, before))
        put_in_place(ours, folder / name)


def remove_index(folder: Path, *, keep_plain: bool = False) -> None:
    """Remove a split's index; `keep_plain` removes only those of commits before and to come."""
    for name in _FILES:
        if not keep_plain:
            (folder / name).unlink(missing_ok=True)
        for path in folder.glob(_named_by_root(Path(name), "?" * _ROOT_DIGITS).name):
            path.unlink(missing_ok=True)


def derive_columns(
    folder: Path, num_shards: int, *, dataset: str, split: str
) -> dict[str, npt.NDArray[Any]]:
    """Return the index's columns as the sidecars give them, by `SplitIndex`'s names.

    Raises:
        CorruptSampleError: a sidecar is missing or unreadable.
    """
    parts: dict[str, list[npt.NDArray[Any]]] = {
        name: [] for name in (*_SAMPLES.names, *_CONVERSATIONS.names)
    }
    codes = {task: code for code, task in enumerate(TASKS)}
    num_samples = 0
    for shard in range(num_shards):
        table = sidecar.read_rows(folder / f"{shard_stem(dataset, split, shard)}.parquet", _COLUMNS)
        tasks = [[c["task"] for c in row] for row in table["conversations"].to_pylist()]
        columns: dict[str, Any] = {
            "shard": [shard] * len(tasks),
            "number": [parse_key(key)[1] for key in table["key"].to_pylist()],
            "image_offset": table["image_offset"].to_numpy(),
            "image_length": table["image_length"].to_numpy(),
            "json_length": table["json_length"].to_numpy(),
            "image_hash": short_hashes(table["image_sha256"].to_pylist()),
            "json_hash": short_hashes(table["json_sha256"].to_pylist()),
            "native_hash": native_hashes(table["native_id"].to_pylist()),
            "conversation_sample": [num_samples + i for i, row in enumerate(tasks) for _ in row],
            "conversation_ordinal": [i for row in tasks for i in range(len(row))],
            "conversation_task": [codes[task] for row in tasks for task in row],
        }
        for name, values in columns.items():
            parts[name].append(np.array(values, dtype=_dtype(name)))
        num_samples += len(tasks)
    return {
        name: np.concatenate(arrays) if arrays else np.zeros(0, dtype=_dtype(name))
        for name, arrays in parts.items()
    }


def open_index(root: Path | str, dataset: str, split: str, merkle_root: str) -> SplitIndex:
    """Map a split's index.

    Args:
        root: the shards' root folder.
        dataset: the dataset's name.
        split: the split's name.
        merkle_root: that of the split's `dataset.json`, which the index must belong to.

    Raises:
        UsageError: the index is missing or of another commit.
        CorruptSampleError: it cannot be read.
    """
    folder = split_dir(root, dataset, split)
    samples = _open(folder / SAMPLES_INDEX_NAME, merkle_root)
    conversations = _open(folder / CONVERSATIONS_INDEX_NAME, merkle_root)
    return SplitIndex(
        root=Path(root),
        dataset=dataset,
        split=split,
        merkle_root=merkle_root,
        **{name: _column(samples, name) for name in _SAMPLES.names},
        **{name: _column(conversations, name) for name in _CONVERSATIONS.names},
        tasks=tuple(conversations.schema.metadata[b"tasks"].decode().split(",")),
    )


def _dtype(name: str) -> Any:
    schema = _SAMPLES if name in _SAMPLES.names else _CONVERSATIONS
    return schema.field(name).type.to_pandas_dtype()


def _write(path: Path, schema: pa.Schema, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    arrays = [pa.array(columns[name]) for name in schema.names]
    # One batch, uncompressed: every column is then one run of bytes that can be used where it lies.
    batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
    with replacing(path) as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(batch)


def _named_by_root(path: Path, merkle_root: str) -> Path:
    return path.with_name(f"{path.stem}-{merkle_root[:_ROOT_DIGITS]}{path.suffix}")


def _open(path: Path, merkle_root: str) -> pa.RecordBatch:
    """Map the file at `path` that belongs to this commit, or the one that lies beside it.

    A commit to come moves it from the longer name to the plain one, a commit that is replaced from
    the plain one to the longer: looked for in this order, neither is missed.
    """
    beside = _named_by_root(path, merkle_root)
    for place in (path, beside):
        with contextlib.suppress(UsageError, CorruptSampleError):
            return _checked(place, merkle_root)
    return _checked(path, merkle_root)


def _checked(path: Path, merkle_root: str) -> pa.RecordBatch:
    batch = _map(path)
    metadata = _metadata(batch)
    if metadata.get(b"format") != str(FORMAT_VERSION).encode():
        raise UsageError(f"{path}: expected an index of format {FORMAT_VERSION}", hint=_HINT)
    if metadata.get(b"merkle_root") != merkle_root.encode():
        raise UsageError(
            f"{path}: this index belongs to other shards than `dataset.json`", hint=_HINT
        )
    return batch


def _map(path: Path) -> pa.RecordBatch:
    if not path.is_file():
        raise UsageError(f"{path}: the index is missing", hint=_HINT)
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except FileNotFoundError as error:  # renamed in the meantime
        raise UsageError(f"{path}: the index is missing", hint=_HINT) from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise CorruptSampleError(f"{path}: cannot read this index: {error}", hint=_HINT) from error


def _metadata(batch: pa.RecordBatch) -> dict[bytes, bytes]:
    return batch.schema.metadata or {}


def _column(batch: pa.RecordBatch, name: str) -> Any:
    column = batch.column(name)
    # Arrow's own `to_numpy` imports pandas where that is installed: a third of a second
    data = column.buffers()[1]
    dtype = np.dtype(_dtype(name))
    if data is None or not len(column):
        return np.zeros(0, dtype=dtype)
    return np.frombuffer(data, dtype, count=len(column), offset=column.offset * dtype.itemsize)
