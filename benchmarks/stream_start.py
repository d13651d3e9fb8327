"""Measures how long a stream over 10 million samples takes to its first batch, and to a resume.

The index is synthetic: 10 million samples with three conversations each, in 4,000 shards, in the
files that a commit writes. All have one record and one picture. The tars are sparse files in which
the samples that will be drawn, and only those, really stand at their places: they are read, checked
and decoded like any others. Each measurement is a process of its own, its imports done before the
clock starts. Before a *cold* run the kernel is asked to forget the files.
"""

import hashlib
import os
import time
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.convert_writing import make_record
from benchmarks.fresh_process import in_process
from benchmarks.stream_contenders import BATCH, PICTURES, draw_picture
from benchmarks.stream_memory import memory_of
from roikit.images import decode_rgb
from roikit.sample import TASKS, Sample, encode_sample
from shards.atomic import write_bytes
from shards.commit import DatasetInfo, ShardEntry
from shards.index import SplitIndex, native_hashes, write_index
from shards.layout import COMMIT_NAME, FORMAT_VERSION, sample_key, shard_stem, split_dir, tar_path
from shards.stream import Stream
from shards.writer import BLOCK_BYTES, member_header, padded

SAMPLES = 10_000_000
#: Identities of an exclusion list, half of them native ids and half hashes of bytes.
EXCLUDED = 100_000
_SHARDS = 4_000
_TASKS = ("category", "image-caption", "caption")
_ROOT = "0" * 64
_MIXES = {
    "one source": "big",
    "three sources": "big:category,big:image-caption=2,big:caption=0.5",
}


def measure_start(work: Path, repeats: int) -> list[dict[str, Any]]:
    """Open a stream and take its first batch, or one in the middle; with and without exclusions."""
    work.mkdir()
    in_process(make_manifest, work)
    rows = []
    for mix in _MIXES:
        for excluded in (0, EXCLUDED):
            for place in ("first", "middle"):
                in_process(_write_drawn, work, mix, excluded, place)
                runs = [
                    in_process(_start, work, mix, excluded, place, is_cold)
                    for _ in range(repeats)
                    for is_cold in (True, False)
                ]
                warm = [run for run in runs if not run["is_cold"]]
                rows.append(
                    {
                        "mix": mix,
                        "excluded": excluded,
                        "batch": place,
                        "seconds": _median(warm, "seconds"),
                        "cpu_seconds": _median(warm, "cpu_seconds"),
                        "seconds_to_open": _median(warm, "seconds_to_open"),
                        "seconds_cold": _median([r for r in runs if r["is_cold"]], "seconds"),
                        "private_bytes": _median(warm, "private_bytes"),
                        "runs": runs,
                    }
                )
    return rows


