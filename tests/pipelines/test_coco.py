import logging
from pathlib import Path
from typing import Any

import pytest

from pipelines.coco_names import CATEGORY_IDS
from pipelines.draft import SourceOptions
from pipelines.phrasing import wordings
from pipelines.reports import CountsDifferError
from pipelines.run import convert
from roikit.errors import UsageError
from roikit.mentions import plain

CATEGORIES = [
    {"id": 1, "name": "person", "supercategory": "person"},
    {"id": 10, "name": "traffic light", "supercategory": "outdoor"},
]


def image(id: int, width: int = 64, height: int = 48, **more: Any) -> dict[str, Any]:
    return {"id": id, "file_name": f"{id:012d}.jpg", "width": width, "height": height, **more}


def box(
    id: int, image_id: int, bbox: list[float], category_id: int = 1, **more: Any
) -> dict[str, Any]:
    return {
        "id": id, "image_id": image_id, "category_id": category_id, "bbox": bbox, "iscrowd": 0,
        "area": 5.0, "segmentation": [[1, 2, 3, 4, 5, 6]], **more,
    }  # fmt: skip


@pytest.fixture
def source(tree: Any) -> Path:
    """One split with a trap in nearly every record."""
    no_box = box(7, 9, [])
    del no_box["bbox"]
    no_name = image(8)
    del no_name["file_name"]
    instances = {
        "info": {},
        "images": [
            image(9), image(10), image(11), image(12), image(13, 48, 64), image(14), image(15),
            no_name, image(16), image(17) | {"file_name": "../../secret.jpg"}, image(18),
            image(19, 128, 96), image(20, 64, 64),
        ],
        "annotations": [
            box(41, 9, [10.5, 20.0, 30.25, 20.0], 10),
            box(42, 9, [1, 1, 40, 40], iscrowd=1, segmentation={"counts": [1], "size": [48, 64]}),
            box(43, 9, [1, 1, 0.5, 20]),
            box(44, 9, [70, 1, 10, 10]),
            box(45, 9, [60.0, 40.0, 4.4, 8.3]),
            box(46, 9, [1, 1, 5, 5], 99),
            no_box,
            box(47, 9, [1, 2, 3]),
            box(48, 777, [1, 1, 5, 5]),
            box(49, 10, [1, 1, 5, 5]),  # no such file
            box(50, 11, [1, 1, 5, 5]),  # cut off
            box(51, 12, [1, 1, 5, 5]),  # not a picture
            box(52, 13, [0, 0, 48, 10]),  # upright size named, EXIF 6
            box(53, 14, [0, 0, 64, 10]),  # stored size named, EXIF 6
            box(54, 17, [1, 1, 5, 5]),  # leaves the folder
            box(55, 18, [1, 1, 5, 5], "cat"),
            box(56, 19, [20, 20, 40, 40]),  # named at twice the size
            box(57, 20, [1, 1, 5, 5]),  # another shape
        ],
        "categories": CATEGORIES,
    }  # fmt: skip
    captions = {
        "images": [image(9), image(15)],
        "annotations": [
            {"id": 1, "image_id": 9, "caption": " A <region1> sign\nnear  2 people. "},
            {"id": 2, "image_id": 9, "caption": "  "},
            {"id": 3, "image_id": 15, "caption": "A quiet street."},
            {"id": 4, "image_id": 15},
        ],
    }
    tree.json("annotations/instances_train2017.json", instances)
    tree.json("annotations/captions_train2017.json", captions)
    for number in (9, 15, 16, 18, 19, 20):
        tree.picture(f"train2017/{number:012d}.jpg")
    for number in (13, 14):
        tree.picture(f"train2017/{number:012d}.jpg", orientation=6)
    tree.picture("train2017/000000000011.jpg", 300, 200)
    cut = tree.root / "train2017/000000000011.jpg"
    cut.write_bytes(cut.read_bytes()[:9000])
    tree.put("train2017/000000000012.jpg", b"<html>not found</html>")
    tree.put("../secret.jpg", (tree.root / "train2017/000000000009.jpg").read_bytes())
    return Path(tree.root)


