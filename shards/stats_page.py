"""`roikit stats --html`: the counts and distributions of all splits as one page.

Names of splits go in, HTML text comes out; `roikit/pages/stats.html` draws. Bars are plain SVG, so
that they follow the reader's light or dark scheme and stay sharp.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from roikit.page import render_page
from roikit.render import bytes_text
from shards.distributions import Bars, Bin, Histogram, distributions
from shards.selection import named_splits
from shards.stats import RejectionStats, TaskStats, stats


def stats_page(root: Path | str, names: Sequence[str] = ()) -> str:
    """Return the page over what lies below `root`.

    Args:
        root: the shards' root folder.
        names: only these datasets and splits (`vcr`, `vcr@val`); none takes all.

    Raises:
        UsageError: no committed split, or the manifest is missing or out of date.
    """
    counts = stats(root, names)
    datasets = named_splits(root, names)
    spread = distributions(root, datasets)
    totals: dict[str, Any] = {
        "splits": f"{len(datasets):,}",
        "pictures": f"{sum(info.samples for info in datasets):,}",
        "regions": f"{sum(info.regions for info in datasets):,}",
        "conversations": f"{sum(info.conversations for info in datasets):,}",
        "exchanges": f"{sum(info.exchanges for info in datasets):,}",
        "rejections": f"{sum(one.rejections for one in counts.rejections):,}",
        "in tars": bytes_text(sum(info.tar_bytes for info in datasets)),
    }
    sections = [
        _section(
            "Box sizes",
            "Share of the picture's area that a region's box covers. Each bar's boxes are half "
            "as large as those of the bar to its right.",
            spread.box_areas,
            lambda value: f"{100 * value:.2g} %",
        ),
        _section("Regions a picture", "Context included.", spread.regions),
        _section(
            "Words a question", "A turn of the user; a mention is one word.", spread.question_words
        ),
        _section(
            "Words an answer",
            "A turn of the assistant; a mention is one word.",
            spread.answer_words,
        ),
    ]
    return render_page(
        "stats.html",
        root=str(root),
        totals=totals,
        stats=counts,
        tasks=_by_split(counts.tasks, lambda t: Bin(name=t.task, count=t.conversations)),
        sections=sections,
        labels=spread.labels,
        rejections=_by_split(counts.rejections, lambda r: Bin(name=r.code, count=r.rejections)),
    )


def _section(
    title: str,
    says: str,
    histograms: Iterable[Histogram],
    median_text: Callable[[float], str] = lambda value: f"{value:g}",
) -> dict[str, Any]:
    shown = [(one, median_text(one.median)) for one in histograms]
    return {"title": title, "says": says, "histograms": shown}


def _by_split(rows: Iterable[TaskStats | RejectionStats], as_bin: Any) -> list[Bars]:
    """Gather rows that are sorted by dataset and split into one set of bars each."""
    return [
        Bars(
            dataset=dataset,
            split=split,
            bins=tuple(sorted(map(as_bin, found), key=lambda one: -one.count)),
            others=0,
        )
        for (dataset, split), found in groupby(rows, key=lambda row: (row.dataset, row.split))
    ]
