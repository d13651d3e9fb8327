"""Measures reading in shuffled order: roikit's stream beside other libraries, same samples.

Every run is a process of its own that goes through the samples for about two seconds, epoch after
epoch if need be, after a first pass over the files that brings them into the page cache. The clock
runs from the second batch of an epoch on, so start-up is not in the figures. Runs of the contenders
alternate. Processor time is taken beside it where there are no workers: it says more than the clock
on a machine that others use.
"""

import hashlib
import importlib.util
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import stream_contenders as contenders
from benchmarks.fresh_process import in_process
from benchmarks.stream_memory import memory_of_workers
from roikit.images import decode_rgb
from roikit.sample import Sample, decode_sample

#: Readers and the package each needs.
READERS = {
    "roikit": "roikit",
    "webdataset": "webdataset",
    "mosaicml": "streaming",
    "litdata": "litdata",
}
_WORKERS = (0, 2)
#: A run goes on until this much was measured.
_SECONDS = 2.0


def raw(image: bytes, record: bytes | Sample) -> int:
    """Take the bytes as they come."""
    return len(image)


def checked(image: bytes, record: bytes | Sample) -> int:
    """Do what roikit's stream does by itself: hash picture and record, and decode the record."""
    if isinstance(record, bytes):
        hashlib.sha256(record).digest()
        assert hashlib.sha256(image).hexdigest() == decode_sample(record).image.sha256
    return len(image)


def decoded(image: bytes, record: bytes | Sample) -> int:
    """Decode the picture and bring it to 224 pixels; the same function for everybody."""
    import torch
    from torch.nn import functional as F

    pixels = torch.from_numpy(decode_rgb(image)).permute(2, 0, 1)
    return F.interpolate(pixels[None], (224, 224), mode="bicubic", antialias=True).shape[-1]


USES = {"raw": raw, "checked": checked, "decoded": decoded}


def present() -> dict[str, str]:
    """Return the readers whose package is installed."""
    return {n: p for n, p in READERS.items() if importlib.util.find_spec(p) is not None}


def measure_reading(work: Path, repeats: int, what: str) -> list[dict[str, Any]]:
    """Let each reader go through the samples of each size, with and without workers."""
    rows = []
    uses = ("raw", "checked") if what == "raw" else ("decoded",)
    for size in contenders.PICTURES:
        folder = work / size.replace(" ", "-")
        if not folder.exists():
            in_process(_write, size, folder)
        cases = [
            (name, use, workers)
            for workers in _WORKERS
            for name in present()
            for use in uses
            # roikit's stream always checks and decodes; what that costs is seen without workers
            if use != "checked" or (name != "roikit" and not workers)
        ]
        if what == "raw":
            cases.append(("roikit, unhashed", "raw", 0))
        runs: dict[tuple[str, str, int], list[dict[str, Any]]] = {case: [] for case in cases}
        for _ in range(repeats):
            for case in cases:
                runs[case].append(in_process(_read, folder, *case))
        rows += [
            {
                "pictures": size,
                "reader": name,
                "use": use,
                "workers": workers,
                "samples_per_s": float(np.median([run["samples_per_s"] for run in each])),
                "samples_per_cpu_s": float(np.median([run["samples_per_cpu_s"] for run in each])),
                "private_bytes": max(run["private_bytes"] for run in each),
                "pss_bytes": max(run["pss_bytes"] for run in each),
                "runs": [run["samples_per_s"] for run in each],
            }
            for (name, use, workers), each in runs.items()
        ]
    return rows


def _write(size: str, folder: Path) -> None:
    samples = contenders.make_samples(size)
    for name in present():
        (folder / name).mkdir(parents=True)
        getattr(contenders, f"write_{name}")(samples, folder / name)


def _read(folder: Path, name: str, use: str, workers: int) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    if name == "roikit, unhashed":
        _stop_hashing()
        name = "roikit"
    for path in (folder / contenders.FORMATS.get(name, name)).rglob("*"):
        if path.is_file():
            path.read_bytes()
    loader = getattr(contenders, f"read_{name}")(folder / name, workers, USES[use])
    count = 0
    seconds = cpu_seconds = 0.0
    memory: list[dict[str, int]] = []
    while seconds < _SECONDS:
        batches = iter(loader)
        next(batches)
        if workers and not memory:  # in an epoch's beginning: at its end some are gone
            memory = memory_of_workers()
        began, cpu_began = time.perf_counter(), time.process_time()
        for batch in batches:
            count += len(batch)
            if seconds + time.perf_counter() - began > _SECONDS:
                break
        seconds += time.perf_counter() - began
        cpu_seconds += time.process_time() - cpu_began
    return {
        "samples_per_s": count / seconds,
        "samples_per_cpu_s": 0.0 if workers else count / cpu_seconds,
        "private_bytes": max((one["private_bytes"] for one in memory), default=0),
        "pss_bytes": max((one["pss_bytes"] for one in memory), default=0),
    }


def _stop_hashing() -> None:
    """Let every hash be the expected one, to show what hashing costs."""
    from shards import read

    class Anything(int):
        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = int.__hash__

    read._short_sha256 = lambda data: Anything()  # type: ignore[assignment]
