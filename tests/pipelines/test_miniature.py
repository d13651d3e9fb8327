"""The miniature world as a whole: layouts, splits, seeds."""

import hashlib
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from pipelines.miniature import (
    MiniatureReport,
    make_miniature,
    read_scenes,
    region_things,
    scenes_by_file,
)
from pipelines.miniature_scene import (
    COLOURS,
    EXTENT_PX,
    HELD_OUT_PAIRS,
    SHAPES,
    polygon_area,
)
from roikit.errors import UsageError

IMAGES = 200

GOLDEN_SCENE = {"background": "shaded", "is_close_up": False}
GOLDEN_TEXTS = [
    "a small white plain star at the top left, a small yellow plain cross at the top"
    " and a large red dotted arrow at the bottom",
    "a white star at the top left, a yellow cross at the top and a red arrow at the bottom",
    "a large red dotted arrow at the bottom",
    "three shapes on a shaded background",
    "a small white plain star left of a small yellow plain cross",
    "small white plain star",
    "large red dotted arrow",
    "small yellow plain cross",
    "small yellow plain cross above the large red dotted arrow",
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> MiniatureReport:
    return make_miniature(
        tmp_path_factory.mktemp("miniature") / "world",
        images=IMAGES,
        seed=5,
        workers=1,
        evaluation=0.3,
        odd_sizes=0.2,
    )


@pytest.fixture(scope="module")
def world(report: MiniatureReport) -> Path:
    return report.out


def _json(path: Path) -> object:
    return json.loads(path.read_text("utf-8"))


def _hashes(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def test_two_workers_write_the_same_bytes_as_one(
    world: Path, report: MiniatureReport, tmp_path: Path
) -> None:
    again = make_miniature(
        tmp_path / "again", images=IMAGES, seed=5, workers=2, evaluation=0.3, odd_sizes=0.2
    )
    assert _hashes(world) == _hashes(tmp_path / "again")
    assert again.statements == report.statements


def test_another_seed_draws_other_pictures(world: Path, tmp_path: Path) -> None:
    make_miniature(tmp_path / "other", images=64, seed=6, workers=1)
    name = "coco/train2017/000000000001.jpg"
    assert (world / name).read_bytes() != (tmp_path / "other" / name).read_bytes()


def test_a_small_world_keeps_its_bytes(tmp_path: Path) -> None:
    # scene graphs and texts; pictures depend on the JPEG library too
    make_miniature(tmp_path / "golden", images=32, seed=0, workers=1)
    first = json.loads((tmp_path / "golden" / "scenes.jsonl").read_text().splitlines()[0])
    assert {key: first[key] for key in ("background", "is_close_up")} == GOLDEN_SCENE
    assert [said["text"] for said in first["statements"]] == GOLDEN_TEXTS


def test_coco_tree_has_the_official_layout(world: Path) -> None:
    for split in ("train", "val"):
        instances = _json(world / f"coco/annotations/instances_{split}2017.json")
        captions = _json(world / f"coco/annotations/captions_{split}2017.json")
        assert isinstance(instances, dict)
        assert isinstance(captions, dict)
        assert list(instances) == ["info", "licenses", "images", "annotations", "categories"]
        assert list(captions) == ["info", "licenses", "images", "annotations"]
        images = {image["id"]: image for image in instances["images"]}
        on_disk = {path.name for path in (world / f"coco/{split}2017").iterdir()}
        assert on_disk == {image["file_name"] for image in images.values()}
        names = {category["id"]: category["name"] for category in instances["categories"]}
        assert sorted(names.values()) == sorted(SHAPES)
        assert list(names) != list(range(1, 9))  # as in COCO, ids have gaps
        ids = [annotation["id"] for annotation in instances["annotations"]]
        assert len(set(ids)) == len(ids) > 0
        for annotation in instances["annotations"]:
            image = images[annotation["image_id"]]
            x, y, width, height = annotation["bbox"]
            assert 0 <= x < x + width <= image["width"]
            assert 0 <= y < y + height <= image["height"]
            (flat,) = annotation["segmentation"]
            points = list(zip(flat[::2], flat[1::2], strict=True))
            assert min(flat[::2]) == pytest.approx(x, abs=0.02)
            assert max(flat[1::2]) == pytest.approx(y + height, abs=0.02)
            assert annotation["area"] == pytest.approx(polygon_area(points), abs=0.01)
            assert annotation["area"] <= width * height
            assert annotation["iscrowd"] == 0
            assert annotation["category_id"] in names
        per_image = [caption["image_id"] for caption in captions["annotations"]]
        assert all(per_image.count(image_id) == 5 for image_id in images)


def test_visual_genome_tree_has_the_official_layout(world: Path) -> None:
    root = world / "vg"
    image_data = _json(root / "image_data.json")
    regions = _json(root / "region_descriptions.json")
    objects = _json(root / "objects.json")
    attributes = _json(root / "attributes.json")
    relationships = _json(root / "relationships.json")
    splits = _json(root / "densecap_splits.json")
    for table in (image_data, regions, objects, attributes, relationships):
        assert isinstance(table, list)
        assert len(table) == len(image_data) > 0
    ids = [entry["image_id"] for entry in image_data]
    assert [entry["id"] for entry in regions] == ids
    assert sorted(splits["train"] + splits["val"] + splits["test"]) == sorted(ids)
    assert all(splits.values())
    for entry in image_data:
        folder, name = entry["url"].split("/")[-2:]
        with Image.open(root / folder / name) as picture:
            assert picture.size == (entry["width"], entry["height"])
    assert any(entry["coco_id"] is None for entry in image_data)
    assert any(entry["coco_id"] is not None for entry in image_data)
    first = regions[0]["regions"][0]
    assert set(first) == {"region_id", "image_id", "phrase", "x", "y", "width", "height"}
    assert all(isinstance(first[key], int) for key in ("x", "y", "width", "height"))
    assert first["region_id"] > 2**31
    assert {"object_id", "x", "y", "w", "h", "names", "synsets"} <= set(objects[0]["objects"][0])
    assert len(attributes[0]["attributes"][0]["attributes"]) == 3
    nodes = [r["subject"] for entry in relationships for r in entry["relationships"]]
    assert (
        {"name" in node for node in nodes} == {"names" in node for node in nodes} == {True, False}
    )


def test_a_coco_photo_in_visual_genome_is_the_same_file(world: Path) -> None:
    shared = [scene for scene in read_scenes(world) if scene.has("coco") and scene.has("vg")]
    assert shared
    for scene in shared:
        coco = world / "coco" / scene.places["coco"].file
        vg = world / "vg" / scene.places["vg"].file
        assert coco.read_bytes() == vg.read_bytes()
        assert (scene.places["coco"].split == "train") == (scene.places["vg"].split == "train")


def test_held_out_pairs_never_occur_in_training_pictures(
    world: Path, report: MiniatureReport
) -> None:
    assert len(HELD_OUT_PAIRS) == 8
    assert {colour for colour, _ in HELD_OUT_PAIRS} == set(COLOURS)
    assert {shape for _, shape in HELD_OUT_PAIRS} == set(SHAPES)
    kept, seen = [0, 0], 0
    for scene in read_scenes(world):
        is_train = {place.split == "train" for place in scene.places.values()}
        assert is_train == {not scene.is_evaluation}
        for thing in scene.things:
            assert thing.is_held_out == ((thing.colour, thing.shape) in HELD_OUT_PAIRS)
            if not scene.is_evaluation:
                assert not thing.is_held_out
                seen += 1
            else:
                kept[thing.is_held_out] += 1
    assert seen > 0
    assert min(kept) > 30
    assert report.held_out_objects == kept[True]


def test_held_out_pairs_never_occur_in_training_text(world: Path) -> None:
    texts = [str(_json(world / "coco/annotations/captions_train2017.json"))]
    splits = _json(world / "vg/densecap_splits.json")
    assert isinstance(splits, dict)
    for entry in json.loads((world / "vg/region_descriptions.json").read_text()):
        if entry["id"] in splits["train"]:
            texts += [region["phrase"] for region in entry["regions"]]
    for line in (world / "vcr/train.jsonl").read_text().splitlines():
        record = json.loads(line)
        for tokens in record["answer_choices"] + record["rationale_choices"]:
            texts.append(" ".join(token for token in tokens if isinstance(token, str)))
    text = " ".join(texts)
    for colour, shape in HELD_OUT_PAIRS:
        for pattern in ("", "plain ", "striped ", "dotted "):
            assert f"{colour} {pattern}{shape}" not in text
    assert "red plain circle" in text or "red striped circle" in text


def test_close_ups_are_half_of_coco_training_and_none_of_its_evaluation(world: Path) -> None:
    coco = [scene for scene in read_scenes(world) if scene.has("coco")]
    train = [scene.is_close_up for scene in coco if not scene.is_evaluation]
    assert 0.35 < sum(train) / len(train) < 0.65
    assert not any(scene.is_close_up for scene in coco if scene.is_evaluation)


def test_size_words_match_pixels_and_objects_hardly_overlap(world: Path) -> None:
    for scene in read_scenes(world):
        for thing in scene.things:
            low, high = EXTENT_PX[thing.size]
            assert low - 0.02 <= thing.extent_px <= (72.02 if scene.is_close_up else high + 0.02)
            for other in scene.things:
                if other is not thing:
                    a, b = thing.box_xyxy, other.box_xyxy
                    across = min(a[2], b[2]) - max(a[0], b[0])
                    down = min(a[3], b[3]) - max(a[1], b[1])
                    assert min(across, down) <= 2.01


def test_pictures_show_what_the_scene_says(world: Path) -> None:
    for scene in read_scenes(world)[:40]:
        for thing in scene.things:
            if thing.pattern != "plain" or thing.shape not in ("circle", "square", "heart"):
                continue
            data = (world / "coco" / scene.places["coco"].file).read_bytes()
            with Image.open(io.BytesIO(data)) as picture:
                red, green, blue = picture.getpixel(tuple(map(int, thing.centre_xy)))
            if thing.colour == "red":
                assert red > 150 > max(green, blue) + 60
            if thing.colour == "white":
                assert min(red, green, blue) > 200


def test_scenes_and_regions_are_found_by_the_names_in_the_annotations(world: Path) -> None:
    scenes = scenes_by_file(world, "coco")
    instances = _json(world / "coco/annotations/instances_val2017.json")
    assert isinstance(instances, dict)
    names = {category["id"]: category["name"] for category in instances["categories"]}
    for annotation in instances["annotations"]:
        scene = scenes[f"val2017/{annotation['image_id']:012d}.jpg"]
        (thing,) = region_things(scene, "coco", str(annotation["id"]))
        assert thing.shape == names[annotation["category_id"]]
        assert list(thing.box_xyxy[:2]) == annotation["bbox"][:2]
    by_id = {scene.places["vg"].image_id: scene for scene in scenes_by_file(world, "vg").values()}
    for entry in json.loads((world / "vg/region_descriptions.json").read_text()):
        for region in entry["regions"]:
            things = region_things(by_id[str(entry["id"])], "vg", str(region["region_id"]))
            assert all(thing.shape in region["phrase"] for thing in things)
            assert region["x"] == int(min(thing.box_xyxy[0] for thing in things))


def test_odd_sizes_are_recorded(world: Path) -> None:
    sizes = {(scene.width, scene.height) for scene in read_scenes(world)}
    assert sizes == {(128, 128), (160, 128), (128, 160)}


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, world: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="empty folder"):
        make_miniature(tmp_path, images=32, workers=1, overwrite=True)
    with pytest.raises(UsageError, match="holds a miniature world already"):
        make_miniature(world, images=32, workers=1)


def test_overwrite_replaces_a_world(tmp_path: Path) -> None:
    make_miniature(tmp_path / "world", images=64, workers=1)
    make_miniature(tmp_path / "world", images=32, workers=1, overwrite=True, shares={"coco": 1.0})
    assert len(read_scenes(tmp_path / "world")) == 32
    assert not (tmp_path / "world" / "vg").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"images": 8},
        {"image_wh": (64, 64)},
        {"relations": 1.0},
        {"shares": {"flickr": 1.0}},
        {"questions": 0},
        {"workers": 0},
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="expected"):
        make_miniature(tmp_path / "world", **({"images": 32} | options))  # type: ignore[arg-type]
    assert not (tmp_path / "world").exists()
