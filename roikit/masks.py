"""Masks of regions: read from run lengths, made from pixels, and cut to their boxes.

In: a record's `Rle`, of the size of the upright picture; or a mask as a person has it. Out: pixels,
or the share of each cell of a region's box that lies in the mask, as region encoders weigh by it.
Runs are read here and not by `pycocotools`, whose C code trusts what it is given: records come from
strangers.

Shape suffixes: M cells along the side of a box, R regions.

Source: pycocotools `maskApi.c`, `rleFrString`, for the packed text.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from roikit.errors import UsageError, ValidationError
from roikit.sample import Region, Rle

#: Cells along the side of a region's mask, which lies over its box.
MASK_SIZE = 28
#: A mask as a caller may give it: (H, W) of booleans or zeros and ones, or runs in COCO's form.
MaskLike = npt.NDArray[Any] | Rle | Mapping[str, Any]

#: A packed number takes so many characters at most: seven of five bits hold any count.
_MAX_CHARACTERS = 7


def box_masks(
    regions: Sequence[Region], image_wh: tuple[int, int]
) -> npt.NDArray[np.float32] | None:
    """Cut each region's mask to its box.

    Args:
        regions: with boxes that have an area. One without a mask, or whose mask has no pixel in its
            box, is its whole box.
        image_wh: the upright picture's, which is the masks' too.

    Returns:
        (R, 28, 28), 0 to 1: the exact share of each cell that lies in the mask; None where no
        region has one.

    Raises:
        ValidationError: a mask of another size, or runs that are none; names the region.
    """
    if all(region.mask_rle is None for region in regions):
        return None
    masks_RMM = np.ones((len(regions), MASK_SIZE, MASK_SIZE), dtype=np.float32)
    for i, region in enumerate(regions):
        if region.mask_rle is None:
            continue
        try:
            cells = _box_cells(region.mask_rle, region.box_xyxy, image_wh)
        except ValidationError as error:
            raise ValidationError(f"regions[{i}].mask_rle: {error}") from error
        if cells.any():
            masks_RMM[i] = cells
    return masks_RMM


def decode_mask(rle: Rle) -> npt.NDArray[np.bool_]:
    """Return the pixels (H, W) of a mask.

    Raises:
        ValidationError: its runs are none, or do not fill its size.
    """
    return _columns(rle, 0, rle.size[1]).T.astype(np.bool_)


def unpack_counts(text: str) -> npt.NDArray[np.int64]:
    """Read COCO's packed counts: five bits a character, differences to the count two before.

    Raises:
        ValidationError: another text, or one that ends in the middle of a number.
    """
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    codes = characters.astype(np.int64) - 48
    if not len(codes):
        return codes
    ends = np.flatnonzero(codes & 0x20 == 0)
    lengths = np.diff(ends, prepend=-1)
    if codes.min() < 0 or codes.max() >= 64 or lengths.max(initial=0) > _MAX_CHARACTERS:
        raise ValidationError("counts: expected COCO's packed counts, got another text")
    if not len(ends) or ends[-1] != len(codes) - 1:
        raise ValidationError("counts: ends in the middle of a number")
    starts = ends - lengths + 1
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & 0x1F) << (5 * places), starts)
    values -= np.where(codes[ends] & 0x10, 1 << (5 * lengths), 0)  # negative
    counts = values.copy()
    counts[1::2] = np.cumsum(values[1::2])
    counts[2::2] = np.cumsum(values[2::2])  # the first count stands alone
    return counts


def encode_mask(mask: MaskLike, image_wh: tuple[int, int]) -> Rle:
    """Turn a mask as a caller has it into a record's.

    Args:
        mask: of the upright picture's size; runs may be COCO's table with `size` and packed
            `counts`.
        image_wh: the picture's.

    Raises:
        UsageError: neither, of another size, or without a pixel.
    """
    rle = _rle(mask)
    try:
        is_empty = not _sized(rle, image_wh).any()
    except ValidationError as error:
        raise UsageError(f"mask: {error}") from error
    if is_empty:
        raise UsageError("mask: expected pixels in it, found none")
    return rle


def mask_box(rle: Rle) -> tuple[float, float, float, float]:
    """Return the smallest box around a mask's pixels, xyxy.

    Args:
        rle: with at least one pixel.
    """
    rows, columns = np.nonzero(decode_mask(rle))
    return (
        float(columns.min()),
        float(rows.min()),
        float(columns.max() + 1),
        float(rows.max() + 1),
    )


def _rle(mask: MaskLike) -> Rle:
    if isinstance(mask, Rle):
        return mask
    if isinstance(mask, Mapping):
        size, counts = np.asarray(mask.get("size")), mask.get("counts")
        if isinstance(counts, bytes):  # as `pycocotools` gives it
            counts = counts.decode("latin-1")
        if not isinstance(counts, str) or size.shape != (2,) or size.dtype.kind not in "ui":
            raise UsageError(
                "mask: expected runs with `size` and packed `counts`, as `pycocotools` gives them"
            )
        height, width = size.tolist()
        return Rle(size=(height, width), counts=counts)
    pixels = np.asarray(mask)
    if pixels.ndim != 2 or pixels.dtype.kind not in "bui" or pixels.max(initial=0) > 1:
        raise UsageError(
            "mask: expected an (H, W) array of booleans, or of zeros and ones, "
            f"got {pixels.dtype} of shape {pixels.shape}"
        )
    from pycocotools import mask as coco_mask

    coded = coco_mask.encode(np.asfortranarray(pixels, dtype=np.uint8))
    height, width = pixels.shape
    return Rle(size=(height, width), counts=coded["counts"].decode("ascii"))


def _sized(rle: Rle, image_wh: tuple[int, int]) -> npt.NDArray[np.bool_]:
    _check_size(rle, image_wh)
    return decode_mask(rle)


def _check_size(rle: Rle, image_wh: tuple[int, int]) -> None:
    # before anything is unpacked: a size takes memory
    if rle.size != (image_wh[1], image_wh[0]):
        raise ValidationError(
            f"expected a mask of the picture's size, {image_wh[0]} x {image_wh[1]}, "
            f"got {rle.size[1]} x {rle.size[0]}"
        )


def _columns(rle: Rle, first: int, last: int) -> npt.NDArray[np.uint8]:
    """Return the columns `first` to `last` - 1 of a mask, (columns, H): runs go down columns."""
    height, width = rle.size
    if min(height, width) < 0:
        raise ValidationError(f"size: expected 0 or more, got {height} x {width}")
    counts = unpack_counts(rle.counts)
    if counts.min(initial=0) < 0:
        raise ValidationError("counts: expected none below 0")
    if counts.sum() != height * width:
        raise ValidationError(
            f"counts: expected {height * width:,} pixels together, got {counts.sum():,}"
        )
    ends = np.clip(np.cumsum(counts), first * height, last * height)
    runs = np.diff(ends, prepend=first * height)
    values = (np.arange(len(runs)) % 2).astype(np.uint8)
    return np.repeat(values, runs).reshape(last - first, height)


def _box_cells(
    rle: Rle, box_xyxy: tuple[float, float, float, float], image_wh: tuple[int, int]
) -> npt.NDArray[np.float32]:
    _check_size(rle, image_wh)
    x0, y0, x1, y1 = box_xyxy
    left, right = _pixels_of(x0, x1, image_wh[0])
    top, bottom = _pixels_of(y0, y1, image_wh[1])
    inside = _columns(rle, left, right)[:, top:bottom].astype(np.float32)
    down = _shares(y0, y1, top, bottom)
    across = _shares(x0, x1, left, right)
    cells: npt.NDArray[np.float32] = np.clip((across @ inside @ down.T).T, 0.0, 1.0)
    return cells


def _pixels_of(start: float, end: float, side: int) -> tuple[int, int]:
    """First and last (exclusive) pixel that a box touches along an axis."""
    first = min(max(int(np.floor(start)), 0), side - 1)
    return first, min(max(int(np.ceil(end)), first + 1), side)


def _shares(start: float, end: float, first: int, last: int) -> npt.NDArray[np.float32]:
    """(M, last - first): which share of each cell from `start` to `end` each pixel makes up."""
    edges = np.linspace(start, end, MASK_SIZE + 1)
    pixels = np.arange(first, last)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    shares: npt.NDArray[np.float32] = np.clip(overlap * (MASK_SIZE / (end - start)), 0.0, None)
    return shares.astype(np.float32)
