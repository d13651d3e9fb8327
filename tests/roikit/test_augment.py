"""Changed pictures: the boxes stay on what they stood on, and no text becomes untrue."""

import random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roikit.augment import (
    MAX_STRETCH,
    MIN_AREA,
    augment,
    mirrored,
    recoloured,
    speaks_of_places,
    speaks_of_sides,
)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """A picture whose pixels say where they stand, and boxes of whole pixels inside it."""
    width, height = draw(st.integers(4, 90)), draw(st.integers(4, 90))
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    image = np.stack([across, down, 0 * across], axis=2).astype(np.uint8)
    boxes = []
    for _ in range(draw(st.integers(0, 4))):
        x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
        boxes.append([x0, y0, x1, y1])
    return image, np.array(boxes, dtype=np.float64).reshape(-1, 4)


def cut(image: npt.NDArray[np.uint8], box: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    x0, y0, x1, y1 = box.astype(int)
    return image[y0:y1, x0:x1]


@given(scene=scenes(), seed=st.integers(0, 2**32), flip=st.booleans())
def test_every_box_keeps_the_pixels_it_stood_on(scene: Any, seed: int, flip: bool) -> None:
    image, boxes = scene
    changed, moved, _ = augment(
        image, boxes, random.Random(seed), texts=["a cat"], crop=1.0, flip=float(flip)
    )
    assert moved.shape == boxes.shape
    for before, after in zip(boxes, moved, strict=True):
        pixels = cut(image, before)
        assert np.array_equal(cut(changed, after), pixels[:, ::-1] if flip else pixels)


@given(scene=scenes(), seed=st.integers(0, 2**32))
def test_a_crop_keeps_its_share_of_the_picture(scene: Any, seed: int) -> None:
    image, boxes = scene
    changed, _, _ = augment(image, boxes, random.Random(seed), texts=[], crop=1.0)
    height, width = changed.shape[:2]
    assert width * height >= MIN_AREA * image.shape[0] * image.shape[1]
    if not len(boxes):
        stretch = (width / image.shape[1]) / (height / image.shape[0])
        slack = (1 + 1 / width) * (1 + 1 / height)  # sides are whole pixels
        assert 1 / (MAX_STRETCH * slack) <= stretch <= MAX_STRETCH * slack


def test_crops_differ_in_size_and_place() -> None:
    image = np.zeros((90, 120, 3), dtype=np.uint8)
    image[..., 0] = np.arange(120)
    image[..., 1] = np.arange(90)[:, None]
    boxes = [[50.0, 40.0, 60.0, 50.0]]
    crops = [augment(image, boxes, random.Random(i), texts=[], crop=1.0)[0] for i in range(300)]
    shares = [crop.shape[0] * crop.shape[1] / (90 * 120) for crop in crops]
    assert min(shares) < MIN_AREA + 0.05
    assert max(shares) > 0.95
    assert len({tuple(crop[0, 0]) for crop in crops}) > 100
    assert any(crop[0, 0, 0] == 0 for crop in crops)
    assert any(crop[-1, -1, 0] == 119 for crop in crops)


@given(scene=scenes())
def test_mirroring_twice_gives_everything_back(scene: Any) -> None:
    image, boxes = scene
    again, back = mirrored(*mirrored(image, boxes))
    assert np.array_equal(again, image)
    assert np.allclose(back, boxes)


def test_shares_are_kept() -> None:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    image[:, 0] = 255
    changed = [augment(image, [], random.Random(i), texts=[], flip=0.3)[0] for i in range(1000)]
    assert 240 < sum(one[0, -1, 0] == 255 for one in changed) < 360
    same = [augment(image, [], random.Random(i), texts=[])[0] for i in range(20)]
    assert all(one is image for one in same)


@pytest.mark.parametrize(
    "text",
    ["the LEFT man", "leftmost cup", "on its right-hand side", "guy r", "facing west",
     "a road to the northeast", "turning counter-clockwise", "the sign reads stop"],
)  # fmt: skip
def test_nothing_is_mirrored_where_a_text_speaks_of_sides(text: str) -> None:
    assert speaks_of_sides(["a cat", text])
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    changed, _, _ = augment(image, [], random.Random(0), texts=["a cat", text], flip=1.0)
    assert np.array_equal(changed, image)


@pytest.mark.parametrize(
    "text",
    ["a bright light", "at least two birds", "an upright piano", "ready to eat", "a round rug"],
)
def test_words_that_only_hold_such_a_word_are_no_reason(text: str) -> None:
    assert not speaks_of_sides([text])


@pytest.mark.parametrize("text", ["cup in the middle", "top left", "the man in the background"])
def test_nothing_is_cropped_where_a_text_speaks_of_places(text: str) -> None:
    assert speaks_of_places([text])
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    changed, _, _ = augment(image, [], random.Random(0), texts=[text], crop=1.0)
    assert changed.shape == image.shape
    assert augment(image, [], random.Random(0), texts=["a cup"], crop=1.0)[0].shape != image.shape


def test_colours_change_as_they_are_told() -> None:
    generator = np.random.default_rng(0)
    image = generator.integers(60, 180, (32, 32, 3), dtype=np.uint8)
    grey = recoloured(image, brightness=1, contrast=1, saturation=0)
    assert np.ptp(grey.astype(int), axis=2).max() <= 1
    assert np.array_equal(recoloured(image, brightness=1, contrast=1, saturation=1), image)
    darker = recoloured(image, brightness=0.5, contrast=1, saturation=1)
    assert np.abs(darker.astype(float) - image * 0.5).max() <= 1
    flat = recoloured(image, brightness=1, contrast=0, saturation=1)
    assert np.ptp(flat) <= 1
    assert abs(float(flat.mean()) - float(image.mean())) < 8
    loud = recoloured(image, brightness=3, contrast=2, saturation=2)
    assert loud.max() == 255  # cut off, not wrapped round


def test_the_draws_of_one_change_do_not_hang_on_another() -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    both = augment(image, [], random.Random(3), texts=[], crop=1.0, flip=1.0)[0]
    crop = augment(image, [], random.Random(3), texts=[], crop=1.0)[0]
    assert np.array_equal(both, crop[:, ::-1])
