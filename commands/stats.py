"""Count what is in the shards, compare two conversions, draw how it is spread."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.options import Json, Overwrite, Shards
from roikit.errors import UsageError

if TYPE_CHECKING:
    from shards.compare import Change, Comparison

_EXAMPLES = 2


def stats(
    shards: Shards,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATASET[@SPLIT]]...", help="Only these.", show_default="all there are"
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|DATASET@SPLIT",
            help="Show the difference to the same splits in other shards, or to another split.",
        ),
    ] = None,
    examples: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="With --compare: changed conversations to print, a task of a split.",
            show_default=str(_EXAMPLES),
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with tables and plots.", metavar="FILE")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Count what is in the shards, by dataset, split and task, and what was rejected.

    With --compare, what is there before (--shards) and after (the other), and which texts changed.

    Example: roikit stats vcr --compare data/shards-faithful
    """
    if compare is not None:
        if html is not None:
            raise UsageError("`--html`: draws one set of shards, and `--compare` is given")
        amount = _EXAMPLES if examples is None else examples
        return _compare(shards, names or [], compare, amount, as_json)
    if examples is not None:
        raise UsageError("`--examples`: prints what `--compare` found, and it is not given")
    from roikit import render
    from roikit.page import write_page
    from shards.stats import stats as count

    found = count(shards, names or ())
    if html is not None:
        from shards.stats_page import stats_page

        write_page(html, stats_page(shards, names or ()), overwrite=overwrite)
        render.note(f"wrote {html}")
    if as_json:
        return render.document(found)
    render.table(
        ("dataset", "split", "task", "samples", "conversations", "exchanges", "answer words"),
        [
            (t.dataset, t.split, t.task, t.samples, t.conversations, t.exchanges, t.answer_words)
            for t in found.tasks
        ],
    )
    if found.rejections:
        render.line("")
        rows = [(r.dataset, r.split, r.code, r.rejections) for r in found.rejections]
        render.table(("dataset", "split", "rejected", "rejections"), rows)


def _compare(shards: Path, names: list[str], other: str, examples: int, as_json: bool) -> None:
    from roikit import render
    from shards.compare import compare_roots, compare_splits

    if Path(other).is_dir():
        found = compare_roots(shards, other, names, num_changed=examples)
    elif "@" in other and len(names) == 1:
        found = compare_splits(shards, names[0], other, num_changed=examples)
    else:
        raise UsageError(
            f"`--compare {other}`: expected a folder of shards, or DATASET@SPLIT beside one "
            f"DATASET@SPLIT, found no such folder and {len(names)} names",
            hint="`roikit stats vcr --compare data/shards-faithful`, "
            "`roikit stats vg@val --compare vg@test`",
        )
    if as_json:
        return render.document(found)
    _show_comparison(found)


def _show_comparison(found: "Comparison") -> None:
    from roikit import render
    from roikit.mentions import plain

    counted = ("samples", "conversations", "exchanges", "words", "answer_words")
    rows = []
    for task in found.tasks:
        for what in counted:
            change = getattr(task, what)
            rows.append((task.pair, task.task, what.replace("_", " "), *_beside(change)))
    render.table(("splits", "task", "count of", "before", "after", "difference"), rows)
    render.line("")
    render.table(
        ("splits", "task", "only before", "only after", "other text", "of these other answers"),
        [
            (t.pair, t.task, t.only_before, t.only_after, t.other_text, t.other_answers)
            for t in found.tasks
        ],
    )
    if found.rejections:
        render.line("")
        lost = [(r.pair, r.code, *_beside(r.rejections)) for r in found.rejections]
        render.table(("splits", "rejected", "before", "after", "difference"), lost)
    for one in found.changed:
        render.line(f"\n{one.pair}  {one.task}  {one.id}  {one.native_id}")
        for i in range(max(len(one.before), len(one.after))):
            before, after = (side[i : i + 1] for side in (one.before, one.after))
            if before == after:
                render.line(f"    {before[0][0]:<9}  {plain(before[0][1])}")
                continue
            for mark, said in (("-", before), ("+", after)):
                for role, text in said:
                    render.line(f"  {mark} {role:<9}  {plain(text)}")
    if found.unpaired:
        render.note(f"not compared, for only one side has them: {', '.join(found.unpaired)}")
    if found.is_same:
        render.note("every conversation is on both sides, with the same texts")


def _beside(change: "Change") -> tuple[int, int, str]:
    return change.before, change.after, f"{change.difference:+,}"
