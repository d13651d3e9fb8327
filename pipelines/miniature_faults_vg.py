"""Plants faults into the miniature world's Visual Genome and Visual7W, which share their ids."""

import math
from pathlib import Path
from typing import Any

from pipelines.miniature_ground import Ground, Planted
from pipelines.miniature_visual7w import POINTING, POINTING_BOXES, TELLING, TELLING_BOXES

_UNKNOWN = 987_654_321_012  #: nothing has this id
_REGIONS = "region_descriptions.json"
_IMAGES = "image_data.json"
_SPLITS = "densecap_splits.json"


def plant_in_visual_genome(world: Path) -> list[Planted]:
    """Plant faults into Visual Genome's train."""
    ground = Ground(world, "vg", split="train", first_id=9_000_000_000)
    entries = ground.read_json(_REGIONS)
    images = ground.read_json(_IMAGES)
    splits = ground.read_json(_SPLITS)
    place = next(i for i, entry in enumerate(entries) if entry["id"] in splits["train"])
    regions = entries[place]["regions"]
    good = dict(regions[0])
    image = next(i for i in images if i["image_id"] == entries[place]["id"])
    for code, what, change in (
        ("E_BOX_OUTSIDE", "a box far above the picture", {"y": -904}),
        ("E_BOX_EMPTY", "a box without a height", {"height": 0}),
        ("E_PHRASE_EMPTY", "a phrase of blanks", {"phrase": " \n "}),
        ("E_FIELD_TYPE", "a corner that is a text", {"x": "left"}),
        ("E_JSON_INVALID", "a corner that is NaN", {"x": math.nan}),
    ):
        ground.note(code, _REGIONS, f"[{place}].regions[{len(regions)}]", what)
        regions.append(good | {"region_id": ground.new_id()} | change)

    def add_entry(code: str, what: str, number: int, change: dict[str, Any]) -> None:
        ground.note(code, _REGIONS, f"[{len(entries)}]", what)
        own = good | {"image_id": number, "region_id": ground.new_id()} | change
        entries.append({"regions": [own], "id": number})

    def add_image(suffix: str = "") -> tuple[int, Path]:
        number = ground.new_id()
        url = f"http://miniature.invalid/VG_100K/{number}{suffix}.jpg"
        images.append(image | {"image_id": number, "url": url, "coco_id": None})
        splits["train"].append(number)
        return number, ground.folder / "VG_100K" / f"{number}.jpg"

    picture = ground.folder / "/".join(image["url"].split("/")[-2:])
    add_entry("E_IMAGE_UNKNOWN", "an image that is not listed", _UNKNOWN, {})
    add_entry("E_RECORD_DUPLICATE", "an image again", entries[place]["id"], {})
    number, _ = add_image()
    ground.note("E_IMAGE_UNANNOTATED", _REGIONS, f"image {number}", "an image nobody speaks of")
    number, _ = add_image()
    add_entry("E_IMAGE_MISSING", "a picture that is not there", number, {})
    number, target = add_image()
    ground.cut_picture(picture, target)
    add_entry("E_IMAGE_TRUNCATED", "a picture that was cut off", number, {})
    number, target = add_image()
    ground.copy_picture(picture, target)
    images[-1]["width"] *= 3
    add_entry("E_SIZE_MISMATCH", "a picture of another shape than its boxes", number, {})
    ground.note("E_RECORD_DUPLICATE", _IMAGES, f"[{len(images)}]", "an image again")
    images.append(images[0])
    ground.note("E_FIELD_MISSING", _IMAGES, f"[{len(images)}]", "an image without an address")
    images.append({name: value for name, value in images[0].items() if name != "url"})
    ground.write_json(_REGIONS, entries)
    ground.write_json(_IMAGES, images)
    ground.write_json(_SPLITS, splits)
    return ground.planted


def plant_in_visual7w(world: Path) -> list[Planted]:
    """Plant faults into Visual7W's train."""
    ground = Ground(world, "visual7w", split="train", first_id=9_500_000_000)
    telling, pointing = ground.read_json(TELLING), ground.read_json(POINTING)
    _plant_telling(ground, telling)
    _plant_pointing(ground, pointing)
    _plant_images(ground, telling)
    grounded = ground.read_json(TELLING_BOXES)
    boxes = grounded["boxes"]
    first = next(i for i in telling["images"] if i["split"] == "train")["qa_pairs"][0]["qa_id"]
    for code, what, change in (
        ("E_IMAGE_UNKNOWN", "a box of no question", {"qa_id": _UNKNOWN}),
        ("E_PHRASE_EMPTY", "a box without a name", {"qa_id": first, "name": " "}),
        ("E_BOX_OUTSIDE", "a box right of the picture", {"qa_id": first, "x": 5000}),
    ):
        ground.note(code, TELLING_BOXES, f"boxes[{len(boxes)}]", what)
        boxes.append(boxes[0] | change)
    ground.write_json(TELLING, telling)
    ground.write_json(POINTING, pointing)
    ground.write_json(TELLING_BOXES, grounded)
    return ground.planted