def make_manifest(root: Path) -> None:
    """Write the commit and the index of `big@train`."""
    folder = split_dir(root, "big", "train")
    folder.mkdir(parents=True)
    numbers = np.arange(SAMPLES, dtype=np.uint32)
    per_shard = SAMPLES // _SHARDS
    image, record = _members()
    length = 2 * BLOCK_BYTES + padded(len(image)) + padded(len(record))
    rng = np.random.default_rng(0)
    natives = rng.integers(0, 2**64, SAMPLES, dtype=np.uint64)
    listed = rng.choice(SAMPLES, EXCLUDED // 2, replace=False)
    natives[listed] = native_hashes(_excluded_ids())
    many = len(_TASKS)
    codes = np.array([TASKS.index(task) for task in _TASKS], np.uint8)
    columns = {
        "shard": numbers // per_shard,
        "number": numbers,
        "image_offset": (numbers % per_shard).astype(np.uint64) * length + BLOCK_BYTES,
        "image_length": np.full(SAMPLES, len(image), np.uint32),
        "json_length": np.full(SAMPLES, len(record), np.uint32),
        "image_hash": np.full(SAMPLES, _hash(image), np.uint64),
        "json_hash": np.full(SAMPLES, _hash(record), np.uint64),
        "native_hash": natives,
        "conversation_sample": np.repeat(numbers, many),
        "conversation_ordinal": np.tile(np.zeros(many, np.uint16), SAMPLES),
        "conversation_task": np.tile(codes, SAMPLES),
    }
    write_index(folder, columns, merkle_root=_ROOT)
    stems = [shard_stem("big", "train", i) for i in range(_SHARDS)]
    info = DatasetInfo(
        format=FORMAT_VERSION,
        dataset="big",
        split="train",
        plan_hash=_ROOT,
        merkle_root=_ROOT,
        samples=SAMPLES,
        regions=0,
        conversations=many * SAMPLES,
        exchanges=0,
        tar_bytes=SAMPLES * length,
        tasks=dict.fromkeys(_TASKS, SAMPLES),
        rejections={},
        settings={},
        shards=[
            ShardEntry(
                stem=stem, samples=per_shard, tar_bytes=per_shard * length, merkle_root=_ROOT
            )
            for stem in stems
        ],
    )
    write_bytes(folder / COMMIT_NAME, msgspec.json.format(msgspec.json.encode(info), indent=2))


def _write_drawn(root: Path, mix: str, excluded: int, place: str) -> None:
    """Put the samples that the batch will draw into the tars."""
    stream = _open(root, mix, _list(excluded))
    recorder = _Recorder()
    stream._reader = recorder  # type: ignore[assignment]
    _take(stream, place)
    image, record = _members()
    for index, row in recorder.asked:
        key = sample_key("big", "train", row)
        parts = [
            member_header(f"{key}.jpg", len(image)),
            image,
            b"\0" * (-len(image) % BLOCK_BYTES),
        ]
        parts += [member_header(f"{key}.json", len(record)), record]
        tar = tar_path(root, "big", "train", int(index.shard[row]))
        tar.touch()
        with tar.open("r+b") as file:
            file.seek(int(index.image_offset[row]) - BLOCK_BYTES)
            file.write(b"".join(parts))


class _Recorder:
    """Takes the place of a stream's reader and notes what is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[SplitIndex, int]] = []

    def read(self, index: SplitIndex, row: int) -> tuple[Sample, bytes]:
        self.asked.append((index, row))
        return make_record(row), b""


def _start(root: Path, mix: str, excluded: int, place: str, is_cold: bool) -> dict[str, Any]:
    if is_cold:
        _forget(root)
    listed = _list(excluded)
    began, cpu_began = time.perf_counter(), time.process_time()
    stream = _open(root, mix, listed)
    opened = time.perf_counter()
    pictures = [decode_rgb(data) for data in _take(stream, place)]
    ended, cpu_ended = time.perf_counter(), time.process_time()
    assert len(pictures) == BATCH
    return {
        "is_cold": is_cold,
        "seconds": ended - began,
        "cpu_seconds": cpu_ended - cpu_began,
        "seconds_to_open": opened - began,
        "private_bytes": memory_of(os.getpid())["private_bytes"],
    }


def _open(root: Path, mix: str, excluded: tuple[list[str], list[str]]) -> Stream:
    ids, hashes = excluded
    return Stream(root, _MIXES[mix], prefetch=0, exclude_native_ids=ids, exclude_sha256s=hashes)


def _list(excluded: int) -> tuple[list[str], list[str]]:
    """Return an exclusion list: native ids, of which the manifest has each one, and hashes."""
    ids = _excluded_ids()[: excluded // 2]
    return ids, [hashlib.sha256(name.encode()).hexdigest() for name in ids]


def _take(stream: Stream, place: str) -> list[bytes]:
    """Return the pictures of the first batch, or of one after a resume in the epoch's middle."""
    if place == "middle":
        middle = stream.epoch_length // 2
        stream.load_state_dict(stream.state_dict() | {"position": middle})
    return [example.image_bytes for example in islice(stream, BATCH)]


def _excluded_ids() -> list[str]:
    return [f"flickr:{number}" for number in range(EXCLUDED // 2)]


def _members() -> tuple[bytes, bytes]:
    """Return the picture and the record of every sample."""
    image_wh, quality, _ = PICTURES["20 kB"]
    return draw_picture(0, image_wh, quality), encode_sample(make_record(0))


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def _forget(root: Path) -> None:
    """Ask the kernel to drop the files' pages."""
    for path in root.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _median(runs: list[dict[str, Any]], name: str) -> float:
    return float(np.median([run[name] for run in runs]))
