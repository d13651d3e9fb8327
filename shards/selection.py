"""Which splits and which samples a user means: names, a task, a condition on the manifest, a seed.

Names and SQL go in, committed splits and samples' keys come out. Nothing here opens a shard.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from roikit.errors import UsageError
from roikit.sample import TASKS
from shards.commit import DatasetInfo, list_datasets
from shards.index import SplitIndex
from shards.layout import KEY_DIGITS
from shards.manifest import connect, nothing_committed


def named_splits(root: Path | str, names: Sequence[str] = ()) -> list[DatasetInfo]:
    """Return the committed splits that `names` speak of: `vcr` (all of its splits) or `vcr@val`.

    Args:
        root: the shards' root folder.
        names: in any order, repeats allowed; none takes every split.

    Raises:
        UsageError: nothing is committed, or a name fits nothing.
    """
    there = list_datasets(root)
    if not there:
        raise nothing_committed(root)
    wanted: set[tuple[str, str]] = set()
    for name in names:
        dataset, separator, split = name.partition("@")
        found = {
            (info.dataset, info.split)
            for info in there
            if info.dataset == dataset and (not separator or info.split == split)
        }
        if not found:
            known = ", ".join(f"`{info.dataset}@{info.split}`" for info in there)
            raise UsageError(f"{root}: no `{name}` is committed", hint=f"there are {known}")
        wanted |= found
    return [info for info in there if not names or (info.dataset, info.split) in wanted]


def check_tasks(tasks: Sequence[str]) -> None:
    """Check names of tasks.

    Raises:
        UsageError: one is no task.
    """
    for task in tasks:
        if task not in TASKS:
            raise UsageError(f"`{task}`: expected a task: {', '.join(TASKS)}")


def choose_samples(
    root: Path | str,
    splits: Collection[DatasetInfo],
    *,
    tasks: Sequence[str] = (),
    where: str | None = None,
    limit: int,
    seed: int = 0,
) -> list[str]:
    """Draw samples' keys, in the order of a hash of the seed and the key.

    Args:
        root: the shards' root folder.
        splits: where they may come from.
        tasks: only samples with a conversation of one of these.
        where: only samples for which this SQL condition holds: columns of the manifest's table
            `samples`, subqueries on all its tables.
        limit: at most so many.
        seed: another one draws others.

    Raises:
        UsageError: the manifest is missing or out of date, or the condition is wrong.
    """
    check_tasks(tasks)
    conditions = ["(dataset || '@' || split) IN (SELECT unnest($splits))"]
    parameters: dict[str, object] = {
        "splits": [f"{info.dataset}@{info.split}" for info in splits],
        "seed": str(seed),
        "limit": limit,
    }
    if tasks:
        conditions.append("key IN (SELECT key FROM conversations WHERE task IN $tasks)")
        parameters["tasks"] = list(tasks)
    if where is not None:
        conditions.append(f"({where}\n)")  # the line's end ends a comment inside it
    sql = f"SELECT key FROM samples WHERE {' AND '.join(conditions)}"
    sql += " ORDER BY md5($seed || ' ' || key) LIMIT $limit"
    hint = "a condition on the table `samples`, as in `width > 640 and num_regions > 3`"
    keys: list[str] = _columns(root, sql, parameters, hint)["key"].tolist()
    return keys


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """Conversations that a condition on the manifest holds for."""

    #: by (dataset, split): samples' numbers and places among their conversations, ascending
    places: Mapping[tuple[str, str], tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]
    sha256: str  #: of all of these

    def of(self, index: SplitIndex) -> npt.NDArray[np.bool_]:
        """Return, for each conversation of a split, whether it is chosen."""
        found = np.zeros(len(index.conversation_sample), dtype=np.bool_)
        numbers, ordinals = self.places.get((index.dataset, index.split), ((), ()))
        samples = np.searchsorted(index.number, numbers)
        # the conversations of a sample stand together, in their order
        found[np.searchsorted(index.conversation_sample, samples) + ordinals] = True
        return found


def choose_conversations(
    root: Path | str, splits: Collection[tuple[str, str]], where: str
) -> Chosen:
    """Find the conversations for which an SQL condition holds.

    Args:
        root: the shards' root folder.
        splits: (dataset, split) that they may come from.
        where: a condition on the columns of the manifest's tables `conversations` and `samples`,
            joined: `task = 'caption' and answer_words > 3 and width > 640`.

    Raises:
        UsageError: the manifest is missing or out of date, or the condition is wrong.
    """
    sql = f"""
        SELECT dataset, split, right(key, {KEY_DIGITS})::BIGINT AS sample,
            number::BIGINT - 1 AS ordinal
        FROM conversations JOIN samples USING (dataset, split, key)
        WHERE (dataset || '@' || split) IN (SELECT unnest($splits)) AND ({where}
        ) ORDER BY ALL"""
    hint = (
        "a condition on the tables `conversations` and `samples`, as in "
        "`task = 'caption' and answer_words > 3 and width > 640`"
    )
    parameters = {"splits": [f"{dataset}@{split}" for dataset, split in splits]}
    columns = _columns(root, sql, parameters, hint)
    places = {}
    whole = hashlib.sha256()
    for dataset, split in sorted(splits):
        is_here = (columns["dataset"] == dataset) & (columns["split"] == split)
        places[dataset, split] = columns["sample"][is_here], columns["ordinal"][is_here]
        whole.update(f"{dataset}@{split} {is_here.sum()}\n".encode())
        for column in places[dataset, split]:
            whole.update(column.astype("<i8").tobytes())
    return Chosen(places=places, sha256=whole.hexdigest())


def _columns(
    root: Path | str, sql: str, parameters: dict[str, Any], hint: str
) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of one query that holds a user's condition."""
    with connect(root) as connection:
        try:
            if len(connection.extract_statements(sql)) != 1:
                raise UsageError("`--where`: expected a condition, got several statements")
            columns: dict[str, npt.NDArray[Any]] = connection.execute(sql, parameters).fetchnumpy()
            return columns
        except duckdb.Error as error:
            said = str(error).partition("\n")[0]
            raise UsageError(f"`--where`: {said}", hint=hint) from error
