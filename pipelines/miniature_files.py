"""What the miniature world's source trees share: pictures, JSON, pickles, places, whole boxes.

Every picture is stored once, in the tree it was drawn for; further trees hold links to it. Nothing
here knows a dataset's layout.
"""

import io
import math
import pickle
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pipelines.miniature_scene import Place, Scene, Statement, Thing, union_box

#: Trees that scenes are drawn for, and where their pictures lie.
PICTURE_FOLDERS = {"coco": "coco", "vg": "vg", "vcr": "vcr/vcr1images"}
#: Addresses in the files: nothing can be fetched from there.
HOST = "http://miniature.invalid"
DATE = "2017-01-01 00:00:00"
LICENCES = [{"id": 1, "name": "CC0 1.0", "url": f"{HOST}/licence"}]


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """Where a scene stands in a further tree, and what is said of it there."""

    place: Place
    statements: tuple[Statement, ...] = ()


def description(year: int) -> dict[str, Any]:
    """Return a COCO-like file's `info`."""
    return {"description": "roikit miniature world", "version": "1.0", "year": year}


def scenes_of(scenes: Sequence[Scene], dataset: str, split: str | None = None) -> list[Scene]:
    """Return the scenes that stand in a dataset's tree, or in one split of it."""
    return [
        scene
        for scene in scenes
        if dataset in scene.places and split in (None, scene.places[dataset].split)
    ]


def image_id(scene: Scene, dataset: str) -> int:
    """Return the number that a dataset's annotations name the picture by."""
    return int(scene.places[dataset].image_id)


def generator(seed: int, dataset: str, scene: Scene | None = None) -> random.Random:
    """Return the generator of a scene's texts in one dataset, or of the dataset as a whole."""
    key = "tree" if scene is None else str(scene.index)
    return random.Random(f"miniature/{seed}/{dataset}/{key}")


def link_picture(world: Path, scene: Scene, target: Path) -> None:
    """Let a scene's picture stand in another tree of `world`, too."""
    dataset = next(name for name in PICTURE_FOLDERS if name in scene.places)
    source = world / PICTURE_FOLDERS[dataset] / scene.places[dataset].file
    target.parent.mkdir(parents=True, exist_ok=True)
    link(source, target)


def show_cocos_pictures(
    world: Path, root: Path, splits: Sequence[tuple[Scene, str]]
) -> dict[int, Placed]:
    """Let COCO's pictures stand in a tree under the same names and ids, in splits of its own."""
    placed = {}
    for scene, split in splits:
        place = msgspec.structs.replace(scene.places["coco"], split=split)
        link_picture(world, scene, root / place.file)
        placed[scene.index] = Placed(place=place)
    return placed


def link(source: Path, target: Path) -> None:
    """Let one file stand in two places without storing it twice, where the file system can.

    A link that is there already is left.
    """
    try:
        target.hardlink_to(source)
    except FileExistsError:
        return
    except OSError:
        target.write_bytes(source.read_bytes())


def whole_xywh(things: Sequence[Thing]) -> tuple[int, int, int, int]:
    """Box around `things` in whole pixels, widened where it must be."""
    x0, y0, x1, y1 = union_box(things)
    x, y = math.floor(x0), math.floor(y0)
    return x, y, math.ceil(x1) - x, math.ceil(y1) - y


def write_json(path: Path, value: object) -> None:
    """Write one JSON document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(value))


def write_lines(path: Path, values: Sequence[object]) -> None:
    """Write JSON documents, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(msgspec.json.encode(value) + b"\n" for value in values))


def write_old_pickle(path: Path, value: object) -> None:
    """Write plain data as Python 2 pickled it with protocol 2: texts are byte strings.

    Nothing is written as a reference to an earlier object: which texts are one object depends on
    how many processes drew the world.
    """
    buffer = io.BytesIO()
    pickler = _Python2Pickler(buffer, protocol=2)
    pickler.fast = True
    pickler.dump(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


def _save_text(pickler: Any, text: str) -> None:
    data = text.encode("latin1")
    if len(data) < 256:
        pickler.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
    else:
        pickler.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)


class _Python2Pickler(pickle._Pickler):  # type: ignore[misc,name-defined,unused-ignore]
    # the pure Python one, for it asks this table how a type is written
    dispatch = {**pickle._Pickler.dispatch, str: _save_text}  # type: ignore[attr-defined,unused-ignore] # noqa: RUF012
