"""The difference between two conversions: how much there is of what, and which texts changed.

Two splits, or all splits that two roots name alike, are joined by the pictures' native ids and the
conversations' ids, on the manifests alone. "Before" is the first, "after" the second.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import duckdb

from roikit.errors import UsageError
from shards.commit import DatasetInfo, list_datasets
from shards.layout import manifest_path
from shards.manifest import connect
from shards.selection import named_splits


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitPair:
    """Two splits to compare."""

    before: tuple[str, str]  #: dataset, split
    after: tuple[str, str]

    @property
    def name(self) -> str:
        """How the pair is called: `vcr@train`, or `vcr@train, vcr@val` where names differ."""
        both = dict.fromkeys(("@".join(self.before), "@".join(self.after)))
        return ", ".join(both)


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One count, before and after."""

    before: int
    after: int
    difference: int  #: how many more there are after


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskChange:
    """What one task of one pair of splits holds, before and after."""

    pair: str
    task: str
    samples: Change  #: pictures with at least one such conversation
    conversations: Change
    exchanges: Change
    words: Change  #: in all turns
    answer_words: Change  #: in the assistant's
    only_before: int  #: conversations that the other side does not have
    only_after: int
    other_text: int  #: conversations of both sides whose texts or options differ
    other_answers: int  #: of these, with another text of the assistant's, or other options


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectionChange:
    """Rejections for one reason, before and after."""

    pair: str
    code: str
    rejections: Change


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangedText:
    """A conversation that is not the same; () on a side that does not have it."""

    pair: str
    task: str
    native_id: str  #: of the picture
    id: str  #: the conversation's
    before: tuple[tuple[str, str], ...]  #: (role, text); a choice's options follow as `option`
    after: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two conversions beside each other."""

    tasks: tuple[TaskChange, ...]
    rejections: tuple[RejectionChange, ...]
    changed: tuple[ChangedText, ...]  #: a sample of them, spread over the tasks
    unpaired: tuple[str, ...]  #: splits that only one of two roots has

    @property
    def is_same(self) -> bool:
        """Whether every conversation is there on both sides with the same texts."""
        return not any(t.only_before or t.only_after or t.other_text for t in self.tasks)


_COUNTS = tuple(f.name for f in fields(TaskChange) if f.type is Change)

# A picture may stand in a split more than once, so the n-th occurrence is joined with the n-th.
_SIDE = """
CREATE OR REPLACE TEMP TABLE {side} AS
SELECT c.task, s.native_id, c.id, c.key, c.number, c.num_exchanges, c.words, c.answer_words,
    row_number() OVER (PARTITION BY s.native_id, c.id ORDER BY c.key, c.number) AS occurrence,
    hash([t.text for t in c.turns], c.options, c.answer) AS text_hash,
    hash([t.text for t in c.turns[2:-:2]], c.options, c.answer) AS answer_hash
FROM {catalog}.conversations c JOIN {catalog}.samples s USING (dataset, split, key)
WHERE c.dataset = ? AND c.split = ?
"""
_JOINED = """
CREATE OR REPLACE TEMP TABLE joined AS
SELECT coalesce(b.task, a.task) AS task, coalesce(b.native_id, a.native_id) AS native_id,
    coalesce(b.id, a.id) AS id, b.key AS key_before, b.number AS number_before,
    a.key AS key_after, a.number AS number_after,
    b.id IS NULL AS only_after, a.id IS NULL AS only_before,
    coalesce(b.text_hash <> a.text_hash, false) AS other_text,
    coalesce(b.answer_hash <> a.answer_hash, false) AS other_answer
FROM side_before b FULL JOIN side_after a USING (native_id, id, occurrence)
"""
_TOTALS = """
SELECT task, count(DISTINCT key), count(*), sum(num_exchanges), sum(words), sum(answer_words)
FROM {side} GROUP BY task
"""
_FATES = """
SELECT task, count(*) FILTER (only_before), count(*) FILTER (only_after),
    count(*) FILTER (other_text), count(*) FILTER (other_answer)
FROM joined GROUP BY task ORDER BY task
"""
_CHANGED = """
SELECT task, native_id, id, key_before, number_before, key_after, number_after
FROM joined WHERE only_before OR only_after OR other_text
QUALIFY row_number() OVER (
    PARTITION BY task ORDER BY NOT other_answer, md5(native_id || ' ' || id)) <= ?
