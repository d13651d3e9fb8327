import errno
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from pipelines import engines, task
from pipelines.registry import DATASETS
from pipelines.reports import Progress, TooManyRejectsError
from pipelines.run import convert
from pipelines.terms import notice
from roikit.errors import RoikitError, UsageError
from shards import manifest
from shards.atomic import replacing
from shards.layout import commit_path, manifest_path, split_dir

WriteTree = Callable[[Path, int], None]
#: Small enough for a shard each two or three pictures.
SHARD_BYTES = 30_000


def run(source: Path, out: Path, **options: Any) -> Any:
    settings = {"max_shard_bytes": SHARD_BYTES} | options
    return convert("coco", source, out, **settings)


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_one_two_and_four_workers_make_the_same_bytes(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 24)
    reference: dict[str, bytes] = {}
    for workers in (1, 2, 4):
        out = tmp_path / f"out{workers}"
        (report,) = run(tmp_path / "source", out, workers=workers)
        assert report.num_shards >= 4
        tars = type(shards)(out).tars("coco", "val")
        reference = reference or tars
        assert tars == reference
    assert len(reference) >= 4


CHILD = """
import sys
from pathlib import Path
from pipelines.run import convert
if __name__ == "__main__":
    source, out = map(Path, sys.argv[1:3])
    convert("coco", source, out, max_shard_bytes=int(sys.argv[3]), workers=2)
"""


