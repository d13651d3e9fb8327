"""Writes the miniature world's Flickr30k Entities, in the original form and in MDETR's.

Its pictures are those that Visual Genome's tree has for itself; COCO's are not Flickr30k's. Train
stays on the side of training.

Source: README of BryanPlummer/flickr30k_entities; `scripts/pre-training/flickr_combined.py` of
ashkamath/mdetr for its files: sizes are texts, boxes are the 1-based corners and their difference,
one box stands for all whose IoU is 0.95 or more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.miniature_entities import Chain, EntityCaption, chains_of, entity_captions
from pipelines.miniature_files import (
    Placed,
    generator,
    link_picture,
    scenes_of,
    whole_xywh,
    write_json,
)
from pipelines.miniature_refcoco import MDETR
from pipelines.miniature_scene import Place, Scene, Statement

PICTURES = "flickr30k-images"
SPLITS = ("train", "val", "test")
UNRELATED = "UNRELATED_CAPTIONS"
UNRELATED_HEADER = "# format: <imageID> <sentence number>\n"

_FIRST_ID = 1_000_092_795
_CHAINS_PER_IMAGE = 10  #: chain ids run on through the corpus
_SAME_IOU = 0.95

_Corners = tuple[int, int, int, int]  #: xmin, ymin, xmax, ymax; from 1, the last pixel included


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """One picture with its captions."""

    scene: Scene
    image_id: int
    split: str
    chains: list[Chain]
    captions: list[EntityCaption]

    @property
    def file(self) -> str:
        return f"{self.image_id}.jpg"


def write_flickr30k(world: Path, scenes: Sequence[Scene], seed: int) -> dict[int, Placed]:
    """Write both forms below `world`.

    Returns:
        Each scene's place, by its index.
    """
    entries = _entries(scenes, seed)
    folder = world / "flickr30k"
    for split in SPLITS:
        own = [entry for entry in entries if entry.split == split]
        _write_text(folder / f"{split}.txt", "".join(f"{entry.image_id}\n" for entry in own))
        for kind, is_merged in (("mergedGT", True), ("separateGT", False)):
            table = _mdetr_table(entries, split, is_merged=is_merged)
            write_json(world / MDETR / f"final_flickr_{kind}_{split}.json", table)
    _write_text(folder / UNRELATED, UNRELATED_HEADER)
    for entry in entries:
        sentences = "".join(f"{caption.marked}\n" for caption in entry.captions)
        _write_text(folder / "Sentences" / f"{entry.image_id}.txt", sentences)
        _write_text(folder / "Annotations" / f"{entry.image_id}.xml", _xml(entry))
        link_picture(world, entry.scene, folder / PICTURES / entry.file)
    return {
        entry.scene.index: Placed(
            place=Place(split=entry.split, file=entry.file, image_id=str(entry.image_id)),
            statements=tuple(
                Statement(
                    dataset="flickr30k",
                    id=f"{entry.image_id}/{number}",
                    kind=caption.kind,
                    text=caption.text,
                    about=caption.things(entry.chains),
                )
                for number, caption in enumerate(entry.captions, 1)
            ),
        )
        for entry in entries
    }


def _entries(scenes: Sequence[Scene], seed: int) -> list[_Entry]:
    entries = []
    for scene in scenes_of(scenes, "vg"):
        if "coco" in scene.places:
            continue
        chains = chains_of(scene, 1 + scene.index * _CHAINS_PER_IMAGE)
        entries.append(
            _Entry(
                scene=scene,
                image_id=_FIRST_ID + 7919 * scene.index,
                split=scene.places["vg"].split,
                chains=chains,
                captions=entity_captions(scene, chains, generator(seed, "flickr30k", scene)),
            )
        )
    return entries


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def _corners(scene: Scene, i: int) -> _Corners:
    x, y, width, height = whole_xywh([scene.things[i]])
    return x + 1, y + 1, x + width, y + height


def _xml(entry: _Entry) -> str:
    scene = entry.scene
    lines = [
        "<annotation>",
        f"\t<filename>{entry.file}</filename>",
        "\t<size>",
        f"\t\t<width>{scene.width}</width>",
        f"\t\t<height>{scene.height}</height>",
        "\t\t<depth>3</depth>",
        "\t</size>",
    ]
    for i in range(len(scene.things)):
        lines.append("\t<object>")
        lines += [f"\t\t<name>{chain.id}</name>" for chain in entry.chains if i in chain.things]
        lines.append("\t\t<bndbox>")
        names = ("xmin", "ymin", "xmax", "ymax")
        pairs = zip(names, _corners(scene, i), strict=True)
        lines += [f"\t\t\t<{name}>{value}</{name}>" for name, value in pairs]
        lines += ["\t\t</bndbox>", "\t</object>"]
    for chain in entry.chains:
        if not chain.things:
            lines += ["\t<object>", f"\t\t<name>{chain.id}</name>", "\t\t<scene>1</scene>"]
            lines += ["\t\t<nobndbox>0</nobndbox>", "\t</object>"]
    return "\n".join([*lines, "</annotation>", ""])


def _mdetr_table(entries: Sequence[_Entry], split: str, *, is_merged: bool) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    number = box_id = 0
    for name in SPLITS:  # ids run on from split to split
        for entry in (entry for entry in entries if entry.split == name):
            for sentence, caption in enumerate(entry.captions):
                found = _clusters(entry, caption, is_merged=is_merged)
                if name == split:
                    images.append(_mdetr_image(entry, caption, sentence, number))
                    for place, (corners, spans) in enumerate(found):
                        annotations.append(_mdetr_box(corners, spans, number, box_id + place))
                number += 1
                box_id += len(found)
    return {
        "info": [],
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"supercategory": "object", "id": 1, "name": "object"}],
    }


def _mdetr_image(
    entry: _Entry, caption: EntityCaption, sentence: int, number: int
) -> dict[str, Any]:
    boxed = {chain.id for chain in entry.chains if chain.things}
    spans = [[begin, end] for begin, end, chain in caption.spans() if chain in boxed]
    return {
        "file_name": entry.file,
        "height": str(entry.scene.height),
        "width": str(entry.scene.width),
        "id": number,
        "caption": caption.text,
        "dataset_name": "flickr",
        "tokens_negative": [[0, len(caption.text)]],
        "sentence_id": sentence,
        "original_img_id": entry.image_id,
        "tokens_positive_eval": [[span] for span in spans],
    }


def _mdetr_box(
    corners: _Corners, spans: list[list[int]], image_id: int, number: int
) -> dict[str, Any]:
    xmin, ymin, xmax, ymax = corners
    width, height = float(xmax - xmin), float(ymax - ymin)
    return {
        "area": width * height,
        "iscrowd": 0,
        "category_id": 1,
        "bbox": [float(xmin), float(ymin), width, height],
        "tokens_positive": spans,
        "image_id": image_id,
        "id": number,
    }


def _clusters(
    entry: _Entry, caption: EntityCaption, *, is_merged: bool
) -> list[tuple[_Corners, list[list[int]]]]:
    """Return the boxes of a caption's phrases, each with the spans that mean it."""
    spans: dict[int, list[list[int]]] = {}
    for begin, end, spoken in caption.spans():
        spans.setdefault(spoken, []).append([begin, end])
    found: list[tuple[_Corners, list[list[int]]]] = []
    for chain in entry.chains:
        if chain.id not in spans:
            continue
        boxes = [_corners(entry.scene, i) for i in chain.things]
        if is_merged and boxes:
            lefts, tops, rights, bottoms = zip(*boxes, strict=True)
            boxes = [(min(lefts), min(tops), max(rights), max(bottoms))]
        for box in boxes:
            same = next((k for k, (b, _) in enumerate(found) if _iou(b, box) >= _SAME_IOU), None)
            if same is None:
                found.append((box, list(spans[chain.id])))
            else:  # the last box of a cluster gives its corners
                found[same] = (box, sorted([*found[same][1], *spans[chain.id]]))
    return found


def _iou(a: _Corners, b: _Corners) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)
