"""Boxes and points as a user writes them in `jsonl`: corners or sizes, pixels or fractions."""

from typing import Literal

from pipelines.jsonl_text import Problem
from roikit.images import ImageHeader

BoxFormat = Literal["xyxy", "xywh", "xyxy_norm", "xywh_norm"]

#: How far fractions may overshoot the picture: they were rounded once.
_SLACK = 0.01


def corners_in_pixels(
    box: tuple[float, float, float, float], box_format: BoxFormat, header: ImageHeader
) -> tuple[float, float, float, float] | Problem:
    """Return a box's corners in pixels of the upright picture, or why they are of another unit."""
    x0, y0, x1, y1 = box
    if box_format.startswith("xywh"):
        x1, y1 = x0 + x1, y0 + y1
    if not box_format.endswith("_norm"):
        if max(box) <= 1:
            return Problem(
                "E_VALUE_RANGE",
                f"box {list(box)}: expected pixels; for fractions of the picture say"
                f' "box_format": "{box_format}_norm"',
            )
        return x0, y0, x1, y1
    if min(x0, y0, x1, y1) < -_SLACK or max(x0, y0, x1, y1) > 1 + _SLACK:
        return Problem(
            "E_VALUE_RANGE",
            f"box {list(box)}: expected fractions of the picture, 0 to 1, as {box_format} are;"
            f' for pixels say "box_format": "{box_format.removesuffix("_norm")}"',
        )
    return x0 * header.width, y0 * header.height, x1 * header.width, y1 * header.height


def point_in_pixels(
    point: tuple[float, float], box_format: BoxFormat, header: ImageHeader
) -> tuple[float, float] | Problem:
    """Return a point in pixels of the upright picture, or why it is none; units are the boxes'."""
    x, y = point
    if box_format.endswith("_norm"):
        x, y = x * header.width, y * header.height
    if not (0 <= x <= header.width and 0 <= y <= header.height):
        return Problem(
            "E_VALUE_RANGE",
            f"point {list(point)} ({box_format}): lies outside the picture,"
            f" {header.width} x {header.height}",
        )
    return x, y
