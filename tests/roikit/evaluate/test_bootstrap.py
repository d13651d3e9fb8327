import numpy as np
import pytest

from roikit.evaluate.bootstrap import Resampler, mean_measure, point


def test_mean_leaves_out_items_without_a_say():
    measure = mean_measure([True, False, None, True])
    assert point(measure) == pytest.approx(200 / 3)
    assert Resampler(["a", "b", "c", "d"], seed=0).score(measure).n == 3


def test_nothing_with_a_say_has_no_score():
    score = Resampler(["a", "b"], seed=0).score(mean_measure([None, None]))
    assert (score.value, score.low, score.high, score.n) == (None, None, None, 0)
    assert Resampler([], seed=0).score(mean_measure([])).value is None


def test_the_interval_depends_on_the_seed_only():
    values = [0.0, 1.0, 0.3, 0.8, 0.1, 0.9]
    images = list("aabbcd")
    first = Resampler(images, seed=4).score(mean_measure(values))
    assert first == Resampler(images, seed=4).score(mean_measure(values))
    assert first != Resampler(images, seed=5).score(mean_measure(values))
    assert first.low < first.value < first.high


def test_images_are_resampled_not_items():
    # two images, one all right and one all wrong: every resample is 0, 50 or 100 %, however many
    # items they hold; resampling 200 items would give about 43 to 57
    values = [True] * 100 + [False] * 100
    score = Resampler(["a"] * 100 + ["b"] * 100, seed=0).score(mean_measure(values))
    assert (score.low, score.value, score.high) == (0.0, 50.0, 100.0)


def test_replicates_match_resampling_by_hand():
    values, images = [1.0, 0.0, 0.5], ["b", "a", "b"]
    got = Resampler(images, seed=9).replicates(mean_measure(values, factor=1.0))
    generator = np.random.default_rng(9)
    by_image = {0: [0.0], 1: [1.0, 0.5]}  # a, b
    for replicate in got[:20]:
        drawn = [value for i in generator.integers(0, 2, 2) for value in by_image[int(i)]]
        assert replicate == pytest.approx(np.mean(drawn))


def test_one_image_has_no_interval():
    score = Resampler(["a", "a"], seed=0).score(mean_measure([True, False]))
    assert (score.value, score.low, score.high) == (50.0, None, None)


def test_differences_are_paired():
    images = [str(i) for i in range(30)]
    one = mean_measure([i % 3 == 0 for i in range(30)])
    other = mean_measure([i % 3 != 2 for i in range(30)])
    resampler = Resampler(images, seed=0)
    assert resampler.difference(one, one).high == 0.0
    apart = resampler.difference(other, one)
    assert apart.value == pytest.approx(100 / 3, abs=1e-5)
    # `other` is right wherever `one` is: unpaired, the interval would reach below 10
    assert apart.low > 10
