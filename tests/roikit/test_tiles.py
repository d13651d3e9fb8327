"""The grid of a picture, and the tiles that its regions need."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roikit import boxes
from roikit.tiles import TileRule, choose_grid, plan_tiles, touched_tiles

SIZES = st.tuples(st.integers(1, 900), st.integers(1, 900))
RULES = st.builds(
    TileRule,
    side=st.integers(8, 128),
    most=st.integers(1, 9),
    mode=st.sampled_from(["pad", "squash"]),
    margin_px=st.integers(0, 32),
    reach=st.sampled_from([0.0, 0.5]),
)


def kept(image_wh: tuple[int, int], grid: tuple[int, int], rule: TileRule) -> float:
    """The picture's own pixels that a canvas has room for."""
    resize, _ = boxes.fit(image_wh, (10**6 * grid[1], 10**6 * grid[0]), mode=rule.mode)
    across, down = (min(1.0, s * rule.side / 10**6) for s in resize.scale_xy)
    return image_wh[0] * across * image_wh[1] * down


@given(SIZES, RULES)
def test_no_other_grid_keeps_more_of_the_picture_on_as_few_tiles(
    image_wh: tuple[int, int], rule: TileRule
) -> None:
    grid = choose_grid(image_wh, rule)
    rows, columns = grid
    assert min(grid) >= 1 and rows * columns <= rule.most
    found = kept(image_wh, grid, rule)
    for other in ((r, c) for r in range(1, 10) for c in range(1, 10) if r * c <= rule.most):
        value = kept(image_wh, other, rule)
        assert value <= found * 1.001
        if other[0] * other[1] < rows * columns:
            assert value < found * 1.001


@given(SIZES, RULES)
def test_a_picture_that_fits_the_square_is_not_cut(
    image_wh: tuple[int, int], rule: TileRule
) -> None:
    whole = [[0, 0, *image_wh]]
    if max(image_wh) <= rule.side or rule.most == 1:
        assert plan_tiles(image_wh, whole, rule) is None
    assert plan_tiles(image_wh, [], rule) is None


def test_grids_follow_the_pictures_shape() -> None:
    rule = TileRule(side=100, most=4)
    assert choose_grid((200, 100), rule) == (1, 2)
    assert choose_grid((100, 400), rule) == (4, 1)
    assert choose_grid((1000, 1000), rule) == (2, 2)
    assert choose_grid((101, 101), rule) == (2, 2)
    assert choose_grid((101, 100), rule) == (1, 2)
    assert choose_grid((300, 101), TileRule(side=100, most=4, mode="squash")) == (1, 3)
    # 1 x 4 and 4 x 1 keep as many pixels, and bend the picture
    assert choose_grid((1000, 1000), TileRule(side=100, most=4, mode="squash")) == (2, 2)


@given(RULES, st.integers(1, 4), st.integers(1, 4), st.data())
def test_all_that_is_read_of_a_region_lies_in_its_tiles(
    rule: TileRule, rows: int, columns: int, data: st.DataObject
) -> None:
    width, height = rule.canvas_wh((rows, columns))
    x = sorted(data.draw(st.lists(st.floats(0, width), min_size=2, max_size=2)))
    y = sorted(data.draw(st.lists(st.floats(0, height), min_size=2, max_size=2)))
    places = touched_tiles([[x[0], y[0], x[1], y[1]]], (rows, columns), rule)
    assert places.shape[1] == 2
    around = rule.margin_px, rule.reach
    low = [v[0] - around[0] - around[1] * (v[1] - v[0]) for v in (x, y)]
    high = [v[1] + around[0] + around[1] * (v[1] - v[0]) for v in (x, y)]
    expected = [
        [row, column]
        for row in range(rows)
        for column in range(columns)
        if (column + 1) * rule.side > low[0]
        and column * rule.side < high[0]
        and (row + 1) * rule.side > low[1]
        and row * rule.side < high[1]
    ]
    # one without area on a border may count as lying in a tile that it only touches
    has_area = x[0] < x[1] and y[0] < y[1]
    assert [place for place in places.tolist() if place not in expected] == [] or not has_area
    assert all(place in places.tolist() for place in expected)


def test_regions_share_tiles_and_far_ones_are_left_out() -> None:
    rule = TileRule(side=100, most=9, margin_px=10)
    places = touched_tiles([[20, 20, 80, 80], [5, 5, 30, 30]], (3, 3), rule)
    assert places.tolist() == [[0, 0]]
    near_the_border = touched_tiles([[20, 20, 95, 80]], (3, 3), rule)
    assert near_the_border.tolist() == [[0, 0], [0, 1]]
    both = touched_tiles([[20, 20, 80, 80], [220, 220, 280, 280]], (3, 3), rule)
    assert both.tolist() == [[0, 0], [2, 2]]
    assert np.array_equal(
        touched_tiles([[0, 0, 300, 300]], (3, 3), rule), np.argwhere(np.ones((3, 3)))
    )


@pytest.mark.parametrize("mode", ["pad", "squash"])
def test_the_plan_speaks_of_the_canvas(mode: str) -> None:
    rule = TileRule(side=100, most=2, mode=mode, margin_px=5)  # type: ignore[arg-type]
    # twice as large as its canvas of 2 x 1 tiles: the right half of the picture is the right tile
    plan = plan_tiles((400, 200), [[220, 20, 380, 180]], rule)
    assert plan is not None
    assert (plan.grid, plan.places_T2.tolist()) == ((1, 2), [[0, 1]])
