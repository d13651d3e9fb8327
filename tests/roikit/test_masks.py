"""Masks: read from runs that nobody vouches for, and cut to boxes exactly."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from roikit.errors import UsageError, ValidationError
from roikit.masks import MASK_SIZE, box_masks, decode_mask, encode_mask, mask_box, unpack_counts
from roikit.sample import Region, Rle

BOX = (0.0, 0.0, 60.0, 40.0)


def coded(pixels: Any) -> Rle:
    return encode_mask(np.asarray(pixels, dtype=bool), (pixels.shape[1], pixels.shape[0]))


@st.composite
def pixel_masks(draw: st.DrawFn) -> Any:
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    return generator.random((height, width)) < draw(st.sampled_from([0.02, 0.5, 1.0]))


@given(pixels=pixel_masks())
def test_runs_are_read_as_pycocotools_wrote_them(pixels: Any) -> None:
    table = coco_mask.encode(np.asfortranarray(pixels, dtype=np.uint8))
    rle = Rle(size=pixels.shape, counts=table["counts"].decode())
    assert np.array_equal(decode_mask(rle), pixels)


@given(text=st.text(max_size=30))
def test_no_text_reads_more_than_it_holds(text: str) -> None:
    try:
        counts = unpack_counts(text)
    except ValidationError:
        return
    assert len(counts) <= len(text)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        (Rle(size=(40, 60), counts="é"), "COCO's packed counts"),
        (Rle(size=(40, 60), counts="\ud800"), "COCO's packed counts"),
        (Rle(size=(40, 60), counts="o" * 9 + "1"), "COCO's packed counts"),
        (Rle(size=(40, 60), counts="PP"), "in the middle of a number"),
        (Rle(size=(40, 60), counts="11"), "expected 2,400 pixels together, got 2"),
        (Rle(size=(40, 60), counts=""), "expected 2,400 pixels together, got 0"),
        (Rle(size=(40, 60), counts="O11"), "none below 0"),
        (Rle(size=(10**9, 10**9), counts="11"), "the picture's size, 60 x 40, got 1000000000"),
    ],
)
def test_runs_that_are_none_are_named_with_their_region(rle: Rle, message: str) -> None:
    regions = [Region(box_xyxy=BOX), Region(box_xyxy=BOX, mask_rle=rle)]
    with pytest.raises(ValidationError, match=r"^regions\[1\]\.mask_rle: ") as caught:
        box_masks(regions, (60, 40))
    assert message in str(caught.value)


def test_without_any_mask_there_are_none() -> None:
    assert box_masks([Region(box_xyxy=BOX)], (60, 40)) is None
    assert box_masks([], (60, 40)) is None


def test_regions_beside_a_masked_one_are_their_whole_boxes() -> None:
    pixels = np.zeros((40, 60), dtype=bool)
    pixels[:, 30:] = True
    away = Region(box_xyxy=(0, 0, 20, 40), mask_rle=coded(pixels))  # no pixel of it in the box
    masks = box_masks(
        [Region(box_xyxy=BOX), Region(box_xyxy=BOX, mask_rle=coded(pixels)), away], (60, 40)
    )
    assert masks is not None
    assert masks.shape == (3, MASK_SIZE, MASK_SIZE)
    assert masks.dtype == np.float32
    assert (masks[0] == 1).all()
    assert (masks[1, :, : MASK_SIZE // 2] == 0).all()
    assert masks[1, :, MASK_SIZE // 2 :] == pytest.approx(1, abs=1e-6)
    assert (masks[2] == 1).all()


@given(pixels=pixel_masks(), data=st.data())
def test_cells_hold_the_exact_share_of_the_mask(pixels: Any, data: Any) -> None:
    height, width = pixels.shape
    if not pixels.any():
        return
    x0, x1 = sorted(data.draw(st.floats(0, width)) for _ in range(2))
    y0, y1 = sorted(data.draw(st.floats(0, height)) for _ in range(2))
    if x1 - x0 < 0.5 or y1 - y0 < 0.5:
        return
    masks = box_masks([Region(box_xyxy=(x0, y0, x1, y1), mask_rle=coded(pixels))], (width, height))
    assert masks is not None
    # the integral of the mask up to any point, by its definition, pixel by pixel
    xs, ys = np.linspace(x0, x1, MASK_SIZE + 1), np.linspace(y0, y1, MASK_SIZE + 1)
    left = np.clip(xs[:, None] - np.arange(width), 0, 1)
    above = np.clip(ys[:, None] - np.arange(height), 0, 1)
    integral = np.einsum("yr,rc,xc->yx", above, pixels.astype(float), left)
    held = np.diff(np.diff(integral, axis=0), axis=1)
    expected = held / ((x1 - x0) * (y1 - y0) / MASK_SIZE**2)
    if expected.max() > 1e-3:  # else the mask is as good as outside: the region is its box
        assert masks[0] == pytest.approx(expected, abs=1e-4)


def test_a_mask_comes_as_pixels_runs_or_cocos_table() -> None:
    pixels = np.zeros((40, 60), dtype=np.uint8)
    pixels[5:10, 20:50] = 1
    table = coco_mask.encode(np.asfortranarray(pixels))
    rle = encode_mask(pixels, (60, 40))
    assert rle == encode_mask(pixels.astype(bool), (60, 40)) == encode_mask(table, (60, 40))
    assert encode_mask(rle, (60, 40)) == rle
    assert mask_box(rle) == (20, 5, 50, 10)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((40, 60), dtype=bool), "expected pixels in it, found none"),
        (np.ones((60, 40), dtype=bool), "the picture's size, 60 x 40, got 40 x 60"),
        (np.full((40, 60), 255, dtype=np.uint8), "zeros and ones, got uint8"),
        (np.ones((40, 60, 1), dtype=bool), "of shape"),
        (np.full((40, 60), 0.5), "got float64"),
        ({"size": [40, 60], "counts": [2400]}, "`size` and packed `counts`"),
        ({"counts": "11"}, "`size` and packed `counts`"),
        ({"size": [40, 60], "counts": b"11"}, "expected 2,400 pixels together"),
    ],
)
def test_a_callers_wrong_mask_is_refused(mask: Any, message: str) -> None:
    with pytest.raises(UsageError, match=r"^mask: ") as caught:
        encode_mask(mask, (60, 40))
    assert message in str(caught.value)