def test_killed_at_any_moment_and_run_again_it_makes_the_same_bytes(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    coco_tree(source, 30)
    run(source, tmp_path / "whole")
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    folder = split_dir(out, "coco", "val")
    killed = 0
    for stop_at in (0, 2, 6):
        child = subprocess.Popen(
            [sys.executable, str(script), str(source), str(out), str(SHARD_BYTES)], env=environment
        )
        deadline = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < deadline:
            if (out / ".plan").is_dir() and len(list(folder.glob("*.parquet"))) >= stop_at:
                break
            time.sleep(0.002)
        child.kill()
        killed += child.wait() == -signal.SIGKILL
    assert killed >= 1
    (report,) = run(source, out)
    assert report.images_converted == 30
    assert shards.__class__(out).tars("coco", "val") == type(shards)(tmp_path / "whole").tars(
        "coco", "val"
    )
    assert not [name for name in files(out) if ".tmp" in name]
    assert not [name for name in files(out / ".plan") if not name.endswith(".lock")]


def test_a_second_run_finds_everything_done(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 6)
    (first,) = run(tmp_path / "source", shards.root)
    before = {path: path.stat().st_mtime_ns for path in shards.root.rglob("*.tar")}
    (again,) = run(tmp_path / "source", shards.root, workers=2)
    assert (first.was_done, again.was_done) == (False, True)
    assert {path: path.stat().st_mtime_ns for path in shards.root.rglob("*.tar")} == before
    assert again.records_converted == first.records_converted == 18
    assert again.merkle_root == first.merkle_root


def test_what_a_kill_left_behind_in_a_finished_split_goes_with_the_next_run(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 2)
    run(tmp_path / "source", shards.root)
    left = split_dir(shards.root, "coco", "val") / "..plan-hash.tmp-99-0"
    left.touch()
    assert run(tmp_path / "source", shards.root)[0].was_done
    assert not left.exists()


def test_a_finished_task_is_skipped_and_a_damaged_one_made_again(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 12)
    monkeypatch.setattr("pipelines.split.commit_dataset", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "source", shards.root)
    monkeypatch.undo()
    tars = shards.tars("coco", "val")
    cut = split_dir(shards.root, "coco", "val") / "coco-val-000001.tar"
    cut.write_bytes(cut.read_bytes()[:5000])
    written = []
    real = task.write_shard
    monkeypatch.setattr(task, "write_shard", lambda path, e: written.append(path) or real(path, e))
    (report,) = run(tmp_path / "source", shards.root)
    assert written == [cut]
    assert shards.tars("coco", "val") == tars
    assert report.images_converted == 12


def _interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_other_settings_are_refused_unless_told_to_overwrite(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 4)
    run(tmp_path / "source", shards.root)
    before = shards.tars("coco", "val")
    with pytest.raises(UsageError, match="another plan") as caught:
        run(tmp_path / "source", shards.root, seed=1)
    assert "--overwrite" in str(caught.value.hint)
    assert shards.tars("coco", "val") == before
    run(tmp_path / "source", shards.root, seed=1, overwrite=True)
    assert shards.tars("coco", "val") != before


def test_a_limited_split_stands_beside_the_full_one(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 6)
    (few,) = run(tmp_path / "source", shards.root, limit=2)
    (full,) = run(tmp_path / "source", shards.root)
    assert (few.split, few.images_converted, full.images_converted) == ("val-first2", 2, 6)
    assert set(shards.samples("coco", "val-first2")) < set(shards.samples("coco", "val"))


def test_a_dry_run_counts_the_same_and_writes_nothing(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 5)
    picture = tmp_path / "source/val2017/000000000002.jpg"
    picture.write_bytes(picture.read_bytes()[:900])
    (dry,) = run(tmp_path / "source", shards.root, dry_run=True, max_rejects=1, workers=2)
    assert not shards.root.exists()
    (wet,) = run(tmp_path / "source", shards.root, max_rejects=1)
    same = ("images_converted", "records_converted", "rejections", "num_shards")
    assert [getattr(dry, name) for name in same] == [getattr(wet, name) for name in same]
    assert dry.rejections == {"E_IMAGE_TRUNCATED": 1}
    assert (dry.merkle_root, dry.num_bytes) == (None, 0)


def test_too_many_faults_end_it_after_the_commit(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 10)
    (tmp_path / "source/val2017/000000000002.jpg").unlink()
    with pytest.raises(TooManyRejectsError, match=r"3 of 30 records \(10\.0%\)") as caught:
        run(tmp_path / "source", shards.root)
    assert caught.value.exit_code == 3
    assert caught.value.reports[0].images_converted == 9
    assert commit_path(shards.root, "coco", "val").is_file()
    assert run(tmp_path / "source", shards.root, max_rejects=0.1)[0].was_done


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_split_without_any_picture_ends_at_its_plan(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, dry_run: bool
) -> None:
    coco_tree(tmp_path / "source", 3)
    pictures = (tmp_path / "source/val2017").rename(tmp_path / "val2017")
    with pytest.raises(UsageError) as caught:
        run(tmp_path / "source", shards.root, dry_run=dry_run)
    said = "coco val: expected pictures such as `val2017/000000000001.jpg`, found none of 3 in "
    assert str(caught.value) == f"{said}`{tmp_path / 'source'}`"
    assert "--images" in str(caught.value.hint)
    assert not split_dir(shards.root, "coco", "val").exists()
    (report,) = run(tmp_path / "source", shards.root, image_roots=[pictures.parent])
    assert report.images_converted == 3


def test_policies_are_no_faults(coco_tree: WriteTree, tmp_path: Path, shards: Any) -> None:
    coco_tree(tmp_path / "source", 2)
    path = tmp_path / "source/annotations/instances_val2017.json"
    table = msgspec.json.decode(path.read_bytes())
    for annotation in table["annotations"][:2]:
        annotation["iscrowd"] = 1
    path.write_bytes(msgspec.json.encode(table))
    (report,) = run(tmp_path / "source", shards.root, max_rejects=0)
    assert (report.faults, report.records_by_policy, report.records_found) == (0, 2, 6)


def test_commit_and_manifest_hold_sources_counts_and_rejections(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 5)
    (tmp_path / "source/val2017/000000000002.jpg").unlink()
    run(tmp_path / "source", shards.root, max_rejects=1, command="roikit convert coco")
    commit = msgspec.json.decode(commit_path(shards.root, "coco", "val").read_bytes())
    assert commit["settings"]["converter"] == "coco@1"
    assert commit["source_files"][0]["path"] == "annotations/instances_val2017.json"
    assert commit["run"]["command"] == "roikit convert coco"
    with duckdb.connect(str(manifest_path(shards.root)), read_only=True) as database:
        rows = database.execute("select code, source_record, native_id from rejections").fetchall()
        assert rows == [("E_IMAGE_MISSING", "images[1]", "coco:2")]
        assert database.execute("select count(*) from samples").fetchone() == (4,)


def test_progress_counts_images_up_to_all_of_them(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 8)
    for workers in (1, 2):
        seen: list[Progress] = []
        run(tmp_path / "source", shards.root / str(workers), workers=workers, progress=seen.append)
        assert seen[0].step == "reading"
        converting = [p for p in seen if p.step == "converting"]
        assert (converting[0].done, converting[-1].done, converting[-1].total) == (0, 8, 8)
        assert converting[-1].num_bytes > 0


def test_a_full_disk_is_one_clear_line(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 2)

    def full(path: Path, entries: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(task, "write_shard", full)
    with pytest.raises(RoikitError, match=r"coco-val-000000\.tar`: no space left") as caught:
        run(tmp_path / "source", shards.root)
    assert caught.value.exit_code == 1
    assert "again" in str(caught.value.hint)


def test_a_crashed_worker_is_one_clear_line(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 8)
    monkeypatch.setattr(engines, "_run_in_worker", _die)
    with pytest.raises(RoikitError, match="ended without a word") as caught:
        run(tmp_path / "source", shards.root, workers=2)
    assert "--workers" in str(caught.value.hint)
    assert not multiprocessing.active_children()


def _die(plan_dir: Path, index: int, out: Path | None) -> None:
    os._exit(9)


def test_sigterm_ends_the_command_with_143_and_leaves_no_worker(
    coco_tree: WriteTree, tmp_path: Path
) -> None:
    coco_tree(tmp_path / "source", 12)
    script = tmp_path / "child.py"
    waiting = (
        "import os, signal\nimport pipelines.split as r\n"
        "r.commit_dataset = lambda *a, **k: os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    script.write_text(CHILD.replace("if __name__", waiting + "if __name__"))
    child = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "source"), str(tmp_path / "out"), "30000"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == 143
    assert "Traceback" not in child.stderr


def test_an_interrupt_leaves_no_half_written_file(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 2)
    folder = split_dir(shards.root, "coco", "val")

    def interrupt(*_: Any, **__: Any) -> None:
        (folder / ".coco-val-000000.tar.tmp-99").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.split.run_tasks", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "source", shards.root)
    assert not list(folder.glob(".*tmp*"))


def test_two_conversions_of_one_split_do_not_meet(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 2)
    met = []

    def second(progress: Progress) -> None:
        if progress.step == "committing":
            with pytest.raises(UsageError, match="another process") as caught:
                run(tmp_path / "source", shards.root)
            met.append(caught.value)

    run(tmp_path / "source", shards.root, progress=second)
    assert len(met) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"splits": ["dev"]}, "split: expected one of val, .* got `dev`"),
        ({"limit": 0}, "limit: expected at least 1"),
        ({"workers": 0}, "workers: expected at least 1"),
        ({"max_rejects": 2}, "max_rejects: expected a share"),
    ],
)
def test_wrong_options_are_refused(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, options: Any, expected: str
) -> None:
    coco_tree(tmp_path / "source", 1)
    with pytest.raises(UsageError, match=expected):
        run(tmp_path / "source", shards.root, **options)


