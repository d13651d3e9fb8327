"""The full-scale writers, on few records: exact counts, official forms, same seed same bytes."""

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from pipelines import full_scale
from pipelines.full_scale import make_full_scale
from pipelines.full_scale_coco import CocoSplit, write_coco
from pipelines.full_scale_draws import Picture, draw_pictures, ring, spread
from pipelines.full_scale_lvis import FREQUENCIES, LvisSplit, write_lvis
from pipelines.full_scale_vcr import VcrSplit, write_vcr
from pipelines.full_scale_visual_genome import COUNTS, VgCounts, write_visual_genome
from pipelines.registry import DATASETS
from pipelines.reports import SplitReport
from pipelines.run import convert
from roikit.errors import RoikitError, UsageError

COCO = (
    CocoSplit(name="train", images=60, annotated=55, annotations=400, crowds=7, captions=303),
    CocoSplit(name="val", images=9, annotated=8, annotations=30, crowds=1, captions=46),
)
VG = VgCounts(
    images={"train": 30, "val": 5, "test": 5, "unlisted": 10},
    regions={"train": 900, "val": 60, "test": 70, "unlisted": 200},
    negative=12,
    coco=20,
)
VCR = (
    VcrSplit(name="train", movies=5, images=30, questions=80, mismatches=4),
    VcrSplit(name="val", movies=2, images=6, questions=17, mismatches=1),
    VcrSplit(name="test", movies=2, images=5, questions=11, mismatches=1),
)
LVIS = (
    LvisSplit(name="train", images={"train2017": 40}, annotated=38, annotations=500),
    LvisSplit(name="val", images={"val2017": 5, "train2017": 9}, annotated=14, annotations=120),
)
WRITERS = {
    "coco": lambda *a: write_coco(*a, COCO),
    "vg": lambda *a: write_visual_genome(*a, VG),
    "vcr": lambda *a: write_vcr(*a, VCR),
    "lvis": lambda *a: write_lvis(*a, LVIS),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Picture]:
    return draw_pictures(tmp_path_factory.mktemp("pictures"), ((320, 240), (240, 320)), 2, 0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, pictures: list[Picture]) -> Path:
    root = tmp_path_factory.mktemp("world")
    for name, write in WRITERS.items():
        (root / name).mkdir()
        write(root / name, pictures, 5, lambda _: None)
    return root


def converted(world: Path, name: str, out: Path) -> dict[str, SplitReport]:
    splits = ["train", "val", "test", "unlisted"] if name == "vg" else None
    reports = convert(name, world / name, out, splits=splits, dry_run=True, max_rejects=1.0)
    return {report.split: report for report in reports}


def test_spread_deals_out_exactly_and_at_least() -> None:
    for total, places, least in ((860_001, 117_266, 1), (5, 5, 1), (0, 3, 0), (7, 100, 0)):
        counts = spread(total, places, np.random.default_rng(1), at_least=least)
        assert counts.sum() == total and counts.min() >= least and len(counts) == places


def test_outlines_stay_inside_their_boxes() -> None:
    boxes = np.array([[10.0, 20.0, 30.0, 5.0], [0.0, 0.0, 1.0, 1.0]])
    points = ring(boxes, 9, np.random.default_rng(0))
    assert points.shape == (2, 9, 2)
    low, high = boxes[:, None, :2], boxes[:, None, :2] + boxes[:, None, 2:]
    assert (points >= low - 0.01).all() and (points <= high + 0.01).all()


def test_the_counts_are_the_published_ones() -> None:
    """The converters know what was published; the writers carry their own numbers."""
    expected = {"coco": 5_000 + 118_287, "vg": 108_077, "vcr": 80_418 + 9_929 + 9_557}
    assert {name: full_scale.DATASETS[name].images for name in expected} == expected
    assert full_scale.DATASETS["lvis"].images == 100_170 + 19_809
    assert full_scale.DATASETS["lvis"].records == 1_270_141 + 244_707
    assert full_scale.DATASETS["coco"].records == 860_001 + 36_781 + 591_753 + 25_014
    assert full_scale.DATASETS["vg"].records == 5_408_689
    assert full_scale.DATASETS["vcr"].records == 212_923 + 26_534 + 25_263
    assert COUNTS.regions["train"] == 3_684_063 and COUNTS.regions["test"] == 238_069


