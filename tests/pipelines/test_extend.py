import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipelines.job import Job
from pipelines.registry import DATASETS
from pipelines.run import convert
from pipelines.steps import TaskShare, commit_step, plan_step, tasks_step
from roikit.errors import RoikitError, UsageError
from shards import manifest
from shards.commit import load_dataset
from shards.layout import split_dir
from shards.mix import parse_mix
from shards.stream import Stream
from shards.verify import verify

WriteTree = Callable[[Path, int], None]
SHARD_BYTES = 30_000
NAME = "annotations/instances_val2017.json"


def run(source: Path, out: Path, **options: Any) -> Any:
    (report,) = convert("coco", source, out, **{"max_shard_bytes": SHARD_BYTES} | options)
    return report


def bytes_of(root: Path) -> dict[str, bytes]:
    folder = split_dir(root, "coco", "val")
    return {p.name: p.read_bytes() for p in sorted(folder.glob("coco-val-*"))}


def edit(source: Path, change: Callable[[dict[str, Any]], None]) -> None:
    table = msgspec.json.decode((source / NAME).read_bytes())
    change(table)
    (source / NAME).write_bytes(msgspec.json.encode(table))


@pytest.fixture
def grown(coco_tree: WriteTree, tmp_path: Path, shards: Any) -> dict[str, bytes]:
    """Ten pictures converted; then the source has sixteen. Returns the shards of the ten."""
    coco_tree(tmp_path / "source", 10)
    run(tmp_path / "source", shards.root)
    coco_tree(tmp_path / "source", 16)
    return bytes_of(shards.root)


def test_new_pictures_get_shards_of_their_own_and_the_old_stay(
    grown: dict[str, bytes], tmp_path: Path, shards: Any
) -> None:
    before = load_dataset(shards.root, "coco", "val")
    order = list(shards.samples("coco", "val"))
    report = run(tmp_path / "source", shards.root, extend=True, workers=2)
    assert (report.images_added, report.images_found, report.images_converted) == (6, 16, 16)
    assert (report.records_converted, report.was_done) == (48, False)
    after = bytes_of(shards.root)
    assert {name: after[name] for name in grown} == grown
    assert len(after) > len(grown)
    assert list(shards.samples("coco", "val"))[:10] == order
    assert {f"coco:{i}" for i in range(1, 17)} == set(shards.samples("coco", "val"))
    info = load_dataset(shards.root, "coco", "val")
    assert info.samples == 16
    assert info.merkle_root != before.merkle_root
    assert [s.merkle_root for s in info.shards][: len(before.shards)] == [
        s.merkle_root for s in before.shards
    ]
    keys = [sample.key for sample in shards.samples("coco", "val").values()]
    assert keys == sorted(set(keys))


def test_everything_reads_an_extended_split(
    grown: dict[str, bytes], tmp_path: Path, shards: Any
) -> None:
    run(tmp_path / "source", shards.root, extend=True)
    assert verify(shards.root).is_good
    count = "select count(*), count(distinct key) from samples"
    assert manifest.query(shards.root, count)[1] == [(16, 16)]
    (shards.root / "manifest.duckdb").unlink()
    manifest.rebuild(shards.root)
    assert manifest.query(shards.root, count)[1] == [(16, 16)]
    stream = Stream(shards.root, parse_mix("coco@val=1"), seed=0)
    seen = {example.sample.image.native_id for example in islice(stream, 16)}
    assert len(seen) == 16


def test_the_same_extension_again_is_done(
    grown: dict[str, bytes], tmp_path: Path, shards: Any
) -> None:
    first = run(tmp_path / "source", shards.root, extend=True)
    before = bytes_of(shards.root)
    again = run(tmp_path / "source", shards.root, extend=True)
    assert (again.was_done, again.merkle_root) == (True, first.merkle_root)
    assert (again.images_found, again.records_converted) == (16, 48)
    assert bytes_of(shards.root) == before