def test_golden_conversation(source: Path, shards: Any, find: Any) -> None:
    convert("coco", source, shards.root, max_rejects=1)
    sample = shards.samples("coco", "train")["coco:9"]
    assert sample.image.file == "train2017/000000000009.jpg"
    assert [(r.box_xyxy, r.label, r.native_id) for r in sample.regions] == [
        ((10.5, 20.0, 40.75, 40.0), "traffic light", "41"),
        ((60.0, 40.0, 64.0, 48.0), "person", "45"),
    ]
    boxes = find(sample, "9/category")
    assert boxes.independent
    assert boxes.source.file == "annotations/instances_train2017.json"
    assert [turn.text for turn in boxes.turns[1::2]] == ["traffic light", "person"]
    for i, turn in enumerate(boxes.turns[::2]):
        assert turn.phrasing == "category"
        assert turn.text.replace(f"<region{i + 1}>", "{region}") in wordings("category")
    captions = find(sample, "9/image-caption")
    assert captions.turns[0].text in wordings("image-caption")
    assert captions.turns[1].text == "A <<region1> sign near 2 people."
    assert plain(captions.turns[1].text) == "A <region1> sign near 2 people."


def test_every_trap_has_its_code(source: Path, shards: Any) -> None:
    (report,) = convert("coco", source, shards.root, max_rejects=1)
    found = [(r.source.record, r.code) for r in shards.rejections("coco", "train")]
    assert sorted(found) == sorted(
        [
            ("annotations[1]", "E_CROWD"),
            ("annotations[2]", "E_BOX_EMPTY"),
            ("annotations[3]", "E_BOX_OUTSIDE"),
            ("annotations[5]", "E_CATEGORY_UNKNOWN"),
            ("annotations[6]", "E_FIELD_MISSING"),
            ("annotations[7]", "E_FIELD_TYPE"),
            ("annotations[8]", "E_IMAGE_UNKNOWN"),
            ("images[1]", "E_IMAGE_MISSING"),
            ("images[2]", "E_IMAGE_TRUNCATED"),
            ("images[3]", "E_IMAGE_UNREADABLE"),
            ("images[7]", "E_FIELD_MISSING"),
            ("images[8]", "E_IMAGE_UNANNOTATED"),
            ("images[9]", "E_NAME_UNSAFE"),
            ("annotations[15]", "E_FIELD_TYPE"),
            ("images[12]", "E_SIZE_MISMATCH"),
            ("annotations[1]", "E_PHRASE_EMPTY"),
            ("annotations[3]", "E_FIELD_MISSING"),
        ]
    )
    assert sum(report.rejections.values()) == len(found)
    assert report.records_by_policy == 1
    assert report.records_converted == 2 + 1 + 1 + 1 + 1 + 1
    assert report.boxes_clipped == 1


def test_messages_say_what_is_wrong(source: Path, shards: Any) -> None:
    convert("coco", source, shards.root, max_rejects=1)
    messages = {(r.code, r.source.record): r.message for r in shards.rejections("coco", "train")}
    assert messages["E_FIELD_MISSING", "annotations[6]"] == "missing field `bbox`"
    assert messages["E_FIELD_TYPE", "annotations[7]"].startswith(
        "bbox: expected `array` of length 4"
    )
    missing = messages["E_IMAGE_MISSING", "images[1]"]
    assert "train2017/000000000010.jpg" in missing
    assert "1 record left out" in missing


def test_boxes_follow_exif_and_the_named_size(source: Path, shards: Any) -> None:
    convert("coco", source, shards.root, max_rejects=1)
    samples = shards.samples("coco", "train")
    upright, turned = samples["coco:13"], samples["coco:14"]
    assert (upright.image.width, upright.image.height, upright.image.orientation) == (48, 64, 6)
    assert upright.regions[0].box_xyxy == (0, 0, 48, 10)
    assert turned.regions[0].box_xyxy == (38, 0, 48, 64)
    assert samples["coco:19"].regions[0].box_xyxy == (10, 10, 30, 30)


