from typing import Any

import pytest

from pipelines.run import convert
from roikit.errors import UsageError

CATEGORIES = [
    {"id": 14, "name": "trash_can", "supercategory": "OBJECT"},
    {"id": 20, "name": "mouse_(computer_equipment)", "supercategory": "OBJECT"},
    {"id": 1034, "name": "trash_can:rim", "supercategory": "PART"},
    {"id": 1051, "name": "mouse_(computer_equipment):left_button", "supercategory": "PART"},
]


def image(id: int, folder: str = "train2017", **more: Any) -> dict[str, Any]:
    """Write an image as PACO does: with its folder in the file name."""
    return {
        "id": id, "width": 64, "height": 48, "file_name": f"{folder}/{id:012d}.jpg",
        "coco_url": f"http://images.cocodataset.org/{folder}/{id:012d}.jpg",
        "neg_category_ids": [14], "not_exhaustive_category_ids": [],
        "neg_category_ids_attrs": {"1": [14]}, "not_exhaustive_category_ids_attrs": {}, **more,
    }  # fmt: skip


def box(
    id: int, image_id: int, bbox: list[float], category_id: int, obj_ann_id: int | None = None
) -> dict[str, Any]:
    return {
        "id": id, "image_id": image_id, "category_id": category_id, "bbox": bbox, "area": 5.0,
        "segmentation": {"counts": "PZ1", "size": [48, 64]}, "attribute_ids": [1, 2],
        "dom_color_ids": [1], "obj_ann_id": id if obj_ann_id is None else obj_ann_id,
        "unknown_color": 0, "unknown_pattern_marking": 1, "unknown_material": 0,
        "unknown_transparency": 0,
    }  # fmt: skip


def table(images: list[Any], annotations: list[Any]) -> dict[str, Any]:
    return {
        "images": images, "annotations": annotations, "categories": CATEGORIES,
        "part_categories": [{"id": 1, "name": "rim"}],
        "attributes": [{"id": 1, "name": "black"}], "attr_type_to_attr_idxs": {"color": [1]},
        "queries": [],
    }  # fmt: skip


def test_pictures_are_found_where_cocos_usually_lie(tree: Any, shards: Any) -> None:
    tree.picture("../coco/train2017/000000000009.jpg")
    tree.json("paco_lvis_v1_test.json", table([image(9)], [box(41, 9, [2, 4, 40, 30], 20)]))
    convert("paco", tree.root, shards.root)
    assert list(shards.samples("paco", "test")) == ["coco:9"]


def test_golden_conversation_of_an_object_and_its_part(tree: Any, shards: Any) -> None:
    tree.picture("train2017/000000000009.jpg")
    boxes = [
        box(41, 9, [2, 4, 40, 30.5], 20),
        box(42, 9, [10.25, 8, 9, 9], 1051, 41),
        box(43, 9, [30, 4, 30, 40], 14),
    ]
    tree.json("paco_lvis_v1_test.json", table([image(9)], boxes))
    (report,) = convert("paco", tree.root, shards.root)
    assert (report.split, report.records_found, report.records_converted) == ("test", 3, 3)
    sample = shards.samples("paco", "test")["coco:9"]
    assert sample.image.file == "train2017/000000000009.jpg"
    assert [(r.box_xyxy, r.label, r.native_id) for r in sample.regions] == [
        ((2.0, 4.0, 42.0, 34.5), "mouse", "41"),
        ((10.25, 8.0, 19.25, 17.0), "mouse left button", "42"),
        ((30.0, 4.0, 60.0, 44.0), "trash can", "43"),
    ]
    (conversation,) = sample.conversations
    assert (conversation.id, conversation.task) == ("9/category", "category")
    assert conversation.independent
    assert [(turn.role, turn.text, turn.phrasing) for turn in conversation.turns] == [
        ("user", "In a word or two, what is <region1>?", "category"),
        ("assistant", "mouse", None),
        ("user", "Name the object in <region2>.", "category"),
        ("assistant", "mouse left button", None),
        ("user", "Say in a word what <region3> is.", "category"),
        ("assistant", "trash can", None),
    ]


def test_its_three_splits_are_read_and_a_bad_record_costs_itself_only(
    tree: Any, shards: Any
) -> None:
    tree.picture("val2017/000000000001.jpg")
    tree.picture("train2017/000000000002.jpg")
    tree.picture("000000000003.jpg")
    part = box(2, 1, [1, 1, 5, 5], 1034, 777)  # of an object that is not there
    tree.json(
        "annotations/paco_lvis_v1_train.json",
        table(
            [image(1, "val2017"), image(4), image(5, file_name="../../etc/passwd"), image(6)],
            [part, box(3, 1, [1, 1, 5, 5], 9999), box(4, 5, [1, 1, 5, 5], 14)],
        ),
    )
    tree.json("paco_lvis_v1_val.json", table([image(2)], [box(1, 2, [1, 1, 5, 5], 14)]))
    tree.json("paco_lvis_v1_test.json", table([image(3)], [box(1, 3, [1, 1, 5, 5], 14)]))
    reports = convert("paco", tree.root, shards.root, max_rejects=1)
    assert [r.split for r in reports] == ["train", "val", "test"]
    assert shards.codes("paco", "train") == {
        "annotations[1]": "E_CATEGORY_UNKNOWN",
        "images[1]": "E_IMAGE_UNANNOTATED",
        "images[2]": "E_NAME_UNSAFE",
        "images[3]": "E_IMAGE_UNANNOTATED",
    }
    assert shards.samples("paco", "train")["coco:1"].regions[0].label == "trash can rim"
    assert list(shards.samples("paco", "val")) == ["coco:2"]
    assert list(shards.samples("paco", "test")) == ["coco:3"]


def test_paco_ego4d_alone_is_not_what_is_read(tree: Any, shards: Any) -> None:
    tree.put("paco_ego4d_v1_train.json", b"{}")
    with pytest.raises(UsageError) as caught:
        convert("paco", tree.root, shards.root)
    assert "paco_lvis_v1_train.json" in str(caught.value)
    assert "found paco_ego4d_v1_train.json" in str(caught.value)
