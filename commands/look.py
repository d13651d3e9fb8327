"""Look into the shards: check, ask, make the manifest again."""

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