def test_a_split_can_be_extended_again_and_again(
    grown: dict[str, bytes], coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    run(tmp_path / "source", shards.root, extend=True)
    before = bytes_of(shards.root)
    coco_tree(tmp_path / "source", 19)
    report = run(tmp_path / "source", shards.root, extend=True)
    assert (report.images_added, report.images_converted) == (3, 19)
    assert bytes_of(shards.root).items() >= before.items()
    assert verify(shards.root).is_good
    assert run(tmp_path / "source", shards.root, extend=True).was_done


def test_an_interrupted_extension_leaves_the_split_readable_and_goes_on(
    grown: dict[str, bytes], tmp_path: Path, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "source", tmp_path / "whole", max_shard_bytes=SHARD_BYTES)

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for place in ("pipelines.split.commit_dataset", "pipelines.split.manifest.update"):
        monkeypatch.setattr(place, interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "source", shards.root, extend=True)
        monkeypatch.undo()
        assert len(shards.samples("coco", "val")) in (10, 16)
    assert run(tmp_path / "source", shards.root, extend=True).images_converted == 16
    assert verify(shards.root).is_good
    manifest.query(shards.root, "select 1")


def test_another_extension_takes_the_place_of_one_that_was_given_up(
    grown: dict[str, bytes],
    coco_tree: WriteTree,
    tmp_path: Path,
    shards: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipelines.split.commit_dataset", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "source", shards.root, extend=True)
    monkeypatch.undo()
    # Without the new pictures the split is what it was.
    coco_tree(tmp_path / "source", 10)
    assert run(tmp_path / "source", shards.root).was_done
    assert bytes_of(shards.root) == grown
    coco_tree(tmp_path / "source", 12)
    assert run(tmp_path / "source", shards.root, extend=True).images_converted == 12
    assert verify(shards.root).is_good


def test_without_the_option_a_grown_source_is_refused_with_advice(
    grown: dict[str, bytes], tmp_path: Path, shards: Any
) -> None:
    with pytest.raises(UsageError, match="another plan") as caught:
        run(tmp_path / "source", shards.root)
    assert "--extend" in str(caught.value.hint)
    assert bytes_of(shards.root) == grown


def test_changed_and_vanished_images_end_it_by_name(
    grown: dict[str, bytes], tmp_path: Path, shards: Any, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "source"

    def change(table: dict[str, Any]) -> None:
        table["annotations"][0]["category_id"] = 3  # of image 1
        table["images"] = [image for image in table["images"] if image["id"] != 10]
        table["annotations"] = [a for a in table["annotations"] if a["image_id"] != 10]

    edit(source, change)
    picture = source / "val2017/000000000004.jpg"
    picture.write_bytes(picture.read_bytes() + b"\0")
    (source / "val2017/000000000005.jpg").unlink()
    with pytest.raises(UsageError, match="4 changed or are gone") as caught:
        run(source, shards.root, extend=True)
    assert "--overwrite" in str(caught.value.hint)
    said = "\n".join(record.getMessage() for record in caplog.records)
    for native_id in ("coco:1", "coco:4", "coco:5", "coco:10"):
        assert f"({native_id})" in said or f"{native_id}: the source" in said
    assert "coco:2" not in said
    assert bytes_of(shards.root) == grown


def test_pictures_that_were_missing_or_damaged_are_tried_again(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    source = tmp_path / "source"
    coco_tree(source, 8)
    cut, gone = (source / f"val2017/{i:012d}.jpg" for i in (2, 3))
    whole = cut.read_bytes()
    cut.write_bytes(whole[:700])
    other = gone.read_bytes()
    gone.unlink()
    first = run(source, shards.root, max_rejects=1)
    assert first.rejections == {"E_IMAGE_MISSING": 1, "E_IMAGE_TRUNCATED": 1}
    before = bytes_of(shards.root)
    cut.write_bytes(whole)
    report = run(source, shards.root, max_rejects=1, extend=True)
    assert (report.images_added, report.images_found, report.images_converted) == (1, 8, 7)
    assert report.rejections == {"E_IMAGE_MISSING": 1}
    gone.write_bytes(other)
    report = run(source, shards.root, max_rejects=0, extend=True)
    assert (report.images_found, report.images_converted, report.faults) == (8, 8, 0)
    assert report.rejections == {}
    assert bytes_of(shards.root).items() >= before.items()
    assert verify(shards.root).is_good
    # What a later try has replaced stays in its sidecar, and is counted and listed nowhere.
    assert len(shards.rejections("coco", "val")) == 2
    assert load_dataset(shards.root, "coco", "val").rejections == {}
    listed = "select count(*) from rejections"
    assert manifest.query(shards.root, listed)[1] == [(0,)]
    assert manifest.query(shards.root, "select rejections from datasets")[1] == [(0,)]


def test_records_of_no_image_are_counted_once(
    grown: dict[str, bytes], tmp_path: Path, shards: Any
) -> None:
    def stray(number: int) -> Callable[[dict[str, Any]], None]:
        lost = {"id": number, "image_id": number, "category_id": 1, "bbox": [1, 1, 9, 9]}
        return lambda table: table["annotations"].append(lost | {"iscrowd": 0})

    edit(tmp_path / "source", stray(901))
    report = run(tmp_path / "source", shards.root, extend=True, max_rejects=1)
    assert report.rejections == {"E_IMAGE_UNKNOWN": 1}
    edit(tmp_path / "source", stray(902))
    report = run(tmp_path / "source", shards.root, extend=True, max_rejects=1)
    assert (report.images_added, report.rejections) == (0, {"E_IMAGE_UNKNOWN": 2})
    assert report.records_found == 50
    assert run(tmp_path / "source", shards.root, extend=True, max_rejects=1).was_done
    edit(tmp_path / "source", lambda table: table["annotations"].pop(-2))
    edit(tmp_path / "source", stray(903))
    report = run(tmp_path / "source", shards.root, extend=True, max_rejects=1)
    assert report.rejections == {"E_IMAGE_UNKNOWN": 2}
    assert load_dataset(shards.root, "coco", "val").rejections == report.rejections
    natives = "select message from rejections order by all"
    assert [
        ("902" in row[0], "903" in row[0]) for row in manifest.query(shards.root, natives)[1]
    ] == [(True, False), (False, True)]


def test_an_extension_in_steps_makes_the_same_bytes(
    grown: dict[str, bytes], coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "ten", 10)
    apart = type(shards)(tmp_path / "apart")
    run(tmp_path / "ten", apart.root)
    run(tmp_path / "source", shards.root, extend=True)
    job = Job(
        spec=DATASETS["coco"],
        source=tmp_path / "source",
        out=apart.root,
        max_shard_bytes=SHARD_BYTES,
        extend=True,
    )
    (planned,) = plan_step(job)
    assert planned.tasks == len(planned.unfinished) == 2
    tasks_step(job, TaskShare(first=1, of=2))
    tasks_step(job, TaskShare(first=0, of=2))
    assert commit_step(job)[0].images_converted == 16
    assert bytes_of(apart.root) == bytes_of(shards.root)
    commits = [
        json.loads((split_dir(root, "coco", "val") / "dataset.json").read_text())
        for root in (apart.root, shards.root)
    ]
    assert commits[0] | {"run": None} == commits[1] | {"run": None}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"overwrite": True}, "extend: keeps the shards"),
        ({"limit": 3}, "extend: a limited split"),
        ({"seed": 1}, "seed: `0` then, `1` now"),
        ({"decode_images": True}, "decode_images: `None` then, `True` now"),
    ],
)
def test_what_does_not_go_with_it_is_refused(
    grown: dict[str, bytes], tmp_path: Path, shards: Any, options: Any, expected: str
) -> None:
    with pytest.raises(UsageError, match=expected):
        run(tmp_path / "source", shards.root, extend=True, **options)


