"""Which splits and which samples a user means: names, a task, a condition on the manifest, a seed.

Names and SQL go in, committed splits and samples' keys come out. Nothing here opens a shard.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import duckdb

from roikit.errors import UsageError
from roikit.sample import TASKS
from shards.commit import DatasetInfo, list_datasets
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
    with connect(root) as connection:
        try:
            if len(connection.extract_statements(sql)) != 1:
                raise UsageError("`--where`: expected a condition, got several statements")
            return [row[0] for row in connection.execute(sql, parameters).fetchall()]
        except duckdb.Error as error:
            said = str(error).partition("\n")[0]
            hint = "a condition on the table `samples`, as in `width > 640 and num_regions > 3`"
            raise UsageError(f"`--where`: {said}", hint=hint) from error