def test_coco_converts_with_exactly_the_counts_asked_for(world: Path, tmp_path: Path) -> None:
    reports = converted(world, "coco", tmp_path)
    for split in COCO:
        report = reports[split.name]
        assert report.images_found == split.images
        assert report.records_found == split.annotations + split.captions
        assert report.rejections["E_CROWD"] == split.crowds
        # each has captions, so none is unannotated; some have no box
        path = world / "coco" / "annotations" / f"instances_{split.name}2017.json"
        file = json.loads(path.read_bytes())
        assert len({a["image_id"] for a in file["annotations"]}) == split.annotated
        assert "SYNTHETIC" in file["info"]["description"]
        assert len(file["categories"]) == 80


def test_coco_can_be_read_by_its_own_tools(world: Path) -> None:
    mask = pytest.importorskip("pycocotools.coco")
    coco = mask.COCO(world / "coco" / "annotations" / "instances_train2017.json")
    crowd = next(a for a in coco.anns.values() if a["iscrowd"])
    box = next(a for a in coco.anns.values() if not a["iscrowd"] and a["area"] > 200)
    assert coco.annToMask(crowd).any()
    assert abs(int(coco.annToMask(box).sum()) - box["area"]) < 0.35 * box["area"]


def test_annotations_of_an_image_do_not_stand_together(world: Path) -> None:
    file = json.loads((world / "coco" / "annotations" / "instances_train2017.json").read_bytes())
    owners = [a["image_id"] for a in file["annotations"]]
    assert sum(a == b for a, b in itertools.pairwise(owners)) < len(owners) / 4


def test_visual_genome_converts_with_exactly_the_counts_asked_for(
    world: Path, tmp_path: Path
) -> None:
    reports = converted(world, "vg", tmp_path)
    for split in VG.images:
        assert reports[split].images_found == VG.images[split]
        assert reports[split].records_found == VG.regions[split]
    regions = [
        region
        for entry in json.loads((world / "vg" / "region_descriptions.json").read_bytes())
        for region in entry["regions"]
    ]
    assert sum(region["x"] < 0 or region["y"] < 0 for region in regions) == VG.negative
    assert len({region["region_id"] for region in regions}) == len(regions)
    assert max(region["region_id"] for region in regions) > 2**32
    images = json.loads((world / "vg" / "image_data.json").read_bytes())
    assert sum(image["coco_id"] is not None for image in images) == VG.coco