def test_a_dry_run_counts_what_would_be_added(
    grown: dict[str, bytes], tmp_path: Path, shards: Any
) -> None:
    report = run(tmp_path / "source", shards.root, extend=True, dry_run=True)
    assert (report.images_added, report.images_converted, report.num_bytes) == (6, 16, 0)
    assert 6 * 2560 < report.bytes_needed < 16 * 40_000
    assert bytes_of(shards.root) == grown


def test_what_was_never_converted_is_converted_whole(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 3)
    plain = run(tmp_path / "source", tmp_path / "plain")
    assert run(tmp_path / "source", shards.root, extend=True).merkle_root == plain.merkle_root


@pytest.mark.parametrize("num_images", [10, 16])
@pytest.mark.parametrize("lost", ["coco-val-000001.tar", "coco-val-000000.parquet"])
def test_a_split_that_has_lost_a_shard_is_refused_by_its_name(
    grown: dict[str, bytes],
    coco_tree: WriteTree,
    tmp_path: Path,
    shards: Any,
    num_images: int,
    lost: str,
) -> None:
    coco_tree(tmp_path / "source", num_images)
    (split_dir(shards.root, "coco", "val") / lost).unlink()
    for options in ({}, {"dry_run": True}):
        with pytest.raises(RoikitError, match=lost.partition(".")[0]) as caught:
            run(tmp_path / "source", shards.root, extend=True, **options)
        assert "--overwrite" in str(caught.value.hint)
    assert not (shards.root / ".plan/coco-val-new").exists()
    report = run(tmp_path / "source", shards.root, overwrite=True)
    assert report.images_converted == num_images


def test_a_split_that_has_lost_its_index_is_told_how_to_get_it_back(
    grown: dict[str, bytes], tmp_path: Path, shards: Any
) -> None:
    (split_dir(shards.root, "coco", "val") / "samples.arrow").unlink()
    with pytest.raises(UsageError, match="the index is missing") as caught:
        run(tmp_path / "source", shards.root, extend=True)
    assert "manifest rebuild" in str(caught.value.hint)
    manifest.rebuild(shards.root)
    assert run(tmp_path / "source", shards.root, extend=True).images_converted == 16


def test_a_shard_lost_between_plan_and_commit_is_named(
    grown: dict[str, bytes], tmp_path: Path, shards: Any
) -> None:
    job = Job(
        spec=DATASETS["coco"],
        source=tmp_path / "source",
        out=shards.root,
        max_shard_bytes=SHARD_BYTES,
        extend=True,
    )
    plan_step(job)
    tasks_step(job, TaskShare())
    (split_dir(shards.root, "coco", "val") / "coco-val-000001.tar").unlink()
    with pytest.raises(RoikitError, match="coco-val-000001") as caught:
        commit_step(job)
    assert "--overwrite" in str(caught.value.hint)


def test_a_dry_run_with_nothing_new_says_what_is_free(
    coco_tree: WriteTree, tmp_path: Path, shards: Any
) -> None:
    coco_tree(tmp_path / "source", 2)
    run(tmp_path / "source", shards.root)
    assert run(tmp_path / "source", shards.root, extend=True, dry_run=True).bytes_free > 0


def test_the_notes_of_what_was_converted_appear_whole_or_not_at_all(
    coco_tree: WriteTree, tmp_path: Path, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 2)
    real = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if target.name.startswith(".known-"):
            raise OSError(5, "Input/output error")
        return real(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(RoikitError, match="Input/output error"):
        run(tmp_path / "source", shards.root)
    assert not list(split_dir(shards.root, "coco", "val").glob(".known-*"))
