"""Every conversion, resize, pad and turn of boxes.

Inside roikit a box is xyxy, absolute pixels of the stored (upright) picture, origin top-left,
0-based, right and bottom edge exclusive. Other formats exist only at the edges. Arrays are (N, 4),
N may be 0; functions return new float arrays and never change their input. Nothing here knows
images or torch.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from roikit.errors import ValidationError

Boxes = npt.NDArray[np.float64]


def as_boxes(boxes: npt.ArrayLike) -> Boxes:
    """Return `boxes` as a float64 (N, 4) array; an empty list gives (0, 4)."""
    array: Boxes = np.asarray(boxes, dtype=np.float64)
    return array.reshape(0, 4) if array.size == 0 else array.reshape(-1, 4)


def xywh_to_xyxy(boxes_xywh: npt.ArrayLike) -> Boxes:
    """Turn x, y, width, height into corners; units and origin stay as they are."""
    boxes = as_boxes(boxes_xywh)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def clip(boxes_xyxy: npt.ArrayLike, image_wh: tuple[int, int]) -> Boxes:
    """Clip to the picture; a box outside it comes back with no area."""
    boxes = as_boxes(boxes_xyxy)
    width, height = image_wh
    clipped: Boxes = np.clip(boxes, 0.0, np.array([width, height, width, height]))
    return clipped


def areas(boxes_xyxy: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(N,) areas in square pixels; 0 for a box turned inside out."""
    boxes = as_boxes(boxes_xyxy)
    product: npt.NDArray[np.float64] = np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None).prod(axis=1)
    return product


def check_area(boxes_xyxy: npt.ArrayLike, image_wh: tuple[int, int]) -> None:
    """Refuse boxes of which nothing lies in their picture.

    Args:
        boxes_xyxy: (N, 4) pixels; they may reach over the picture's edge.
        image_wh: the picture's.

    Raises:
        ValidationError: says which box.
    """
    boxes = as_boxes(boxes_xyxy)
    # a box that is not a number has no area either
    for i in np.flatnonzero(~(areas(clip(boxes, image_wh)) > 0)):
        shown = ", ".join(f"{value:g}" for value in boxes[i])
        raise ValidationError(
            f"box {i + 1} of {len(boxes)}: expected some area in the picture, which is "
            f"{image_wh[0]} x {image_wh[1]} pixels, got [{shown}]",
            hint="boxes are x0, y0, x1, y1 in pixels of the upright picture",
        )


def scale(boxes_xyxy: npt.ArrayLike, *, from_wh: tuple[int, int], to_wh: tuple[int, int]) -> Boxes:
    """Move boxes from a picture of one size to the same picture at another, axis by axis."""
    sx, sy = to_wh[0] / from_wh[0], to_wh[1] / from_wh[1]
    return as_boxes(boxes_xyxy) * np.array([sx, sy, sx, sy])


def normalise(boxes_xyxy: npt.ArrayLike, image_wh: tuple[int, int]) -> Boxes:
    """Divide by the picture's own width and height: 0 to 1 on both axes."""
    return scale(boxes_xyxy, from_wh=image_wh, to_wh=(1, 1))


def denormalise(boxes_xyxy_norm: npt.ArrayLike, image_wh: tuple[int, int]) -> Boxes:
    """Turn fractions of width and height into pixels."""
    return scale(boxes_xyxy_norm, from_wh=(1, 1), to_wh=image_wh)


def orient(boxes_xyxy: npt.ArrayLike, stored_wh: tuple[int, int], orientation: int) -> Boxes:
    """Move boxes from a file's pixels to the upright picture of its EXIF orientation (1 to 8).

    Args:
        boxes_xyxy: (N, 4) in pixels of the file as stored.
        stored_wh: width and height of the file as stored, before it is turned.
        orientation: EXIF tag 0x0112; 1 leaves the boxes as they are.
    """
    x0, y0, x1, y1 = as_boxes(boxes_xyxy).T
    width, height = stored_wh
    corners = {
        1: (x0, y0, x1, y1),
        2: (width - x1, y0, width - x0, y1),
        3: (width - x1, height - y1, width - x0, height - y0),
        4: (x0, height - y1, x1, height - y0),
        5: (y0, x0, y1, x1),
        6: (height - y1, x0, height - y0, x1),
        7: (height - y1, width - x1, height - y0, width - x0),
        8: (y0, width - x1, y1, width - x0),
    }
    return np.stack(corners[orientation], axis=1)


#: Side of the box around a point, as a share of the picture's longer side: a cell of a ViT with
#: patches of 14 pixels at 224, the coarsest there is. A smaller box would only repeat that cell, a
#: larger one would hold more than was pointed at; the cell itself knows its surroundings.
POINT_SHARE = 1 / 16


def around_point(
    point_xy: tuple[float, float], image_wh: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return the small box that stands for a point, clipped to the picture and never empty.

    Args:
        point_xy: pixels, inside the picture or on its edge.
        image_wh: the picture's.
    """
    half = max(2.0, POINT_SHARE * max(image_wh)) / 2  # in a corner a pixel of it is left
    x, y = point_xy
    (box,) = clip([[x - half, y - half, x + half, y + half]], image_wh).tolist()
    return box[0], box[1], box[2], box[3]


@dataclass(frozen=True, kw_only=True, slots=True)
class Resize:
    """How a picture was brought to a model's input, so that its boxes can follow."""

    scale_xy: tuple[float, float]  #: input pixels per picture pixel
    offset_xy: tuple[float, float]  #: input pixels left of and above the picture

    def apply(self, boxes_xyxy: npt.ArrayLike) -> Boxes:
        """Boxes in picture pixels to boxes in input pixels."""
        return as_boxes(boxes_xyxy) * np.tile(self.scale_xy, 2) + np.tile(self.offset_xy, 2)


def fit(
    image_wh: tuple[int, int], canvas_wh: tuple[int, int], *, mode: str
) -> tuple[Resize, tuple[int, int]]:
    """Lay a picture on a canvas as `letterbox` (mode `pad`) or `squash` does."""
    lay = squash if mode == "squash" else letterbox
    return lay(image_wh, canvas_wh)


def letterbox(
    image_wh: tuple[int, int], canvas_wh: tuple[int, int]
) -> tuple[Resize, tuple[int, int]]:
    """Fit a picture into a canvas, keeping its aspect ratio, centred.

    Returns:
        The resize, and the (width, height) of the picture inside the canvas, each at least 1.
    """
    width, height = image_wh
    factor = min(canvas_wh[0] / width, canvas_wh[1] / height)
    inner_wh = (max(1, round(width * factor)), max(1, round(height * factor)))
    offset = ((canvas_wh[0] - inner_wh[0]) // 2, (canvas_wh[1] - inner_wh[1]) // 2)
    scale_xy = (inner_wh[0] / width, inner_wh[1] / height)
    return Resize(scale_xy=scale_xy, offset_xy=(float(offset[0]), float(offset[1]))), inner_wh


def squash(image_wh: tuple[int, int], canvas_wh: tuple[int, int]) -> tuple[Resize, tuple[int, int]]:
    """Stretch a picture to a canvas, each axis by its own factor, as GPT4RoI does it."""
    scale_xy = (canvas_wh[0] / image_wh[0], canvas_wh[1] / image_wh[1])
    return Resize(scale_xy=scale_xy, offset_xy=(0.0, 0.0)), canvas_wh