def test_an_output_path_that_is_a_file_is_refused(coco_tree: WriteTree, tmp_path: Path) -> None:
    coco_tree(tmp_path / "source", 1)
    (tmp_path / "file").write_text("hello")
    with pytest.raises(UsageError, match="expected a folder to write shards into"):
        run(tmp_path / "source", tmp_path / "file")


def test_an_unknown_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=re.escape(f"expected one of {', '.join(DATASETS)}, got `cocoa`")
    ):
        convert("cocoa", tmp_path, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--workers", "2"], ["--workers", "2", "--extend"]])
def test_many_kills_change_no_byte(arguments: list[str]) -> None:
    # 50 of them by hand: see the script
    script = Path(__file__).parents[2] / "benchmarks/kill_conversion.py"
    ended = subprocess.run(
        [sys.executable, str(script), "--kills", "6", "--images", "24", *arguments],
        env=os.environ | {"PYTHONPATH": str(script.parents[1])},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "all byte-identical" in ended.stdout


def test_what_is_there_stays_where_ray_cannot_be_had(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 4)
    run(tmp_path / "source", shards.root)
    before = shards.tars("coco", "val")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="expected Ray to be installed"):
        run(tmp_path / "source", shards.root, engine="ray", seed=1, overwrite=True)
    assert shards.tars("coco", "val") == before
    assert run(tmp_path / "source", shards.root)[0].was_done


def test_a_dry_run_needs_no_ray(
    coco_tree: WriteTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 2)
    monkeypatch.setitem(sys.modules, "ray", None)
    (report,) = run(tmp_path / "source", tmp_path / "out", engine="ray", dry_run=True)
    assert report.images_converted == 2


def test_a_dry_run_refuses_what_the_run_would_refuse(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 2)
    run(tmp_path / "source", shards.root)
    before = files(shards.root)
    with pytest.raises(UsageError, match="another plan"):
        run(tmp_path / "source", shards.root, seed=1, dry_run=True)
    run(tmp_path / "source", shards.root, seed=1, dry_run=True, overwrite=True)
    run(tmp_path / "source", shards.root, dry_run=True)
    assert files(shards.root) == before
    (tmp_path / "file").write_text("hello")
    for out in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(UsageError, match="expected a folder to write shards into"):
            run(tmp_path / "source", out, dry_run=True)


def test_a_commit_that_cannot_be_read_stands_in_nobody_else_s_way(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, caplog: pytest.LogCaptureFixture
) -> None:
    coco_tree(tmp_path / "source", 2)
    foreign = shards.root / "other/train/dataset.json"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("{")
    assert notice("coco", shards.root)
    run(tmp_path / "source", shards.root)
    assert str(foreign) in caplog.text
    assert manifest.query(shards.root, "select dataset from datasets")[1] == [("coco",)]
    assert not notice("coco", shards.root)
    commit_path(shards.root, "coco", "val").write_text("{")
    with pytest.raises(UsageError, match="cannot read this commit"):
        run(tmp_path / "source", shards.root)
    (report,) = run(tmp_path / "source", shards.root, overwrite=True)
    assert (report.was_done, report.images_converted) == (False, 2)


def test_what_a_task_process_has_under_way_stays(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 2)
    folder = split_dir(shards.root, "coco", "val")
    folder.mkdir(parents=True)
    with replacing(folder / "coco-val-000000.tar") as file:
        file.write(b"under way")
        run(tmp_path / "source", shards.root)
        whole = shards.tars("coco", "val")
        for path in whole:
            file.seek(0)
            file.write(whole[path])
    assert shards.tars("coco", "val") == whole


def test_a_finished_split_that_lost_a_shard_is_made_again_and_says_so(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, caplog: pytest.LogCaptureFixture
) -> None:
    coco_tree(tmp_path / "source", 6)
    run(tmp_path / "source", shards.root)
    before = shards.tars("coco", "val")
    (split_dir(shards.root, "coco", "val") / "coco-val-000001.tar").unlink()
    (report,) = run(tmp_path / "source", shards.root)
    assert not report.was_done
    assert "all its shards are made again" in caplog.text
    assert shards.tars("coco", "val") == before