def test_the_2014_cut_is_read_on_request(tree: Any, shards: Any) -> None:
    for year, number in (("2017", 1), ("2014", 2)):
        name = f"COCO_val2014_{number:012d}.jpg" if year == "2014" else f"{number:012d}.jpg"
        tree.picture(f"val{year}/{name}")
        tree.json(
            f"annotations/instances_val{year}.json",
            {
                "images": [image(number) | {"file_name": name}],
                "annotations": [box(1, number, [1, 1, 9, 9])],
                "categories": CATEGORIES,
            },
        )
    assert [r.split for r in convert("coco", tree.root, shards.root)] == ["val"]
    convert("coco", tree.root, shards.root, splits=["val2014"])
    assert list(shards.samples("coco", "val")) == ["coco:1"]
    assert list(shards.samples("coco", "val2014")) == ["coco:2"]
    (tree.root / "annotations/instances_val2017.json").unlink()
    assert [r.images_found for r in convert("coco", tree.root, shards.root / "new")] == [1]


def test_a_part_of_2017_leaves_the_other_parts_of_2014_on_request(tree: Any, shards: Any) -> None:
    tree.picture("train2017/000000000001.jpg")
    tree.picture("val2014/COCO_val2014_000000000001.jpg")
    for cut, name in (
        ("train2017", "000000000001.jpg"),
        ("val2014", "COCO_val2014_000000000001.jpg"),
    ):
        table = {
            "images": [image(1) | {"file_name": name}],
            "annotations": [box(1, 1, [1, 1, 9, 9])],
            "categories": CATEGORIES,
        }
        tree.json(f"annotations/instances_{cut}.json", table)
    assert [r.split for r in convert("coco", tree.root, shards.root)] == ["train"]
    (report,) = convert("coco", tree.root, shards.root, splits=["val2014"])
    assert report.official_images == 40_504


def test_each_file_is_looked_for_in_both_places(tree: Any, shards: Any) -> None:
    tree.picture("val2017/000000000009.jpg")
    table = {"images": [image(9)], "annotations": [box(1, 9, [1, 1, 9, 9])]}
    tree.json("instances_val2017.json", table | {"categories": CATEGORIES})
    said = {"id": 1, "image_id": 9, "caption": "A dog."}
    tree.json("annotations/captions_val2017.json", {"images": [image(9)], "annotations": [said]})
    convert("coco", tree.root, shards.root)
    (sample,) = shards.samples("coco", "val").values()
    assert [c.source.file for c in sample.conversations] == [
        "instances_val2017.json",
        "annotations/captions_val2017.json",
    ]


def test_other_categories_than_the_published_are_one_warning(
    tree: Any, shards: Any, caplog: pytest.LogCaptureFixture
) -> None:
    table = {"images": [image(9)], "annotations": [box(1, 9, [1, 1, 9, 9])]}
    for part in ("train", "val"):
        tree.picture(f"{part}2017/000000000009.jpg")
        tree.json(f"instances_{part}2017.json", table | {"categories": CATEGORIES})
    convert("coco", tree.root, shards.root)
    said = "expected COCO's 80 categories with ids up to 90, found 2 with ids up to 10"
    assert caplog.text.count(said) == 1
    caplog.clear()
    official = [{"id": number, "name": name} for name, number in CATEGORY_IDS.items()]
    tree.json("instances_val2017.json", table | {"categories": official})
    convert("coco", tree.root, shards.root, splits=["val"], overwrite=True)
    assert "COCO's 80" not in caplog.text


def test_a_picture_of_another_number_is_rejected(tree: Any, shards: Any) -> None:
    tree.picture("val2017/000000000009.jpg")
    table = {
        "images": [image(9), image(10) | {"file_name": "000000000009.jpg"}],
        "annotations": [box(1, 9, [1, 1, 9, 9]), box(2, 10, [1, 1, 9, 9])],
        "categories": CATEGORIES,
    }
    tree.json("annotations/instances_val2017.json", table)
    convert("coco", tree.root, shards.root, max_rejects=1)
    assert list(shards.samples("coco", "val")) == ["coco:9"]
    assert shards.codes("coco", "val") == {
        "images[1]": "E_NAME_MISMATCH",
        "annotations[1]": "E_IMAGE_UNKNOWN",
    }


