"""A picture and its boxes, brought together to the input square and to the tiles of a canvas.

In: an upright RGB picture and boxes in its pixels. Out: pixels of the input's size, and boxes as
fractions of it. Knows no tokens and no colours but the one that fills what a picture leaves free.

Shape suffixes: H/W rows/columns of the picture, R regions, S input side, T tiles.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from roikit import boxes as box_ops
from roikit.tiles import TileRule, plan_tiles
from roikit.views import Tiles


def lay(
    picture_3HW: Tensor,
    boxes: box_ops.Boxes,
    canvas_wh: tuple[int, int],
    *,
    mode: str,
    fill: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Bring a picture to a canvas, and its boxes to fractions of it.

    Args:
        picture_3HW: uint8.
        boxes: (R, 4) pixels of the picture; what lies outside of it is cut off.
        canvas_wh: pixels.
        mode: `pad` keeps the picture's shape, `squash` stretches it.
        fill: colour around a picture that keeps its shape, 0 to 255 a channel.

    Returns:
        (3, height, width) uint8 of the canvas, and (R, 4) float32.
    """
    height, width = picture_3HW.shape[1:]
    resize, (inner_width, inner_height) = box_ops.fit((width, height), canvas_wh, mode=mode)
    pixels = picture_3HW
    if (inner_height, inner_width) != (height, width):
        pixels = F.interpolate(
            pixels[None], (inner_height, inner_width), mode="bicubic", antialias=True
        )[0]
    if (inner_width, inner_height) != canvas_wh:
        left, top = (int(offset) for offset in resize.offset_xy)
        canvas = torch.empty((3, canvas_wh[1], canvas_wh[0]), dtype=torch.uint8)
        canvas[:] = torch.tensor(fill)[:, None, None]
        canvas[:, top : top + inner_height, left : left + inner_width] = pixels
        pixels = canvas
    on_canvas = np.clip(resize.apply(boxes) / np.tile(canvas_wh, 2), 0.0, 1.0)
    return pixels, torch.from_numpy(on_canvas.astype(np.float32))


def cut_tiles(
    picture_3HW: Tensor, boxes: box_ops.Boxes, rule: TileRule, *, fill: Sequence[int]
) -> Tiles | None:
    """Cut out the tiles that the regions are read from; None where the whole picture serves.

    Args:
        picture_3HW: uint8.
        boxes: (R, 4) pixels of the picture.
        rule: how pictures are cut.
        fill: as in `lay`.
    """
    height, width = picture_3HW.shape[1:]
    plan = plan_tiles((width, height), boxes, rule)
    if plan is None:
        return None
    side = rule.side
    canvas, boxes_R4 = lay(picture_3HW, boxes, rule.canvas_wh(plan.grid), mode=rule.mode, fill=fill)
    tiles = [
        canvas[:, row * side : (row + 1) * side, column * side : (column + 1) * side]
        for row, column in plan.places_T2.tolist()
    ]
    return Tiles(
        grid=plan.grid,
        pixels_T3SS=torch.stack(tiles),
        places_T2=torch.from_numpy(plan.places_T2),
        boxes_R4=boxes_R4,
    )
