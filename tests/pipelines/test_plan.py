import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipelines.draft import Draft, OpenSource, SplitRecords
from pipelines.images import ImageRoots, match_frame, safe_name
from pipelines.plan import Plan, make_plan, read_draft, read_plan, remove_plans, uncollected
from pipelines.registry import DATASETS
from pipelines.rejections import CODES, FAULTS, POLICIES, reject
from roikit.images import ImageHeader


def draft(number: int, num_bytes: int = 1000) -> Draft:
    return Draft(
        group=str(number), file=f"{number}.jpg", native_id=f"coco:{number}", root=0,
        num_bytes=num_bytes, image_wh=None, source_file="a.json", record=f"images[{number}]",
        num_records=1, payload={"text": "x" * number},
    )  # fmt: skip


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., tuple[Plan, Path]]:
    def make(drafts: list[Draft], **options: Any) -> tuple[Plan, Path]:
        opened = OpenSource(folder=tmp_path, roots=ImageRoots(folders=(tmp_path,)), splits={})
        stray = reject("E_JSON_INVALID", "bad", file="a.json", record="line 3")
        records = SplitRecords(drafts=drafts, rejections=[stray], source_files=())
        settings = {"seed": 0, "limit": None, "max_shard_bytes": 8000} | options
        work = tmp_path / "plans"
        return make_plan(DATASETS["coco"], opened, "val", records, work=work, **settings)

    return make


def groups(folder: Path, plan: Plan) -> list[str]:
    shards = [read_draft(folder, i) for i in range(len(plan.shards))]
    return [draft.group for shard in shards for draft in shard.drafts]


def test_the_plan_does_not_depend_on_the_order_of_the_records(plan: Any) -> None:
    drafts = [draft(i) for i in range(20)]
    first, folder = plan(drafts)
    order = groups(folder, first)
    second, other = plan(drafts[::-1])
    assert (first.plan_hash, folder) == (second.plan_hash, other)
    assert order != [d.group for d in drafts]
    assert sorted(order, key=int) == [d.group for d in drafts]


def test_the_hash_changes_with_content_seed_and_settings(plan: Any) -> None:
    drafts = [draft(i) for i in range(8)]
    hashes = {
        plan(drafts)[0].plan_hash,
        plan(drafts, seed=1)[0].plan_hash,
        plan(drafts, max_shard_bytes=9000)[0].plan_hash,
        plan(drafts, limit=3)[0].plan_hash,
        plan([*drafts[1:], msgspec.structs.replace(drafts[0], payload=1)])[0].plan_hash,
    }
    assert len(hashes) == 5


def test_shards_are_cut_by_size_and_number_their_images_on(plan: Any) -> None:
    planned, folder = plan([draft(i) for i in range(5)] + [draft(9, 50_000)])
    sizes = [shard.num_bytes for shard in planned.shards]
    assert all(size <= 8000 or planned.shards[i].num_images == 1 for i, size in enumerate(sizes))
    firsts = [read_draft(folder, i).first for i in range(len(sizes))]
    counts = [shard.num_images for shard in planned.shards]
    assert firsts == [sum(counts[:i]) for i in range(len(counts))]
    assert read_plan(folder) == planned


def test_a_limit_takes_the_first_of_the_same_order_and_leaves_strays_out(plan: Any) -> None:
    drafts = [draft(i) for i in range(20)]
    full, folder = plan(drafts)
    few, other = plan(drafts, limit=5)
    assert few.split == "val-first5"
    assert groups(other, few) == groups(folder, full)[:5]
    assert (full.num_stray_records, few.num_stray_records) == (1, 0)
    assert len(read_draft(folder, 0).rejections) == 1


def test_without_images_one_shard_keeps_the_rejections(plan: Any) -> None:
    planned, folder = plan([])
    assert len(planned.shards) == 1
    assert read_draft(folder, 0).rejections[0].source.record == "line 3"


def test_a_finished_plan_is_kept_and_only_its_own_split_is_removed(plan: Any) -> None:
    drafts = [draft(i) for i in range(4)]
    _, folder = plan(drafts)
    (folder / "000000.counts.json").write_bytes(b"{}")
    _, limited = plan(drafts, limit=2)
    assert plan(drafts)[1] == folder
    assert (folder / "000000.counts.json").is_file()
    remove_plans(folder.parent, "coco", "val")
    assert [path.name for path in folder.parent.iterdir()] == [limited.name]


def test_codes_are_faults_or_policies() -> None:
    assert not set(FAULTS) & set(POLICIES)
    assert all(code.startswith("E_") and text for code, text in CODES.items())
    listed = (Path(__file__).parents[2] / "docs/datasets.md").read_text(encoding="utf-8")
    for code in CODES:
        assert f"`{code}`" in listed, f"{code} is not in docs/datasets.md"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("train2017/1.jpg", True), ("a b@3.c.jpg", True), ("..jpg", True), ("../1.jpg", False),
        ("a/../../1.jpg", False), ("/etc/passwd", False), ("", False), ("a\0b", False),
        ("..\\1.jpg", False), ("..", False), (".", False),
    ],
)  # fmt: skip
def test_names_may_not_leave_the_folder(name: str, safe: bool) -> None:
    assert safe_name(name) is safe


def header(width: int, height: int, orientation: int = 1) -> ImageHeader:
    return ImageHeader(width=width, height=height, orientation=orientation, format="jpeg")


@pytest.mark.parametrize(
    ("named", "real", "fits"),
    [
        ((1280, 720), (1920, 1080), True),
        ((1920, 1080), (1280, 720), True),
        ((500, 333), (1000, 667), True),
        ((640, 480), (480, 640), False),
        ((640, 480), (640, 400), False),
        ((0, 480), (640, 480), False),
        ((10**400, 480), (640, 480), False),
    ],
)
def test_a_constant_factor_fits_and_another_shape_does_not(
    named: tuple[int, int], real: tuple[int, int], fits: bool
) -> None:
    assert (match_frame(header(*real), named) is not None) is fits


def test_boxes_are_clipped_or_named_bad() -> None:
    frame = match_frame(header(100, 50), (100, 50))
    assert frame is not None
    assert frame.place((10, 10, 20, 20)) == ((10, 10, 20, 20), False)
    assert frame.place((-5, 10, 20, 60)) == ((0, 10, 20, 50), True)
    assert frame.place((10, 10, 10.5, 20)) == "E_BOX_EMPTY"
    assert frame.place((20, 20, 10, 10)) == "E_BOX_EMPTY"
    assert frame.place((100, 10, 120, 20)) == "E_BOX_OUTSIDE"
    assert frame.place((99.5, 10, 120, 20)) == "E_BOX_EMPTY"


def test_planning_leaves_the_garbage_collector_as_it_was() -> None:
    with pytest.raises(ValueError, match="stop"), uncollected():
        assert not gc.isenabled()
        raise ValueError("stop")
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
