"""Random changes to a picture and its boxes, the two always together.

In: an upright RGB picture as it was decoded, boxes in its pixels, and every text that is said of
it. Out: another picture and the boxes in its pixels, before the processor's transform. What would
make a text untrue is not done: nothing is mirrored where a text speaks of sides, and nothing is
cropped where one speaks of places in the picture.
"""

import math
import random
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from roikit import boxes as box_ops
from roikit.boxes import Boxes

#: A crop keeps at least this share of the picture's area.
MIN_AREA = 0.5
#: A crop's sides are to each other as the picture's, times or by at most this.
MAX_STRETCH = 4 / 3
#: At strength 1, brightness, contrast and saturation are each multiplied by 1 +- this.
COLOUR_RANGE = 0.5

#: Words, each with all its endings, that a mirrored picture would make untrue. `l` and `r` are what
#: RefCOCO's players wrote in haste. The last row is about writing, which mirrored nobody can read.
_SIDES = (
    "left", "lft", "right", "rt", "rgt", "l", "r", "lhs", "rhs",
    "west", "east", "northwest", "northeast", "southwest", "southeast",
    "clockwise", "anticlockwise", "counterclockwise", "counter-clockwise", "starboard",
    "letter", "written", "writing", "wrote", "read", "reads", "spell", "text", "digit", "initials",
)  # fmt: skip
#: Words that another frame around the same things would make untrue, beside those.
_PLACES = (
    "top", "bottom", "upper", "lower", "middle", "center", "centre", "central", "corner", "edge",
    "side", "border", "frame", "half", "quadrant", "background", "foreground", "closest", "nearest",
    "entire", "whole",
)  # fmt: skip
_ALONE = {"l", "r", "rt", "read"}  # their longer forms mean other things: `round`, `ready`


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    forms = (re.escape(word) + ("" if word in _ALONE else r"\w*") for word in words)
    return re.compile(rf"\b(?:{'|'.join(forms)})\b", re.IGNORECASE)


_SIDES_PATTERN = _pattern(_SIDES)
_PLACES_PATTERN = _pattern((*_SIDES, *_PLACES))


def speaks_of_sides(texts: Sequence[str]) -> bool:
    """Say whether a mirrored picture might make one of the texts untrue."""
    return any(_SIDES_PATTERN.search(text) for text in texts)


def speaks_of_places(texts: Sequence[str]) -> bool:
    """Say whether a picture cut smaller might make one of the texts untrue."""
    return any(_PLACES_PATTERN.search(text) for text in texts)


def augment(
    image: npt.NDArray[np.uint8],
    boxes_xyxy: npt.ArrayLike,
    generator: random.Random,
    *,
    texts: Sequence[str],
    masks_RMM: npt.NDArray[np.float32] | None = None,
    flip: float = 0.0,
    crop: float = 0.0,
    colour: float = 0.0,
) -> tuple[npt.NDArray[np.uint8], Boxes, npt.NDArray[np.float32] | None]:
    """Mirror, crop and recolour a picture at random; its boxes and their masks follow.

    Args:
        image: (H, W, 3) RGB; not changed.
        boxes_xyxy: (N, 4) pixels, inside the picture; N may be 0.
        generator: all draws come from it; it is used equally often whatever is done.
        texts: all that is said with the picture: turns, and names of the regions.
        masks_RMM: (N, M, M), each over its box; a crop leaves them as they are.
        flip: how likely it is mirrored, where no text speaks of sides.
        crop: how likely it is cropped, where no text speaks of places.
        colour: strength of changes of brightness, contrast and saturation, 0 to 1.

    Returns:
        (H', W', 3), (N, 4) and the masks: where nothing was drawn, the picture itself.
    """
    boxes = box_ops.as_boxes(boxes_xyxy)
    flip_drawn, crop_drawn = generator.random(), generator.random()
    window_drawn = [generator.random() for _ in range(4)]
    colour_drawn = [generator.random() for _ in range(3)]
    if crop_drawn < crop and not speaks_of_places(texts):
        window = _window((image.shape[1], image.shape[0]), boxes, window_drawn)
        image, boxes = cropped(image, boxes, window)
    if flip_drawn < flip and not speaks_of_sides(texts):
        image, boxes = mirrored(image, boxes)
        masks_RMM = None if masks_RMM is None else masks_RMM[:, :, ::-1]
    if colour:
        spread = COLOUR_RANGE * colour
        factors = [1 + spread * (2 * drawn - 1) for drawn in colour_drawn]
        image = recoloured(image, brightness=factors[0], contrast=factors[1], saturation=factors[2])
    return image, boxes, masks_RMM


