"""Writes the miniature world's PACO-LVIS: objects, their parts, and the attributes of both.

Object classes are the shapes, part classes `arrow:head` and the like (`miniature_parts.py`).
Attributes are the colours and patterns that were drawn. Splits are PACO's own: its test holds
pictures of COCO's train and of its val, its train none of COCO's val.

Source: arXiv 2301.01795 and the published files' fields. Not known well enough to be imitated, and
left empty: the `queries` of test.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask

from pipelines.miniature_files import (
    DATE,
    HOST,
    LICENCES,
    Placed,
    description,
    generator,
    image_id,
    scenes_of,
    show_cocos_pictures,
    write_json,
)
from pipelines.miniature_parts import PARTS, part_outlines
from pipelines.miniature_scene import (
    COLOURS,
    PATTERNS,
    SHAPES,
    Scene,
    Thing,
    outline,
    polygon_area,
)

_SHARES = {"val": 0.05, "test": 0.15}  #: of COCO's train; the rest is PACO's train
_OBJECT_IDS = {shape: number for number, shape in enumerate(SHAPES, 1)}
_PART_IDS = {
    f"{shape}:{part}": number
    for number, (shape, part) in enumerate(
        ((shape, part) for shape in SHAPES for part in PARTS[shape]), len(SHAPES) + 1
    )
}
_ATTRIBUTE_TYPES = {
    "color": (*COLOURS, "other(color)"),
    "pattern_marking": (*PATTERNS, "other(pattern_marking)"),
}
_ATTRIBUTE_IDS = {
    name: number
    for number, name in enumerate(name for names in _ATTRIBUTE_TYPES.values() for name in names)
}


def write_paco(world: Path, scenes: Sequence[Scene], seed: int) -> dict[int, Placed]:
    """Write `paco_lvis_v1_{train,val,test}.json` below `world`.

    Returns:
        Each scene's place, by its index.
    """
    root = world / "paco"
    splits = _deal(scenes, seed)
    for split in ("train", "val", "test"):
        chosen = [scene for scene, name in splits if name == split]
        annotations: list[dict[str, Any]] = []
        for scene in chosen:
            annotations += _records(scene, len(annotations) + 1)
        table = {
            "info": description(2022),
            "licenses": LICENCES,
            "images": [_image(scene, seed) for scene in chosen],
            "annotations": annotations,
            "categories": _categories(),
            "part_categories": [
                {"id": number, "name": name}
                for number, name in enumerate(sorted({n.split(":")[1] for n in _PART_IDS}))
            ],
            "attributes": [{"id": number, "name": name} for name, number in _ATTRIBUTE_IDS.items()],
            "attr_type_to_attr_idxs": {
                kind: [_ATTRIBUTE_IDS[name] for name in names]
                for kind, names in _ATTRIBUTE_TYPES.items()
            },
        }
        if split == "test":
            table["queries"] = []
        write_json(root / f"paco_lvis_v1_{split}.json", table)
    return show_cocos_pictures(world, root, splits)


def _deal(scenes: Sequence[Scene], seed: int) -> list[tuple[Scene, str]]:
    train = scenes_of(scenes, "coco", "train")
    order = generator(seed, "paco").sample(train, len(train))
    splits = {scene.index: "train" for scene in order}
    start = 0
    for split, share in _SHARES.items():
        count = max(1, round(len(order) * share))
        splits |= {scene.index: split for scene in order[start : start + count]}
        start += count
    return [(scene, splits.get(scene.index, "test")) for scene in scenes_of(scenes, "coco")]


def _image(scene: Scene, seed: int) -> dict[str, Any]:
    file = scene.places["coco"].file
    absent = sorted(_OBJECT_IDS[s] for s in set(SHAPES) - {t.shape for t in scene.things})
    return {
        "license": 1,
        "file_name": file,
        "coco_url": f"{HOST}/{file}",
        "flickr_url": f"{HOST}/flickr/{file.split('/')[1]}",
        "date_captured": DATE,
        "height": scene.height,
        "width": scene.width,
        "id": image_id(scene, "coco"),
        "neg_category_ids": sorted(generator(seed, "paco", scene).sample(absent, 2)),
        "not_exhaustive_category_ids": [],
        "neg_category_ids_attrs": [],
        "not_exhaustive_category_ids_attrs": [],
    }


def _records(scene: Scene, first: int) -> Iterator[dict[str, Any]]:
    """Yield each object's record, its parts' right behind it, ids from `first` on."""
    number = first
    for thing in scene.things:
        owner = number
        named = [(_OBJECT_IDS[thing.shape], outline(thing))]
        named += [
            (_PART_IDS[f"{thing.shape}:{part}"], polygon)
            for part, polygon in part_outlines(thing).items()
        ]
        for category_id, polygon in named:
            points = [(round(x, 2), round(y, 2)) for x, y in polygon]
            yield _record(scene, thing, number, owner, category_id, points)
            number += 1


def _record(
    scene: Scene,
    thing: Thing,
    number: int,
    owner: int,
    category_id: int,
    points: list[tuple[float, float]],
) -> dict[str, Any]:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    flat = [[coordinate for point in points for coordinate in point]]
    (rle,) = mask.frPyObjects(flat, scene.height, scene.width)
    colour = _ATTRIBUTE_IDS[thing.colour]
    # a small part need not show a stripe or a dot
    pattern = [_ATTRIBUTE_IDS[thing.pattern]] if number == owner else []
    return {
        "id": number,
        "bbox": [min(xs), min(ys), round(max(xs) - min(xs), 2), round(max(ys) - min(ys), 2)],
        "area": round(polygon_area(points), 4),
        "category_id": category_id,
        "image_id": image_id(scene, "coco"),
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
        "attribute_ids": [colour, *pattern],
        "dom_color_ids": [colour],
        "obj_ann_id": owner,
        "unknown_color": 0,
        "unknown_pattern_marking": int(number != owner),
    }


def _categories() -> list[dict[str, Any]]:
    wholes = [
        {"supercategory": "OBJECT", "id": number, "name": shape, "synset": f"{shape}.n.01"}
        for shape, number in _OBJECT_IDS.items()
    ]
    parts = [
        {"supercategory": "PART", "id": number, "name": name} for name, number in _PART_IDS.items()
    ]
    return wholes + parts
