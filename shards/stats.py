"""How much there is, from the manifest: counts by dataset, split and task; rejections by code."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.manifest import connect
from shards.selection import named_splits


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskStats:
    """What one task of one split holds."""

    dataset: str
    split: str
    task: str
    samples: int  #: pictures with at least one such conversation
    regions: int  #: regions of those pictures, context included
    conversations: int
    exchanges: int  #: user turns with an answer
    words: int  #: in all turns, split at white space
    answer_words: int  #: in the assistant's turns


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectionStats:
    """How many rejections one split has for one reason; one may cost any number of records."""

    dataset: str
    split: str
    code: str
    rejections: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """All committed splits, by name."""

    tasks: tuple[TaskStats, ...]
    rejections: tuple[RejectionStats, ...]


_TASKS = """
WITH by_sample AS (
    SELECT dataset, split, task, key, count(*) AS conversations, sum(num_exchanges) AS exchanges,
        sum(words) AS words, sum(answer_words) AS answer_words
    FROM conversations GROUP BY ALL)
SELECT b.dataset, b.split, b.task, count(*), sum(s.num_regions), sum(b.conversations),
    sum(b.exchanges), sum(b.words), sum(b.answer_words)
FROM by_sample b JOIN samples s USING (dataset, split, key)
WHERE (b.dataset || '@' || b.split) IN (SELECT unnest($splits))
GROUP BY ALL ORDER BY ALL
"""
_REJECTIONS = """
SELECT dataset, split, code, count(*) FROM rejections
WHERE (dataset || '@' || split) IN (SELECT unnest($splits))
GROUP BY ALL ORDER BY dataset, split, code
"""


def stats(root: Path | str, names: Sequence[str] = ()) -> Stats:
    """Count what is below `root`.

    Args:
        root: the shards' root folder.
        names: only these datasets and splits (`vcr`, `vcr@val`); none takes all.

    Raises:
        UsageError: no committed split, none of a name, or the manifest is missing or out of date.
    """
    splits = [f"{info.dataset}@{info.split}" for info in named_splits(root, names)]
    with connect(root) as connection:
        tasks = connection.execute(_TASKS, {"splits": splits}).fetchall()
        rejections = connection.execute(_REJECTIONS, {"splits": splits}).fetchall()
    return Stats(
        tasks=tuple(
            TaskStats(
                dataset=row[0],
                split=row[1],
                task=row[2],
                samples=int(row[3]),
                regions=int(row[4]),
                conversations=int(row[5]),
                exchanges=int(row[6]),
                words=int(row[7]),
                answer_words=int(row[8]),
            )
            for row in tasks
        ),
        rejections=tuple(
            RejectionStats(dataset=row[0], split=row[1], code=row[2], rejections=row[3])
            for row in rejections
        ),
    )
