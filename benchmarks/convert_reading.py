"""Measures plans at full size, and whole conversions of a part.

A plan is everything that one process does before shards can be made: read, check, join, find the
pictures, order, cut, write the draft files and hash the sources. Each measurement is a process of
its own; its peak memory is that of the process, mapped annotation files included.
"""

import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipelines.draft import SourceOptions
from pipelines.engines import run_tasks
from pipelines.plan import make_plan, uncollected
from pipelines.registry import find_dataset
from shards.claim import claim_split

#: Seconds and bytes that the design allows for a plan of all splits converted by default.
PLAN_LIMITS = {"coco": (60, 3e9), "vg": (120, 4e9), "vcr": (120, 3e9)}
_INSTANCES = Path("annotations/instances_train2017.json")
#: The same file, planned and loaded.
_BESIDE = {
    "alone": "plan of instances_train2017 alone",
    "pycocotools": "COCO(instances_train2017)",
}
_SHARD_BYTES = 256 * 1024 * 1024
#: What is converted whole: pictures of train.
CONVERTED = {"coco": 20_000, "vg": 6_000, "vcr": 6_000}


def measure_plans(full: Path, work: Path, repeats: int) -> list[dict[str, Any]]:
    """Plan every dataset of a full-scale tree, and let pycocotools load COCO's file beside.

    What pycocotools loads is planned alone, too: a source with that one annotation file.
    """
    alone = work / "coco-train2017"
    (alone / "annotations").mkdir(parents=True)
    (alone / _INSTANCES).symlink_to((full / "coco" / _INSTANCES).resolve())
    (alone / "train2017").symlink_to((full / "coco" / "train2017").resolve())
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in (*PLAN_LIMITS, *_BESIDE)}
    for _ in range(repeats):
        for name in PLAN_LIMITS:
            runs[name].append(_in_process(_plan, full / name, work, name))
        runs["alone"].append(_in_process(_plan, alone, work, "coco"))
        runs["pycocotools"].append(_in_process(_load_coco, full / "coco", work, "coco"))
    rows = []
    for name, each in runs.items():
        middle = sorted(each, key=lambda run: run["seconds"])[len(each) // 2]
        seconds, num_bytes = PLAN_LIMITS.get(name, (None, None))
        rows.append(
            {
                **middle,
                "what": f"plan of {name}" if name in PLAN_LIMITS else _BESIDE[name],
                "allowed_seconds": seconds,
                "allowed_bytes": num_bytes,
                "peak_bytes": max(run["peak_bytes"] for run in each),
                "runs": [run["seconds"] for run in each],
            }
        )
    return rows


def measure_conversion(
    full: Path, work: Path, repeats: int, shard_bytes: int, counts: dict[str, int]
) -> list[dict[str, Any]]:
    """Make the shards of a part of each dataset, with one worker and with two."""
    rows = []
    for name, limit in counts.items():
        arguments = (name, "train", limit, repeats, shard_bytes)
        rows += _in_process(_convert, full / name, work, *arguments)["rows"]
    return rows


def _in_process(function: Any, *arguments: Any) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_call, args=(queue, function, arguments))
    process.start()
    while True:
        try:
            result: dict[str, Any] = queue.get(timeout=5)
            break
        except Exception:
            if not process.is_alive():
                raise SystemExit(f"a measuring process ended with {process.exitcode}") from None
    process.join()
    return result


def _call(queue: Any, function: Any, arguments: tuple[Any, ...]) -> None:
    result = function(*arguments)
    unit = 1 if sys.platform == "darwin" else 1024
    result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    queue.put(result | {"peak_bytes_of_a_child": children})


def _plan(source: Path, work: Path, name: str) -> dict[str, Any]:
    start = time.monotonic()
    spec = find_dataset(name)
    opened = spec.open_source(source, (), SourceOptions())
    images = records = 0
    for split in (split for split in opened.splits if split not in opened.on_request):
        with tempfile.TemporaryDirectory(dir=work) as folder, uncollected():
            found = opened.splits[split]()
            plan, _ = make_plan(
                spec, opened, split, found,
                work=Path(folder), seed=0, limit=None, max_shard_bytes=_SHARD_BYTES,
            )  # fmt: skip
            images += sum(shard.num_images for shard in plan.shards)
            records += sum(draft.num_records for draft in found.drafts)
            del found
    return {"seconds": time.monotonic() - start, "images": images, "records": records}


def _load_coco(source: Path, work: Path, name: str) -> dict[str, Any]:
    from pycocotools.coco import COCO

    start = time.monotonic()
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        said, sys.stdout = sys.stdout, nowhere
        coco = COCO(source / _INSTANCES)
        sys.stdout = said
    seconds = time.monotonic() - start
    return {"seconds": seconds, "images": len(coco.imgs), "records": len(coco.anns)}


def _convert(
    source: Path,
    work: Path,
    name: str,
    split: str,
    limit: int,
    repeats: int,
    shard_bytes: int,
) -> dict[str, Any]:
    spec = find_dataset(name)
    opened = spec.open_source(source, (), SourceOptions())
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(dir=work) as folder:
        with uncollected():
            plan, plan_dir = make_plan(
                spec, opened, split, opened.splits[split](),
                work=Path(folder), seed=0, limit=limit, max_shard_bytes=shard_bytes,
            )  # fmt: skip
        for _ in range(repeats):
            for workers in seconds:
                os.sync()
                out = Path(folder) / "out"
                claim_split(out, plan.dataset, plan.split, plan_hash=plan.plan_hash)
                start = time.monotonic()
                indices = range(len(plan.shards))
                counts = run_tasks(plan_dir, indices, out, workers=workers, report=_nothing)
                seconds[workers].append(time.monotonic() - start)
                shutil.rmtree(out)
    images = sum(count.images_converted for count in counts)
    records = sum(count.records_converted for count in counts)
    rows = []
    for workers, each in seconds.items():
        middle = sorted(each)[len(each) // 2]
        rows.append(
            {
                "what": f"{name} {split}",
                "workers": workers,
                "images": images,
                "records": records,
                "images_per_s": images / middle,
                "records_per_s": records / middle,
                "against_one_worker": sorted(seconds[1])[len(each) // 2] / middle,
                "runs": each,
            }
        )
    return {"rows": rows}


def _nothing(images: int, num_bytes: int) -> None:
    pass


if __name__ == "__main__":  # for a profiler
    print(json.dumps(_plan(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]), indent=1))
