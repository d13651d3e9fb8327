"""Measures the writing of shards: roikit's writer beside `webdataset.ShardWriter`, same samples.

Every run is a process of its own, pinned to one core. It writes two samples, makes the others,
reads the clock, writes them and reads the clock again: start-up and the making are not in the
figures. Runs of the writers alternate, and files of the run before are removed and the disk is idle
before the next one starts.
"""

import hashlib
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from roikit.sample import (
    Conversation,
    Image,
    Provenance,
    Region,
    Sample,
    Source,
    Turn,
    encode_sample,
)
from shards.sidecar import write_sidecar
from shards.writer import write_shard

#: Mean bytes of a picture, and how many are written. COCO's pictures have 163 kB on average.
SIZES = {"20 kB": (20_000, 8_000), "160 kB": (160_000, 2_000)}
_REGIONS = 7
_CAPTIONS = 5


@dataclass(frozen=True, slots=True)
class Job:
    """One measured run."""

    writer: str
    mean_bytes: int
    count: int
    core: int
    folder: Path


def make_samples(count: int, mean_bytes: int) -> list[tuple[Sample, bytes]]:
    """Make samples as COCO gives them: seven boxes and five captions. Pictures are noise.

    No writer looks into a picture, so their bytes need not be one.
    """
    rng = np.random.default_rng(0)
    lengths = np.maximum(1000, rng.gamma(8.0, mean_bytes / 8.0, count)).astype(int)
    return [(make_record(i), rng.bytes(int(length))) for i, length in enumerate(lengths)]


def make_record(i: int) -> Sample:
    """Make a record as COCO gives it: seven boxes and five captions; without the hash."""
    regions = tuple(
        Region(box_xyxy=(10.5 + k, 20.25, 200.75 + k, 300.0), label="person", native_id=str(i + k))
        for k in range(_REGIONS)
    )
    named: list[Turn] = []
    for k in range(_REGIONS):
        named.append(Turn(role="user", text=f"What is <region{k + 1}>?", phrasing="category"))
        named.append(Turn(role="assistant", text="person"))
    said: list[Turn] = []
    for _ in range(_CAPTIONS):
        said.append(Turn(role="user", text="Describe this picture.", phrasing="image-caption"))
        said.append(Turn(role="assistant", text="A man stands beside a horse on a wet road."))
    source = Source(file="annotations/instances_train2017.json", record=f"image {i}")
    return Sample(
        schema=1,
        key=f"coco-train-{i:09d}",
        dataset="coco",
        split="train",
        image=Image(file=f"{i:012d}.jpg", native_id=f"coco:{i}", width=640, height=480, sha256=""),
        regions=regions,
        conversations=(
            Conversation(
                id=f"{i}/category", task="category", independent=True, source=source,
                turns=tuple(named),
            ),
            Conversation(
                id=f"{i}/image-caption", task="image-caption", independent=True, source=source,
                turns=tuple(said),
            ),
        ),
        provenance=Provenance(converter="coco@1", phrasing="0" * 16, seed=0),
    )  # fmt: skip


def _hashed(samples: list[tuple[Sample, bytes]]) -> Iterator[tuple[Sample, bytes, str]]:
    for sample, data in samples:
        image = msgspec.structs.replace(sample.image, sha256=hashlib.sha256(data).hexdigest())
        yield msgspec.structs.replace(sample, image=image), data, "jpg"


def _roikit(samples: list[tuple[Sample, bytes]], folder: Path) -> Callable[[], None]:
    return lambda: void(write_shard(folder / "coco-train-000000.tar", _hashed(samples)))


def _roikit_sidecar(samples: list[tuple[Sample, bytes]], folder: Path) -> Callable[[], None]:
    tar = folder / "coco-train-000000.tar"

    def write() -> None:
        rows = write_shard(tar, _hashed(samples))
        write_sidecar(tar, rows, dataset="coco", split="train", plan_hash="0" * 64)

    return write


def _shard_writer(samples: list[tuple[Sample, bytes]], folder: Path) -> Callable[[], None]:
    """Hand `ShardWriter` the finished bytes of the JSON: it has nothing to encode."""
    ready = [
        {"__key__": sample.key, "jpg": data, "json": encode_sample(sample)}
        for sample, data in samples
    ]
    return lambda: _write_all(ready, folder)


