"""Look into the shards: check, count, show, ask."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from commands.options import Json, Shards, Workers
from roikit.errors import ChecksFailedError


def verify(
    shards: Shards,
    dataset: Annotated[
        str | None, typer.Argument(help="Only this dataset.", show_default="all")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only this split.", show_default="all")] = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Read every byte of the shards and check it against what was written.

    Exits with 3 where something is not as it was.

    Example: roikit verify coco --split val
    """
    from roikit import render
    from shards.verify import verify as check

    with render.progress("verifying", "shards") as progress:
        report = check(shards, dataset, split, workers=workers, progress=progress)
    if as_json:
        render.document(report)
    else:
        for problem in report.problems:
            render.line(str(problem))
        render.line(
            f"{report.splits} splits, {report.shards:,} shards, {report.samples:,} samples, "
            f"{render.bytes_text(report.tar_bytes)}: {len(report.problems):,} problems"
        )
    if not report.is_good:
        raise ChecksFailedError(
            f"{len(report.problems):,} problems found",
            hint="delete the files named above; `roikit convert` makes those shards anew",
        )


def stats(shards: Shards, as_json: Json = False) -> None:
    """Count what is in the shards, by dataset, split and task, and what was rejected.

    Example: roikit stats
    """
    from roikit import render
    from shards.stats import stats as count

    found = count(shards)
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
        rows = [(r.dataset, r.split, r.code, r.records) for r in found.rejections]
        render.table(("dataset", "split", "rejected", "records"), rows)


def show(
    key: Annotated[str, typer.Argument(help="The sample's key.", show_default=False)],
    shards: Shards,
    save: Annotated[
        Path | None, typer.Option(help="Write the picture with its regions as PNG.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a sample: its picture with the regions drawn, and what is said about them.

    The picture appears in terminals that can show one (kitty, iTerm2); elsewhere `--save` it.

    Example: roikit show vcr-train-000000042 --save sample.png
    """
    from roikit import draw, render
    from roikit.images import decode_rgb
    from roikit.mentions import plain
    from shards.read import read_sample

    sample, image_bytes = read_sample(shards, key)
    drawn = draw.draw_regions(decode_rgb(image_bytes), sample.regions)
    written = draw.show(
        drawn,
        write=sys.stdout.write,
        environ=os.environ,
        is_terminal=sys.stdout.isatty() and not as_json,
        png_path=save,
    )
    if written is not None:
        render.note(f"wrote {written}")
    if as_json:
        return render.document(sample)
    image = sample.image
    render.line(f"{sample.key}  {image.file}  {image.width} x {image.height}  {image.native_id}")
    render.table(
        ("region", "colour", "box_xyxy", "label"),
        [
            (
                f"region{number}",
                draw.colour(number)[0],
                ",".join(f"{value:g}" for value in region.box_xyxy),
                region.label,
            )
            for number, region in enumerate(sample.regions, 1)
        ],
    )
    for conversation in sample.conversations:
        render.line(f"\n{conversation.task}  {conversation.id}")
        for turn in conversation.turns:
            render.line(f"  {turn.role:<9}  {plain(turn.text)}")
        choice = conversation.choice
        for i, option in enumerate(choice.options if choice is not None else ()):
            mark = "*" if choice is not None and i == choice.answer else " "
            render.line(f"  {mark} {i}  {plain(option)}")


def query(
    sql: Annotated[str, typer.Argument(help="One SQL statement.", show_default=False)],
    shards: Shards,
    as_json: Json = False,
) -> None:
    """Ask the manifest a question in SQL (DuckDB).

    Tables: datasets, shards, samples, images, regions, conversations, rejections, source_files and
    runs.

    Example: roikit query "select label, count(*) from regions group by label order by 2 desc"
    """
    from roikit import render
    from shards.manifest import query as ask

    columns, rows = ask(shards, sql)
    if as_json:
        return render.document([dict(zip(columns, row, strict=True)) for row in rows])
    render.table(columns, rows)


def rebuild_manifest(shards: Shards, as_json: Json = False) -> None:
    """Make manifest.duckdb and the index again from the committed shards.

    Example: roikit manifest rebuild --shards data/shards
    """
    from roikit import render
    from shards.manifest import rebuild

    written = rebuild(shards)
    if as_json:
        return render.document({"manifest": written})
    render.line(str(written))
