"""Plants faults into the miniature world's trees of COCO's form: COCO, LVIS and PACO.

Source: the traps of the official files as docs/datasets.md lists them, and what broken downloads
look like.
"""

import math
from pathlib import Path
from typing import Any

from pipelines.miniature_ground import Ground, Planted

_UNKNOWN = 987_654_321_012  #: no image, annotation or category has this id
_INSTANCES = "annotations/instances_train2017.json"
_CAPTIONS = "annotations/captions_train2017.json"


def plant_in_coco(world: Path) -> list[Planted]:
    """Plant faults into boxes, captions and pictures of COCO's train."""
    ground = Ground(world, "coco", split="train", first_id=900_000_000)
    table = ground.read_json(_INSTANCES)
    crowd = table["annotations"][0] | {"iscrowd": 1}
    _add_box(ground, _INSTANCES, table, "E_CROWD", "a crowd", crowd)
    _plant_boxes(ground, _INSTANCES, table)
    _plant_images(ground, _INSTANCES, table)
    number = ground.new_id()
    unsafe = table["images"][0] | {"id": number, "file_name": "../../outside.jpg"}
    _add_image(ground, _INSTANCES, table, "E_NAME_UNSAFE", "a path out of the folder", unsafe)
    _plant_for_options(ground, table)
    ground.write_json(_INSTANCES, table)
    captions = ground.read_json(_CAPTIONS)
    said = captions["annotations"]
    for code, what, change in (
        ("E_PHRASE_EMPTY", "a caption of blanks", {"caption": " \n"}),
        ("E_IMAGE_UNKNOWN", "a caption of no image", {"image_id": _UNKNOWN}),
        ("E_FIELD_TYPE", "a caption that is a number", {"caption": 7}),
    ):
        ground.note(code, _CAPTIONS, f"annotations[{len(said)}]", what)
        said.append(said[0] | {"id": ground.new_id()} | change)
    ground.write_json(_CAPTIONS, captions)
    return ground.planted


def plant_in_lvis(world: Path) -> list[Planted]:
    """Plant faults into LVIS's train."""
    return _plant_lvis_form(Ground(world, "lvis", split="train", first_id=920_000_000), "lvis_v1")


def plant_in_paco(world: Path) -> list[Planted]:
    """Plant faults into PACO's train."""
    return _plant_lvis_form(
        Ground(world, "paco", split="train", first_id=930_000_000), "paco_lvis_v1"
    )


def _plant_lvis_form(ground: Ground, prefix: str) -> list[Planted]:
    file = f"{prefix}_train.json"
    table = ground.read_json(file)
    _plant_boxes(ground, file, table)
    _plant_images(ground, file, table)
    number = ground.new_id()
    other = table["images"][0] | {"id": number}
    record = f"images[{len(table['images'])}]"
    table["images"].append(other)
    ground.note("E_NAME_MISMATCH", file, record, "the address of another photograph")
    nameless = {k: v for k, v in other.items() if k not in ("coco_url", "file_name")}
    record = f"images[{len(table['images'])}]"
    table["images"].append(nameless | {"id": ground.new_id()})
    ground.note("E_FIELD_MISSING", file, record, "an image without an address")
    ground.write_json(file, table)
    return ground.planted


def _plant_boxes(ground: Ground, file: str, table: dict[str, Any]) -> None:
    """Add bad boxes to the first image; what is good of it stays."""
    good = table["annotations"][0]
    image = next(i for i in table["images"] if i["id"] == good["image_id"])
    for code, what, change in (
        ("E_BOX_OUTSIDE", "a box right of the picture", {"bbox": [image["width"] + 5, 3, 20, 20]}),
        ("E_BOX_EMPTY", "a box without a width", {"bbox": [10, 10, 0, 12]}),
        ("E_BOX_EMPTY", "a box of which a hair is inside", {"bbox": [-30, -30, 30.4, 60]}),
        ("E_JSON_INVALID", "a box with NaN", {"bbox": [math.nan, 10, 12, 12]}),
        ("E_FIELD_TYPE", "a box of three numbers", {"bbox": [10, 10, 12]}),
        ("E_FIELD_TYPE", "a box of texts", {"bbox": ["10", "10", "12", "12"]}),
        ("E_CATEGORY_UNKNOWN", "a category that is not listed", {"category_id": _UNKNOWN}),
        ("E_IMAGE_UNKNOWN", "a box of no image", {"image_id": _UNKNOWN}),
        ("E_RECORD_DUPLICATE", "an id for the second time", {"id": good["id"]}),
    ):
        _add_box(ground, file, table, code, what, good | change)
    incomplete = {name: value for name, value in good.items() if name != "category_id"}
    _add_box(ground, file, table, "E_FIELD_MISSING", "a box without a category", incomplete)


