"""Draw the miniature world."""

from pathlib import Path
from typing import Annotated

import typer

from commands.options import Json, Overwrite, Seed, Workers


def miniature(
    out: Annotated[Path, typer.Argument(help="Folder to make.", show_default=False)],
    images: Annotated[int, typer.Option(min=32, help="Different pictures in all.")] = 2000,
    seed: Seed = 0,
    workers: Workers = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw a miniature world as source trees in the official layouts.

    Example: roikit miniature data/miniature --images 2000 --seed 0
    """
    from pipelines.miniature import make_miniature
    from roikit import render

    with render.progress("drawing", "pictures") as progress:
        report = make_miniature(
            out,
            images=images,
            seed=seed,
            workers=workers,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        return render.document(report)
    rows = [(name, n, report.statements.get(name, 0)) for name, n in report.pictures.items()]
    render.table(("dataset split", "pictures", "statements"), rows)
    render.note(f"{report.images:,} pictures in {report.seconds:.1f} s; convert them with, e.g.,")
    render.note(f"roikit convert coco {out / 'coco'}")
