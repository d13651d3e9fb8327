import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipelines.job import Job
from pipelines.registry import DATASETS
from pipelines.reports import CountsDifferError
from pipelines.run import convert
from pipelines.steps import TaskShare, commit_step, plan_step, tasks_step
from roikit.errors import RoikitError, UsageError
from shards.atomic import locked
from shards.commit import load_dataset
from shards.layout import split_dir
from shards.verify import verify

WriteTree = Callable[[Path, int], None]
SHARD_BYTES = 30_000
COMMAND = "roikit convert coco source --out shards"


def job(source: Path, out: Path, **settings: Any) -> Job:
    return Job(
        spec=DATASETS["coco"], source=source, out=out, **{"max_shard_bytes": SHARD_BYTES} | settings
    )


def annotations(source: Path) -> Path:
    return source / "annotations/instances_val2017.json"


CHILD = """
import sys
from pathlib import Path
from pipelines.job import Job
from pipelines.registry import DATASETS
from pipelines.steps import TaskShare, tasks_step
source, out = map(Path, sys.argv[1:3])
job = Job(spec=DATASETS["coco"], source=source, out=out, max_shard_bytes=int(sys.argv[3]))
tasks_step(job, TaskShare.parse(sys.argv[4]))
"""


def test_three_task_processes_at_once_make_the_bytes_of_the_pool(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    source, whole = tmp_path / "source", type(shards)(tmp_path / "whole")
    coco_tree(source, 24)
    convert("coco", source, whole.root, workers=2, max_shard_bytes=SHARD_BYTES)
    (planned,) = plan_step(job(source, shards.root))
    assert planned.tasks >= 6
    assert planned.unfinished == list(range(planned.tasks))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    # Two of the three make the same share: tasks may meet.
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, source, shards.root, str(SHARD_BYTES), share],
            env=environment,
        )
        for share in ("0/2", "1/2", "1/2")
    ]
    assert [child.wait(timeout=120) for child in children] == [0, 0, 0]
    (report,) = commit_step(job(source, shards.root))
    assert report.images_converted == 24
    assert shards.tars("coco", "val") == whole.tars("coco", "val")
    assert report.merkle_root == load_dataset(whole.root, "coco", "val").merkle_root
    assert verify(shards.root).is_good
    assert [path.suffix for path in (shards.root / ".plan").iterdir()] == [".lock"]
    assert not list(split_dir(shards.root, "coco", "val").glob(".*tmp*"))
    # What the pool would have to do then, and what another job of the array has to do.
    assert convert("coco", source, shards.root, max_shard_bytes=SHARD_BYTES)[0].was_done
    assert tasks_step(job(source, shards.root), TaskShare(first=1, of=2))[0].was_done
    assert commit_step(job(source, shards.root))[0].was_done


def test_every_task_is_in_one_share() -> None:
    shares = [TaskShare.parse(f"{i}/3").indices(10) for i in range(3)]
    assert sorted(index for share in shares for index in share) == list(range(10))


@pytest.mark.parametrize("text", ["3/3", "0/0", "-1/3", "1", "a/b", "1/3/5"])
def test_a_share_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected i/n with i from 0 to n - 1"):
        TaskShare.parse(text)


def test_tasks_and_commit_without_a_plan_say_so(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 2)
    for step in (lambda j: tasks_step(j, TaskShare()), commit_step):
        with pytest.raises(UsageError, match="expected a plan of coco there, found none") as caught:
            step(job(tmp_path / "source", shards.root, command=COMMAND))
        assert f"`{COMMAND} --step plan`" in str(caught.value.hint)


