"""Draw the miniature world."""

from pathlib import Path
from typing import Annotated

import typer

from commands.options import Json, Overwrite, Seed, Workers


def miniature(
    out: Annotated[Path, typer.Argument(help="Folder to make.", show_default=False)],
    images: Annotated[int, typer.Option(min=32, help="Different pictures in all.")] = 2000,
    datasets: Annotated[
        str | None,
        typer.Option(
            help="Trees to write, separated by commas, e.g. coco,vg,vcr.", show_default="all"
        ),
    ] = None,
    faults: Annotated[
        bool,
        typer.Option(
            "--faults", help="Plant bad records and pictures; faults.json lists what and where."
        ),
    ] = False,
    seed: Seed = 0,
    workers: Workers = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw a miniature world as source trees in the official layouts.

    Example: roikit miniature data/miniature --images 2000 --seed 0

    The trees of coco, vg and vcr alone: roikit miniature data/miniature --datasets coco,vg,vcr
    """
    from pipelines.miniature import DATASETS, make_miniature
    from pipelines.miniature_faults import FAULTS_FILE
    from roikit import render

    wanted = DATASETS if datasets is None else [name.strip() for name in datasets.split(",")]
    with render.progress("drawing", "pictures") as progress:
        report = make_miniature(
            out,
            images=images,
            seed=seed,
            datasets=wanted,
            faults=faults,
            overwrite=overwrite,
            progress=progress,
            workers=workers,
        )
    if as_json:
        return render.document(report)
    rows = [(name, n, report.statements.get(name, 0)) for name, n in report.pictures.items()]
    render.table(("dataset split", "pictures", "statements"), rows)
    render.note(f"{report.images:,} pictures in {report.seconds:.1f} s; convert them with, e.g.,")
    first = next(iter(report.pictures)).split(" ")[0]
    render.note(f"roikit convert {first} {out / first}")
    if faults:
        render.note(f"{report.faults} faults are planted: {out / FAULTS_FILE} lists them")
