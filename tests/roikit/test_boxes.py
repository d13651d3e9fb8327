import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from roikit import boxes

SIZES = st.tuples(st.integers(1, 2000), st.integers(1, 2000))


def test_xywh_becomes_corners() -> None:
    xywh = [[10.5, 20.0, 30.25, 40.0], [0, 0, 1, 1]]
    xyxy = boxes.xywh_to_xyxy(xywh)
    assert xyxy.tolist() == [[10.5, 20.0, 40.75, 60.0], [0, 0, 1, 1]]


def test_no_boxes_stay_no_boxes() -> None:
    for function in (boxes.xywh_to_xyxy, boxes.areas):
        assert len(function([])) == 0
    assert boxes.clip([], (5, 5)).shape == (0, 4)


def test_a_box_outside_is_clipped_to_nothing() -> None:
    clipped = boxes.clip([[-20, -20, -10, -10], [90, 90, 200, 200]], (100, 100))
    assert boxes.areas(clipped).tolist() == [0, 100]


@given(SIZES, st.integers(16, 1024), st.booleans())
def test_resizing_keeps_the_whole_picture_inside(
    image_wh: tuple[int, int], side: int, pad: bool
) -> None:
    canvas_wh = (side, 2 * side)
    resize, inner_wh = boxes.fit(image_wh, canvas_wh, mode="pad" if pad else "squash")
    whole = [[0, 0, *image_wh]]
    placed = resize.apply(whole)
    assert placed.min() >= 0
    assert (placed.max(axis=0)[2:] <= np.array(canvas_wh) + 1e-9).all()
    assert placed[0, 2:] - placed[0, :2] == pytest.approx(inner_wh)


def test_letterbox_keeps_the_aspect_ratio() -> None:
    resize, inner_wh = boxes.letterbox((200, 100), (50, 50))
    assert inner_wh == (50, 25)
    assert resize.apply([[0, 0, 200, 100]]).tolist() == [[0, 12, 50, 37]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_follow_the_exif_orientation(orientation: int) -> None:
    pixels = np.zeros((6, 10), dtype=np.uint8)
    pixels[1:3, 4:9] = 255  # the box 4, 1, 9, 3
    stored = Image.fromarray(pixels)
    exif = stored.getexif()
    exif[0x0112] = orientation
    stored.info["exif"] = exif.tobytes()
    stored.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(stored))
    rows, columns = np.nonzero(upright)
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert boxes.orient([[4, 1, 9, 3]], (10, 6), orientation)[0].tolist() == expected


@given(
    image_wh=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    across=st.floats(0, 1),
    down=st.floats(0, 1),
)
def test_a_points_box_holds_it_and_is_never_empty(
    image_wh: tuple[int, int], across: float, down: float
) -> None:
    x, y = across * image_wh[0], down * image_wh[1]
    x0, y0, x1, y1 = boxes.around_point((x, y), image_wh)
    assert 0 <= x0 <= x <= x1 <= image_wh[0]
    assert 0 <= y0 <= y <= y1 <= image_wh[1]
    longest = max(2, max(image_wh) / 16)
    for first, last, side in ((x0, x1, image_wh[0]), (y0, y1, image_wh[1])):
        assert min(1, side) <= last - first <= longest * (1 + 1e-9)


def test_a_points_box_is_a_sixteenth_of_the_longer_side() -> None:
    assert boxes.around_point((100, 50), (320, 160)) == (90, 40, 110, 60)
    assert boxes.around_point((320, 0), (320, 160)) == (310, 0, 320, 10)
