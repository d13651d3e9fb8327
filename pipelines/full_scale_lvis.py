"""LVIS v1 at its official size: invented boxes of 1,203 invented classes.

Writes `lvis_v1_{train,val}.json` and the names of all pictures, in the folders of COCO 2017. As in
the real files, images have no `file_name`, only a URL whose end says the folder; 15,000 images of
val are photographs of train2017; nothing has `iscrowd`; most classes are rare. Written piece by
piece.

Source: counts of docs/datasets.md; the real `lvis_v1_train.json` takes about 1.1 GB.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pipelines.full_scale_coco import photograph_ids
from pipelines.full_scale_draws import (
    ADJECTIVES,
    NOUNS,
    Ints,
    Picture,
    boxes,
    link,
    shapes,
    spread,
    write_list,
)

_CHUNK = 4096
#: Of an outline.
_POINTS = (16, 32, 56, 80)
_HOST = "http://full-scale.invalid"


@dataclass(frozen=True, kw_only=True, slots=True)
class LvisSplit:
    """What one split holds."""

    name: str
    images: dict[str, int]  #: by folder
    annotated: int  #: images with an annotation
    annotations: int


#: Of val's images without an annotation nothing is published.
SPLITS = (
    LvisSplit(name="train", images={"train2017": 100_170}, annotated=99_388, annotations=1_270_141),
    LvisSplit(
        name="val",
        images={"val2017": 4_809, "train2017": 15_000},
        annotated=19_809,
        annotations=244_707,
    ),
)
#: Classes by how many training images show them: rare, common, frequent.
FREQUENCIES = {"r": 337, "c": 461, "f": 405}
#: How often a class of each kind is drawn, beside one of another kind.
_CHANCES = {"r": 4, "c": 40, "f": 3000}


def write_lvis(
    root: Path,
    pictures: Sequence[Picture],
    seed: int,
    tick: Callable[[int], None],
    splits: Sequence[LvisSplit] = SPLITS,
) -> None:
    """Write the tree below `root`.

    Args:
        root: an empty folder.
        pictures: to link; those of `SIZES_WH`.
        seed: the same gives the same bytes.
        tick: told of annotations written since the last call.
        splits: what to write; others than the official ones are for tests.
    """
    rng = np.random.default_rng([seed, 5])
    left = {f"{name}2017": rng.permutation(ids) for name, ids in photograph_ids(seed).items()}
    kinds = rng.permutation([kind for kind, count in FREQUENCIES.items() for _ in range(count)])
    for name in left:
        (root / name).mkdir()
    for split in splits:
        ids: list[int] = []
        folders: list[str] = []
        for folder, count in split.images.items():
            taken, left[folder] = left[folder][:count], left[folder][count:]
            ids += np.sort(taken).tolist()
            folders += [folder] * count
        _write_split(root, split, np.array(ids), folders, kinds.tolist(), pictures, rng, tick)


def _write_split(
    root: Path,
    split: LvisSplit,
    ids: Ints,
    folders: Sequence[str],
    kinds: Sequence[str],
    pictures: Sequence[Picture],
    rng: np.random.Generator,
    tick: Callable[[int], None],
) -> None:
    shown = [pictures[k] for k in rng.integers(len(pictures), size=len(ids)).tolist()]
    for image_id, folder, picture in zip(ids.tolist(), folders, shown, strict=True):
        link(picture, root / folder / f"{image_id:012d}.jpg")
    sizes_wh = np.array([(picture.width, picture.height) for picture in shown])
    annotated = rng.permutation(len(ids))[: split.annotated]
    counts = spread(split.annotations, split.annotated, rng, at_least=1)
    owners = rng.permutation(np.repeat(annotated, counts))
    chances = np.array([float(_CHANCES[kind]) for kind in kinds])
    classes = rng.choice(len(kinds), split.annotations, p=chances / chances.sum()) + 1
    with (root / f"lvis_v1_{split.name}.json").open("wb") as file:
        info = {
            "description": "SYNTHETIC: LVIS v1's form and counts, invented content (roikit)",
            "url": _HOST,
            "version": "v1.0",
            "year": 2020,
        }
        file.write(b'{"info":' + msgspec.json.encode(info) + b',"annotations":[')
        write_list(file, _annotations(ids, sizes_wh, owners, classes, rng), tick)
        file.write(b',"images":[')
        write_list(file, _images(ids, folders, sizes_wh, len(kinds), rng), lambda _: None)
        file.write(b',"licenses":' + msgspec.json.encode([{"id": 1, "name": "CC0 1.0"}]))
        categories = _categories(kinds, owners, classes)
        file.write(b',"categories":' + msgspec.json.encode(categories) + b"}")


def _annotations(
    ids: Ints, sizes_wh: Ints, owners: Ints, classes: Ints, rng: np.random.Generator
) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(owners), _CHUNK):
        own = owners[start : start + _CHUNK]
        boxes_xywh = boxes(sizes_wh[own], start, rng)
        chunk = shapes(boxes_xywh, _POINTS, rng)
        images = ids[own].tolist()
        corners = boxes_xywh.tolist()
        numbers = classes[start : start + _CHUNK].tolist()
        for row, entry in enumerate(chunk):
            entry["bbox"] = corners[row]
            entry["image_id"] = images[row]
            entry["category_id"] = numbers[row]
            entry["id"] = start + row + 1
        yield chunk


def _images(
    ids: Ints, folders: Sequence[str], sizes_wh: Ints, num_classes: int, rng: np.random.Generator
) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(ids), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        absent = rng.integers(1, num_classes + 1, (len(ids[chunk]), 6)).tolist()
        yield [
            {
                "license": 1,
                "coco_url": f"{_HOST}/{folder}/{image_id:012d}.jpg",
                "height": height,
                "width": width,
                "date_captured": "2013-11-14 17:02:52",
                "flickr_url": f"{_HOST}/photograph/{image_id:012d}.jpg",
                "id": image_id,
                "neg_category_ids": classes[:4],
                "not_exhaustive_category_ids": classes[4:],
            }
            for image_id, folder, (width, height), classes in zip(
                ids[chunk].tolist(), folders[chunk], sizes_wh[chunk].tolist(), absent, strict=True
            )
        ]


def _categories(kinds: Sequence[str], owners: Ints, classes: Ints) -> list[dict[str, Any]]:
    instances = np.bincount(classes, minlength=len(kinds) + 1).tolist()
    # Each pair of class and image once, then how many pairs a class has.
    pairs = np.unique(classes * (int(owners.max()) + 1) + owners)
    images = np.bincount(pairs // (int(owners.max()) + 1), minlength=len(kinds) + 1).tolist()
    names = [f"{a}_{b}" for a, b in islice(product(ADJECTIVES, NOUNS), len(kinds))]
    return [
        {
            "id": number,
            "name": name,
            "synset": f"{name}.n.01",
            "synonyms": [name],
            "def": "invented",
            "frequency": kind,
            "image_count": images[number],
            "instance_count": instances[number],
        }
        for number, (name, kind) in enumerate(zip(names, kinds, strict=True), 1)
    ]
