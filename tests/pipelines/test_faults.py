"""What a disk or a source can do to a conversion: one clear line, and a rerun that completes."""

import errno
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import space, task
from pipelines.faults import clear_disk_errors
from pipelines.job import Job
from pipelines.registry import DATASETS
from pipelines.run import convert
from pipelines.steps import TaskShare, commit_step, plan_step, tasks_step
from roikit.errors import RoikitError, UsageError
from roikit.render import bytes_text
from shards.layout import commit_path, split_dir
from shards.verify import verify

WriteTree = Callable[[Path, int], None]
SHARD_BYTES = 30_000
Mount = Callable[..., Path]


def run(source: Path, out: Path, **options: Any) -> Any:
    (report,) = convert("coco", source, out, **{"max_shard_bytes": SHARD_BYTES} | options)
    return report


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mount a file system of its own, where that is allowed."""
    mounted: list[Path] = []

    def make(name: str, *arguments: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        command = ["mount", *arguments, str(folder)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a file system")
        mounted.append(folder)
        return folder

    yield make
    for folder in reversed(mounted):
        subprocess.run(["umount", str(folder)], check=True)


def picture(source: Path, number: int) -> Path:
    return source / f"val2017/{number:012d}.jpg"


# --- room on the disk ---


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 12)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 50_000, 50_000))
    (dry,) = convert("coco", tmp_path / "source", shards.root, dry_run=True)
    assert dry.bytes_free == 50_000
    pictures = sum(picture(tmp_path / "source", i).stat().st_size for i in range(1, 13))
    assert pictures < dry.bytes_needed < 2 * pictures
    said = f"coco val needs about {bytes_text(dry.bytes_needed)} there, 50.0 kB are free"
    with pytest.raises(RoikitError, match=re.escape(said)) as e:
        run(tmp_path / "source", shards.root)
    assert "--out" in str(e.value.hint)
    assert not split_dir(shards.root, "coco", "val").exists()
    monkeypatch.undo()
    assert run(tmp_path / "source", shards.root).images_converted == 12


def test_only_what_is_still_to_be_made_needs_room(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 16)
    mine = Job(
        spec=DATASETS["coco"],
        source=tmp_path / "source",
        out=shards.root,
        max_shard_bytes=SHARD_BYTES,
    )
    (planned,) = plan_step(mine)
    (half,) = tasks_step(mine, TaskShare(first=0, of=2))
    assert 0.3 * planned.bytes_needed < half.bytes_needed < 0.7 * planned.bytes_needed
    usage = namedtuple("usage", "total used free")
    free = half.bytes_needed + 1
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: usage(10**6, 10**6 - free, free))
    tasks_step(mine, TaskShare())
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: usage(10**6, 10**6, 0))
    assert commit_step(mine)[0].images_converted == 16
    assert run(tmp_path / "source", shards.root).was_done


def test_shards_that_are_replaced_make_room(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 12)
    run(tmp_path / "source", shards.root)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 40_000, 40_000))
    assert run(tmp_path / "source", shards.root, seed=1, overwrite=True).images_converted == 12


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_fills_up_is_one_line_and_a_rerun_completes(
    coco_tree: WriteTree,
    tmp_path: Path,
    shards: Any,
    mount: Mount,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    source = tmp_path / "source"
    coco_tree(source, 16)
    whole = type(shards)(tmp_path / "whole")
    run(source, whole.root)
    out = type(shards)(mount("small", "-t", "tmpfs", "-o", "size=120k", "none"))
    # The look ahead would refuse: somebody else fills the disk after it.
    monkeypatch.setattr("pipelines.split.check_space", lambda *_: None)
    with pytest.raises(RoikitError, match="no space left on the disk") as caught:
        run(source, out.root, workers=workers)
    assert "run the same command again" in str(caught.value.hint)
    assert not commit_path(out.root, "coco", "val").exists()
    assert not list(split_dir(out.root, "coco", "val").glob(".*tmp*"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(out.root)], check=True)
    assert run(source, out.root, workers=workers).images_converted == 16
    assert out.tars("coco", "val") == whole.tars("coco", "val")


CHILD = """
import sys
from pathlib import Path
sys.argv = ["roikit", "convert", "coco", sys.argv[1], "--out", sys.argv[2], "--workers", "1"]
from roikit.__main__ import main
main()
"""


def test_a_limit_on_file_sizes_is_one_line_too(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 8)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    ended = subprocess.run(
        [sys.executable, "-c", CHILD, tmp_path / "source", shards.root],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("error: ") == 1
    assert "coco-val-000000.tar`: File too large" in ended.stderr
    assert convert("coco", tmp_path / "source", shards.root)[0].images_converted == 8


# --- folders that may not be written ---


def test_a_read_only_source_is_enough(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, mount: Mount
) -> None:
    coco_tree(tmp_path / "writable", 4)
    source = mount("source", "--bind", str(tmp_path / "writable"))
    subprocess.run(["mount", "-o", "remount,ro,bind", str(source)], check=True)
    with pytest.raises(OSError, match="Read-only"):
        (source / "new").touch()
    assert run(source, shards.root).images_converted == 4


def test_a_source_file_that_may_not_be_read_is_named_with_exit_2(tmp_path: Path) -> None:
    closed = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "source/a.json"))
    with (
        pytest.raises(UsageError, match=r"source/a\.json`: cannot be used: Permission denied") as e,
        clear_disk_errors(tmp_path / "out"),
    ):
        raise closed
    assert "--out" not in str(e.value.hint)


def test_an_output_that_is_read_only_is_one_line(
    coco_tree: WriteTree, tmp_path: Path, mount: Mount
) -> None:
    coco_tree(tmp_path / "source", 4)
    out = mount("out", "-t", "tmpfs", "-o", "size=8m", "none")
    subprocess.run(["mount", "-o", "remount,ro", str(out)], check=True)
    with pytest.raises(UsageError, match="expected to be allowed to write there: Read-only") as e:
        run(tmp_path / "source", out)
    assert "--out" in str(e.value.hint)
    subprocess.run(["mount", "-o", "remount,rw", str(out)], check=True)
    assert run(tmp_path / "source", out).images_converted == 4


def test_a_shard_folder_that_may_not_be_written_is_one_line(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 4)

    def closed(path: Path, entries: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(task, "write_shard", closed)
    with pytest.raises(UsageError, match=r"coco-val-000000\.tar`: expected to be allowed"):
        run(tmp_path / "source", shards.root)
    monkeypatch.undo()
    assert run(tmp_path / "source", shards.root).images_converted == 4


# --- a source that changes ---


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("change", ["longer", "gone"])
def test_a_picture_that_changes_after_the_plan_ends_it(
    coco_tree: WriteTree,
    tmp_path: Path,
    shards: Any,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    change: str,
) -> None:
    source = tmp_path / "source"
    coco_tree(source, 12)
    from pipelines import split

    real = split.make_plan

    def plan_then_change(*arguments: Any, **options: Any) -> Any:
        planned = real(*arguments, **options)
        path = picture(source, 7)
        if change == "longer":
            path.write_bytes(path.read_bytes() + b"\0")
        else:
            path.unlink()
        return planned

    monkeypatch.setattr(split, "make_plan", plan_then_change)
    with pytest.raises(
        RoikitError, match=r"000000000007\.jpg`: had .* when the plan was made"
    ) as e:
        run(source, shards.root, workers=workers)
    assert "--overwrite" in str(e.value.hint)
    assert not commit_path(shards.root, "coco", "val").exists()
    monkeypatch.undo()
    report = run(source, shards.root, workers=workers, overwrite=True, max_rejects=1)
    assert report.images_converted == (12 if change == "longer" else 11)
    fresh = type(shards)(tmp_path / "fresh")
    run(source, fresh.root, max_rejects=1)
    assert shards.tars("coco", "val") == fresh.tars("coco", "val")
    assert verify(shards.root).is_good


def test_annotations_that_change_while_they_are_read_end_it(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 3)
    from pipelines import split

    real = split.make_plan

    def change_then_plan(*arguments: Any, **options: Any) -> Any:
        now = time.time_ns()  # finer than the clock of the file system
        os.utime(tmp_path / "source/annotations/instances_val2017.json", ns=(now, now))
        return real(*arguments, **options)

    monkeypatch.setattr(split, "make_plan", change_then_plan)
    with pytest.raises(RoikitError, match="changed while it was read"):
        run(tmp_path / "source", shards.root)
    monkeypatch.undo()
    assert run(tmp_path / "source", shards.root).images_converted == 3


def test_a_manifest_that_cannot_be_written_leaves_a_whole_split(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 3)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "manifest.duckdb")

    monkeypatch.setattr("pipelines.split.manifest.update", full)
    with pytest.raises(RoikitError, match="no space left"):
        run(tmp_path / "source", shards.root)
    monkeypatch.undo()
    assert run(tmp_path / "source", shards.root).was_done
    assert verify(shards.root).is_good


# --- a source whose disk or network falters ---

PASSING = [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENOMEM]


def falter(monkeypatch: pytest.MonkeyPatch, at: str, name: str, number: int) -> None:
    """Let looking at (`stat`) or reading (`read`) the files of a name fail with an error."""
    owner, method = (os, "stat") if at == "stat" else (Path, "read_bytes")
    real = getattr(owner, method)

    def fail(path: Any, *arguments: Any, **options: Any) -> Any:
        if str(path).endswith(name):
            raise OSError(number, os.strerror(number))
        return real(path, *arguments, **options)

    monkeypatch.setattr(owner, method, fail)


@pytest.mark.parametrize("at", ["stat", "read"])
@pytest.mark.parametrize("number", PASSING)
def test_an_error_that_may_pass_ends_it_and_a_rerun_gives_the_same_bytes(
    coco_tree: WriteTree,
    tmp_path: Path,
    shards: Any,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    number: int,
) -> None:
    coco_tree(tmp_path / "source", 4)
    fresh = type(shards)(tmp_path / "fresh")
    run(tmp_path / "source", fresh.root)
    with monkeypatch.context() as patched:
        falter(patched, at, "000000000003.jpg", number)
        with pytest.raises(RoikitError, match=r"000000000003\.jpg`: cannot be read") as caught:
            run(tmp_path / "source", shards.root, max_rejects=1)
    assert os.strerror(number) in str(caught.value)
    assert not commit_path(shards.root, "coco", "val").exists()
    report = run(tmp_path / "source", shards.root)
    assert (report.images_converted, report.rejections) == (4, {})
    assert shards.tars("coco", "val") == fresh.tars("coco", "val")


@pytest.mark.parametrize(
    ("at", "number", "code"),
    [
        ("stat", errno.ENOTDIR, "E_IMAGE_MISSING"),
        ("stat", errno.ENAMETOOLONG, "E_IMAGE_MISSING"),
        ("stat", errno.ELOOP, "E_IMAGE_MISSING"),
        ("both", errno.EACCES, "E_IMAGE_UNREADABLE"),
        ("read", errno.EACCES, "E_IMAGE_UNREADABLE"),
    ],
)
def test_an_error_of_the_name_rejects_the_picture(
    coco_tree: WriteTree,
    tmp_path: Path,
    shards: Any,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    number: int,
    code: str,
) -> None:
    coco_tree(tmp_path / "source", 4)
    for place in ("stat", "read") if at == "both" else (at,):
        falter(monkeypatch, place, "000000000003.jpg", number)
    report = run(tmp_path / "source", shards.root, max_rejects=1)
    assert (report.images_converted, report.rejections) == (3, {code: 1})


def test_a_picture_that_may_be_read_goes_before_one_that_may_not(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 3)
    coco_tree(tmp_path / "copy", 3)
    falter(monkeypatch, "stat", "source/val2017/000000000003.jpg", errno.EACCES)
    report = run(tmp_path / "source", shards.root, image_roots=[tmp_path / "copy"])
    assert (report.images_converted, report.rejections) == (3, {})


# --- pictures that only decoding shows to be damaged ---


def test_decoding_finds_what_header_and_end_do_not_show(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    source = tmp_path / "source"
    coco_tree(source, 6)
    path = picture(source, 4)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = b"\xff\x00" * 200  # the end mark stays
    path.write_bytes(data)
    plain = run(source, tmp_path / "plain")
    assert plain.images_converted == 6
    decoded = run(source, shards.root, decode_images=True, max_rejects=1, workers=2)
    assert decoded.rejections == {"E_IMAGE_UNDECODABLE": 1}
    assert "coco:4" not in shards.samples("coco", "val")
    (rejection,) = shards.rejections("coco", "val")
    assert (rejection.native_id, decoded.images_converted) == ("coco:4", 5)
    assert "000000000004.jpg" in rejection.message
    # What was checked less is not taken for what was checked more.
    with pytest.raises(UsageError, match="another plan"):
        run(source, tmp_path / "plain", decode_images=True)


def test_a_worker_thread_may_convert_too(coco_tree: WriteTree, tmp_path: Path, shards: Any) -> None:
    coco_tree(tmp_path / "source", 2)
    reports: list[Any] = []
    thread = threading.Thread(target=lambda: reports.append(run(tmp_path / "source", shards.root)))
    thread.start()
    thread.join(timeout=60)
    assert reports[0].images_converted == 2
