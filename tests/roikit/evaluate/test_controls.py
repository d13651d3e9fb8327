import numpy as np
import pytest

from roikit.evaluate.controls import blank, derange, same_place, swap_places
from roikit.sample import Region, Rle


@pytest.mark.parametrize("count", [2, 3, 4, 7, 40])
def test_a_derangement_moves_every_region_and_uses_each_once(count):
    numbers = list(range(1, count + 1))
    for key in ("a", "b", "c"):
        given = derange(numbers, key)
        assert sorted(given) == sorted(given.values()) == numbers
        assert all(number != other for number, other in given.items())


def test_a_derangement_is_drawn_from_key_and_seed():
    numbers = list(range(1, 9))
    golden = {1: 3, 2: 8, 3: 7, 4: 5, 5: 2, 6: 4, 7: 6, 8: 1}
    assert derange(numbers, "vg-test-000000001") == golden
    assert derange(numbers, "x") != derange(numbers, "y")
    assert derange(numbers, "x", seed=0) != derange(numbers, "x", seed=1)


def test_every_other_region_is_as_likely():
    partners = [derange([1, 2, 3, 4], str(i))[1] for i in range(600)]
    counts = {n: partners.count(n) for n in (2, 3, 4)}
    assert sum(counts.values()) == 600
    assert all(150 < count < 250 for count in counts.values())


def test_fewer_than_two_regions_cannot_be_deranged():
    assert derange([], "x") == derange([3], "x") == {}


def test_a_swap_moves_the_place_and_keeps_the_rest():
    mask = Rle(size=(10, 10), counts="x")
    a = Region(box_xyxy=(0, 0, 5, 5), label="cat", native_id="1", mask_rle=mask)
    b = Region(box_xyxy=(5, 5, 9, 9), label="dog", native_id="2")
    c = Region(box_xyxy=(1, 1, 2, 2), label="cup")
    first, second, third = swap_places((a, b, c), {1: 2, 2: 1})
    assert (first.label, first.native_id, first.box_xyxy, first.mask_rle) == (
        "cat",
        "1",
        (5, 5, 9, 9),
        None,
    )
    assert (second.label, second.box_xyxy, second.mask_rle) == ("dog", (0, 0, 5, 5), mask)
    assert third == c
    assert same_place(a, a) and not same_place(a, b)


def test_a_blank_picture_has_the_same_size_and_one_colour():
    image = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    empty = blank(image)
    assert empty.shape == image.shape and empty.dtype == np.uint8
    assert len(np.unique(empty)) == 1
