import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipelines.class_labels import spoken_names
from pipelines.draft import SourceOptions
from pipelines.run import convert
from roikit.errors import UsageError

CATEGORIES = [
    {"id": 1, "name": "bat_(animal)", "synset": "bat.n.01", "synonyms": ["bat_(animal)"],
     "def": "nocturnal mouselike mammal", "frequency": "r", "image_count": 3, "instance_count": 9},
    {"id": 2, "name": "Band_Aid", "frequency": "c"},
    {"id": 3, "name": "monitor_(computer_equipment) computer_monitor", "frequency": "f"},
    {"id": 4, "name": "speaker_(stero_equipment)", "frequency": "f"},
    {"id": 5, "name": "<region1>_sign", "frequency": "r"},
]  # fmt: skip


def image(id: int, folder: str = "train2017", **more: Any) -> dict[str, Any]:
    """Write an image as LVIS does: without a file name."""
    return {
        "id": id, "width": 64, "height": 48, "license": 1, "date_captured": "2013-11-14 17:02:52",
        "coco_url": f"http://images.cocodataset.org/{folder}/{id:012d}.jpg",
        "flickr_url": "http://farm5.staticflickr.com/1_z.jpg",
        "neg_category_ids": [2], "not_exhaustive_category_ids": [1], **more,
    }  # fmt: skip


def box(
    id: Any, image_id: int, bbox: list[Any], category_id: Any = 1, **more: Any
) -> dict[str, Any]:
    """Write a box as LVIS does: without `iscrowd`."""
    return {
        "id": id, "image_id": image_id, "category_id": category_id, "bbox": bbox,
        "area": 5.0, "segmentation": [[1, 2, 3, 4, 5, 6]], **more,
    }  # fmt: skip


