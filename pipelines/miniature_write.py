"""Writes the miniature world's scenes as source trees in the official layouts.

In: scenes that already know their places and statements, pictures already written. Out: the
annotation files of COCO 2017 and Visual Genome 1.4, byte for byte the same each time.
Addresses inside them end in `.invalid`: nothing can be fetched from there.

Source: the formats of cocodataset.org and of Visual Genome 1.4 (fields, types, nesting, boxes).
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pipelines.miniature_scene import (
    SHAPES,
    Scene,
    Thing,
    outline,
    polygon_area,
    relation,
    union_box,
)

#: As in COCO, ids have gaps: a converter that counts instead of looking up gets them wrong.
CATEGORY_IDS: dict[str, int] = dict(zip(SHAPES, (1, 2, 3, 5, 6, 8, 9, 11), strict=True))

#: COCO's annotation and caption ids are image id × this + a number within the picture.
IDS_PER_IMAGE = 10

_HOST = "http://miniature.invalid"
_DATE = "2017-01-01 00:00:00"


def write_coco(root: Path, scenes: Sequence[Scene]) -> None:
    """Write `annotations/{instances,captions}_{train,val}2017.json` below `root`."""
    for split in ("train", "val"):
        chosen = _of(scenes, "coco", split)
        common = {
            "info": {"description": "roikit miniature world", "version": "1.0", "year": 2017},
            "licenses": [{"id": 1, "name": "CC0 1.0", "url": f"{_HOST}/licence"}],
            "images": [_coco_image(scene) for scene in chosen],
        }
        instances = [entry for scene in chosen for entry in _coco_instances(scene)]
        categories = [
            {"supercategory": "shape", "id": number, "name": name}
            for name, number in CATEGORY_IDS.items()
        ]
        captions = [
            {"image_id": _image_id(scene, "coco"), "id": int(said.id), "caption": said.text}
            for scene in chosen
            for said in scene.statements
            if said.dataset == "coco"
        ]
        folder = root / "annotations"
        _write_json(
            folder / f"instances_{split}2017.json",
            common | {"annotations": instances, "categories": categories},
        )
        _write_json(folder / f"captions_{split}2017.json", common | {"annotations": captions})


def write_visual_genome(root: Path, scenes: Sequence[Scene]) -> None:
    """Write the six JSON files of Visual Genome (and densecap's splits) below `root`."""
    chosen = _of(scenes, "vg")
    _write_json(root / "image_data.json", [_vg_image(scene) for scene in chosen])
    _write_json(
        root / "region_descriptions.json",
        [{"regions": _vg_regions(s), "id": _image_id(s, "vg")} for s in chosen],
    )
    _write_json(root / "objects.json", [_vg_objects(scene) for scene in chosen])
    _write_json(
        root / "attributes.json",
        [
            {
                "image_id": _image_id(scene, "vg"),
                "attributes": [
                    _vg_thing(scene, i) | {"attributes": [t.size, t.colour, t.pattern]}
                    for i, t in enumerate(scene.things)
                ],
            }
            for scene in chosen
        ],
    )
    _write_json(root / "relationships.json", [_vg_relationships(scene) for scene in chosen])
    splits = {
        split: [_image_id(scene, "vg") for scene in _of(scenes, "vg", split)]
        for split in ("train", "val", "test")
    }
    _write_json(root / "densecap_splits.json", splits)


def write_scenes(path: Path, scenes: Iterable[Scene]) -> None:
    """Write the scene graphs, one JSON object a line."""
    path.write_bytes(b"".join(msgspec.json.encode(scene) + b"\n" for scene in scenes))


def _of(scenes: Sequence[Scene], dataset: str, split: str | None = None) -> list[Scene]:
    return [
        scene
        for scene in scenes
        if dataset in scene.places and split in (None, scene.places[dataset].split)
    ]


def _image_id(scene: Scene, dataset: str) -> int:
    return int(scene.places[dataset].image_id)


def _coco_image(scene: Scene) -> dict[str, Any]:
    folder, name = scene.places["coco"].file.split("/")
    return {
        "license": 1,
        "file_name": name,
        "coco_url": f"{_HOST}/{folder}/{name}",
        "height": scene.height,
        "width": scene.width,
        "date_captured": _DATE,
        "flickr_url": f"{_HOST}/flickr/{name}",
        "id": _image_id(scene, "coco"),
    }


def _coco_instances(scene: Scene) -> Iterable[dict[str, Any]]:
    image_id = _image_id(scene, "coco")
    for i, thing in enumerate(scene.things):
        points = [(round(x, 2), round(y, 2)) for x, y in outline(thing)]
        x0, y0, x1, y1 = thing.box_xyxy
        yield {
            "segmentation": [[number for point in points for number in point]],
            "area": round(polygon_area(points), 4),
            "iscrowd": 0,
            "image_id": image_id,
            "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
            "category_id": CATEGORY_IDS[thing.shape],
            "id": image_id * IDS_PER_IMAGE + i,
        }


def _vg_url(scene: Scene) -> str:
    return f"{_HOST}/{scene.places['vg'].file}"


def _vg_image(scene: Scene) -> dict[str, Any]:
    return {
        "width": scene.width,
        "height": scene.height,
        "url": _vg_url(scene),
        "coco_id": _image_id(scene, "coco") if "coco" in scene.places else None,
        "flickr_id": None,
        "image_id": _image_id(scene, "vg"),
    }


def _vg_regions(scene: Scene) -> list[dict[str, Any]]:
    regions = []
    for said in scene.statements:
        if said.dataset == "vg":
            x, y, width, height = _whole_xywh([scene.things[i] for i in said.about])
            regions.append(
                {
                    "region_id": int(said.id),
                    "width": width,
                    "height": height,
                    "image_id": _image_id(scene, "vg"),
                    "phrase": said.text,
                    "y": y,
                    "x": x,
                }
            )
    return regions


def _vg_objects(scene: Scene) -> dict[str, Any]:
    things = [_vg_thing(scene, i) | {"merged_object_ids": []} for i in range(len(scene.things))]
    image_id = _image_id(scene, "vg")
    return {"image_id": image_id, "objects": things, "image_url": _vg_url(scene)}


def _vg_relationships(scene: Scene) -> dict[str, Any]:
    image_id = _image_id(scene, "vg")
    found: list[dict[str, Any]] = []
    for i, subject in enumerate(scene.things):
        for j, other in enumerate(scene.things):
            predicate = relation(subject, other) if i != j else None
            if predicate is not None:
                found.append(
                    {
                        "predicate": predicate,
                        "object": _vg_node(scene, j),
                        "relationship_id": image_id * 100 + len(found),
                        "synsets": [],
                        "subject": _vg_node(scene, i),
                    }
                )
    return {"relationships": found, "image_id": image_id}


def _vg_thing(scene: Scene, i: int) -> dict[str, Any]:
    thing = scene.things[i]
    x, y, width, height = _whole_xywh([thing])
    return {
        "synsets": [f"{thing.shape}.n.01"],
        "h": height,
        "object_id": _image_id(scene, "vg") * 100 + i,
        "names": [thing.shape],
        "w": width,
        "y": y,
        "x": x,
    }


def _vg_node(scene: Scene, i: int) -> dict[str, Any]:
    """An end of a relationship; as in the original, its label is now `name`, now `names`."""
    node = _vg_thing(scene, i)
    if i % 2:
        node["name"] = node.pop("names")[0]
    return node


def _whole_xywh(things: Sequence[Thing]) -> tuple[int, int, int, int]:
    """Box around `things` in whole pixels, widened where it must be."""
    x0, y0, x1, y1 = union_box(things)
    x, y = math.floor(x0), math.floor(y0)
    return x, y, math.ceil(x1) - x, math.ceil(y1) - y


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(value))
