"""What both forms of Flickr30k Entities are read into: one image's captions, phrases and boxes.

Either form speaks of boxes through something that may stand for several of them (a coreference
chain), and a phrase may mean several such things; `Referent` is what a phrase means and what
becomes a region. Nothing here knows XML or JSON.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import msgspec

from pipelines.annotations import read_lines
from pipelines.draft import Draft
from pipelines.images import Box as Xyxy
from pipelines.images import ImageRoots, safe_name
from pipelines.rejections import reject
from roikit.sample import Rejection

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
UNRELATED_NAME = "UNRELATED_CAPTIONS"

_NUM_CAPTIONS = 5  #: of each picture

_LENGTH_PX = re.compile(r"[0-9]{1,6}")
_UNRELATED_LINE = re.compile(r"([0-9]{1,18})\s+([0-9]{1,3})")


class Box(msgspec.Struct, array_like=True, gc=False):
    """One box as the files have it, half-open and counted from 0 already."""

    record: str  #: its place in the file of boxes
    box_xyxy: Xyxy


class Referent(msgspec.Struct, array_like=True, gc=False):
    """What a phrase means: it becomes a region that encloses its boxes."""

    native_id: str
    boxes: list[int]  #: indices into the payload's boxes


class Phrase(msgspec.Struct, array_like=True, gc=False):
    """Words of a caption that mean something with a box."""

    start: int  #: first character in the caption
    end: int  #: after the last one
    referents: list[int]  #: indices into the payload's referents


class Caption(msgspec.Struct, array_like=True, gc=False):
    """One caption, its words set apart by single blanks, as the dataset has it."""

    record: str  #: its place in the file of captions
    number: int  #: from 1
    text: str
    phrases: list[Phrase]


class Payload(msgspec.Struct, array_like=True):
    """What the files say about one image."""

    captions_file: str
    boxes_file: str
    boxes: list[Box] = []
    referents: list[Referent] = []
    captions: list[Caption] = []
    num_unrelated: int = 0


def native_id(image_id: str) -> str:
    """Name the photograph, the same in both forms."""
    return f"flickr30k:{image_id}"


def half_open(xmin: float, ymin: float, xmax: float, ymax: float) -> Xyxy:
    """Turn 1-based corners that include their last pixel into 0-based half-open ones.

    Source: formats of PASCAL VOC. The official helper takes 1 from all four corners instead, which
    makes every box a pixel too small; MDETR's files keep the 1-based corners.
    """
    return xmin - 1, ymin - 1, xmax, ymax


def image_wh_of(width: object, height: object) -> tuple[int, int] | None:
    """Return a size that may be written as text; None where it is not named (or named as 0).

    Raises:
        ValueError: it is there and is no size; the message says so.
    """
    if width is None and height is None:
        return None
    if not all(_LENGTH_PX.fullmatch(str(length).strip()) for length in (width, height)):
        raise ValueError(
            f"size: expected width and height in pixels, got {str(width)[:20]!r} and"
            f" {str(height)[:20]!r}; the picture's own size is taken"
        )
    image_wh = (int(str(width)), int(str(height)))
    return image_wh if min(image_wh) > 0 else None


def unrelated_caption(image_id: str, number: int, *, file: str, record: str) -> Rejection:
    """Make the rejection of a caption that the list names."""
    message = f"caption {number} of image {image_id} is listed in {UNRELATED_NAME}"
    return reject(
        "E_CAPTION_UNRELATED", message, file=file, record=record, native_id=native_id(image_id)
    )


def tell_of_missing_captions(file: str, numbers: Mapping[str, int]) -> None:
    """Warn, once, of pictures that have not five captions: a file may have been cut off.

    Args:
        file: that lists the pictures.
        numbers: of captions, by image id.
    """
    odd = [image_id for image_id, number in numbers.items() if number != _NUM_CAPTIONS]
    if odd:
        log.warning(
            "%s: %d of %d pictures have another number of captions than five, the first is %s"
            " with %d", file, len(odd), len(numbers), odd[0], numbers[odd[0]],
        )  # fmt: skip


def unrelated_file(source: Path) -> tuple[Path, ...]:
    """Return the list of captions that are not about their picture; nothing where it is not."""
    path = source / UNRELATED_NAME
    return (path,) if path.is_file() else ()


def read_unrelated(source: Path) -> tuple[set[tuple[str, int]], list[Rejection]]:
    """Read the list of captions that are not about their picture, where there is one.

    Its sentence numbers run from 1 to 5.

    Returns:
        (image id, caption number from 1) of each, and the lines that say something else.
    """
    listed: set[tuple[str, int]] = set()
    strays: list[Rejection] = []
    for path in unrelated_file(source):
        for number, raw in read_lines(path):
            line = bytes(raw).decode("utf-8", "replace").strip()
            match = _UNRELATED_LINE.fullmatch(line)
            if match is not None:
                listed.add((match[1], int(match[2])))
            elif not line.startswith("#"):
                message = f"expected an image id and a caption's number, got `{line[:60]}`"
                where = {"file": path.name, "record": f"line {number}"}
                strays.append(reject("E_FIELD_TYPE", message, **where))
    return listed, strays


def locate(draft: Draft, split: str, roots: ImageRoots) -> Draft:
    """Look for the picture: flat, or in a folder of its split."""
    if not safe_name(draft.file):
        return draft
    name = PurePosixPath(draft.file).name
    folders = dict.fromkeys((split, *SPLITS))
    names = (draft.file, name, *(f"{folder}/{name}" for folder in folders))
    found = roots.find(tuple(dict.fromkeys(names)))
    if found is None:
        return draft
    root, file, num_bytes = found
    return msgspec.structs.replace(draft, root=root, file=file, num_bytes=num_bytes)