def test_a_commit_names_the_tasks_that_are_missing(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 16)
    mine = job(tmp_path / "source", shards.root, command=f"{COMMAND} --step=tasks --tasks 0/3")
    (planned,) = plan_step(mine)
    assert planned.next_command == f"{COMMAND} --step tasks --tasks 0/{planned.tasks}"
    (report,) = tasks_step(mine, TaskShare(first=0, of=2))
    assert report.unfinished == [1, 3]
    assert report.next_command == f"{COMMAND} --step tasks"
    with pytest.raises(RoikitError, match="2 of 4 tasks are not finished: 1, 3") as caught:
        commit_step(mine)
    assert caught.value.exit_code == 1
    assert "--step tasks" in str(caught.value.hint)
    # A shard that was cut since is missing, too.
    tar = split_dir(shards.root, "coco", "val") / "coco-val-000002.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(RoikitError, match="3 of 4 tasks are not finished: 1, 2, 3"):
        commit_step(mine)
    (report,) = tasks_step(mine, TaskShare())
    assert (report.unfinished, report.next_command) == ([], f"{COMMAND} --step commit")
    assert commit_step(mine)[0].images_converted == 16


def test_planning_again_keeps_what_tasks_have_made(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 16)
    mine = job(tmp_path / "source", shards.root)
    plan_step(mine)
    tasks_step(mine, TaskShare(first=0, of=2))
    before = {path: path.stat().st_mtime_ns for path in shards.root.rglob("*.tar")}
    (again,) = plan_step(mine)
    assert again.unfinished == [1, 3]
    tasks_step(mine, TaskShare())
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert commit_step(mine)[0].images_converted == 16


def test_a_second_planner_or_committer_is_refused_and_told_who_is_at_it(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 2)
    mine = job(tmp_path / "source", shards.root)
    plan_step(mine)
    tasks_step(mine, TaskShare())
    with locked(shards.root / ".plan/coco-val.lock", wait=False):
        for step in (plan_step, commit_step):
            with pytest.raises(UsageError, match=rf"process {os.getpid()} on .+, since 20"):
                step(mine)
        assert tasks_step(mine, TaskShare())[0].unfinished == []
    assert commit_step(mine)[0].images_converted == 2


def test_tasks_of_a_source_that_changed_are_refused(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 6)
    mine = job(tmp_path / "source", shards.root, command=COMMAND)
    plan_step(mine)
    table = msgspec.json.decode(annotations(mine.source).read_bytes())
    table["annotations"].pop()
    os.utime(annotations(mine.source))
    assert tasks_step(mine, TaskShare(first=0, of=2))[0].unfinished == [1]  # only touched
    annotations(mine.source).write_bytes(msgspec.json.encode(table))
    with pytest.raises(
        UsageError, match=r"instances_val2017\.json`: has changed since coco val"
    ) as e:
        tasks_step(mine, TaskShare())
    assert f"`{COMMAND} --step plan --overwrite`" in str(e.value.hint)
    again = replace(mine, overwrite=True)
    plan_step(again)
    tasks_step(again, TaskShare())
    assert commit_step(again)[0].records_converted == 17


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"seed": 7}, "seed: `0` in the plan, `7` here"),
        ({"max_shard_bytes": 9}, "max_shard_bytes: `30000` in the plan"),
        ({"decode_images": True}, "decode_images: `None` in the plan, `True` here"),
        ({"source": Path("elsewhere")}, "source: "),
        ({"image_roots": [Path("elsewhere")]}, "is none of the plan's folders"),
    ],
)
def test_other_options_than_the_plans_are_refused(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, other: dict[str, Any], expected: str
) -> None:
    coco_tree(tmp_path / "source", 2)
    mine = job(tmp_path / "source", shards.root)
    plan_step(mine)
    with pytest.raises(UsageError, match=expected):
        tasks_step(replace(mine, **other), TaskShare())


def test_a_task_that_outlives_its_plan_puts_nothing_in_place(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 2)
    mine = job(tmp_path / "source", shards.root)
    plan_step(mine)
    from pipelines import task

    real = task.write_shard

    def replaced_meanwhile(path: Path, entries: Any) -> Any:
        plan_step(replace(mine, seed=1, overwrite=True))
        return real(path, entries)

    monkeypatch.setattr(task, "write_shard", replaced_meanwhile)
    with pytest.raises(RoikitError, match="another plan has taken the place"):
        tasks_step(mine, TaskShare())
    assert not list(split_dir(shards.root, "coco", "val").glob("*coco-val-*"))


def do_all(mine: Job) -> Any:
    plan_step(mine)
    tasks_step(mine, TaskShare())
    return commit_step(mine)


