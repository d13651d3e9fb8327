"""Scores of several seeds into one: mean, interval, difference to the base.

With two seeds or more an interval is Student's over the seeds' scores: how far another seed's
weights and order of data would move the mean. With one seed it is the evaluation's own, over
pictures. Differences are taken seed by seed, on the same pictures.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
#: Source: NIST/SEMATECH e-Handbook of Statistical Methods, section 1.3.6.7.2.
_T_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedScore:
    """One metric of one seed's model; times 100."""

    value: float
    low: float | None  #: of the interval over pictures
    high: float | None
    controls: dict[str, float]  #: `swapped`, `blank`, and `follows`: true of the box it was given


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean with its 95 % interval; None where too few scores give none."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricScore:
    """One metric of one variation, over its seeds."""

    score: Estimate
    difference: Estimate | None  #: to the base; None for the base, and where no seed has both
    controls: dict[str, float]  #: means over the seeds
    seeds: dict[int, SeedScore]


def student(values: Sequence[float]) -> Estimate:
    """Return the mean with Student's 95 % interval; a single value has none.

    Beyond 31 values the quantile of 30 degrees of freedom is used: a little too wide.

    Args:
        values: one or more.
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Estimate(mean=mean, low=None, high=None)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = _T_95[min(count - 1, len(_T_95)) - 1] * math.sqrt(variance / count)
    return Estimate(mean=mean, low=mean - half, high=mean + half)


def summarise(
    seeds: Mapping[int, SeedScore], base: Mapping[int, SeedScore] | None
) -> MetricScore | None:
    """Bring one metric's scores of several seeds together.

    Args:
        seeds: the variation's scores; none where it has none yet.
        base: the base's, compared where both have the seed; None: this is the base.

    Returns:
        None without scores.
    """
    if not seeds:
        return None
    score = student([one.value for one in seeds.values()])
    if len(seeds) == 1:
        (only,) = seeds.values()
        score = Estimate(mean=only.value, low=only.low, high=only.high)
    paired = [one.value - base[seed].value for seed, one in seeds.items() if base and seed in base]
    names = dict.fromkeys(name for one in seeds.values() for name in one.controls)
    found = {n: [s.controls[n] for s in seeds.values() if n in s.controls] for n in names}
    return MetricScore(
        score=score,
        difference=student(paired) if paired else None,
        controls={name: math.fsum(values) / len(values) for name, values in found.items()},
        seeds=dict(seeds),
    )
