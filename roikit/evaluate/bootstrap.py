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


def point(measure: Measure) -> float | None:
    """Return the measure on the items themselves; None where no item has a say."""
    if not measure.counted.any():
        return None
    value = float(measure.finish(measure.stats.sum(axis=0, keepdims=True))[0])
    return None if np.isnan(value) else value


class Resampler:
    """Resamples of the images that some items lie in, drawn once and used for every measure.

    The same images and seed give the same resamples, so two measures of the same items are paired.

    Args:
        images: (N,) the image of each item.
        seed: of the resampling.
    """

    def __init__(self, images: Sequence[str], *, seed: int) -> None:
        names, self._index = np.unique(np.asarray(images, dtype=str), return_inverse=True)
        self._num_images = len(names)
        generator = np.random.default_rng(seed)
        #: (R, images) how often each image was drawn
        self._times = np.zeros((RESAMPLES, self._num_images), dtype=np.uint16)
        for times in self._times if self._num_images > 1 else ():
            drawn = generator.integers(0, self._num_images, self._num_images)
            times[:] = np.bincount(drawn, minlength=self._num_images)

    def replicates(self, measure: Measure) -> Floats:
        """Return the measure on each resample, (R,)."""
        by_image = np.zeros((self._num_images, measure.stats.shape[1]))
        np.add.at(by_image, self._index, measure.stats)
        blocks = np.array_split(self._times, max(1, self._times.size // 10_000_000))
        return measure.finish(np.concatenate([block @ by_image for block in blocks]))

    def score(self, measure: Measure) -> Score:
        """Return the measure with its interval; one image alone has none."""
        value, low, high = point(measure), None, None
        if value is not None and self._num_images > 1:
            low, high = _interval(self.replicates(measure))
        return _score(value, low, high, int(measure.counted.sum()))

    def difference(self, one: Measure, other: Measure) -> Score:
        """Return `one` minus `other` over the same items, with the paired interval."""
        a, b = point(one), point(other)
        low = high = None
        if a is not None and b is not None and self._num_images > 1:
            low, high = _interval(self.replicates(one) - self.replicates(other))
        value = None if a is None or b is None else a - b
        return _score(value, low, high, int((one.counted & other.counted).sum()))


def _interval(values: Floats) -> tuple[float | None, float | None]:
    values = values[~np.isnan(values)]
    if not len(values):
        return None, None
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def _score(value: float | None, low: float | None, high: float | None, n: int) -> Score:
    """Round away what the order of a sum decides, which may differ between machines."""
    rounded = (None if x is None else round(x, 6) for x in (value, low, high))
    value, low, high = rounded
    return Score(value=value, low=low, high=high, n=n)
