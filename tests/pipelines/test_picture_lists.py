"""Lists of evaluation pictures, from annotation files in the official layouts and nothing else."""

import pytest

from pipelines.draft import SourceOptions
from pipelines.picture_lists import list_pictures
from pipelines.run import convert
from roikit.errors import UsageError
from shards.kept_clean import resolve


def coco_annotations(tree, ids, split="val"):
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 64, "height": 48} for i in ids]
    boxes = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 30, 20], "iscrowd": 0}
        for i in ids
    ]
    tree.json(
        f"annotations/instances_{split}2017.json",
        {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]},
    )


def test_annotation_files_alone_are_enough(tree, tmp_path):
    coco_annotations(tree, [9, 25])
    coco_annotations(tree, [30], "train")
    (report,) = list_pictures("coco", tree.root, tmp_path / "shards")  # train is not listed
    assert (report.benchmark, report.pictures) == ("coco@val", 2)
    assert report.path.read_text() == (
        "# the pictures of coco@val, from instances_val2017.json\ncoco:25\ncoco:9\n"
    )
    kept = resolve(tmp_path / "shards", ["coco@val"])
    assert (kept.native_ids, kept.unresolved) == (["coco:25", "coco:9"], ())


def test_the_list_names_what_the_conversion_names(tree, tmp_path, coco_tree):
    coco_tree(tree.root, 3)
    list_pictures("coco", tree.root, tmp_path / "listed")
    convert("coco", tree.root, tmp_path / "converted", splits=["val"])
    by_list, by_shards = (
        resolve(tmp_path / name, ["coco@val"]).native_ids for name in ("listed", "converted")
    )
    assert by_list == by_shards and len(by_list) == 3


def test_another_list_is_replaced_on_request_only(tree, tmp_path):
    coco_annotations(tree, [9])
    list_pictures("coco", tree.root, tmp_path)
    list_pictures("coco", tree.root, tmp_path)
    coco_annotations(tree, [9, 10])
    with pytest.raises(UsageError, match="another list of this benchmark"):
        list_pictures("coco", tree.root, tmp_path)
    (report,) = list_pictures("coco", tree.root, tmp_path, overwrite=True)
    assert report.pictures == 2


def test_what_the_dataset_does_not_have_is_refused(tree, tmp_path):
    coco_annotations(tree, [30], "train")
    with pytest.raises(UsageError, match="expected one of train"):
        list_pictures("coco", tree.root, tmp_path, splits=["test"])
    with pytest.raises(UsageError, match="found none; its splits: train"):
        list_pictures("coco", tree.root, tmp_path)
    with pytest.raises(UsageError, match="`--split-by`"):
        list_pictures("coco", tree.root, tmp_path, options=SourceOptions(split_by="unc"))