def test_a_source_may_be_a_file(tree: Any, shards: Any) -> None:
    tree.picture("a.jpg")
    line = {"image": "a.jpg", "regions": [{"box": [1, 2, 20, 30], "label": "cat"}]}
    tree.lines("mine.jsonl", [line])
    mine = Job(spec=DATASETS["jsonl"], source=tree.root / "mine.jsonl", out=shards.root)
    (report,) = do_all(mine)
    assert report.images_converted == 1
    assert tasks_step(mine, TaskShare())[0].was_done


def test_a_commit_again_compares_with_the_published_counts(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 2)
    mine = job(tmp_path / "source", shards.root)
    (first,) = do_all(mine)
    assert first.official_images == 5_000
    with pytest.raises(CountsDifferError) as caught:
        commit_step(mine, strict=True)
    (again,) = caught.value.reports
    assert again.was_done
    assert (again.official_images, again.official_records) == (
        first.official_images,
        first.official_records,
    )


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"seed": 7}, "seed: `0` then, `7` now"),
        ({"decode_images": True}, "decode_images: `None` then, `True` now"),
        ({"source": "other"}, r"source: `annotations/instances_val2017\.json` of .* bytes then"),
    ],
)
def test_other_options_than_the_commit_s_are_refused(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, other: dict[str, Any], expected: str
) -> None:
    coco_tree(tmp_path / "source", 2)
    coco_tree(tmp_path / "other", 3)
    mine = job(tmp_path / "source", shards.root, command=COMMAND)
    do_all(mine)
    if "source" in other:
        other = {"source": tmp_path / other["source"]}
    for step in (lambda j: tasks_step(j, TaskShare()), commit_step):
        with pytest.raises(UsageError, match=expected) as caught:
            step(replace(mine, **other))
        assert "--step plan --overwrite" in str(caught.value.hint)
        assert step(mine)[0].was_done


def test_committing_again_leaves_a_planner_alone(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 2)
    mine = job(tmp_path / "source", shards.root)
    do_all(mine)
    planning = shards.root / ".plan/coco-val-new"
    with locked(shards.root / ".plan/coco-val.lock", wait=False):
        planning.mkdir()
        with pytest.raises(UsageError, match="another process holds this lock"):
            commit_step(mine)
        assert planning.is_dir()
    # One that came to its end just before the lock was taken.
    from pipelines import steps

    def plan_first(job: Job, split: str) -> Any:
        coco_tree(tmp_path / "source", 3)
        plan_step(replace(mine, extend=True))
        return real(job, split)

    real = steps.only_one
    with monkeypatch.context() as patched:
        patched.setattr(steps, "only_one", lambda *a: (patched.undo(), plan_first(*a))[1])
        assert commit_step(mine)[0].was_done
    extended = replace(mine, extend=True)
    tasks_step(extended, TaskShare())
    assert commit_step(extended)[0].images_converted == 3


def test_an_unreadable_disk_in_cleaning_up_is_one_line(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 2)
    mine = job(tmp_path / "source", shards.root)
    do_all(mine)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipelines.split.manifest.update", fail)
    with pytest.raises(RoikitError, match="no space left on the disk"):
        commit_step(mine)


def test_only_the_dataset_s_own_plan_is_read(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 2)
    mine = job(tmp_path / "source", shards.root)
    plan_step(mine)
    for name in ("vcr-train-0123456789abcdef", "coco-val-0123456789abcdef"):
        (shards.root / ".plan" / name).mkdir()
        (shards.root / ".plan" / name / "plan.json").write_text('{"of": "another version"}')
    assert tasks_step(mine, TaskShare())[0].unfinished == []
    (plan,) = [p for p in shards.root.glob(".plan/*/plan.json") if b"seed" in p.read_bytes()]
    plan.write_text('{"of": "another version"}')
    with pytest.raises(UsageError, match="cannot read this plan") as caught:
        commit_step(mine)
    assert "--step plan" in str(caught.value.hint)
    plan_step(mine)
    assert commit_step(mine)[0].images_converted == 2
