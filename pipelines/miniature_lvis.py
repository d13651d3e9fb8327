"""Writes the miniature world's LVIS: finer classes than COCO's, on COCO's photographs.

A class is a shape with its pattern (`striped_circle`, and `circle_(plain)`). Labels are federated:
an image names a few classes that were looked for and are not there, and one whose boxes are not
all drawn. Train lies in COCO's train; val is the whole of COCO's val and a part of its train.

Source: lvisdataset.org: no `file_name`, no `iscrowd`, folder and file at the end of `coco_url`.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from pipelines.miniature_scene import PATTERNS, SHAPES, Scene, Thing
from pipelines.miniature_write import coco_instances

#: Of COCO's train: the rest is LVIS's train. Source: 15,000 and 3,117 of 118,287.
_VAL_SHARE = 0.127
_UNUSED_SHARE = 0.026
_NUM_NEGATIVE = 3
#: In how many train images a class is rare, and common; above, it is frequent.
_RARE, _COMMON = 10, 100


def class_name(shape: str, pattern: str) -> str:
    """Return a class's name in LVIS's spelling; what stands in parentheses tells namesakes apart.

    A plain star is a `star_(plain)`, a dotted one a `dotted_star`.
    """
    return f"{shape}_(plain)" if pattern == "plain" else f"{pattern}_{shape}"


#: Contiguous from 1, in the order of names, as LVIS's are.
CLASS_IDS: dict[str, int] = {
    name: number
    for number, name in enumerate(sorted(class_name(s, p) for s in SHAPES for p in PATTERNS), 1)
}


def class_id(thing: Thing) -> int:
    """Return the id of a thing's class."""
    return CLASS_IDS[class_name(thing.shape, thing.pattern)]


def write_lvis(world: Path, scenes: Sequence[Scene], seed: int) -> dict[int, Placed]:
    """Write `lvis_v1_{train,val}.json` and the minival below `world`.

    Returns:
        Each scene's place, by its index.
    """
    root = world / "lvis"
    splits = _deal(scenes, seed)
    tables = {
        split: _Table([scene for scene, name in splits if name == split], seed)
        for split in ("train", "val")
    }
    categories = _categories(tables["train"])
    for split, table in tables.items():
        write_json(root / f"lvis_v1_{split}.json", table.document(categories))
    minival = tables["val"].minival().document(categories)
    for image in minival["images"]:
        image["file_name"] = "/".join(image["coco_url"].split("/")[-2:])
    write_json(root / "lvis_v1_minival_inserted_image_name.json", minival)
    return show_cocos_pictures(world, root, splits)


def _deal(scenes: Sequence[Scene], seed: int) -> list[tuple[Scene, str]]:
    """Give each picture that LVIS uses its split, in the order of the scenes."""
    train = scenes_of(scenes, "coco", "train")
    order = generator(seed, "lvis").sample(train, len(train))
    num_val, num_unused = (round(len(train) * share) for share in (_VAL_SHARE, _UNUSED_SHARE))
    val = {scene.index for scene in order[:num_val]}
    unused = {scene.index for scene in order[num_val : num_val + num_unused]}
    return [
        (scene, "val" if scene.index in val or scene.places["coco"].split == "val" else "train")
        for scene in scenes_of(scenes, "coco")
        if scene.index not in unused
    ]


class _Table:
    """The images and boxes of one file."""

    def __init__(self, scenes: Sequence[Scene], seed: int) -> None:
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        for scene in scenes:
            self._add(scene, seed)

    def document(self, categories: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "info": description(2020),
            "annotations": self.annotations,
            "images": [dict(image) for image in self.images],
            "licenses": LICENCES,
            "categories": categories,
        }

    def minival(self) -> "_Table":
        """Return the part that lies in COCO's val2017."""
        part = _Table((), 0)
        part.images = [image for image in self.images if "/val2017/" in image["coco_url"]]
        ids = {image["id"] for image in part.images}
        part.annotations = [entry for entry in self.annotations if entry["image_id"] in ids]
        return part

    def _add(self, scene: Scene, seed: int) -> None:
        rng = generator(seed, "lvis", scene)
        counts = Counter(class_id(thing) for thing in scene.things)
        # only of a class with several is it honest to say that some have no box
        several = sorted(number for number, count in counts.items() if count > 1)
        unfinished = rng.choice(several) if several else None
        absent = sorted(set(CLASS_IDS.values()) - set(counts))
        folder, name = scene.places["coco"].file.split("/")
        self.images.append(
            {
                "date_captured": DATE,
                "neg_category_ids": sorted(rng.sample(absent, _NUM_NEGATIVE)),
                "license": 1,
                "height": scene.height,
                "width": scene.width,
                "flickr_url": f"{HOST}/flickr/{name}",
                "coco_url": f"{HOST}/{folder}/{name}",
                "id": image_id(scene, "coco"),
                "not_exhaustive_category_ids": [unfinished] if unfinished is not None else [],
            }
        )
        boxed: set[int] = set()
        for thing, drawn in zip(scene.things, coco_instances(scene), strict=True):
            number = class_id(thing)
            if number == unfinished and number in boxed:
                continue
            boxed.add(number)
            self.annotations.append(
                {
                    "area": drawn["area"],
                    "id": len(self.annotations) + 1,
                    "segmentation": drawn["segmentation"],
                    "image_id": drawn["image_id"],
                    "bbox": drawn["bbox"],
                    "category_id": number,
                }
            )


def _categories(train: _Table) -> list[dict[str, Any]]:
    """Return the classes; how frequent one is, its train images tell."""
    instances = Counter(entry["category_id"] for entry in train.annotations)
    pairs = {(entry["category_id"], entry["image_id"]) for entry in train.annotations}
    images = Counter(category for category, _ in pairs)
    categories = []
    for name, number in CLASS_IDS.items():
        plain = name.endswith("_(plain)")
        shape = name.removesuffix("_(plain)") if plain else name.rpartition("_")[2]
        pattern = "without a pattern" if plain else f"that is {name.partition('_')[0]}"
        seen = images[number]
        categories.append(
            {
                "name": name,
                "instance_count": instances[number],
                "def": f"the figure of a {shape} {pattern}",
                "synonyms": [name, f"plain_{shape}"] if plain else [name],
                "image_count": seen,
                "id": number,
                "frequency": "r" if seen <= _RARE else "c" if seen <= _COMMON else "f",
                "synset": f"{shape}.n.0{1 + PATTERNS.index(_pattern(name))}",
            }
        )
    return categories


def _pattern(name: str) -> str:
    return "plain" if name.endswith("_(plain)") else name.partition("_")[0]
