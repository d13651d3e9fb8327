"""COCO 2017 at its official size: invented boxes with outlines, and captions.

Writes `annotations/{instances,captions}_{train,val}2017.json` and the names of all pictures. As in
the real files, annotations of one image do not stand together, ids have gaps, some images have no
annotation, a few boxes are too thin or overshoot their picture. Written piece by piece: memory
holds a few numbers an annotation, never a file.

Source: counts and fields of cocodataset.org's files (docs/datasets.md); the real
`instances_train2017.json` takes 448 MB.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from pipelines.coco_names import CATEGORIES
from pipelines.full_scale_draws import (
    Ints,
    Picture,
    boxes,
    captions,
    link,
    shapes,
    spread,
    write_list,
)

#: (width, height): the commonest of COCO's.
SIZES_WH = ((640, 480), (480, 640), (640, 427), (427, 640), (500, 375))
_LAST_ID = 581_929
_CHUNK = 4096
#: Of an outline.
_POINTS = (8, 16, 24, 32, 46)
_HOST = "http://full-scale.invalid"


@dataclass(frozen=True, kw_only=True, slots=True)
class CocoSplit:
    """What one split holds."""

    name: str
    images: int
    annotated: int  #: images with an annotation
    annotations: int
    crowds: int  #: of the annotations
    captions: int


TRAIN = CocoSplit(
    name="train", images=118_287, annotated=117_266, annotations=860_001, crowds=10_052,
    captions=591_753,
)  # fmt: skip
VAL = CocoSplit(
    name="val", images=5_000, annotated=4_952, annotations=36_781, crowds=446, captions=25_014
)


def photograph_ids(seed: int) -> dict[str, Ints]:
    """Return the ids of each split's photographs, ascending; Visual Genome names some of them."""
    rng = np.random.default_rng([seed, 1])
    drawn = 1 + rng.choice(_LAST_ID, TRAIN.images + VAL.images, replace=False).astype(np.int64)
    return {"train": np.sort(drawn[: TRAIN.images]), "val": np.sort(drawn[TRAIN.images :])}


def write_coco(
    root: Path,
    pictures: Sequence[Picture],
    seed: int,
    tick: Callable[[int], None],
    splits: Sequence[CocoSplit] = (TRAIN, VAL),
) -> None:
    """Write the tree below `root`.

    Args:
        root: an empty folder.
        pictures: to link; those of `SIZES_WH`.
        seed: the same gives the same bytes.
        tick: told of annotations and captions written since the last call.
        splits: what to write; others than the official ones are for tests.
    """
    ids = photograph_ids(seed)
    (root / "annotations").mkdir()
    for number, split in enumerate(splits):
        rng = np.random.default_rng([seed, 2, number])
        _write_split(root, split, ids[split.name][: split.images], pictures, rng, tick)


def _write_split(
    root: Path,
    split: CocoSplit,
    ids: Ints,
    pictures: Sequence[Picture],
    rng: np.random.Generator,
    tick: Callable[[int], None],
) -> None:
    shown = rng.integers(len(pictures), size=len(ids))
    folder = root / f"{split.name}2017"
    folder.mkdir()
    for image_id, picture in zip(ids.tolist(), shown.tolist(), strict=True):
        link(pictures[picture], folder / f"{image_id:012d}.jpg")
    sizes_wh = np.array([(p.width, p.height) for p in pictures])[shown]
    annotations = root / "annotations"
    with (annotations / f"instances_{split.name}2017.json").open("wb") as file:
        _write_head(file, split.name, ids, sizes_wh)
        annotated = rng.permutation(len(ids))[: split.annotated]
        counts = spread(split.annotations, split.annotated, rng, at_least=1)
        owners = rng.permutation(np.repeat(annotated, counts))
        crowds = np.zeros(split.annotations, bool)
        crowds[rng.choice(split.annotations, split.crowds, replace=False)] = True
        write_list(file, _instances(ids, sizes_wh, owners, crowds, rng), tick)
        categories = [
            {"supercategory": above, "id": number, "name": name}
            for above, group in CATEGORIES
            for number, name in group.items()
        ]
        file.write(b',"categories":' + msgspec.json.encode(categories) + b"}")
    with (annotations / f"captions_{split.name}2017.json").open("wb") as file:
        _write_head(file, split.name, ids, sizes_wh)
        each, further = divmod(split.captions, len(ids))
        more = rng.choice(len(ids), further, replace=False)
        owners = rng.permutation(np.concatenate((np.repeat(np.arange(len(ids)), each), more)))
        write_list(file, _captions(ids, owners, rng), tick)
        file.write(b"}")