def test_vcr_converts_with_exactly_the_counts_asked_for(world: Path, tmp_path: Path) -> None:
    reports = converted(world, "vcr", tmp_path)
    for split in VCR:
        report = reports[split.name]
        assert report.images_found == split.images
        assert report.records_found == split.questions
        assert report.records_converted == split.questions, report.rejections
    lines = (world / "vcr" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    sizes = [
        json.loads((world / "vcr" / "vcr1images" / json.loads(line)["metadata_fn"]).read_bytes())
        for line in lines
    ]
    named = {json.loads(line)["img_fn"]: m["width"] for line, m in zip(lines, sizes, strict=True)}
    assert sum(width not in (320, 240) for width in named.values()) == VCR[0].mismatches


def test_lvis_converts_with_exactly_the_counts_asked_for(world: Path, tmp_path: Path) -> None:
    reports = converted(world, "lvis", tmp_path)
    for split in LVIS:
        report = reports[split.name]
        assert report.images_found == sum(split.images.values())
        assert report.records_found == split.annotations
    file = json.loads((world / "lvis" / "lvis_v1_val.json").read_bytes())
    folders = [image["coco_url"].split("/")[-2] for image in file["images"]]
    assert {name: folders.count(name) for name in folders} == LVIS[1].images
    kinds = [category["frequency"] for category in file["categories"]]
    assert {kind: kinds.count(kind) for kind in FREQUENCIES} == FREQUENCIES
    assert len({category["name"] for category in file["categories"]}) == 1_203
    shown = {(a["category_id"], a["image_id"]) for a in file["annotations"]}
    assert sum(category["image_count"] for category in file["categories"]) == len(shown)
    train = json.loads((world / "lvis" / "lvis_v1_train.json").read_bytes())
    assert not {i["id"] for i in train["images"]} & {i["id"] for i in file["images"]}


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_seed_gives_the_same_bytes_and_another_one_others(
    name: str, world: Path, pictures: list[Picture], tmp_path: Path
) -> None:
    for seed in (5, 6):
        (tmp_path / str(seed)).mkdir()
        WRITERS[name](tmp_path / str(seed), pictures, seed, lambda _: None)
    assert digests(tmp_path / "5") == digests(world / name)
    assert digests(tmp_path / "6") != digests(world / name)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `make_full_scale` write a few COCO records only."""
    dataset = full_scale._Dataset(
        title="COCO 2017",
        sizes_wh=((320, 240),),
        images=69,
        records=779,
        disk_bytes=1_000_000,
        write=WRITERS["coco"],
    )
    monkeypatch.setattr(full_scale, "DATASETS", {"coco": dataset})
    monkeypatch.setattr(full_scale, "_PICTURES_EACH", 2)


@pytest.mark.usefixtures("small")
def test_a_second_run_finds_its_tree_and_leaves_it(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    (first,) = make_full_scale(tmp_path, progress=lambda *a: told.append(a))
    assert not first.was_done and told[-1] == (779, 779, "coco")
    assert "invented" in (tmp_path / "coco" / "README.md").read_text(encoding="utf-8")
    picture = next((tmp_path / "coco" / "train2017").iterdir())
    assert picture.stat().st_nlink > 10  # names of few pictures
    before = digests(tmp_path)
    (second,) = make_full_scale(tmp_path)
    assert second.was_done and digests(tmp_path) == before
    assert (second.images, second.records) == (69, 779)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "coco"]


@pytest.mark.usefixtures("small")
def test_another_seed_and_strange_files_are_not_overwritten(tmp_path: Path) -> None:
    make_full_scale(tmp_path, seed=1)
    before = digests(tmp_path)
    with pytest.raises(UsageError, match="seed 2, found one of seed 1"):
        make_full_scale(tmp_path, seed=2)
    assert digests(tmp_path) == before
    (report,) = make_full_scale(tmp_path, seed=2, overwrite=True)
    assert not report.was_done and digests(tmp_path) != before
    (tmp_path / "x" / "coco").mkdir(parents=True)
    (tmp_path / "x" / "coco" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="found other files"):
        make_full_scale(tmp_path / "x", overwrite=True)


@pytest.mark.usefixtures("small")
def test_what_an_interrupted_run_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".coco.part" / "annotations").mkdir(parents=True)
    (tmp_path / ".coco.part" / "annotations" / "half.json").write_text("[")
    (tmp_path / ".pictures.part").mkdir()
    (tmp_path / ".pictures.part" / "1.jpg").write_text("")
    make_full_scale(tmp_path)
    assert not list(tmp_path.glob(".*.part"))
    assert not (tmp_path / "coco" / "annotations" / "half.json").exists()


def test_too_little_space_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 10**9

    monkeypatch.setattr(full_scale.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(RoikitError, match="free for coco, vg, vcr, lvis, found 1"):
        make_full_scale(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unknown_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected some of coco, vg, vcr, lvis, got `imagenet`"):
        make_full_scale(tmp_path, datasets=["imagenet"])
    assert set(full_scale.DATASETS) <= set(DATASETS)
