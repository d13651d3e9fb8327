"""Masks as annotation files write them, brought onto the upright picture as COCO's compressed RLE.

In: the JSON of one `segmentation`: polygons, or runs (counts as a list, or COCO's compressed text).
Out: one `Rle` of the picture's size, or why there is none. Polygons are moved with the boxes (other
sizes, EXIF) before they are drawn. Runs are pixels already and cannot follow: those of another size
than the upright picture are left out.

`pycocotools` draws and packs. Its C code trusts what it is given, so everything is checked before;
a compressed text is unpacked by `roikit.masks`, for the same reason.

Source: cocodataset.org "Data format".
"""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from pycocotools import mask as coco_mask

from pipelines.draft import Built
from pipelines.images import Frame
from pipelines.rejections import reject
from roikit.errors import ValidationError
from roikit.masks import unpack_counts
from roikit.sample import Region, Rle

_Length = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]

#: Three corners of two numbers.
_MIN_VALUES = 6
#: How far out of the picture a corner may lie, in pictures. COCO's overshoot by a pixel or two.
_MAX_OUTSIDE = 1.0
#: How long an outline may be, in widths and heights of the picture: the C code takes memory by it.
_MAX_OUTLINE = 100


class _Runs(msgspec.Struct):
    size: tuple[_Length, _Length]  #: height, width
    counts: list[_Length] | str


class MaskFault(NamedTuple):
    """Why a mask cannot be used."""

    code: str
    message: str


_segmentations: "msgspec.json.Decoder[list[list[float]] | _Runs | None]" = msgspec.json.Decoder(
    list[list[float]] | _Runs | None
)


def with_mask(
    region: Region,
    segmentation: bytes | None,
    frame: Frame,
    built: Built,
    *,
    file: str,
    record: str,
    native_id: str,
) -> Region:
    """Return the region with its mask; a bad mask costs itself only.

    Args:
        region: with its box.
        segmentation: the mask's JSON, `null` where the record has none; None where masks are not
            asked for.
        frame: how annotations come to lie on the picture.
        built: takes the rejection of a bad mask.
        file: the annotation file.
        record: the region's place in it.
        native_id: the image's.
    """
    if segmentation is None:
        return region
    mask = read_mask(segmentation, frame)
    if isinstance(mask, Rle):
        return msgspec.structs.replace(region, mask_rle=mask)
    message = f"segmentation: {mask.message}; the box stays"
    built.rejections.append(
        reject(mask.code, message, file=file, record=record, native_id=native_id)
    )
    return region


def read_mask(segmentation: bytes, frame: Frame) -> Rle | MaskFault:
    """Bring one mask onto the picture.

    Args:
        segmentation: its JSON.
        frame: how annotations come to lie on the picture.
    """
    try:
        found = _segmentations.decode(segmentation)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        said = str(error).replace(" - at `$", " at `segmentation")
        return _invalid(f"expected polygons, or runs with size and counts: {said}")
    if not found:
        return _invalid("expected polygons or runs, found none")
    width, height = frame.header.width, frame.header.height
    if isinstance(found, _Runs):
        if frame.is_turned or found.size != (height, width):
            turned = ", before EXIF turns it" * frame.is_turned
            message = (
                f"expected runs of the picture's size, {width} x {height}, "
                f"got {found.size[1]} x {found.size[0]}{turned}"
            )
            return MaskFault("E_MASK_SIZE", message)
        return _from_runs(found)
    return _from_polygons(found, frame)


def _from_polygons(polygons: Sequence[Sequence[float]], frame: Frame) -> Rle | MaskFault:
    width, height = frame.header.width, frame.header.height
    moved = []
    for i, polygon in enumerate(polygons):
        if len(polygon) % 2:
            return _invalid(f"polygon {i}: expected x, y pairs, got {len(polygon)} numbers")
        corners_xy = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        if not np.isfinite(corners_xy).all():
            return _invalid(f"polygon {i}: expected finite numbers")
        if len(polygon) < _MIN_VALUES:
            continue  # a point or a line covers nothing; the others are the mask
        # A corner is a box without an extent: it goes where the boxes go.
        corners_xy = frame.move(np.hstack([corners_xy, corners_xy]))[:, :2]
        shares = corners_xy / (width, height)
        if shares.min() < -_MAX_OUTSIDE or shares.max() > 1 + _MAX_OUTSIDE:
            return _invalid(f"polygon {i}: lies far outside the picture, {width} x {height}")
        edges = np.abs(corners_xy - np.roll(corners_xy, 1, axis=0)).max(axis=1)
        if edges.sum() > _MAX_OUTLINE * (width + height):
            return _invalid(f"polygon {i}: an outline of {edges.sum():,.0f} pixels is none")
        moved.append(corners_xy.ravel().tolist())
    if not moved:
        corners = _MIN_VALUES // 2
        return _invalid(f"expected a polygon of {corners} corners or more, found none")
    merged = coco_mask.merge(coco_mask.frPyObjects(moved, height, width))
    if not coco_mask.area(merged):
        return _invalid("the polygons hold no pixel of the picture")
    return _packed(merged)


def _from_runs(runs: _Runs) -> Rle | MaskFault:
    if isinstance(runs.counts, str):
        try:
            counts = unpack_counts(runs.counts).tolist()
        except ValidationError as error:
            return _invalid(str(error))
    else:
        counts = runs.counts
    height, width = runs.size
    if min(counts, default=0) < 0:
        return _invalid("counts: expected none below 0")
    if sum(counts) != height * width:
        return _invalid(f"counts: expected {height * width:,} pixels together, got {sum(counts):,}")
    if not sum(counts[1::2]):
        return _invalid("the runs hold no pixel")
    table = {"size": [height, width], "counts": counts}
    return _packed(coco_mask.frPyObjects(table, height, width))


def _packed(rle: dict[str, Any]) -> Rle:
    height, width = rle["size"]
    return Rle(size=(int(height), int(width)), counts=rle["counts"].decode("ascii"))


def _invalid(message: str) -> MaskFault:
    return MaskFault("E_MASK_INVALID", message)
