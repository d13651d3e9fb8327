"""Hashes of all pictures' pixels and looks, computed once and kept beside the shards.

Each shard has a file of its own, `<stem>.fingerprints.arrow`, one row a sample in the shard's
order, that carries the shard's Merkle root: a run that was stopped goes on with the next shard, and
a shard that was made anew is hashed anew. A picture that cannot be decoded has no hash; one without
any detail has no look.
"""

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from roikit.errors import CorruptSampleError, UsageError
from roikit.fingerprint import FINGERPRINT_VERSION, LOOK_BYTES, Fingerprint, fingerprint
from shards.atomic import replacing
from shards.commit import DatasetInfo, ShardEntry, load_dataset
from shards.index import SplitIndex, open_index
from shards.layout import FINGERPRINTS_SUFFIX, sample_key, split_dir
from shards.read import ShardReader

log = logging.getLogger(__name__)

_SCHEMA = pa.schema(
    [
        ("pixels", pa.binary(32)),  # null where the picture cannot be decoded
        ("look", pa.binary(LOOK_BYTES)),  # null there, and where it is too plain
    ]
)

#: Told (pictures done, pictures in all, what is being hashed).
ProgressCall = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprints:
    """A split's hashes, in the shards' order."""

    pixels: npt.NDArray[np.uint64]  #: (N,) first 8 bytes of the SHA-256; 0: cannot be decoded
    looks: npt.NDArray[np.uint64]  #: (N, 4) perceptual hash
    has_look: npt.NDArray[np.bool_]  #: (N,)


def read_fingerprints(root: Path | str, info: DatasetInfo) -> Fingerprints | None:
    """Return a split's hashes; None where they were not computed for each of its shards as it is.

    Args:
        root: the shards' root folder.
        info: the split's commit.
    """
    folder = split_dir(root, info.dataset, info.split)
    parts = [_read(folder, shard) for shard in info.shards]
    tables = [part for part in parts if part is not None]
    if len(tables) < len(parts):
        return None
    whole = pa.concat_tables([_SCHEMA.empty_table(), *map(_as_table, tables)])
    pixels, looks = (whole[name].to_pylist() for name in _SCHEMA.names)
    return Fingerprints(
        pixels=_words(pixels, 32)[:, 0].copy(),
        looks=_words(looks, LOOK_BYTES),
        has_look=np.array([look is not None for look in looks], dtype=bool),
    )


def compute_fingerprints(
    root: Path | str,
    splits: Sequence[tuple[str, str]],
    *,
    workers: int | None = None,
    progress: ProgressCall | None = None,
) -> int:
    """Hash the pictures of the splits whose hashes are not there yet, and keep the hashes.

    Args:
        root: the shards' root folder.
        splits: (dataset, split) of what is wanted.
        workers: threads, a picture each; default: one a processor.
        progress: called after each picture.

    Returns:
        How many pictures were hashed.

    Raises:
        UsageError: a split is not committed, or its folder cannot be written.
        CorruptSampleError: a shard is damaged; those before it are done.
    """
    missing: list[tuple[DatasetInfo, int]] = []
    for dataset, split in splits:
        info = load_dataset(root, dataset, split)
        folder = split_dir(root, dataset, split)
        missing += [
            (info, i) for i, shard in enumerate(info.shards) if _read(folder, shard) is None
        ]
    total = sum(info.shards[i].samples for info, i in missing)
    done = 0
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as executor:
        for info, number in missing:
            index = open_index(root, info.dataset, info.split, info.merkle_root)
            reader = ShardReader()
            jobs = [
                executor.submit(_hash, reader, index, int(row))
                for row in np.flatnonzero(index.shard == number)
            ]
            rows = []
            try:
                for job in jobs:
                    rows.append(job.result())
                    done += 1
                    if progress is not None:
                        progress(done, total, f"hashing {info.dataset} {info.split}")
            except BaseException:  # Ctrl-C, too, must not wait for the rest of the shard
                executor.shutdown(wait=False, cancel_futures=True)
                raise
            _write(split_dir(root, info.dataset, info.split), info.shards[number], rows)
            lost = sum(row is None for row in rows)
            if lost:
                log.warning("%s: %d pictures cannot be decoded", info.shards[number].stem, lost)
    return total


def _hash(reader: ShardReader, index: SplitIndex, row: int) -> Fingerprint | None:
    _, image_bytes = reader.read(index, row)  # raises where stored bytes have changed
    try:
        return fingerprint(image_bytes)
    except CorruptSampleError as error:  # the bytes are what the source had
        key = sample_key(index.dataset, index.split, int(index.number[row]))
        log.info("%s: %s", key, error)
        return None


def _metadata(shard: ShardEntry) -> dict[bytes, bytes]:
    return {
        b"version": str(FINGERPRINT_VERSION).encode(),
        b"merkle_root": shard.merkle_root.encode(),
    }


def _write(folder: Path, shard: ShardEntry, rows: Sequence[Fingerprint | None]) -> None:
    columns = [
        [None if row is None else row.pixels for row in rows],
        [None if row is None else row.look for row in rows],
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)]
    schema = _SCHEMA.with_metadata(_metadata(shard))
    try:
        with (
            replacing(folder / f"{shard.stem}{FINGERPRINTS_SUFFIX}") as file,
            pa.ipc.new_file(file, schema) as writer,
        ):
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    except PermissionError as error:
        raise UsageError(
            f"{folder}: cannot keep the pictures' hashes here: {error.strerror}",
            hint="compare ids and bytes alone with `--no-pixels`, or make the folder writable",
        ) from error


def _read(folder: Path, shard: ShardEntry) -> pa.RecordBatch | None:
    path = folder / f"{shard.stem}{FINGERPRINTS_SUFFIX}"
    if not path.is_file():
        return None
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (OSError, ValueError, pa.ArrowException):
        return None  # derived: it is made again
    is_current = dict(batch.schema.metadata or {}) == _metadata(shard)
    return batch if is_current and len(batch) == shard.samples else None


def _as_table(batch: pa.RecordBatch) -> pa.Table:
    return pa.Table.from_batches([batch]).replace_schema_metadata(None)


def _words(values: list[bytes | None], width: int) -> npt.NDArray[np.uint64]:
    """Return (N, width / 8) words; zeros for None."""
    data = b"".join(value if value is not None else bytes(width) for value in values)
    return np.frombuffer(data, dtype=">u8").reshape(-1, width // 8).astype(np.uint64)
