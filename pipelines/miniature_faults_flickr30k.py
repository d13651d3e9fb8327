"""Plants faults into the miniature world's Flickr30k Entities, in both forms."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.miniature_flickr30k import PICTURES, UNRELATED
from pipelines.miniature_ground import Ground, Planted
from pipelines.miniature_refcoco import MDETR

_UNKNOWN = 987_654_321_012  #: nothing has this id


def plant_in_flickr30k(world: Path) -> list[Planted]:
    """Plant faults into both forms' train."""
    ground = Ground(world, "flickr30k", split="train", first_id=8_000_000_000)
    listed = (ground.folder / "train.txt").read_text().split()
    _plant_in_lists(ground, listed)
    _plant_in_sentences(ground, listed[0])
    _plant_in_boxes(ground, listed[0])
    _plant_images(ground, listed[0])
    mdetr = Ground(world, "flickr30k", source=MDETR, split="train", first_id=8_500_000_000)
    _plant_mdetr(mdetr, "final_flickr_mergedGT_train.json")
    return ground.planted + mdetr.planted


def _plant_in_lists(ground: Ground, listed: Sequence[str]) -> None:
    first = ground.append_lines("train.txt", [b"train", listed[0].encode()])
    ground.note("E_FIELD_TYPE", "train.txt", f"line {first}", "a word in place of an id")
    ground.note("E_RECORD_DUPLICATE", "train.txt", f"line {first + 1}", "an image again")


def _plant_in_sentences(ground: Ground, image_id: str) -> None:
    """Add captions behind the five; the unrelated one is another picture's."""
    file = f"Sentences/{image_id}.txt"
    unrelated = b"A man in a red coat sells fish at a market ."
    open_mark = f"[/EN#{_UNKNOWN}/other A large".encode()
    unknown = f"[/EN#{_UNKNOWN}/other A shape] is in the picture .".encode()
    first = ground.append_lines(file, [unrelated, open_mark, b"\xff\xfe is no UTF-8 ."])
    ground.append_lines(UNRELATED, [f"{image_id} {first}".encode()])
    ground.note("E_CAPTION_UNRELATED", file, f"line {first}", "a caption of another picture")
    ground.note("E_FIELD_TYPE", file, f"line {first + 1}", "a phrase that nothing ends")
    ground.note("E_FIELD_TYPE", file, f"line {first + 2}", "bytes that are no UTF-8")
    ground.append_lines(file, [unknown])
    ground.note("E_REF_NO_ANNOTATION", file, f"chain {_UNKNOWN}", "a chain that the boxes lack")


def _plant_in_boxes(ground: Ground, image_id: str) -> None:
    file = f"Annotations/{image_id}.xml"
    text = (ground.folder / file).read_text()
    number = text.count("<object>")
    for code, what, chain, corners in (
        ("E_BOX_OUTSIDE", "a box right of the picture", 700, (2000, 4, 2020, 20)),
        ("E_BOX_EMPTY", "corners in the wrong order", 701, (50, 50, 40, 60)),
        ("E_VALUE_RANGE", "a box of the chain that is not visual", 0, (4, 4, 20, 20)),
        ("E_FIELD_TYPE", "a corner that is no number", 702, ("nan", 4, 20, 20)),
    ):
        ground.note(code, file, f"object[{number}]", what)
        entry = _xml_object(chain, corners)
        text = text.replace("</annotation>", f"{entry}</annotation>")
        number += 1
    bare = "\t<object>\n\t\t<name>703</name>\n\t</object>\n"
    text = text.replace("</annotation>", f"{bare}</annotation>")
    ground.note("E_FIELD_MISSING", file, f"object[{number}]", "neither a box nor a flag")
    ground.write(file, text.encode())


def _xml_object(chain: int, corners: Sequence[object]) -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    inside = "".join(f"<{n}>{value}</{n}>" for n, value in zip(names, corners, strict=True))
    return f"\t<object>\n\t\t<name>{chain}</name>\n\t\t<bndbox>{inside}</bndbox>\n\t</object>\n"


def _plant_images(ground: Ground, good: str) -> None:
    """Add images with good captions, and something wrong with their other files."""
    picture = ground.folder / PICTURES / f"{good}.jpg"
    xml = "<annotation>\n</annotation>\n"
    for code, what in (
        ("E_IMAGE_MISSING", "a picture that is not there"),
        ("E_IMAGE_TRUNCATED", "a picture that was cut off"),
        ("E_XML_INVALID", "a DOCTYPE, which could make entities"),
        ("E_METADATA_MISSING", "boxes that are not there"),
    ):
        image_id = str(ground.new_id())
        target = ground.folder / PICTURES / f"{image_id}.jpg"
        line = ground.append_lines("train.txt", [image_id.encode()])
        ground.write(f"Sentences/{image_id}.txt", b"There is something in the picture .\n")
        boxes = f"Annotations/{image_id}.xml"
        if code == "E_IMAGE_TRUNCATED":
            ground.cut_picture(picture, target)
        elif code != "E_IMAGE_MISSING":
            ground.copy_picture(picture, target)
        if code == "E_XML_INVALID":
            ground.write(boxes, f'<!DOCTYPE a [<!ENTITY b "c">]>\n{xml}'.encode())
        elif code != "E_METADATA_MISSING":
            ground.write(boxes, xml.encode())
        is_picture = code.startswith("E_IMAGE")
        place = ("train.txt", f"line {line}") if is_picture else (boxes, "the file")
        ground.note(code, *place, what)


def _plant_mdetr(ground: Ground, file: str) -> None:
    table = ground.read_json(file)
    images, boxes = table["images"], table["annotations"]
    good, box = images[0], boxes[0]

    def add_image(code: str, what: str, change: dict[str, Any]) -> None:
        ground.note(code, file, f"images[{len(images)}]", what)
        images.append(good | {"id": ground.new_id(), "sentence_id": len(images) + 9} | change)

    def add_box(code: str, what: str, change: dict[str, Any]) -> None:
        ground.note(code, file, f"annotations[{len(boxes)}]", what)
        boxes.append(box | {"id": ground.new_id()} | change)

    add_image("E_PHRASE_EMPTY", "a caption of blanks", {"caption": " "})
    add_image("E_RECORD_DUPLICATE", "a caption's id again", {"id": good["id"]})
    add_image("E_RECORD_DUPLICATE", "a caption's number again", {"sentence_id": 0})
    add_image("E_SIZE_MISMATCH", "a size that the others do not say", {"width": "7"})
    number = ground.new_id()
    add_image("E_IMAGE_MISSING", "a picture that is not there", {"file_name": f"{number}.jpg"})
    add_image("E_NAME_UNSAFE", "a path out of the folder", {"file_name": f"../../{number + 1}.jpg"})
    far = [[0, 5000]]
    add_box("E_VALUE_RANGE", "words beyond the caption's end", {"tokens_positive": far})
    add_box("E_FIELD_MISSING", "a box that no words mean", {"tokens_positive": []})
    add_box("E_IMAGE_UNKNOWN", "a box of no caption", {"image_id": -5})
    add_box("E_BOX_OUTSIDE", "a box below the picture", {"bbox": [4.0, 5000.0, 10.0, 10.0]})
    add_box("E_FIELD_TYPE", "a box of three numbers", {"bbox": [1.0, 2.0, 3.0]})
    ground.write_json(file, table)
