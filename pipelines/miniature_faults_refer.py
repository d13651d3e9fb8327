"""Plants faults into the miniature world's referring expressions, in both of their forms."""

import math
import pickle
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.miniature_files import write_old_pickle
from pipelines.miniature_ground import Ground, Planted
from pipelines.miniature_refcoco import MDETR, PICTURES, REFER_SETS

_UNKNOWN = 987_654_321_012  #: no annotation or entry has this id
_INSTANCES = "instances.json"
_AUTHORITY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}


def plant_in_refer(world: Path, *, dataset: str) -> list[Planted]:
    """Plant faults into both forms of one of the three, in train."""
    first_id = 940_000_000 + 10_000 * REFER_SETS.index(dataset)
    refer = Ground(world, dataset, split="train", first_id=first_id)
    _plant_refer(refer, f"refs({_AUTHORITY[dataset]}).p")
    mdetr = Ground(world, dataset, source=MDETR, split="train", first_id=first_id + 5_000)
    _plant_mdetr(mdetr, f"finetune_{dataset}_train.json")
    return refer.planted + mdetr.planted


def _plant_refer(ground: Ground, refs: str) -> None:
    path = ground.folder / refs
    # ours, written a moment ago
    references: list[dict[str, Any]] = pickle.loads(path.read_bytes(), encoding="latin1")
    table = ground.read_json(_INSTANCES)
    good = next(ref for ref in references if ref["split"] == "train")
    picture = next(image for image in table["images"] if image["id"] == good["image_id"])
    box = next(entry for entry in table["annotations"] if entry["id"] == good["ann_id"])

    def add_reference(
        code: str | None, what: str, change: dict[str, Any], inside: str = ""
    ) -> None:
        record = f"[{len(references)}]{inside}"
        references.append(good | {"ref_id": ground.new_id()} | change)
        if code is not None:
            ground.note(code, refs, record, what)

    def add_box(change: dict[str, Any]) -> int:
        number = ground.new_id()
        table["annotations"].append(box | {"id": number} | change)
        return number

    sentence = good["sentences"][0]
    empty = add_box({})
    add_reference(
        "E_PHRASE_EMPTY",
        "an expression of blanks",
        {"ann_id": empty, "sentences": [sentence | {"sent": "  ."}]},
        ".sentences[0]",
    )
    add_reference("E_REF_NO_ANNOTATION", "an object that no file has", {"ann_id": _UNKNOWN})
    add_reference("E_RECORD_DUPLICATE", "a reference again", {"ref_id": good["ref_id"]})
    add_reference("E_VALUE_RANGE", "a split of another dataset", {"split": "minival"})
    add_reference("E_FIELD_TYPE", "an object without a number", {"ann_id": "seven"})
    record = f"annotations[{len(table['annotations'])}]"
    ground.note("E_BOX_OUTSIDE", _INSTANCES, record, "a box below the picture")
    outside = add_box({"bbox": [4, picture["height"] + 9, 10, 10]})
    add_reference(None, "", {"ann_id": outside})
    record = f"annotations[{len(table['annotations'])}]"
    ground.note("E_JSON_INVALID", _INSTANCES, record, "a box with NaN, of which nobody speaks")
    add_box({"bbox": [math.nan, 1, 10, 10]})
    images = ground.world / PICTURES / "train2014"
    for code, what in (
        ("E_IMAGE_UNKNOWN", "an image that is not listed"),
        ("E_IMAGE_MISSING", "a picture that is not there"),
        ("E_IMAGE_TRUNCATED", "a picture that was cut off"),
        ("E_SIZE_MISMATCH", "a picture of another shape than its boxes"),
        ("E_NAME_MISMATCH", "the file name of another photograph"),
    ):
        number = ground.new_id()
        name = f"COCO_train2014_{number:012d}.jpg"
        image = picture | {"id": number, "file_name": name}
        if code == "E_IMAGE_TRUNCATED":
            ground.cut_picture(images / picture["file_name"], images / name)
        elif code != "E_IMAGE_MISSING":
            ground.copy_picture(images / picture["file_name"], images / name)
        if code == "E_SIZE_MISMATCH":
            image |= {"height": picture["height"] * 3}
        elif code == "E_NAME_MISMATCH":
            image |= {"file_name": picture["file_name"]}
            ground.note(code, _INSTANCES, f"images[{len(table['images'])}]", what)
        if code != "E_NAME_MISMATCH":  # all others are found when the image is looked for
            ground.note(code, refs, f"image {number}", what)
        add_reference(None, "", {"image_id": number, "ann_id": add_box({"image_id": number})})
        if code != "E_IMAGE_UNKNOWN":
            table["images"].append(image)
    ground.write_json(_INSTANCES, table)
    path.unlink()
    write_old_pickle(path, references)


def _plant_mdetr(ground: Ground, file: str) -> None:
    table = ground.read_json(file)
    images, boxes = table["images"], table["annotations"]
    good, box = images[0], boxes[0]

    def add(
        code: str, what: str, change: dict[str, Any], box_change: dict[str, Any] | None, place: str
    ) -> None:
        number = ground.new_id()
        image = good | {"id": number} | change
        places = {
            "image": f"images[{len(images)}]",
            "box": f"annotations[{len(boxes)}]",
            "picture": f"image {image['original_id']}",
        }
        ground.note(code, file, places[place], what)
        images.append(image)
        if box_change is not None:
            ids = {"id": number, "image_id": number, "original_id": ground.new_id()}
            boxes.append(box | ids | box_change)

    add("E_PHRASE_EMPTY", "an expression of blanks", {"caption": "  "}, {}, "image")
    add("E_REF_NO_ANNOTATION", "an expression without a box", {}, None, "image")
    add("E_RECORD_DUPLICATE", "an expression again", {"id": good["id"]}, None, "image")
    number = ground.new_id()
    images_2014 = ground.world / PICTURES / "train2014"
    other = images_2014 / f"COCO_train2014_{number:012d}.jpg"
    ground.copy_picture(images_2014 / good["file_name"], other)
    add("E_NAME_MISMATCH", "another photograph's file", {"original_id": number}, {}, "image")
    outside = {"bbox": [good["width"] + 1, 1, 9, 9]}
    add("E_BOX_OUTSIDE", "a box right of the picture", {}, outside, "box")
    add("E_FIELD_TYPE", "a box of three numbers", {}, {"bbox": [1, 2, 3]}, "box")
    sized = {"width": good["width"] * 3}
    add("E_SIZE_MISMATCH", "a size that the other entries do not say", sized, {}, "image")
    number = ground.new_id()
    name = f"COCO_train2014_{number:012d}.jpg"
    missing = {"original_id": number, "file_name": name}
    add("E_IMAGE_MISSING", "a picture that is not there", missing, {}, "picture")
    ground.note("E_IMAGE_UNKNOWN", file, f"annotations[{len(boxes)}]", "a box of no expression")
    boxes.append(box | {"id": ground.new_id(), "image_id": _UNKNOWN})
    ground.write_json(file, table)


REFER_PLANTERS = {name: partial(plant_in_refer, dataset=name) for name in REFER_SETS}
