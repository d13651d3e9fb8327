import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from roikit.errors import CorruptSampleError, UsageError
from roikit.images import decode_rgb
from roikit.sample import Region, Rle
from shards.commit import DatasetInfo
from shards.export.coco import export_coco
from shards.export.folder import write_picture
from shards.read import iter_samples
from shards.selection import named_splits


@pytest.fixture
def root(tmp_path: Path, make_split: Callable[..., DatasetInfo]) -> Path:
    folder = tmp_path / "shards"
    make_split(folder, split="train", shard_sizes=(4, 3))
    make_split(folder, split="val", shard_sizes=(2,))
    return folder


def test_pycocotools_reads_back_what_the_shards_hold(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = export_coco(root, named_splits(root, ["made@train"]), out)
    assert [(s.samples, s.records) for s in report.splits] == [(7, 7)]
    found = COCO(out / report.splits[0].file)
    for sample, image_bytes in iter_samples(root, "made", "train"):
        (image,) = found.loadImgs([int(sample.key[-9:])])
        assert (image["width"], image["height"]) == (sample.image.width, sample.image.height)
        assert (out / "images" / image["file_name"]).read_bytes() == image_bytes
        (annotation,) = found.loadAnns(found.getAnnIds(imgIds=[image["id"]]))
        x0, y0, x1, y1 = sample.regions[0].box_xyxy
        assert annotation["bbox"] == [x0, y0, x1 - x0, y1 - y0] == [1, 2, 7.5, 7]
        assert found.loadCats([annotation["category_id"]])[0]["name"] == "thing"
    assert len(set(found.getAnnIds())) == 7


def test_categories_agree_between_splits(tmp_path: Path, put_split: Callable[..., None]) -> None:
    root = tmp_path / "shards"
    put_split(root, "train", [[Region(box_xyxy=(0, 0, 5, 5), label="zebra")]])
    put_split(root, "val", [[Region(box_xyxy=(0, 0, 5, 5), label="ant")]])
    export_coco(root, named_splits(root, ["made@train"]), tmp_path / "out")
    data = json.loads((tmp_path / "out/annotations/made-train.json").read_text())
    assert [(c["id"], c["name"]) for c in data["categories"]] == [(1, "ant"), (2, "zebra")]
    assert [a["category_id"] for a in data["annotations"]] == [2]


def test_masks_scores_and_missing_labels_leave_too(
    tmp_path: Path, put_split: Callable[..., None]
) -> None:
    inside = np.zeros((24, 32), np.uint8, order="F")
    inside[2:6, 1:9] = 1
    coded = coco_mask.encode(inside)
    rle = Rle(size=(24, 32), counts=coded["counts"].decode())
    region = Region(box_xyxy=(1, 2, 9, 6), mask_rle=rle, score=0.5)
    root = tmp_path / "shards"
    put_split(root, "train", [[region]])
    export_coco(root, named_splits(root), tmp_path / "out")
    found = COCO(tmp_path / "out/annotations/made-train.json")
    (annotation,) = found.loadAnns(found.getAnnIds())
    assert np.array_equal(found.annToMask(annotation), inside)
    assert (annotation["area"], annotation["score"]) == (32, 0.5)
    assert found.loadCats([annotation["category_id"]])[0]["name"] == "region"


def test_without_pictures_names_are_the_datasets_own(root: Path, tmp_path: Path) -> None:
    export_coco(root, named_splits(root), tmp_path / "out", with_pictures=False, limit=1)
    data = json.loads((tmp_path / "out/annotations/made-train.json").read_text())
    assert [image["file_name"] for image in data["images"]] == ["0.jpg"]
    assert not (tmp_path / "out/images").exists()


def test_nothing_is_replaced_but_an_older_export_and_only_when_asked(
    root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    splits = named_splits(root, ["made@val"])
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    with pytest.raises(UsageError, match="found something else"):
        export_coco(root, splits, out, overwrite=True)
    assert (out / "mine.txt").read_text() == "precious"
    (out / "mine.txt").unlink()
    export_coco(root, splits, out)
    with pytest.raises(UsageError, match="holds an export already"):
        export_coco(root, splits, out)
    export_coco(root, splits, out, overwrite=True, with_pictures=False)
    assert not (out / "images").exists()


def test_a_failed_export_leaves_nothing(root: Path, tmp_path: Path) -> None:
    tar = root / "made/val/made-val-000000.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    with pytest.raises(CorruptSampleError, match="have changed"):
        export_coco(root, named_splits(root, ["made@val"]), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards"]


def test_turned_pictures_leave_upright(tmp_path: Path, turned_entry: Any) -> None:
    sample, data = turned_entry
    name = write_picture(tmp_path, sample, data)
    upright = decode_rgb((tmp_path / name).read_bytes())
    assert upright.shape[:2] == (sample.image.height, sample.image.width)
    difference = upright.astype(int) - decode_rgb(data).astype(int)
    assert abs(difference).mean() < 3


def test_a_key_that_leaves_the_folder_is_refused(tmp_path: Path, turned_entry: Any) -> None:
    sample, data = turned_entry
    for key in ("../../made-train-000000000", "other-train-000000000"):
        with pytest.raises(CorruptSampleError, match="expected a key"):
            write_picture(tmp_path / "out", msgspec.structs.replace(sample, key=key), data)
    assert not (tmp_path / "out").exists()