def test_pictures_may_lie_in_further_folders(tree: Any, shards: Any, tmp_path: Path) -> None:
    tree.json(
        "annotations/captions_val2017.json",
        {"images": [image(9)], "annotations": [{"id": 1, "image_id": 9, "caption": "A dog."}]},
    )
    elsewhere = type(tree)(tmp_path / "flat")
    elsewhere.picture("000000000009.jpg")
    convert("coco", tree.root, shards.root, image_roots=[elsewhere.root])
    sample = shards.samples("coco", "val")["coco:9"]
    assert not sample.regions
    assert sample.conversations[0].turns[1].text == "A dog."
    with pytest.raises(UsageError, match="expected a folder of pictures"):
        convert("coco", tree.root, shards.root, image_roots=[tmp_path / "nowhere"])


def test_not_a_number_costs_one_record_only(tree: Any, shards: Any) -> None:
    tree.picture("val2017/000000000009.jpg")
    bad = box(1, 9, [1, 1, 9, float("nan")])
    table = {
        "images": [image(9)],
        "annotations": [bad, box(2, 9, [1, 1, 9, 9])],
        "categories": CATEGORIES,
    }
    tree.json("annotations/instances_val2017.json", table)
    convert("coco", tree.root, shards.root, max_rejects=1)
    assert shards.codes("coco", "val") == {"annotations[0]": "E_JSON_INVALID"}
    assert len(shards.samples("coco", "val")["coco:9"].regions) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"images": [', "not valid JSON"),
        (b"[1, 2]", "expected the file to be a JSON object"),
        (
            b'{"image": [], "annotations": []}',
            "expected a JSON object with `images`, found `image`",
        ),
        (b"", "not valid JSON"),
    ],
)
def test_a_damaged_file_is_one_clear_error(
    tree: Any, shards: Any, content: bytes, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    tree.put("annotations/instances_val2017.json", content)
    with caplog.at_level(logging.ERROR), pytest.raises(UsageError) as caught:
        convert("coco", tree.root, shards.root)
    assert expected in str(caught.value)
    assert "instances_val2017.json" in str(caught.value)
    assert caught.value.hint


def test_wrong_places_say_what_was_expected(tree: Any, tmp_path: Path, shards: Any) -> None:
    (tmp_path / "empty").mkdir()
    tree.put("notes.txt", b"hello")
    for source, found in (
        (tmp_path / "nowhere", "found nothing there"),
        (tmp_path / "empty", "found it empty"),
        (tree.root / "notes.txt", "found a file"),
        (tree.root, "found notes.txt"),
    ):
        with pytest.raises(UsageError) as caught:
            convert("coco", source, shards.root)
        assert found in str(caught.value)
        assert "annotations/instances_train2017.json" in str(caught.value)
        assert str(source) in str(caught.value)


def test_an_option_it_has_no_use_for_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--split-by.*COCO"):
        convert("coco", source, tmp_path / "out", options=SourceOptions(split_by="unc"))
    assert not (tmp_path / "out").exists()


def test_counts_stand_beside_the_published_ones(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (report,) = convert("coco", source, tmp_path / "out", splits=["train"], max_rejects=1)
    assert report.official_images == 118_287
    assert f"{report.images_found} images, published 118,287" in report.count_differences[0]
    with pytest.raises(CountsDifferError, match="published 118,287") as caught:
        convert("coco", source, tmp_path / "out", splits=["train"], max_rejects=1, strict=True)
    assert caught.value.reports[0].was_done
    options = {"splits": ["train"], "max_rejects": 1, "limit": 3, "strict": True}
    (part,) = convert("coco", source, tmp_path / "out", **options)
    assert "nothing was compared" in caplog.text
    assert part.official_images is None
    assert not part.count_differences
