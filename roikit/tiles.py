"""Which tiles a large picture is cut into for its regions, and which of them are needed.

A picture that is larger than a model's input square is laid on a canvas of rows x columns such
squares, the tiles. A region is read from the tiles that it falls in; the others are never computed.
In: sizes and boxes. Out: numbers. Nothing here knows pixels or torch.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from roikit import boxes as box_ops


@dataclass(frozen=True, kw_only=True, slots=True)
class TileRule:
    """How a model's pictures are cut."""

    side: int  #: of the input square and of a tile, pixels
    most: int = 1  #: tiles that a canvas may have; 1: none is made
    mode: Literal["pad", "squash"] = "pad"  #: how a picture is laid on its canvas
    margin_px: int = 32  #: canvas pixels around a region that are read with it
    #: how far beyond its box a region is read, in sides of the box
    reach: float = 0.0

    def canvas_wh(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the canvas of a grid, pixels."""
        rows, columns = grid
        return columns * self.side, rows * self.side


@dataclass(frozen=True, kw_only=True, slots=True)
class TilePlan:
    """How one picture is cut."""

    grid: tuple[int, int]  #: rows and columns of its canvas, more than one tile in all
    places_T2: npt.NDArray[np.int64]  #: row and column of each tile that a region needs, row by row


def plan_tiles(
    image_wh: tuple[int, int], boxes_xyxy: npt.ArrayLike, rule: TileRule
) -> TilePlan | None:
    """Choose a picture's grid, and the tiles that its regions need.

    Args:
        image_wh: of the picture, pixels.
        boxes_xyxy: (R, 4) pixels of the picture.
        rule: the model's.

    Returns:
        None where the whole picture at the input size serves as well: it fits the square, or has no
        region.
    """
    boxes = box_ops.as_boxes(boxes_xyxy)
    if rule.most == 1 or not len(boxes):
        return None
    grid = choose_grid(image_wh, rule)
    if grid == (1, 1):
        return None
    canvas_wh = rule.canvas_wh(grid)
    resize, _ = box_ops.fit(image_wh, canvas_wh, mode=rule.mode)
    on_canvas = box_ops.clip(resize.apply(boxes), canvas_wh)
    return TilePlan(grid=grid, places_T2=touched_tiles(on_canvas, grid, rule))


def choose_grid(image_wh: tuple[int, int], rule: TileRule) -> tuple[int, int]:
    """Return the rows and columns on which most of a picture's own pixels are left.

    Of those that keep as many, the one with the smallest canvas, so that a picture that fits the
    square has one tile; then the one that shrinks both sides most alike. Pixels that enlarging adds
    do not count.
    Source: `select_best_resolution` of LLaVA-NeXT, over all grids instead of a list.
    """
    grids = [
        (rows, columns)
        for rows in range(1, rule.most + 1)
        for columns in range(1, rule.most // rows + 1)
    ]

    def worth(grid: tuple[int, int]) -> tuple[Fraction, int, Fraction]:
        across, down = _shrinking(image_wh, rule.canvas_wh(grid), rule.mode)
        return across * down, -grid[0] * grid[1], min(across, down)

    return max(grids, key=worth)


def _shrinking(
    image_wh: tuple[int, int], canvas_wh: tuple[int, int], mode: str
) -> tuple[Fraction, Fraction]:
    """Return the share of a picture's columns and of its rows that a canvas keeps."""
    # exact, since grids that keep everything must tie
    across, down = (
        min(Fraction(1), Fraction(c, w)) for c, w in zip(canvas_wh, image_wh, strict=True)
    )
    return (across, down) if mode == "squash" else (min(across, down),) * 2


def touched_tiles(
    boxes_xyxy: npt.ArrayLike, grid: tuple[int, int], rule: TileRule
) -> npt.NDArray[np.int64]:
    """Return (T, 2) row and column of the tiles that boxes are read from, row by row.

    Args:
        boxes_xyxy: (R, 4) pixels of the canvas.
        grid: rows and columns.
        rule: how far around a box is read.
    """
    boxes = box_ops.as_boxes(boxes_xyxy)
    around = rule.margin_px + rule.reach * (boxes[:, 2:] - boxes[:, :2])
    last = np.array([grid[1], grid[0]]) - 1
    first = np.clip(np.floor((boxes[:, :2] - around) / rule.side), 0, last).astype(int)
    end = np.clip(np.ceil((boxes[:, 2:] + around) / rule.side), 1, last + 1).astype(int)
    is_touched = np.zeros(grid, dtype=bool)
    for (left, top), (right, bottom) in zip(first, end, strict=True):
        is_touched[top:bottom, left:right] = True
    places: npt.NDArray[np.int64] = np.argwhere(is_touched)
    return places
