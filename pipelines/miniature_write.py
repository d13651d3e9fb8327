"""Writes the miniature world's scenes as source trees in the official layouts.

In: scenes that already know their places and statements, pictures already written. Out: the
annotation files of COCO 2017 and Visual Genome 1.4, byte for byte the same each time.
Addresses inside them end in `.invalid`: nothing can be fetched from there.

Source: the formats of cocodataset.org and of Visual Genome 1.4 (fields, types, nesting, boxes).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipelines.miniature_files import (
    DATE,
    HOST,
    LICENCES,
    description,
    image_id,
    scenes_of,
    whole_xywh,
    write_json,
    write_lines,
)
from pipelines.miniature_scene import SHAPES, Scene, outline, polygon_area, relation

#: As in COCO, ids have gaps: a converter that counts instead of looking up gets them wrong.
CATEGORY_IDS: dict[str, int] = dict(zip(SHAPES, (1, 2, 3, 5, 6, 8, 9, 11), strict=True))

#: COCO's annotation and caption ids are image id × this + a number within the picture.
IDS_PER_IMAGE = 10


def write_coco(root: Path, scenes: Sequence[Scene]) -> None:
    """Write `annotations/{instances,captions}_{train,val}2017.json` below `root`."""
    for split in ("train", "val"):
        chosen = scenes_of(scenes, "coco", split)
        images = [coco_image(scene) for scene in chosen]
        write_coco_files(root / "annotations", f"{split}2017", chosen, images)


def write_coco_files(
    folder: Path, cut: str, scenes: Sequence[Scene], images: Sequence[dict[str, Any]]
) -> None:
    """Write `{instances,captions}_<cut>.json` of these scenes; `images` are their records."""
    common = {"info": description(int(cut[-4:])), "licenses": LICENCES, "images": images}
    instances = [entry for scene in scenes for entry in coco_instances(scene)]
    captions = [
        {"image_id": image_id(scene, "coco"), "id": int(said.id), "caption": said.text}
        for scene in scenes
        for said in scene.statements
        if said.dataset == "coco"
    ]
    write_json(
        folder / f"instances_{cut}.json",
        common | {"annotations": instances, "categories": coco_categories()},
    )
    write_json(folder / f"captions_{cut}.json", common | {"annotations": captions})


def write_visual_genome(root: Path, scenes: Sequence[Scene]) -> None:
    """Write the six JSON files of Visual Genome (and densecap's splits) below `root`."""
    chosen = scenes_of(scenes, "vg")
    write_json(root / "image_data.json", [_vg_image(scene) for scene in chosen])
    write_json(
        root / "region_descriptions.json",
        [{"regions": _vg_regions(s), "id": image_id(s, "vg")} for s in chosen],
    )
    write_json(root / "objects.json", [_vg_objects(scene) for scene in chosen])
    write_json(
        root / "attributes.json",
        [
            {
                "image_id": image_id(scene, "vg"),
                "attributes": [
                    _vg_thing(scene, i) | {"attributes": [t.size, t.colour, t.pattern]}
                    for i, t in enumerate(scene.things)
                ],
            }
            for scene in chosen
        ],
    )
    write_json(root / "relationships.json", [_vg_relationships(scene) for scene in chosen])
    splits = {
        split: [image_id(scene, "vg") for scene in scenes_of(scenes, "vg", split)]
        for split in ("train", "val", "test")
    }
    write_json(root / "densecap_splits.json", splits)


def write_scenes(path: Path, scenes: Iterable[Scene]) -> None:
    """Write the scene graphs, one JSON object a line."""
    write_lines(path, list(scenes))


def coco_categories() -> list[dict[str, Any]]:
    """Return COCO's `categories`: the shapes."""
    return [
        {"supercategory": "shape", "id": number, "name": name}
        for name, number in CATEGORY_IDS.items()
    ]


def coco_image(scene: Scene) -> dict[str, Any]:
    """Return a scene's record in COCO's `images`."""
    folder, name = scene.places["coco"].file.split("/")
    return {
        "license": 1,
        "file_name": name,
        "coco_url": f"{HOST}/{folder}/{name}",
        "height": scene.height,
        "width": scene.width,
        "date_captured": DATE,
        "flickr_url": f"{HOST}/flickr/{name}",
        "id": image_id(scene, "coco"),
    }


def coco_instances(scene: Scene) -> Iterable[dict[str, Any]]:
    """Yield the records of a scene's objects in COCO's `annotations`, in their order."""
    number = image_id(scene, "coco")
    for i, thing in enumerate(scene.things):
        points = [(round(x, 2), round(y, 2)) for x, y in outline(thing)]
        x0, y0, x1, y1 = thing.box_xyxy
        yield {
            "segmentation": [[number for point in points for number in point]],
            "area": round(polygon_area(points), 4),
            "iscrowd": 0,
            "image_id": number,
            "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
            "category_id": CATEGORY_IDS[thing.shape],
            "id": number * IDS_PER_IMAGE + i,
        }


def _vg_url(scene: Scene) -> str:
    return f"{HOST}/{scene.places['vg'].file}"


def _vg_image(scene: Scene) -> dict[str, Any]:
    return {
        "width": scene.width,
        "height": scene.height,
        "url": _vg_url(scene),
        "coco_id": image_id(scene, "coco") if "coco" in scene.places else None,
        "flickr_id": None,
        "image_id": image_id(scene, "vg"),
    }


def _vg_regions(scene: Scene) -> list[dict[str, Any]]:
    regions = []
    for said in scene.statements:
        if said.dataset == "vg":
            x, y, width, height = whole_xywh([scene.things[i] for i in said.about])
            regions.append(
                {
                    "region_id": int(said.id),
                    "width": width,
                    "height": height,
                    "image_id": image_id(scene, "vg"),
                    "phrase": said.text,
                    "y": y,
                    "x": x,
                }
            )
    return regions


def _vg_objects(scene: Scene) -> dict[str, Any]:
    things = [_vg_thing(scene, i) | {"merged_object_ids": []} for i in range(len(scene.things))]
    return {"image_id": image_id(scene, "vg"), "objects": things, "image_url": _vg_url(scene)}


def _vg_relationships(scene: Scene) -> dict[str, Any]:
    number = image_id(scene, "vg")
    found: list[dict[str, Any]] = []
    for i, subject in enumerate(scene.things):
        for j, other in enumerate(scene.things):
            predicate = relation(subject, other) if i != j else None
            if predicate is not None:
                found.append(
                    {
                        "predicate": predicate,
                        "object": _vg_node(scene, j),
                        "relationship_id": number * 100 + len(found),
                        "synsets": [],
                        "subject": _vg_node(scene, i),
                    }
                )
    return {"relationships": found, "image_id": number}


def _vg_thing(scene: Scene, i: int) -> dict[str, Any]:
    thing = scene.things[i]
    x, y, width, height = whole_xywh([thing])
    return {
        "synsets": [f"{thing.shape}.n.01"],
        "h": height,
        "object_id": image_id(scene, "vg") * 100 + i,
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
