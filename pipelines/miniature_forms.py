"""Writes the miniature world's COCO and Visual Genome once more, in the other form they come in.

COCO is cut as in 2014: val has all of 2017's val and some of its train, under other file names and
the same ids. Visual Genome's regions are written as GRiT's authors did: COCO-like, captions without
their region ids, in another order, the pictures in one folder.

Source: cocodataset.org (2014's cut); GRiT (JialianW/GRiT), its preprocessed annotations.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.miniature_files import (
    Placed,
    generator,
    image_id,
    link_picture,
    scenes_of,
    whole_xywh,
    write_json,
)
from pipelines.miniature_scene import Place, Scene
from pipelines.miniature_write import coco_image, write_coco_files

COCO_2014 = "coco-2014"
GRIT = "vg-grit"

#: Of COCO's train pictures that RefCOCO does not show, which are all of 2014's train.
_MOVED_TO_VAL = 0.5


def write_coco_2014(world: Path, scenes: Sequence[Scene], seed: int) -> dict[int, Placed]:
    """Write `coco-2014/annotations/{instances,captions}_{train,val}2014.json`, and the pictures.

    Returns:
        Each scene's place, by its index.
    """
    root = world / COCO_2014
    chosen = scenes_of(scenes, "coco")
    files = {scene.index: _file(scene, _cut(scene, seed)) for scene in chosen}
    for part in ("train", "val"):
        own = [scene for scene in chosen if files[scene.index].startswith(part)]
        images = [
            coco_image(scene) | {"file_name": files[scene.index].split("/")[1]} for scene in own
        ]
        write_coco_files(root / "annotations", f"{part}2014", own, images)
    for scene in chosen:
        link_picture(world, scene, root / files[scene.index])
    return {
        scene.index: Placed(
            place=Place(
                split=_cut(scene, seed),
                file=files[scene.index],
                image_id=scene.places["coco"].image_id,
            )
        )
        for scene in chosen
    }


def _cut(scene: Scene, seed: int) -> str:
    is_moved = scene.is_close_up and generator(seed, COCO_2014, scene).random() < _MOVED_TO_VAL
    return "val" if is_moved else scene.places["coco"].split


def _file(scene: Scene, part: str) -> str:
    return f"{part}2014/COCO_{part}2014_{image_id(scene, 'coco'):012d}.jpg"


def write_grit(world: Path, scenes: Sequence[Scene], seed: int) -> dict[int, Placed]:
    """Write `vg-grit/{train,test}.json` and the pictures, all in one folder; there is no val.

    Returns:
        Each scene's place, by its index.
    """
    root = world / GRIT
    placed: dict[int, Placed] = {}
    number = 0
    for split in ("train", "test"):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for scene in scenes_of(scenes, "vg", split):
            own = image_id(scene, "vg")
            name = f"{own}.jpg"
            size = {"height": scene.height, "width": scene.width}
            images.append({"file_name": name, **size, "id": own})
            said = [one for one in scene.statements if one.dataset == "vg"]
            for one in generator(seed, GRIT, scene).sample(said, len(said)):
                number += 1
                x, y, width, height = whole_xywh([scene.things[i] for i in one.about])
                annotations.append(
                    {
                        "id": number,
                        "image_id": own,
                        "iscrowd": 0,
                        "area": width * height,
                        "category_id": 1,
                        "bbox": [x, y, width, height],
                        "caption": one.text.lower(),
                    }
                )
            link_picture(world, scene, root / "vg_all" / name)
            placed[scene.index] = Placed(place=Place(split=split, file=name, image_id=str(own)))
        table = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "object"}],
        }
        write_json(root / f"{split}.json", table)
    return placed