ORDER BY task, NOT other_answer, md5(native_id || ' ' || id)
"""
_TEXTS = """
SELECT turns, options FROM {catalog}.conversations
WHERE dataset = ? AND split = ? AND key = ? AND number = ?
"""


def compare_roots(
    before: Path | str,
    after: Path | str,
    names: Sequence[str] = (),
    *,
    num_changed: int = 3,
) -> Comparison:
    """Compare the splits of the same name below two roots.

    Args:
        before: one root.
        after: the other.
        names: only these (`vcr`, `vcr@train`); none takes all that both have.
        num_changed: changed conversations to return a task of a split, at most.

    Raises:
        UsageError: a manifest is missing or out of date, or no split has the same name.
    """
    here = {_name(info) for info in named_splits(before, names)}
    there = {_name(info) for info in list_datasets(after)}
    both = sorted(here & there)
    if not both:
        raise UsageError(
            f"`{after}`: expected a split of the same name, found {_listed(there)}",
            hint=f"`{before}` has {_listed(here)}; two splits: `roikit stats vg@val --compare "
            "vg@test`",
        )
    with _both_manifests(before, after) as connection:
        parts = [
            _compare(connection, SplitPair(before=name, after=name), num_changed) for name in both
        ]
    unpaired = here ^ (there if not names else here & there)
    return _joined(parts, tuple("@".join(name) for name in sorted(unpaired)))


def compare_splits(
    root: Path | str, before: str, after: str, *, num_changed: int = 3
) -> Comparison:
    """Compare two splits of one root, named like `vcr@train`.

    Raises:
        UsageError: the manifest is missing or out of date, or a name fits none or several.
    """
    pair = []
    for name in (before, after):
        found = named_splits(root, [name])
        if len(found) > 1:
            raise UsageError(f"`{name}`: expected one split, as in `{name}@{found[0].split}`")
        pair.append(_name(found[0]))
    with _both_manifests(root, root) as connection:
        part = _compare(connection, SplitPair(before=pair[0], after=pair[1]), num_changed)
    return _joined([part], ())


def _change(before: int, after: int) -> Change:
    return Change(before=before, after=after, difference=after - before)


def _name(info: DatasetInfo) -> tuple[str, str]:
    return info.dataset, info.split


def _listed(names: set[tuple[str, str]]) -> str:
    return ", ".join(f"`{'@'.join(name)}`" for name in sorted(names)) or "none"


def _joined(parts: Sequence[Comparison], unpaired: tuple[str, ...]) -> Comparison:
    return Comparison(
        tasks=tuple(task for part in parts for task in part.tasks),
        rejections=tuple(one for part in parts for one in part.rejections),
        changed=tuple(one for part in parts for one in part.changed),
        unpaired=unpaired,
    )


@contextlib.contextmanager
def _both_manifests(before: Path | str, after: Path | str) -> Iterator[duckdb.DuckDBPyConnection]:
    """Attach the manifests as `before` and `after`, for reading."""
    for root in (before, after):
        connect(root).close()  # checks that it is there and up to date
    with duckdb.connect() as connection:
        connection.execute("SET temp_directory = ''")  # nothing is left in the user's folder
        connection.execute(_attach(before, "before"))
        if manifest_path(before).resolve() == manifest_path(after).resolve():
            # One file cannot be attached twice.
            for table in ("samples", "conversations", "rejections"):
                connection.execute("CREATE SCHEMA IF NOT EXISTS after")
                connection.execute(f"CREATE VIEW after.{table} AS FROM before.{table}")
        else:
            connection.execute(_attach(after, "after"))
        yield connection


def _attach(root: Path | str, name: str) -> str:
    path = str(manifest_path(root)).replace("'", "''")
    return f"ATTACH '{path}' AS {name} (READ_ONLY)"


def _compare(
    connection: duckdb.DuckDBPyConnection, pair: SplitPair, num_changed: int
) -> Comparison:
    totals = {}
    for side, name in (("before", pair.before), ("after", pair.after)):
        table = f"side_{side}"
        connection.execute(_SIDE.format(side=table, catalog=side), list(name))
        rows = connection.execute(_TOTALS.format(side=table)).fetchall()
        totals[side] = {row[0]: tuple(int(n) for n in row[1:]) for row in rows}
    connection.execute(_JOINED)
    nothing = (0,) * len(_COUNTS)
    tasks = []
    for task, only_before, only_after, other_text, other_answers in connection.execute(
        _FATES
    ).fetchall():
        counts = zip(
            _COUNTS,
            totals["before"].get(task, nothing),
            totals["after"].get(task, nothing),
            strict=True,
        )
        tasks.append(
            TaskChange(
                pair=pair.name,
                task=task,
                **{name: _change(b, a) for name, b, a in counts},
                only_before=only_before,
                only_after=only_after,
                other_text=other_text,
                other_answers=other_answers,
            )
        )
    return Comparison(
        tasks=tuple(tasks),
        rejections=_rejections(connection, pair),
        changed=_changed(connection, pair, num_changed),
        unpaired=(),
    )


def _rejections(
    connection: duckdb.DuckDBPyConnection, pair: SplitPair
) -> tuple[RejectionChange, ...]:
    counts: dict[str, dict[str, int]] = {}
    for side, name in (("before", pair.before), ("after", pair.after)):
        sql = f"SELECT code, count(*) FROM {side}.rejections WHERE dataset = ? AND split = ?"
        rows = connection.execute(f"{sql} GROUP BY code", list(name)).fetchall()
        for code, rejections in rows:
            counts.setdefault(code, {})[side] = rejections
    return tuple(
        RejectionChange(
            pair=pair.name,
            code=code,
            rejections=_change(found.get("before", 0), found.get("after", 0)),
        )
        for code, found in sorted(counts.items())
    )


def _changed(
    connection: duckdb.DuckDBPyConnection, pair: SplitPair, num_changed: int
) -> tuple[ChangedText, ...]:
    rows = connection.execute(_CHANGED, [num_changed]).fetchall()
    return tuple(
        ChangedText(
            pair=pair.name,
            task=task,
            native_id=native_id,
            id=id,
            before=_texts(connection, "before", pair.before, key_before, number_before),
            after=_texts(connection, "after", pair.after, key_after, number_after),
        )
        for task, native_id, id, key_before, number_before, key_after, number_after in rows
    )


def _texts(
    connection: duckdb.DuckDBPyConnection,
    side: str,
    name: tuple[str, str],
    key: str | None,
    number: int | None,
) -> tuple[tuple[str, str], ...]:
    if key is None:
        return ()
    sql = _TEXTS.format(catalog=side)
    found = connection.execute(sql, [*name, key, number]).fetchone()
    assert found is not None
    turns, options = found
    said = [(turn["role"], turn["text"]) for turn in turns]
    return (*said, *(("option", option) for option in options or ()))
