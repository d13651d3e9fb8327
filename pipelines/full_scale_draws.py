"""What the full-scale trees are made of: exact counts, pictures under many names, plain sentences.

Nothing here knows a dataset. Everything is drawn from a generator that the caller seeds.
"""

import errno
import io
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from pipelines.miniature_draw import draw
from pipelines.miniature_scene import build_scene
from roikit.errors import RoikitError

#: Ordinary, so that a drawn picture of 640 x 480 takes about 20 kB.
_JPEG_QUALITY = 75
#: Grain is most of a drawn picture's bytes, and nobody looks at these.
_LEFT_OUT = "grainy"

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ADJECTIVES = (
    "red", "blue", "green", "white", "black", "brown", "yellow", "grey", "orange", "pink", "dark",
    "bright", "small", "large", "tall", "short", "long", "round", "square", "wooden", "metal",
    "plastic", "old", "new", "shiny", "wet", "dirty", "clean", "striped", "dotted", "open",
    "closed", "broken", "empty", "full", "narrow", "wide", "thin", "thick", "leafy",
)  # fmt: skip
NOUNS = (
    "man", "woman", "boy", "girl", "dog", "cat", "horse", "bird", "car", "bus", "truck", "train",
    "bicycle", "boat", "tree", "bush", "flower", "grass", "road", "sidewalk", "wall", "window",
    "door", "roof", "fence", "sign", "pole", "lamp", "bench", "chair", "table", "couch", "bed",
    "shelf", "book", "cup", "plate", "bowl", "bottle", "knife", "fork", "pizza", "cake", "apple",
    "banana", "hat", "shirt", "jacket", "shoe", "bag", "umbrella", "phone", "screen", "keyboard",
    "clock", "mirror", "cloud", "hill", "river", "beach", "rock", "bridge", "tower", "building",
    "wheel", "tail", "ear", "hand", "leg", "head", "kite", "ball", "racket", "skateboard",
)  # fmt: skip
RELATIONS = (
    "on", "under", "behind", "in front of", "next to", "near", "above", "below", "against",
    "left of", "right of", "beside", "leaning on", "covering", "facing", "close to",
)  # fmt: skip
ENDINGS = (
    "in the sun", "on a cloudy day", "at night", "in a quiet street", "beside the water",
    "in a small room", "on the grass", "by the window", "with nobody around", "in the city",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawn picture, waiting to be linked."""

    path: Path
    width: int  #: pixels
    height: int  #: pixels


def spread(total: int, places: int, rng: np.random.Generator, *, at_least: int = 0) -> Ints:
    """Deal `total` things to `places`: (places,) whole numbers that add up to exactly `total`.

    Most places get few and some get many, as annotators leave it. `at_least` times `places` may
    not exceed `total`.
    """
    extra = total - at_least * places
    assert places > 0 and extra >= 0
    shares = np.cumsum(rng.gamma(1.3, size=places))
    ends = np.rint(shares / shares[-1] * extra).astype(np.int64)
    counts: Ints = at_least + np.diff(ends, prepend=0)
    return counts


def draw_pictures(
    folder: Path, sizes_wh: Sequence[tuple[int, int]], each: int, seed: int
) -> list[Picture]:
    """Draw `each` different scenes of every size into `folder`, which must exist."""
    pictures: list[Picture] = []
    numbers = itertools.count()
    for width, height in sizes_wh:
        scenes = (
            build_scene(
                seed, index, is_evaluation=False, is_close_up=False, image_wh=(width, height)
            )
            for index in numbers
        )
        smooth = (scene for scene in scenes if scene.background != _LEFT_OUT)
        for scene in itertools.islice(smooth, each):
            data = io.BytesIO()
            Image.fromarray(draw(scene, seed)).save(data, "JPEG", quality=_JPEG_QUALITY)
            path = folder / f"{width}x{height}-{scene.index:05d}.jpg"
            path.write_bytes(data.getvalue())
            pictures.append(Picture(path, width, height))
    return pictures


def link(picture: Picture, name: Path) -> None:
    """Let a picture stand under one more name.

    Raises:
        RoikitError: the file system has no hard links, or no more for this file.
    """
    try:
        os.link(picture.path, name)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise RoikitError(
            f"`{name}`: expected to make a hard link, got: {error.strerror}",
            hint="choose a folder on a file system with hard links, such as ext4, xfs or APFS",
        ) from error


def ring(boxes_xywh: Floats, num_points: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw a bumpy outline into each box.

    Args:
        boxes_xywh: (N, 4).
        num_points: of every outline.
        rng: the generator.

    Returns:
        (N, num_points, 2) float64, x and y, rounded to hundredths, inside the boxes.
    """
    angles = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    radii = rng.uniform(0.7, 1.0, (len(boxes_xywh), num_points))
    x = boxes_xywh[:, 0:1] + boxes_xywh[:, 2:3] * (0.5 + 0.5 * radii * np.cos(angles))
    y = boxes_xywh[:, 1:2] + boxes_xywh[:, 3:4] * (0.5 + 0.5 * radii * np.sin(angles))
    return np.stack((x, y), axis=-1).round(2)


def boxes(sizes_wh: Ints, start: int, rng: np.random.Generator) -> Floats:
    """Draw a box inside each picture; here and there one that is too thin, or sticks out.

    Args:
        sizes_wh: (N, 2), of each box's picture.
        start: the first box's place among all of its file.
        rng: the generator.

    Returns:
        (N, 4) float64, xywh, rounded to hundredths.
    """
    shares = np.exp(rng.uniform(np.log(0.02), np.log(0.9), (len(sizes_wh), 2)))
    lengths = sizes_wh * shares
    corners = rng.random((len(sizes_wh), 2)) * (sizes_wh - lengths)
    boxes_xywh = np.concatenate((corners, lengths), axis=1)
    places = np.arange(start, start + len(sizes_wh))
    boxes_xywh[places % 50_000 == 17, 2] = 0.43
    beyond = places % 20_000 == 3
    boxes_xywh[beyond, 0] = sizes_wh[beyond, 0] - boxes_xywh[beyond, 2] + 0.3
    rounded: Floats = boxes_xywh.round(2)
    return rounded


def shapes(
    boxes_xywh: Floats, point_counts: Sequence[int], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Draw each box's outline in COCO's form: `segmentation` (one flat polygon) and `area`.

    Args:
        boxes_xywh: (N, 4).
        point_counts: how many points an outline may have. Few values, so that the outlines of each
            are a few array operations.
        rng: the generator.
    """
    lengths = rng.integers(len(point_counts), size=len(boxes_xywh))
    made: list[dict[str, Any]] = [{}] * len(boxes_xywh)
    for which, num_points in enumerate(point_counts):
        rows = np.flatnonzero(lengths == which)
        outlines = ring(boxes_xywh[rows], num_points, rng)
        x, y = outlines[..., 0], outlines[..., 1]
        areas = np.abs((x * np.roll(y, 1, 1) - y * np.roll(x, 1, 1)).sum(1) / 2).round(4)
        flat = outlines.reshape(len(rows), -1).tolist()
        for row, polygon, area in zip(rows.tolist(), flat, areas.tolist(), strict=True):
            made[row] = {"segmentation": [polygon], "area": area}
    return made


def write_list(
    file: BinaryIO, chunks: Iterable[Sequence[Mapping[str, Any]]], tick: Callable[[int], None]
) -> None:
    """Write the records of a JSON list and its end; the caller has written its beginning."""
    is_first = True
    for chunk in chunks:
        file.write((b"" if is_first else b",") + msgspec.json.encode(chunk)[1:-1])
        is_first = False
        tick(len(chunk))
    file.write(b"]")


def phrases(count: int, rng: np.random.Generator) -> list[str]:
    """Draw short descriptions: letters and blanks only, so that they need no escapes in JSON."""
    adjectives = rng.integers(len(ADJECTIVES), size=count).tolist()
    nouns = rng.integers(len(NOUNS), size=(count, 2)).tolist()
    relations = rng.integers(len(RELATIONS), size=count).tolist()
    forms = rng.integers(4, size=count).tolist()
    said = []
    for adjective, (noun, other), relation, form in zip(
        adjectives, nouns, relations, forms, strict=True
    ):
        if form == 0:
            said.append(f"the {NOUNS[noun]} is {ADJECTIVES[adjective]}")
        elif form == 1:
            said.append(f"{ADJECTIVES[adjective]} {NOUNS[noun]}")
        elif form == 2:
            said.append(f"a {NOUNS[noun]} {RELATIONS[relation]} a {NOUNS[other]}")
        else:
            said.append(
                f"{ADJECTIVES[adjective]} {NOUNS[noun]} {RELATIONS[relation]} the {NOUNS[other]}"
            )
    return said


def captions(count: int, rng: np.random.Generator) -> list[str]:
    """Draw sentences about whole pictures, about as long as COCO's."""
    firsts = phrases(count, rng)
    endings = rng.integers(len(ENDINGS), size=count).tolist()
    return [
        f"There is {first} {ENDINGS[ending]}."
        if not first.startswith("the ")
        else f"In this picture {first} {ENDINGS[ending]}."
        for first, ending in zip(firsts, endings, strict=True)
    ]