def _write_head(file: BinaryIO, split: str, ids: Ints, sizes_wh: Ints) -> None:
    info = {
        "description": "SYNTHETIC: COCO 2017's form and counts, invented content (roikit)",
        "url": _HOST,
        "version": "1.0",
        "year": 2017,
    }
    licenses = [{"url": f"{_HOST}/licence", "id": 1, "name": "CC0 1.0"}]
    file.write(b'{"info":' + msgspec.json.encode(info))
    file.write(b',"licenses":' + msgspec.json.encode(licenses))
    file.write(b',"images":[')
    for i, (image_id, (width, height)) in enumerate(
        zip(ids.tolist(), sizes_wh.tolist(), strict=True)
    ):
        name = f"{image_id:012d}.jpg"
        image = {
            "license": 1,
            "file_name": name,
            "coco_url": f"{_HOST}/{split}2017/{name}",
            "height": height,
            "width": width,
            "date_captured": "2013-11-14 17:02:52",
            "flickr_url": f"{_HOST}/photograph/{image_id * 7919 % 10**10:010d}_{image_id:012d}.jpg",
            "id": image_id,
        }
        file.write((b"," if i else b"") + msgspec.json.encode(image))
    file.write(b'],"annotations":[')


def _instances(
    ids: Ints,
    sizes_wh: Ints,
    owners: Ints,
    crowds: "np.ndarray[Any, np.dtype[np.bool_]]",
    rng: np.random.Generator,
) -> Iterator[list[dict[str, Any]]]:
    numbers = np.array([number for _, group in CATEGORIES for number in group])
    # As in COCO, a few classes are most of what there is.
    chances = 1.0 / np.arange(1, len(numbers) + 1)
    order = rng.permutation(len(owners)) * 3 + 1000
    for start in range(0, len(owners), _CHUNK):
        own = owners[start : start + _CHUNK]
        boxes_xywh = boxes(sizes_wh[own], start, rng)
        categories = rng.choice(numbers, len(own), p=chances / chances.sum()).tolist()
        chunk = shapes(boxes_xywh, _POINTS, rng)
        images = ids[own].tolist()
        corners = boxes_xywh.tolist()
        for row, entry in enumerate(chunk):
            if crowds[start + row]:
                width, height = sizes_wh[own[row]].tolist()
                entry["segmentation"] = _runs(width, height, rng)
            entry["iscrowd"] = int(crowds[start + row])
            entry["image_id"] = images[row]
            entry["bbox"] = corners[row]
            entry["category_id"] = categories[row]
            entry["id"] = int(order[start + row])
        yield chunk


def _runs(width: int, height: int, rng: np.random.Generator) -> dict[str, Any]:
    """An uncompressed run-length mask, as crowds have."""
    cuts = np.sort(rng.choice(width * height - 1, 160, replace=False)) + 1
    counts = np.diff(cuts, prepend=0, append=width * height)
    return {"counts": counts.tolist(), "size": [height, width]}


def _captions(ids: Ints, owners: Ints, rng: np.random.Generator) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(owners), _CHUNK):
        images = ids[owners[start : start + _CHUNK]].tolist()
        said = captions(len(images), rng)
        yield [
            {"image_id": image_id, "id": start + row + 1, "caption": text}
            for row, (image_id, text) in enumerate(zip(images, said, strict=True))
        ]