def _plant_for_options(ground: Ground, table: dict[str, Any]) -> None:
    """Add what is bad with an option of `roikit convert`, and good without it."""
    good = table["annotations"][0]
    for code, what, segmentation in (
        ("E_MASK_INVALID", "an outline of two corners", [[10, 10, 20, 20]]),
        ("E_MASK_SIZE", "runs of another picture's size", {"size": [7, 9], "counts": [0, 63]}),
    ):
        box = good | {"segmentation": segmentation}
        _add_box(ground, _INSTANCES, table, code, what, box, option="--masks")
    image = _renamed(table["images"][0], ground.new_id())
    picture = ground.folder / _path(table["images"][0], ground)
    ground.damage_picture(picture, ground.folder / _path(image, ground))
    code, what, option = "E_IMAGE_UNDECODABLE", "a picture that misses pixels", "--decode-images"
    _add_image(ground, _INSTANCES, table, code, what, image, option=option)


def _add_box(
    ground: Ground,
    file: str,
    table: dict[str, Any],
    code: str,
    what: str,
    box: dict[str, Any],
    *,
    option: str | None = None,
) -> None:
    good = table["annotations"][0]
    if box["id"] == good["id"] and code != "E_RECORD_DUPLICATE":
        box = box | {"id": ground.new_id()}
    ground.note(code, file, f"annotations[{len(table['annotations'])}]", what, option=option)
    table["annotations"].append(box)


def _plant_images(ground: Ground, file: str, table: dict[str, Any]) -> None:
    """Add images whose pictures cannot be used, each with a box."""
    good = table["images"][0]
    picture = ground.folder / _path(good, ground)
    for code, what in (
        ("E_IMAGE_MISSING", "a picture that is not there"),
        ("E_IMAGE_TRUNCATED", "a picture that was cut off"),
        ("E_IMAGE_UNREADABLE", "a page of HTML by a picture's name"),
        ("E_SIZE_MISMATCH", "a picture of another shape than its boxes"),
        ("E_IMAGE_UNANNOTATED", "a picture of which nothing is said"),
    ):
        image = _renamed(good, ground.new_id())
        target = ground.folder / _path(image, ground)
        if code == "E_IMAGE_TRUNCATED":
            ground.cut_picture(picture, target)
        elif code == "E_IMAGE_UNREADABLE":
            ground.break_picture(target)
        elif code == "E_SIZE_MISMATCH":
            ground.copy_picture(picture, target)
            image |= {"width": good["width"] * 3}
        has_box = code != "E_IMAGE_UNANNOTATED"
        _add_image(ground, file, table, code, what, image, has_box=has_box)
    ground.note("E_RECORD_DUPLICATE", file, f"images[{len(table['images'])}]", "an image again")
    table["images"].append(good)


def _add_image(
    ground: Ground,
    file: str,
    table: dict[str, Any],
    code: str,
    what: str,
    image: dict[str, Any],
    *,
    has_box: bool = True,
    option: str | None = None,
) -> None:
    ground.note(code, file, f"images[{len(table['images'])}]", what, option=option)
    table["images"].append(image)
    if has_box:
        changes = {"id": ground.new_id(), "image_id": image["id"]}
        table["annotations"].append(table["annotations"][0] | changes)


def _renamed(image: dict[str, Any], number: int) -> dict[str, Any]:
    """Return an image's record with another photograph's number."""
    old, new = f"{image['id']:012d}", f"{number:012d}"
    named = {k: v.replace(old, new) for k, v in image.items() if isinstance(v, str)}
    return image | named | {"id": number}


def _path(image: dict[str, Any], ground: Ground) -> str:
    if ground.dataset == "coco":
        return f"train2017/{image['file_name']}"
    return "/".join(image["coco_url"].split("/")[-2:])