def _shard_writer_encoding(samples: list[tuple[Sample, bytes]], folder: Path) -> Callable[[], None]:
    """Hand `ShardWriter` plain objects, as its own examples do: it encodes them."""
    ready = [
        {"__key__": sample.key, "jpg": data, "json": msgspec.to_builtins(sample)}
        for sample, data in samples
    ]
    return lambda: _write_all(ready, folder)


def _write_all(ready: list[dict[str, Any]], folder: Path) -> None:
    import webdataset

    pattern = str(folder / "coco-train-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=10**9, maxsize=1e12, verbose=0) as sink:
        for sample in ready:
            sink.write(sample)


def void(_: object) -> None:
    """Drop a result."""


#: What each writer does beside the tar itself.
WRITERS: dict[str, tuple[Callable[..., Callable[[], None]], str]] = {
    "roikit": (_roikit, "encodes the JSON, SHA-256 of every byte, fsync, rename"),
    "roikit + sidecar": (_roikit_sidecar, "as above, and the Parquet sidecar, fsync'ed too"),
    "ShardWriter": (_shard_writer, "is given encoded JSON; no hash, no fsync"),
    "ShardWriter, encoding": (_shard_writer_encoding, "encodes the JSON; no hash, no fsync"),
}


def measure_writing(work: Path, repeats: int) -> list[dict[str, Any]]:
    """Run every writer on one core, taking turns, and roikit's on two cores beside."""
    rows = []
    for name, (mean_bytes, count) in SIZES.items():
        runs: dict[str, list[float]] = {writer: [] for writer in WRITERS}
        runs["roikit, 2 cores"] = []
        for _ in range(repeats):
            for writer in WRITERS:
                runs[writer].append(_timed(work, writer, mean_bytes, count, cores=1))
            runs["roikit, 2 cores"].append(_timed(work, "roikit", mean_bytes, count, cores=2))
        beside = median(runs["ShardWriter"])
        alone = median(runs["roikit"])
        for writer, seconds in runs.items():
            middle = median(seconds)
            cores = 2 if writer.endswith("2 cores") else 1
            rows.append(
                {
                    "pictures": name,
                    "samples": count * cores,
                    "writer": writer,
                    "samples_per_s": count * cores / middle,
                    "mb_per_s": count * cores * mean_bytes / middle / 1e6,
                    "seconds": seconds,
                    "against_shard_writer": beside / middle * cores,
                    "against_one_core": alone / middle * cores if cores == 2 else None,
                }
            )
    return rows


def median(values: list[float]) -> float:
    """Return the middle one."""
    return float(np.median(values))


def _timed(work: Path, writer: str, mean_bytes: int, count: int, *, cores: int) -> float:
    """Let `cores` processes write `count` samples each; seconds from common start to last end."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(cores)
    queue = context.Queue()
    os.sync()  # what earlier runs left behind is not to be paid for by this one
    with tempfile.TemporaryDirectory(dir=work) as folder:
        available = sorted(os.sched_getaffinity(0))
        processes = []
        for i in range(cores):
            own = Path(folder) / str(i)
            own.mkdir()
            job = Job(writer, mean_bytes, count, available[i % len(available)], own)
            processes.append(context.Process(target=_run, args=(job, barrier, queue)))
        for process in processes:
            process.start()
        spans = [queue.get(timeout=600) for _ in processes]
        for process in processes:
            process.join()
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).mkdir()
    return float(max(end for _, end in spans) - min(start for start, _ in spans))


def _run(job: Job, barrier: Any, queue: Any) -> None:
    os.sched_setaffinity(0, {job.core})
    make, _ = WRITERS[job.writer]
    # Libraries load parts of themselves at their first use: that happens before the clock starts.
    first = job.folder / "first"
    first.mkdir()
    make(make_samples(2, job.mean_bytes), first)()
    write = make(make_samples(job.count, job.mean_bytes), job.folder)
    barrier.wait()
    start = time.monotonic()
    write()
    queue.put((start, time.monotonic()))