def mirrored(
    image: npt.NDArray[np.uint8], boxes_xyxy: npt.ArrayLike
) -> tuple[npt.NDArray[np.uint8], Boxes]:
    """Swap left and right."""
    height, width = image.shape[:2]
    return image[:, ::-1], box_ops.orient(boxes_xyxy, (width, height), 2)


def cropped(
    image: npt.NDArray[np.uint8], boxes_xyxy: npt.ArrayLike, window: tuple[int, int, int, int]
) -> tuple[npt.NDArray[np.uint8], Boxes]:
    """Cut out a window that all boxes lie in.

    Args:
        image: (H, W, 3).
        boxes_xyxy: (N, 4) pixels.
        window: left, top, right and bottom in whole pixels, the last two exclusive.
    """
    x0, y0, x1, y1 = window
    return image[y0:y1, x0:x1], box_ops.as_boxes(boxes_xyxy) - np.array([x0, y0, x0, y0])


def _window(
    image_wh: tuple[int, int], boxes: Boxes, drawn: Sequence[float]
) -> tuple[int, int, int, int]:
    """Return a window of at least `MIN_AREA` of the picture that cuts through no box.

    Args:
        image_wh: the picture's.
        boxes: (N, 4) pixels, inside the picture.
        drawn: four numbers from 0 to 1: area, ratio of the sides, place across, place down.
    """
    share = 1 - drawn[0] * (1 - MIN_AREA)
    stretch = MAX_STRETCH ** (2 * drawn[1] - 1)
    across, down = math.sqrt(share * stretch), math.sqrt(share / stretch)
    # Where one side would be longer than the picture's, the other one makes up for it.
    across, down = max(across, share / min(1.0, down)), max(down, share / min(1.0, across))
    starts, ends = [0, 0], [0, 0]
    for axis, part in enumerate((across, down)):
        side = image_wh[axis]
        first = math.floor(boxes[:, axis].min()) if len(boxes) else side
        last = math.ceil(boxes[:, axis + 2].max()) if len(boxes) else 0
        length = min(side, max(math.ceil(side * part), last - first))
        least, most = max(0, last - length), min(first, side - length)
        starts[axis] = least + round(drawn[2 + axis] * (most - least))
        ends[axis] = starts[axis] + length
    return starts[0], starts[1], ends[0], ends[1]


_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # weights of ITU-R BT.601, as PIL's


def recoloured(
    image: npt.NDArray[np.uint8], *, brightness: float, contrast: float, saturation: float
) -> npt.NDArray[np.uint8]:
    """Multiply brightness, contrast (about the mean grey) and saturation, in this order.

    All three are affine in a pixel's colour, so they are done as one, and values beyond 0 to 255
    are cut off at the end, not after each.

    Args:
        image: (H, W, 3).
        brightness: 1 leaves it as it is; so the others.
        contrast: 0 would be a grey picture.
        saturation: 0 would be a picture in greys.
    """
    # every fourth pixel of every fourth row: the mean of a photograph to a grey level or so
    mean_grey = float(image[::4, ::4].reshape(-1, 3).mean(axis=0) @ _GREY)
    mixed = saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * _GREY[:, None]
    colours = image.reshape(-1, 3).astype(np.float32) @ (brightness * contrast * mixed)
    colours += (1 - contrast) * brightness * mean_grey + 0.5
    np.clip(colours, 0, 255, out=colours)
    return colours.astype(np.uint8).reshape(image.shape)
