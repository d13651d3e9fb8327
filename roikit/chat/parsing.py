"""What people type, made exact: boxes become pixels, and words such as `region 1` become mentions.

Everything raised here is one line that says what was expected. Nothing here knows models or turns.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from roikit import boxes
from roikit.errors import UsageError
from roikit.mentions import join_mentions, split_mentions

BoxFormat = Literal["xyxy", "xywh"]
BOX_FORMATS: tuple[str, ...] = get_args(BoxFormat)

#: A box as a caller may give it: text, or four numbers (pixels, or fractions of the picture).
BoxLike = str | Sequence[float] | npt.NDArray[Any]
Box = tuple[float, float, float, float]
#: A point, likewise.
PointLike = str | Sequence[float] | npt.NDArray[Any]

_LETTERS = {"xyxy": "x0,y0,x1,y1", "xywh": "x,y,width,height"}
_SEPARATOR = re.compile(r"[\s,;]+")
_LIST_STEP = r"\s*(?:,\s*(?:and\s+)?|and\s+|or\s+|&\s*|\+\s*)"
_TYPED = re.compile(
    rf"<\s*region\s*([0-9]+)\s*>|\bregion\s*\#?([0-9]+)\b|"
    rf"\bregions\s*\#?([0-9]+(?:{_LIST_STEP}\#?[0-9]+)*)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[0-9]+")


def parse_box(box: BoxLike, image_wh: tuple[int, int], box_format: str = "xyxy") -> Box:
    """Turn what a person gives for a box into pixels, clipped to the picture.

    Four numbers that are all at most 1, at least one of them written with a dot, are fractions of
    width and height (`0.1,0.2,0.5,0.9`); anything else is pixels of the upright picture.

    Args:
        box: text, separated by commas or spaces, brackets allowed; or four numbers, where a float
            counts as written with a dot.
        image_wh: pixels.
        box_format: `xyxy` (right and bottom edge exclusive) or `xywh`.

    Raises:
        UsageError: not four finite numbers, turned inside out, or outside the picture.
    """
    if box_format not in BOX_FORMATS:
        raise UsageError(f"box format: expected `xyxy` or `xywh`, got `{box_format}`")
    shown, numbers, has_dot = _numbers(box, "box", _LETTERS[box_format])
    box_xyxy = boxes.as_boxes([numbers])
    if box_format == "xywh":
        if numbers[2] <= 0 or numbers[3] <= 0:
            raise UsageError(
                f"box `{shown}`: expected a width and height above 0, "
                f"got {numbers[2]:g} and {numbers[3]:g}"
            )
        box_xyxy = boxes.xywh_to_xyxy(box_xyxy)
    elif numbers[0] >= numbers[2] or numbers[1] >= numbers[3]:
        axis = 0 if numbers[0] >= numbers[2] else 1
        letter = "xy"[axis]
        raise UsageError(
            f"box `{shown}`: expected {letter}0 < {letter}1, "
            f"got {numbers[axis]:g} >= {numbers[axis + 2]:g}",
            hint="is it x,y,width,height? then use the box format `xywh`",
        )
    if has_dot and all(abs(number) <= 1 for number in numbers):
        box_xyxy = boxes.denormalise(box_xyxy, image_wh)
    clipped = boxes.clip(box_xyxy, image_wh)
    if boxes.areas(clipped)[0] <= 0:
        raise UsageError(
            f"box `{shown}`: lies outside the picture, which is "
            f"{image_wh[0]} x {image_wh[1]} pixels"
        )
    x0, y0, x1, y1 = (float(value) for value in clipped[0])
    return x0, y0, x1, y1


def parse_point(point: PointLike, image_wh: tuple[int, int]) -> tuple[float, float]:
    """Turn what a person gives for a point into pixels.

    Two numbers that are both at most 1, at least one of them written with a dot, are fractions of
    width and height; anything else is pixels of the upright picture.

    Args:
        point: text, separated by a comma or spaces, brackets allowed; or two numbers.
        image_wh: pixels.

    Raises:
        UsageError: not two finite numbers, or outside the picture.
    """
    shown, (x, y), has_dot = _numbers(point, "point", "x,y")
    if has_dot and abs(x) <= 1 and abs(y) <= 1:
        x, y = x * image_wh[0], y * image_wh[1]
    if not (0 <= x <= image_wh[0] and 0 <= y <= image_wh[1]):
        raise UsageError(
            f"point `{shown}`: lies outside the picture, which is "
            f"{image_wh[0]} x {image_wh[1]} pixels"
        )
    return x, y


def format_box(box_xyxy: Sequence[float]) -> str:
    """Return a box as it may be typed again: pixels, at most one decimal, no spaces."""
    return ",".join(f"{round(float(value), 1):g}" for value in box_xyxy)


def to_record_text(text: str, num_regions: int) -> str:
    """Turn a person's text into a turn's text: mentions of regions become `<regionN>`.

    `<region1>`, `region1`, `region 1`, `region #1` and lists such as `regions 1, 2 and 3` are
    mentions, in any case. Everything else is escaped, so that it can never refer to a region.

    Raises:
        UsageError: the text names a region that does not exist; lists those that do.
    """
    return join_mentions(_typed_parts(text, num_regions, is_strict=True))


def answer_to_record_text(text: str, num_regions: int) -> str:
    """Turn a model's plain answer into a turn's text; unknown regions stay plain words."""
    return join_mentions(_typed_parts(text, num_regions, is_strict=False))


def known_mentions(record_text: str, num_regions: int) -> str:
    """Return record text in which mentions of regions that do not exist are plain words."""
    return join_mentions(
        f"region{part}" if isinstance(part, int) and part > num_regions else part
        for part in split_mentions(record_text)
    )


def _numbers(given: BoxLike, what: str, letters: str) -> tuple[str, list[float], bool]:
    """Return a box or point as shown in messages, its numbers, and whether one has a dot.

    Args:
        given: what a person gave.
        what: `box` or `point`.
        letters: names of the numbers, separated by commas.
    """
    if isinstance(given, str):
        shown = given.strip()
        words = [word for word in _SEPARATOR.split(shown.strip("()[]{}<> \t")) if word]
        has_dot = "." in shown
    else:
        items = given.ravel().tolist() if isinstance(given, np.ndarray) else list(given)
        shown = ",".join(str(item) for item in items)
        words = [str(item) for item in items]
        has_dot = any(isinstance(item, float | np.floating) for item in items)
    count = letters.count(",") + 1
    expected = f"expected {'four' if count == 4 else 'two'} numbers `{letters}`"
    if len(words) != count:
        raise UsageError(f"{what} `{shown}`: {expected}, got {len(words)}")
    numbers = []
    for word in words:
        try:
            number = float(word)
        except ValueError:
            raise UsageError(f"{what} `{shown}`: {expected}, and `{word}` is none") from None
        if not math.isfinite(number):
            raise UsageError(f"{what} `{shown}`: expected finite numbers, got `{word}`")
        numbers.append(number)
    return shown, numbers, has_dot


def _typed_parts(text: str, num_regions: int, *, is_strict: bool) -> list[str | int]:
    parts: list[str | int] = []
    position = 0
    for match in _TYPED.finditer(text):
        if match[3] is None:
            spans = [(match.span(), int(match[1] or match[2]))]
        else:  # a list: the word `regions` goes, each number becomes a mention
            start = match.start(3)
            spans = [
                ((start + m.start(), start + m.end()), int(m[0]))
                for m in _NUMBER.finditer(match[3])
            ]
        missing = [number for _, number in spans if not 1 <= number <= num_regions]
        if missing and is_strict:
            raise UsageError(
                f"`region{missing[0]}` does not exist; {_existing(num_regions)}",
                hint=None if num_regions else "add one with a box first",
            )
        if missing:
            continue
        parts.append(text[position : match.start()])
        position = match.start() if match[3] is None else match.start(3)
        for (start, end), number in spans:
            parts.append(text[position:start].replace("#", ""))
            parts.append(number)
            position = end
    parts.append(text[position:])
    return [part for part in parts if part != ""]


def _existing(num_regions: int) -> str:
    if num_regions == 0:
        return "there are no regions yet"
    names = [f"region{number}" for number in range(1, num_regions + 1)]
    if len(names) == 1:
        return f"there is {names[0]}"
    if len(names) > 8:
        return f"there are {names[0]} to {names[-1]}"
    return f"there are {', '.join(names[:-1])} and {names[-1]}"
