import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import ray_engine
from pipelines.run import convert
from pipelines.task import TaskCounts, run_task
from roikit.errors import RoikitError, UsageError
from shards.commit import load_dataset
from shards.verify import verify

WriteTree = Callable[[Path, int], None]
SHARD_BYTES = 30_000


def run(source: Path, out: Path, **options: Any) -> Any:
    (report,) = convert("coco", source, out, max_shard_bytes=SHARD_BYTES, **options)
    return report


def test_without_ray_the_line_says_what_to_install(
    coco_tree: WriteTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 2)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="expected Ray to be installed, found none") as caught:
        run(tmp_path / "source", tmp_path / "out", engine="ray")
    assert 'pip install "roikit[ray]"' in str(caught.value.hint)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Start a cluster of two CPUs beside the tests; return its address."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: the extra `ray`")
    handler = signal.getsignal(signal.SIGTERM)
    context = ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    signal.signal(signal.SIGTERM, handler)
    yield str(context.address_info["gcs_address"])
    ray.shutdown()


@pytest.mark.slow
def test_ray_makes_the_bytes_of_the_pool(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, cluster: str
) -> None:
    coco_tree(tmp_path / "source", 20)
    pool = type(shards)(tmp_path / "pool")
    run(tmp_path / "source", pool.root, workers=2)
    seen = []
    report = run(tmp_path / "source", shards.root, engine="ray", workers=None, progress=seen.append)
    assert shards.tars("coco", "val") == pool.tars("coco", "val")
    info = load_dataset(shards.root, "coco", "val")
    assert info.merkle_root == load_dataset(pool.root, "coco", "val").merkle_root
    assert info.run is not None
    assert (info.run.engine, info.run.workers) == ("ray", 2)
    assert report.images_converted == 20
    converting = [p for p in seen if p.step == "converting"]
    assert (converting[-1].done, converting[-1].total) == (20, 20)
    assert verify(shards.root).is_good
    assert run(tmp_path / "source", shards.root, engine="ray").was_done


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced(
    coco_tree: WriteTree,
    tmp_path: Path,
    shards: Any,
    cluster: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coco_tree(tmp_path / "source", 12)
    mark = tmp_path / "died"

    def die_once(plan_dir: Path, index: int, out: Path | None) -> TaskCounts:
        def tick(num_images: int, num_bytes: int) -> None:
            if index == 1 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        return run_task(plan_dir, index, out, tick)

    monkeypatch.setattr(ray_engine, "_run_remote", die_once)
    assert run(tmp_path / "source", shards.root, engine="ray").images_converted == 12
    assert mark.exists()
    assert verify(shards.root).is_good


@pytest.mark.slow
def test_a_worker_that_always_dies_is_one_line(
    coco_tree: WriteTree, tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 2)

    def die(plan_dir: Path, index: int, out: Path | None) -> TaskCounts:
        os._exit(9)

    monkeypatch.setattr(ray_engine, "_run_remote", die)
    monkeypatch.setattr(ray_engine, "_MAX_RETRIES", 1)
    with pytest.raises(RoikitError, match="a Ray worker died 2 times") as caught:
        run(tmp_path / "source", tmp_path / "out", engine="ray")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_an_error_of_the_task_is_the_line_that_the_pool_gives(
    coco_tree: WriteTree, tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    coco_tree(source, 4)
    from pipelines import split

    real = split.make_plan

    def plan_then_remove(*arguments: Any, **options: Any) -> Any:
        planned = real(*arguments, **options)
        (source / "val2017/000000000003.jpg").unlink()
        return planned

    monkeypatch.setattr(split, "make_plan", plan_then_remove)
    with pytest.raises(RoikitError, match=r"000000000003\.jpg`: had .* now it is gone") as caught:
        run(source, tmp_path / "out", engine="ray")
    assert "--overwrite" in str(caught.value.hint)


CHILD = """
import os, signal, sys
from pathlib import Path
from pipelines import ray_engine
from roikit.__main__ import main

def wait(plan_dir, index, out):
    (Path(out) / "begun").touch()
    import time
    time.sleep(600)

ray_engine._run_remote = wait
sys.argv = ["roikit", "convert", "coco", *sys.argv[1:], "--engine", "ray"]
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_it_cleanly(
    coco_tree: WriteTree, tmp_path: Path, cluster: str, signum: int, status: int
) -> None:
    coco_tree(tmp_path / "source", 4)
    out = tmp_path / "out"
    out.mkdir()
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, tmp_path / "source", "--out", out],
        env=os.environ | {"PYTHONPATH": root, "RAY_ADDRESS": cluster},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 100
    while not (out / "begun").exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signum)
    _, said = child.communicate(timeout=60)
    assert child.returncode == status, said
    assert "Traceback" not in said
    assert convert("coco", tmp_path / "source", out)[0].images_converted == 4


BARE = CHILD.replace("ray_engine._run_remote = wait", "")


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_one_line(coco_tree: WriteTree, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: the extra `ray`")
    coco_tree(tmp_path / "source", 2)
    ended = subprocess.run(
        [sys.executable, "-c", BARE, tmp_path / "source", "--out", tmp_path / "out"],
        env=os.environ
        | {"PYTHONPATH": str(Path(__file__).parents[2]), "RAY_ADDRESS": "127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert re.search(r"error: RAY_ADDRESS: expected a Ray cluster at `127", ended.stderr)
    assert "Traceback" not in ended.stderr