def _plant_telling(ground: Ground, telling: dict[str, Any]) -> None:
    place = next(i for i, image in enumerate(telling["images"]) if image["split"] == "train")
    pairs = telling["images"][place]["qa_pairs"]
    good = dict(pairs[0])
    wrong = good["multiple_choices"]
    for code, what, change in (
        ("E_OPTIONS_AMBIGUOUS", "the right answer among the wrong ones",
         {"multiple_choices": [good["answer"].upper(), *wrong[1:]]}),
        ("E_PHRASE_EMPTY", "an empty option", {"multiple_choices": ["", *wrong[1:]]}),
        ("E_PHRASE_EMPTY", "an empty question", {"question": " "}),
        ("E_VALUE_RANGE", "no wrong answers", {"multiple_choices": []}),
        ("E_FIELD_TYPE", "an answer that is a number", {"answer": 4}),
        ("E_RECORD_DUPLICATE", "a question again", {"qa_id": good["qa_id"]}),
    ):  # fmt: skip
        ground.note(code, TELLING, f"images[{place}].qa_pairs[{len(pairs)}]", what)
        pairs.append(good | {"qa_id": ground.new_id()} | change)


def _plant_pointing(ground: Ground, pointing: dict[str, Any]) -> None:
    places = [i for i, image in enumerate(pointing["images"]) if image["split"] == "train"]
    if not places:
        return
    place = places[0]
    pairs = pointing["images"][place]["qa_pairs"]
    good = dict(pairs[0])
    boxes = pointing["boxes"]
    outside = ground.new_id()
    ground.note("E_BOX_OUTSIDE", POINTING, f"boxes[{len(boxes)}]", "a box right of the picture")
    boxes.append(boxes[0] | {"box_id": outside, "x": 5000})
    ground.note("E_RECORD_DUPLICATE", POINTING, f"boxes[{len(boxes)}]", "a box's id again")
    boxes.append(boxes[0])
    right = next(box for box in boxes if box["box_id"] == good["answer"])
    same = ground.new_id()
    boxes.append(right | {"box_id": same})
    others = good["multiple_choices"]
    for code, what, choices in (
        ("E_REF_NO_ANNOTATION", "a box that is not listed", [_UNKNOWN, *others[1:]]),
        ("E_REF_NO_ANNOTATION", "a box outside the picture", [outside, *others[1:]]),
        ("E_OPTIONS_AMBIGUOUS", "the right box under another id", [same, *others[1:]]),
    ):
        ground.note(code, POINTING, f"images[{place}].qa_pairs[{len(pairs)}]", what)
        pairs.append(good | {"qa_id": ground.new_id(), "multiple_choices": choices})
    # the boxes' second file repeats the first's
    repeated = ground.read_json(POINTING_BOXES)
    repeated["boxes"].append(boxes[0] | {"qa_id": good["qa_id"]})
    ground.write_json(POINTING_BOXES, repeated)


def _plant_images(ground: Ground, telling: dict[str, Any]) -> None:
    images = telling["images"]
    good = next(image for image in images if image["split"] == "train")
    picture = ground.folder / "images" / good["filename"]
    for code, what, name in (
        ("E_IMAGE_MISSING", "a picture that is not there", "v7w_{}.jpg"),
        ("E_IMAGE_TRUNCATED", "a picture that was cut off", "v7w_{}.jpg"),
        ("E_NAME_UNSAFE", "a path out of the folder", "../../v7w_{}.jpg"),
    ):
        number = ground.new_id()
        file = name.format(number)
        if code == "E_IMAGE_TRUNCATED":
            ground.cut_picture(picture, ground.folder / "images" / file)
        ground.note(code, TELLING, f"images[{len(images)}]", what)
        asked = good["qa_pairs"][0] | {"qa_id": ground.new_id(), "image_id": number}
        images.append(good | {"image_id": number, "filename": file, "qa_pairs": [asked]})
    ground.note("E_RECORD_DUPLICATE", TELLING, f"images[{len(images)}]", "an image again")
    images.append(good)
    ground.note("E_FIELD_TYPE", TELLING, f"images[{len(images)}]", "a split that does not exist")
    images.append(good | {"image_id": ground.new_id(), "split": "training"})
