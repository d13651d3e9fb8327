"""Scores with percentile intervals, resampled over images rather than items.

Items of one picture are not independent: the resampled unit is the image. A metric is given as one
row of numbers an item that may be added up (`Measure`), so that a resample costs one sum,
corpus-level metrics such as BLEU and METEOR included.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from roikit.evaluate.result import Score

RESAMPLES = 1000
LEVEL = 0.95

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One metric over N items, before it is summed."""

    stats: Floats  #: (N, K), summable over items
    finish: Callable[[Floats], Floats]  #: (R, K) sums to (R,) scores; NaN where there is nothing
    counted: npt.NDArray[np.bool_]  #: (N,) whether the item has a say

    def take(self, rows: npt.NDArray[np.bool_]) -> "Measure":
        """Return the measure over the items where `rows` (N,) holds."""
        return Measure(stats=self.stats[rows], finish=self.finish, counted=self.counted[rows])


def mean_measure(values: Sequence[float | bool | None], *, factor: float = 100.0) -> Measure:
    """Return the mean over items, times `factor`; items with None have no say."""
    counted = np.array([value is not None for value in values], dtype=bool)
    numbers = np.array([0.0 if value is None else float(value) for value in values])
    stats = np.stack([numbers * factor, counted.astype(np.float64)], axis=1)
    return Measure(stats=stats, finish=_ratio, counted=counted)


def _ratio(sums: Floats) -> Floats:
    weights = sums[:, 1]
    out: Floats = np.full(len(sums), np.nan)
    np.divide(sums[:, 0], weights, out=out, where=weights > 0)
    return out


def replicates(measure: Measure, images: Sequence[str], *, seed: int) -> Floats:
    """Return the measure on `RESAMPLES` resamples of the images, (R,).

    The same images and seed give the same resamples: two measures of the same items are paired.

    Args:
        measure: over N items.
        images: (N,) the image of each item.
        seed: of the resampling.
    """
    _, index = np.unique(np.asarray(images), return_inverse=True)
    num_images = int(index.max()) + 1
    by_image = np.zeros((num_images, measure.stats.shape[1]))
    np.add.at(by_image, index, measure.stats)
    generator = np.random.default_rng(seed)
    sums = np.empty((RESAMPLES, by_image.shape[1]))
    for r in range(RESAMPLES):
        drawn = generator.integers(0, num_images, num_images)
        sums[r] = np.bincount(drawn, minlength=num_images) @ by_image
    return measure.finish(sums)


def point(measure: Measure) -> float | None:
    """Return the measure on the items themselves; None where no item has a say."""
    if not measure.counted.any():
        return None
    value = float(measure.finish(measure.stats.sum(axis=0, keepdims=True))[0])
    return None if np.isnan(value) else value


def score(measure: Measure, images: Sequence[str], *, seed: int) -> Score:
    """Return the measure with its interval; one image alone has none."""
    value = point(measure)
    low = high = None
    if value is not None and len(set(images)) > 1:
        low, high = _interval(replicates(measure, images, seed=seed))
    return Score(value=value, low=low, high=high, n=int(measure.counted.sum()))


def difference(one: Measure, other: Measure, images: Sequence[str], *, seed: int) -> Score:
    """Return `one` minus `other` over the same items, with the paired interval."""
    a, b = point(one), point(other)
    n = int((one.counted & other.counted).sum())
    if a is None or b is None:
        return Score(value=None, low=None, high=None, n=n)
    low = high = None
    if len(set(images)) > 1:
        pairs = replicates(one, images, seed=seed) - replicates(other, images, seed=seed)
        low, high = _interval(pairs)
    return Score(value=a - b, low=low, high=high, n=n)


def _interval(values: Floats) -> tuple[float | None, float | None]:
    values = values[~np.isnan(values)]
    if not len(values):
        return None, None
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