def without(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


def table(
    images: list[Any], annotations: list[Any], categories: list[Any] = CATEGORIES
) -> dict[str, Any]:
    return {
        "info": {"version": "v1.0"}, "licenses": [],
        "images": images, "annotations": annotations, "categories": categories,
    }  # fmt: skip


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_golden_conversation(tree: Any, shards: Any) -> None:
    tree.picture("train2017/000000391895.jpg")
    boxes = [
        box(7, 391895, [10.5, 20.0, 30.25, 20.0]),
        box(8, 391895, [60.0, 40.0, 4.4, 8.3], 2),
        box(9, 391895, [0, 0, 9, 9], 5),
    ]
    tree.json("lvis_v1_train.json", table([image(391895)], boxes))
    (report,) = convert("lvis", tree.root, shards.root)
    assert (report.records_found, report.records_converted, report.boxes_clipped) == (3, 3, 1)
    sample = shards.samples("lvis", "train")["coco:391895"]
    assert sample.key == "lvis-train-000000000"
    assert sample.image.file == "train2017/000000391895.jpg"
    assert [(r.box_xyxy, r.label, r.native_id, r.mask_rle) for r in sample.regions] == [
        ((10.5, 20.0, 40.75, 40.0), "bat", "7", None),
        ((60.0, 40.0, 64.0, 48.0), "Band Aid", "8", None),
        ((0.0, 0.0, 9.0, 9.0), "<region1> sign", "9", None),
    ]
    (conversation,) = sample.conversations
    assert (conversation.id, conversation.task) == ("391895/category", "category")
    assert conversation.independent
    assert conversation.source.file == "lvis_v1_train.json"
    assert conversation.source.record == "image 391895"
    assert [(turn.role, turn.text, turn.phrasing) for turn in conversation.turns] == [
        ("user", "Identify <region1> in as few words as possible.", "category"),
        ("assistant", "bat", None),
        ("user", "Identify <region2> in as few words as possible.", "category"),
        ("assistant", "Band Aid", None),
        ("user", "Which category does <region3> belong to?", "category"),
        ("assistant", "<<region1> sign", None),
    ]


@pytest.mark.parametrize("folder", ["../coco", "../images/mscoco/images", "coco"])
def test_pictures_are_found_where_cocos_usually_lie(tree: Any, shards: Any, folder: str) -> None:
    tree.picture(f"{folder}/train2017/000000000009.jpg")
    tree.json("lvis_v1_train.json", table([image(9)], [box(1, 9, [1, 1, 9, 9])]))
    convert("lvis", tree.root, shards.root)
    assert list(shards.samples("lvis", "train")) == ["coco:9"]


def test_a_picture_of_ones_own_goes_before_the_neighbours(tree: Any, shards: Any) -> None:
    tree.picture("../coco/train2017/000000000009.jpg")
    tree.picture("../mine/train2017/000000000009.jpg", seed=1)
    tree.json("lvis_v1_train.json", table([image(9)], [box(1, 9, [1, 1, 9, 9])]))
    mine = tree.root / "../mine"
    convert("lvis", tree.root, shards.root, image_roots=[mine])
    picture = (mine / "train2017/000000000009.jpg").read_bytes()
    (sample,) = shards.samples("lvis", "train").values()
    assert sample.image.sha256 == hashlib.sha256(picture).hexdigest()


def test_other_classes_than_the_published_are_one_warning(
    tree: Any, shards: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tree.picture("train2017/000000000009.jpg")
    for split in ("train", "val"):
        tree.json(f"lvis_v1_{split}.json", table([image(9)], [box(1, 9, [1, 1, 9, 9])]))
    convert("lvis", tree.root, shards.root)
    assert caplog.text.count("expected LVIS's 1203 categories with ids up to 1203, found 5") == 1
    caplog.clear()
    classes = [{"id": i, "name": f"thing {i}"} for i in range(1, 1204)]
    tree.json("lvis_v1_val.json", table([image(9)], [box(1, 9, [1, 1, 9, 9])], classes))
    convert("lvis", tree.root, shards.root, splits=["val"], overwrite=True)
    assert "LVIS's 1203" not in caplog.text


@pytest.fixture
def source(tree: Any) -> Path:
    """One split with a trap in nearly every record."""
    images = [
        image(9), image(10), image(11), image(12, width=96), image(13),
        image(14, coco_url="http://images.cocodataset.org/../000000000014.jpg"),
        image(15, coco_url="http://images.cocodataset.org/train2017/000000000016.jpg"),
        image(17, coco_url="http://[/"), without(image(18), "coco_url"), image(9),
        image(19, neg_category_ids="none", not_exhaustive_category_ids=None),
        image(20, width=128, height=96), image(21) | {"id": "21"}, image(10**30),
        image(-5, coco_url="a/b.jpg"),
    ]  # fmt: skip
    annotations = [
        box(1, 9, [1, 1, 20, 20]),
        box(2, 9, [1, 1, 0.5, 20]),
        box(3, 9, [70, 1, 10, 10]),
        box(4, 9, [1, 1, 5, 5], 1204),
        without(box(5, 9, []), "bbox"),
        box(6, 9, [1, 2, 3]),
        box(1, 9, [2, 2, 20, 20]),
        box(7, 777, [1, 1, 5, 5]),
        box(8, 10, [1, 1, 5, 5]),  # no such file
        box(9, 12, [1, 1, 5, 5]),  # another shape
        box(10, 14, [1, 1, 5, 5]),  # leaves the folder
        box(11, 9, [1, 1, 5, 5], "bat"),
        box(10**30, 9, [1, 1, 5, 5]),
        box(12, 9, [1, 1, 1e308, 1e308], 4, segmentation="bad"),
        box(13, 9, [1, 1, 5, 5], 3, segmentation=[[1, 2, 3], "x", {"counts": -1}]),
        box(14, 19, [1, 1, 5, 5]),
        box(15, 20, [20, 20, 40, 40]),
        box(16, 9, [1, 1, 5, 5], 6),  # its category is damaged
        box(17, -5, [1, 1, 5, 5]),
        box(18, 9, [1, 1, 5, 5], iscrowd=1),
        "no record",
    ]
    categories = [*CATEGORIES, {"id": 6}, {"id": 1, "name": "impostor"}, {"id": 7, "name": " "}]
    tree.json("annotations/lvis_v1_train.json", table(images, annotations, categories))
    for number in (9, 11, 12, 14, 15, 16, 19, 20):
        tree.picture(f"train2017/{number:012d}.jpg")
    tree.picture("000000000014.jpg")
    tree.picture("a/b.jpg")
    tree.put("train2017/000000000013.jpg", b"<html>")
    return Path(tree.root)


def test_every_trap_has_its_code_and_costs_itself_only(source: Path, shards: Any) -> None:
    (report,) = convert("lvis", source, shards.root, max_rejects=1)
    found = sorted((r.source.record, r.code) for r in shards.rejections("lvis", "train"))
    assert found == sorted(
        [
            ("annotations[1]", "E_BOX_EMPTY"),
            ("annotations[2]", "E_BOX_OUTSIDE"),
            ("annotations[3]", "E_CATEGORY_UNKNOWN"),
            ("annotations[4]", "E_FIELD_MISSING"),
            ("annotations[5]", "E_FIELD_TYPE"),
            ("annotations[6]", "E_RECORD_DUPLICATE"),
            ("annotations[7]", "E_IMAGE_UNKNOWN"),
            ("annotations[11]", "E_FIELD_TYPE"),
            ("annotations[12]", "E_VALUE_RANGE"),
            ("annotations[17]", "E_CATEGORY_UNKNOWN"),
            ("annotations[19]", "E_CROWD"),
            ("annotations[20]", "E_FIELD_TYPE"),
            ("categories[5]", "E_FIELD_MISSING"),
            ("categories[6]", "E_RECORD_DUPLICATE"),
            ("images[1]", "E_IMAGE_MISSING"),
            ("images[2]", "E_IMAGE_UNANNOTATED"),
            ("images[3]", "E_SIZE_MISMATCH"),
            ("images[4]", "E_IMAGE_UNANNOTATED"),
            ("images[5]", "E_NAME_UNSAFE"),
            ("images[6]", "E_NAME_MISMATCH"),
            ("images[7]", "E_FIELD_MISSING"),
            ("images[8]", "E_FIELD_MISSING"),
            ("images[9]", "E_RECORD_DUPLICATE"),
            ("images[10]", "E_FIELD_TYPE"),  # costs its two lists only
            ("images[12]", "E_FIELD_TYPE"),
            ("images[13]", "E_VALUE_RANGE"),
        ]
    )
    samples = shards.samples("lvis", "train")
    assert set(samples) == {"coco:9", "coco:19", "coco:20", "coco:-5"}
    assert [(r.box_xyxy, r.label) for r in samples["coco:9"].regions] == [
        ((1, 1, 21, 21), "bat"),
        ((1, 1, 64, 48), "speaker"),
        ((1, 1, 6, 6), "monitor"),
    ]
    assert samples["coco:20"].regions[0].box_xyxy == (10, 10, 30, 30)
    assert report.records_converted == 6
    assert report.records_by_policy == 1


def test_messages_say_what_is_wrong(source: Path, shards: Any) -> None:
    convert("lvis", source, shards.root, max_rejects=1)
    messages = {r.source.record: r.message for r in shards.rejections("lvis", "train")}
    assert "not the number of its picture `train2017/000000000016.jpg`" in messages["images[6]"]
    assert "`coco_url`" in messages["images[8]"]
    assert "train2017/000000000010.jpg" in messages["images[1]"]
    assert messages["annotations[6]"] == "annotation id 1 occurs twice"
    unsafe = messages["images[5]"]
    assert unsafe.startswith("`../000000000014.jpg`: this path leaves the image folder")


def test_what_was_looked_for_is_kept_by_name(tree: Any, shards: Any) -> None:
    tree.picture("train2017/000000000009.jpg")
    tree.picture("train2017/000000000010.jpg")
    lists = {"neg_category_ids": [4, 2, 1, 4, 99], "not_exhaustive_category_ids": [3, 1]}
    images = [image(9, **lists), without(image(10), *lists)]
    boxes = [box(1, 9, [1, 1, 20, 20]), box(2, 10, [1, 1, 20, 20])]
    tree.json("lvis_v1_train.json", table(images, boxes))
    (report,) = convert("lvis", tree.root, shards.root)
    samples = shards.samples("lvis", "train")
    # 1 has a box, whatever the list says; 4 stands there twice; 99 is no class
    assert samples["coco:9"].absent_labels == ("speaker", "Band Aid")
    assert samples["coco:9"].partly_labelled == ("monitor", "bat")
    assert samples["coco:10"].absent_labels == samples["coco:10"].partly_labelled == ()
    (rejection,) = shards.rejections("lvis", "train")
    assert (rejection.code, rejection.source.record) == ("E_CATEGORY_UNKNOWN", "images[0]")
    assert "1 of 7 are not in `categories`, the first is 99" in rejection.message
    assert (report.records_found, report.records_converted) == (2, 2)


def test_the_files_spelling_of_a_label_is_kept(tree: Any, shards: Any) -> None:
    tree.picture("train2017/000000000009.jpg")
    categories = [*CATEGORIES, {"id": 6, "name": "salmon_(food)"}, {"id": 7, "name": "cat"}]
    boxes = [box(i, 9, [i, 1, 9, 9], i) for i in (1, 6, 7)]
    tree.json("lvis_v1_train.json", table([image(9)], boxes, categories))
    convert("lvis", tree.root, shards.root)
    regions = shards.samples("lvis", "train")["coco:9"].regions
    assert [(r.label, r.native_label) for r in regions] == [
        ("bat", "bat_(animal)"),
        ("salmon (food)", "salmon_(food)"),
        ("cat", msgspec.UNSET),
    ]


def test_val_draws_on_both_of_cocos_folders_and_minival_on_request(tree: Any, shards: Any) -> None:
    tree.picture("images/train2017/000000000001.jpg")
    tree.picture("images/val2017/000000000002.jpg")
    tree.json(
        "lvis_v1_val.json",
        table([image(1), image(2, "val2017")], [box(1, 1, [1, 1, 5, 5]), box(2, 2, [1, 1, 5, 5])]),
    )
    tree.json(
        "lvis_v1_minival_inserted_image_name.json",
        table([image(2, "val2017", file_name="000000000002.jpg")], [box(2, 2, [1, 1, 5, 5])]),
    )
    assert [r.split for r in convert("lvis", tree.root, shards.root)] == ["val"]
    files = {n: s.image.file for n, s in shards.samples("lvis", "val").items()}
    assert files == {
        "coco:1": "train2017/000000000001.jpg",
        "coco:2": "val2017/000000000002.jpg",
    }
    convert("lvis", tree.root, shards.root, splits=["minival"])
    assert list(shards.samples("lvis", "minival")) == ["coco:2"]
    (tree.root / "lvis_v1_val.json").unlink()
    alone = convert("lvis", tree.root, shards.root / "alone")
    assert [r.split for r in alone] == ["minival"]


def test_pictures_may_lie_flat_or_in_further_folders(
    tree: Any, shards: Any, tmp_path: Path
) -> None:
    images = [image(1), image(2, "val2017"), without(image(3), "coco_url")]
    images[2]["file_name"] = "000000000003.jpg"  # without a folder, and no address
    tree.json("lvis_v1_val.json", table(images, [box(i, i, [1, 1, 5, 5]) for i in (1, 2, 3)]))
    tree.picture("000000000001.jpg")
    elsewhere = type(tree)(tmp_path / "coco")
    elsewhere.picture("val2017/000000000002.jpg")
    elsewhere.picture("val2017/000000000003.jpg")
    convert("lvis", tree.root, shards.root, image_roots=[elsewhere.root])
    files = {n: s.image.file for n, s in shards.samples("lvis", "val").items()}
    assert files == {
        "coco:1": "000000000001.jpg",
        "coco:2": "val2017/000000000002.jpg",
        "coco:3": "val2017/000000000003.jpg",
    }


def test_v05_is_refused_by_its_classes_and_by_its_name(tree: Any, shards: Any) -> None:
    classes = [{"id": i, "name": f"class_{i}"} for i in range(1, 1231)]
    old = table([image(1, file_name="COCO_val2014_000000000001.jpg")], [], classes)
    tree.json("lvis_v1_train.json", old)
    with pytest.raises(UsageError, match=r"expected LVIS v1 .*found 1,230 classes.*v0\.5") as first:
        convert("lvis", tree.root, shards.root)
    (tree.root / "lvis_v1_train.json").rename(tree.root / "lvis_v0.5_train.json")
    with pytest.raises(UsageError, match=r"found `lvis_v0\.5_train\.json`") as second:
        convert("lvis", tree.root, shards.root)
    assert first.value.hint and "lvis_v1_train.json" in first.value.hint
    assert second.value.hint == first.value.hint


def test_missing_files_are_named(tree: Any, shards: Any) -> None:
    tree.put("lvis_v1_image_info_test_dev.json", b"{}")
    with pytest.raises(UsageError) as caught:
        convert("lvis", tree.root, shards.root)
    assert "lvis_v1_train.json" in str(caught.value)
    assert "found lvis_v1_image_info_test_dev.json" in str(caught.value)
    with pytest.raises(UsageError, match=r"--faithful.*LVIS"):
        convert("lvis", tree.root, shards.root, options=SourceOptions(faithful=True))


def test_not_a_number_costs_one_record_only(tree: Any, shards: Any) -> None:
    tree.picture("train2017/000000000009.jpg")
    boxes = [box(1, 9, [1, 1, 9, float("nan")]), box(2, 9, [1, 1, 9, float("inf")])]
    tree.json("lvis_v1_train.json", table([image(9)], [*boxes, box(3, 9, [1, 1, 9, 9])]))
    convert("lvis", tree.root, shards.root, max_rejects=1)
    assert shards.codes("lvis", "train") == {
        "annotations[0]": "E_JSON_INVALID",
        "annotations[1]": "E_JSON_INVALID",
    }
    assert len(shards.samples("lvis", "train")["coco:9"].regions) == 1


def test_nesting_too_deep_to_read_is_one_clear_error(tree: Any, shards: Any) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    tree.put("lvis_v1_train.json", b'{"images": [' + deep + b'], "annotations": []}')
    with pytest.raises(UsageError, match=r"lvis_v1_train\.json`: not valid JSON"):
        convert("lvis", tree.root, shards.root)


def test_nesting_within_bounds_is_passed_over(tree: Any, shards: Any) -> None:
    tree.picture("train2017/000000000009.jpg")
    boxes = [box(1, 9, [1, 1, 9, 9], segmentation=nested(200))]
    tree.json("lvis_v1_train.json", table([image(9)], boxes))
    (report,) = convert("lvis", tree.root, shards.root)
    assert report.records_converted == 1


def test_names_and_boxes_are_those_that_lvis_own_reader_sees(tree: Any, shards: Any) -> None:
    lvis = pytest.importorskip("lvis", exc_type=ImportError)
    tree.picture("train2017/000000000009.jpg")
    boxes = [box(i, 9, [i, 1, 9, 9], i) for i in (1, 2, 3, 4)]
    tree.json("lvis_v1_train.json", table([image(9)], boxes))
    convert("lvis", tree.root, shards.root)
    regions = shards.samples("lvis", "train")["coco:9"].regions
    reader = lvis.LVIS(str(tree.root / "lvis_v1_train.json"))
    annotations = reader.load_anns(reader.get_ann_ids(img_ids=[9]))
    assert [r.native_id for r in regions] == [str(a["id"]) for a in annotations]
    for region, annotation in zip(regions, annotations, strict=True):
        (category,) = reader.load_cats([annotation["category_id"]])
        assert [region.label] == spoken_names([category["name"]])
        x, y, width, height = annotation["bbox"]
        assert region.box_xyxy == (x, y, x + width, y + height)


def test_reading_names_loads_no_graphics_and_leaves_logging_alone() -> None:
    code = (
        "import logging, sys\n"
        "from pipelines.lvis_reader import Federated, read\n"
        "lists = {9: Federated([2, 3], None)}\n"
        "names = {5: 'caf\\u00e9_au_lait'}\n"
        "assert read(names, lists) == (names, lists)\n"
        "assert not logging.root.handlers\n"
        "assert not {'cv2', 'matplotlib', 'lvis'} & set(sys.modules)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
