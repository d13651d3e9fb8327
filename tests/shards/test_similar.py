import numpy as np
import pytest

from shards.similar import MAX_DISTANCE, nearest


def flipped(words, rng, count):
    """Copies of `words` with `count` bits of each turned over."""
    bits = np.unpackbits(words.view(np.uint8), axis=1)
    for row in bits:
        row[rng.choice(256, count, replace=False)] ^= 1
    return np.packbits(bits, axis=1).view(np.uint64)


def by_comparing_all(asked, known, max_distance):
    distances = np.bitwise_count(asked[:, None] ^ known[None]).sum(axis=2).astype(int)
    rows = distances.argmin(axis=1)
    best = distances.min(axis=1)
    is_near = best <= max_distance
    return np.where(is_near, rows, -1), np.where(is_near, best, -1)


@pytest.mark.parametrize("max_distance", [0, 7, MAX_DISTANCE])
def test_the_nearest_is_that_of_comparing_all_with_all(max_distance):
    rng = np.random.default_rng(max_distance)
    known = rng.integers(0, 2**64, (300, 4), dtype=np.uint64)
    known[200:] = known[:100]  # the same picture twice
    near = [flipped(known[rng.integers(0, 300, 20)], rng, n) for n in (0, 1, 7, 8, 15, 30, 31, 32)]
    asked = np.concatenate([*near, rng.integers(0, 2**64, (50, 4), dtype=np.uint64)])
    rows, distances = nearest(asked, known, max_distance)
    expected_rows, expected_distances = by_comparing_all(asked, known, max_distance)
    np.testing.assert_array_equal(distances, expected_distances)
    np.testing.assert_array_equal(rows, expected_rows)


def test_bits_that_differ_in_every_band_are_still_found():
    """The hardest case: 31 bits, spread so that only one band has no more than one of them."""
    known = np.zeros((1, 4), dtype=np.uint64)
    word = int("0003" * 4, 16)
    asked = np.array([[word, word, word, int("0003" * 3 + "0001", 16)]], dtype=np.uint64)
    assert [found.tolist() for found in nearest(asked, known)] == [[0], [31]]


def test_many_pictures_of_one_look_are_looked_for_once():
    same = np.full((20_000, 4), 5, dtype=np.uint64)
    rows, distances = nearest(same, same)
    assert set(rows.tolist()) == {0} and set(distances.tolist()) == {0}


def test_nothing_asked_and_nothing_known():
    none, some = np.zeros((0, 4), dtype=np.uint64), np.zeros((2, 4), dtype=np.uint64)
    assert nearest(none, some)[0].tolist() == []
    assert nearest(some, none)[0].tolist() == [-1, -1]


def test_a_distance_that_the_bands_do_not_promise_is_refused():
    with pytest.raises(ValueError, match="at most 31"):
        nearest(np.zeros((1, 4), np.uint64), np.zeros((1, 4), np.uint64), 32)
