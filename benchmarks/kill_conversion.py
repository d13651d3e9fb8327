"""Kill a conversion again and again (`kill -9`), and compare what comes out with one left alone.

A tiny COCO tree is written below a temporary folder and converted once in peace. Then the same
command runs in a fresh folder, is killed after a random time and started again, until it comes to
its end; shards, sidecars, index and commit must then be the same, byte for byte. Repeated until so
many kills have struck. Half of them strike the command's own process, half the whole group.

    python benchmarks/kill_conversion.py --kills 50 --workers 1 --workers 2 --workers 4
    python benchmarks/kill_conversion.py --kills 20 --engine ray
    python benchmarks/kill_conversion.py --kills 20 --extend

Exits with 1 at the first difference.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image

from shards.layout import split_dir
from shards.verify import verify

ROOT = Path(__file__).resolve().parents[1]
SHARD_BYTES = 30_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="in all (default: 50)")
    parser.add_argument("--engine", choices=("process", "ray"), default="process")
    parser.add_argument("--workers", type=int, action="append", help="in turn (default: 1, 2, 4)")
    parser.add_argument("--images", type=int, default=40, help="pictures (default: 40)")
    parser.add_argument("--extend", action="store_true", help="kill the second half's --extend")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="roikit-kill-") as folder:
        if options.engine == "ray":
            os.environ["RAY_ADDRESS"] = start_ray()
        kill_and_compare(Path(folder), options)


def kill_and_compare(folder: Path, options: argparse.Namespace) -> None:
    source, out = folder / "source", folder / "out"
    base = write_base(folder, source, options) if options.extend else None
    write_tree(source, options.images)
    whole = folder / "whole"
    if base is not None:
        shutil.copytree(base, whole)
    arguments = ["--extend"] if options.extend else []
    command(source, whole, arguments).wait()
    reference = content(whole)
    assert len(reference) > 10, "the undisturbed conversion made no shards"
    print(f"undisturbed: {len(reference)} files", flush=True)
    rng = random.Random(options.seed)
    workers = options.workers or [1, 2, 4]
    kills = ends = 0
    while kills < options.kills:
        shutil.rmtree(out, ignore_errors=True)
        if base is not None:
            shutil.copytree(base, out)
        own = [
            *arguments,
            "--engine",
            options.engine,
            "--workers",
            str(workers[ends % len(workers)]),
        ]
        struck = 0
        while (status := strike(source, out, own, rng)) < 0:
            struck += 1
            kills += 1
        if status != 0:
            sys.exit(f"FAILED: exit {status} after {struck} kills, {own}")
        found = content(out)
        if found != reference:
            differing = sorted(n for n in {*found, *reference} if found.get(n) != reference.get(n))
            sys.exit(f"FAILED: after {struck} kills, {own}: differing: {', '.join(differing)}")
        if not verify(out).is_good:
            sys.exit(f"FAILED: `roikit verify` finds problems after {struck} kills, {own}")
        ends += 1
        print(f"{kills} kills, {ends} ends: the same bytes ({struck} kills, {own})", flush=True)
    print(f"OK: {kills} kills, {ends} conversions, all byte-identical")


def strike(source: Path, out: Path, arguments: list[str], rng: random.Random) -> int:
    """Run the command, kill it some way on, and return its exit status: -9 where it was killed.

    How far it may come is drawn in files, not seconds, so that a busy machine changes nothing: from
    the moment it holds the lock, so many more tars and sidecars, and a little more.
    """
    child = command(source, out, arguments)
    folder, lock = split_dir(out, "coco", "val"), out / ".plan/coco-val.lock"
    more, pause = rng.randrange(6), rng.uniform(0, 0.3)
    whole_group = rng.random() < 0.5
    if rng.random() < 0.2:
        return child.wait()  # let one through now and then, or a busy machine comes to no end
    mine = f"process {child.pid} "
    while child.poll() is None and not (lock.is_file() and lock.read_text().startswith(mine)):
        time.sleep(0.005)
    target = len(list(folder.glob("coco-val-*"))) + more
    while child.poll() is None and len(list(folder.glob("coco-val-*"))) < target:
        if target > 0 and (folder / "dataset.json").is_file() and "--extend" not in arguments:
            break  # there will be no more: strike at the end, the manifest and the cleaning
        time.sleep(0.002)
    try:
        return child.wait(timeout=pause)
    except subprocess.TimeoutExpired:
        if whole_group:
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    return child.wait()


def command(source: Path, out: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "roikit", "convert", "coco", str(source), "--out", str(out)]
    return subprocess.Popen(
        [*program, "--max-shard-bytes", str(SHARD_BYTES), *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def content(out: Path) -> dict[str, bytes]:
    """Return what must be the same: all files that readers read, but for when it was made."""
    folder = split_dir(out, "coco", "val")
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}
    commit = json.loads(files.pop("dataset.json", b"{}"))
    commit.pop("run", None)
    left = [path.name for path in folder.iterdir() if ".tmp" in path.name]
    plans = [path.name for path in (out / ".plan").iterdir() if path.is_dir()]
    return files | {
        "commit": json.dumps(commit).encode(),
        "left": json.dumps(left + plans).encode(),
    }


def write_base(folder: Path, source: Path, options: argparse.Namespace) -> Path:
    """Convert the first half of the pictures, for `--extend` to add to."""
    write_tree(source, options.images // 2)
    command(source, folder / "base", []).wait()
    return folder / "base"


def write_tree(source: Path, num_images: int) -> None:
    """Write a COCO validation split; more images leave the first ones as they are."""
    (source / "val2017").mkdir(parents=True, exist_ok=True)
    (source / "annotations").mkdir(exist_ok=True)
    numbers = range(1, num_images + 1)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 255, (64, 96, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(source / f"val2017/{number:012d}.jpg")
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "width": 96, "height": 64} for n in numbers]
    boxes = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [4, 3, 20, 30], "iscrowd": 0}
        for n in numbers
    ]
    table = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (source / "annotations/instances_val2017.json").write_text(json.dumps(table))


def start_ray() -> str:
    """Start a cluster that ends with this process, and return its address."""
    import ray

    context = ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    return str(context.address_info["gcs_address"])


if __name__ == "__main__":
    main()
