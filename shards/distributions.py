"""How sizes and lengths are spread, from the manifest: boxes, regions an image, words a turn.

Each distribution is counted into fixed bins, so that the pages of two conversions can be laid side
by side, and the work is DuckDB's: nothing grows with the number of regions.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from shards.commit import DatasetInfo
from shards.manifest import connect


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """One bar."""

    name: str  #: what it counts: `1 %`, `5-6`
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """One distribution of one split."""

    dataset: str
    split: str
    bins: tuple[Bin, ...]  #: ascending; empty ones are there, too
    median: float

    @property
    def total(self) -> int:
        """How many values were counted."""
        return sum(one.count for one in self.bins)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bars:
    """Counts by name, of one split; the largest first."""

    dataset: str
    split: str
    bins: tuple[Bin, ...]
    others: int  #: names that are not among them


@dataclass(frozen=True, kw_only=True, slots=True)
class Distributions:
    """Everything a page draws, each by dataset and split."""

    box_areas: tuple[Histogram, ...]  #: share of the picture's area, halved from bin to bin
    regions: tuple[Histogram, ...]  #: a picture, context included
    question_words: tuple[Histogram, ...]  #: a user turn, mentions as one word
    answer_words: tuple[Histogram, ...]  #: an assistant turn, mentions as one word
    labels: tuple[Bars, ...]  #: of regions


#: Of `labels`.
_MOST_FREQUENT = 12
_HALVINGS = 14
_REGION_STEPS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 50, 100)
_WORD_STEPS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 50, 100, 200)

_AREAS = """
SELECT r.dataset, r.split, (r.x1 - r.x0) * (r.y1 - r.y0) / (s.width * s.height) AS value
FROM regions r JOIN samples s USING (dataset, split, key)
"""
_REGIONS = "SELECT dataset, split, num_regions AS value FROM samples"
_WORDS = """
SELECT dataset, split, len(regexp_split_to_array(trim(turn.text), '\\s+')) AS value
FROM (SELECT dataset, split, unnest(turns) AS turn FROM conversations) WHERE turn.role = '{role}'
"""
_HISTOGRAM = """
WITH found AS (
    SELECT * FROM ({values}) WHERE (dataset || '@' || split) IN (SELECT unnest($splits))),
medians AS (SELECT dataset, split, median(value) AS median FROM found GROUP BY ALL)
SELECT dataset, split, {place} AS place, count(*), any_value(m.median)
FROM found JOIN medians m USING (dataset, split) GROUP BY ALL ORDER BY ALL
"""
_LABELS = """
SELECT dataset, split, label, count(*) AS records,
    count(*) OVER (PARTITION BY dataset, split) AS labels
FROM regions
WHERE label IS NOT NULL AND (dataset || '@' || split) IN (SELECT unnest($splits))
GROUP BY dataset, split, label
QUALIFY row_number() OVER (PARTITION BY dataset, split ORDER BY records DESC, label) <= $most
ORDER BY dataset, split, records DESC, label
"""


def distributions(root: Path | str, splits: Collection[DatasetInfo]) -> Distributions:
    """Count what `splits` hold.

    Raises:
        UsageError: the manifest is missing or out of date.
    """
    names = [f"{info.dataset}@{info.split}" for info in splits]
    with connect(root) as connection:

        def count(values: str, place: str, bins: Sequence[str]) -> tuple[Histogram, ...]:
            sql = _HISTOGRAM.format(values=values, place=place)
            rows = connection.execute(sql, {"splits": names}).fetchall()
            return _histograms(rows, bins)

        # Bin 0 holds boxes of more than half the picture; the last one everything smaller.
        halved = f"least({_HALVINGS}, greatest(0, floor(-log2(greatest(value, 1e-12)))::INT))"
        areas = count(_AREAS, f"{_HALVINGS} - {halved}", _area_names())
        regions = count(_REGIONS, _step_sql(_REGION_STEPS), _step_names(_REGION_STEPS))
        words = [
            count(_WORDS.format(role=role), _step_sql(_WORD_STEPS), _step_names(_WORD_STEPS))
            for role in ("user", "assistant")
        ]
        labels = connection.execute(_LABELS, {"splits": names, "most": _MOST_FREQUENT}).fetchall()
    return Distributions(
        box_areas=areas,
        regions=regions,
        question_words=words[0],
        answer_words=words[1],
        labels=_bars(labels),
    )


def _histograms(rows: Sequence[tuple[Any, ...]], names: Sequence[str]) -> tuple[Histogram, ...]:
    counts: dict[tuple[str, str], dict[int, int]] = {}
    medians: dict[tuple[str, str], float] = {}
    for dataset, split, place, records, median in rows:
        counts.setdefault((dataset, split), {})[place] = records
        medians[dataset, split] = float(median)
    return tuple(
        Histogram(
            dataset=dataset,
            split=split,
            bins=tuple(Bin(name=name, count=found.get(i, 0)) for i, name in enumerate(names)),
            median=medians[dataset, split],
        )
        for (dataset, split), found in counts.items()
    )


def _bars(rows: Sequence[tuple[Any, ...]]) -> tuple[Bars, ...]:
    bins: dict[tuple[str, str], list[Bin]] = {}
    totals: dict[tuple[str, str], int] = {}
    for dataset, split, label, records, labels in rows:
        bins.setdefault((dataset, split), []).append(Bin(name=label, count=records))
        totals[dataset, split] = labels
    return tuple(
        Bars(
            dataset=dataset,
            split=split,
            bins=tuple(found),
            others=totals[dataset, split] - len(found),
        )
        for (dataset, split), found in bins.items()
    )


def _area_names() -> list[str]:
    edges = [100 / 2**i for i in range(_HALVINGS + 1)]  # per cent, from the largest
    texts = [f"{edge:.2g}" if edge < 100 else "100" for edge in edges]
    largest_first = [f"{low} to {high} %" for high, low in pairwise(texts)]
    return [*reversed([*largest_first, f"below {texts[-1]} %"])]


def _step_sql(steps: Sequence[int]) -> str:
    """Return the number of the last step that a value reaches."""
    reached = " + ".join(f"(value >= {step})::INT" for step in steps[1:])
    return f"({reached})"


def _step_names(steps: Sequence[int]) -> list[str]:
    names = [str(low) if high == low + 1 else f"{low}-{high - 1}" for low, high in pairwise(steps)]
    return [*names, f"{steps[-1]} or more"]
