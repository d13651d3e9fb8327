"""Draw the miniature world, or trees of official size."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from commands.options import Json, Overwrite, Seed, Workers, given
from roikit.errors import UsageError


class Scale(StrEnum):
    """How much is written."""

    MINI = "mini"
    FULL = "full"


def miniature(
    out: Annotated[Path, typer.Argument(help="Folder to make.", show_default=False)],
    scale: Annotated[
        Scale,
        typer.Option(
            help="mini: drawn scenes with true texts. full: invented records in the official "
            "numbers, for measuring time and memory (coco, vg, vcr and lvis; takes no --images, "
            "--faults or --workers)."
        ),
    ] = Scale.MINI,
    images: Annotated[
        int | None, typer.Option(min=32, help="Different pictures in all.", show_default="2000")
    ] = None,
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

    As many records as the official files hold: roikit miniature data/full --scale full
    """
    names = None if datasets is None else [name.strip() for name in datasets.split(",")]
    if scale is Scale.FULL:
        unused = given(images=images, workers=workers, faults=faults or None)
        for option in unused:
            raise UsageError(
                f"--{option}: `--scale full` has no use for it",
                hint="the published counts say how much is written, by one process",
            )
        return _full_scale(out, names, seed, overwrite, as_json)
    from pipelines.miniature import DATASETS, make_miniature
    from pipelines.miniature_faults import FAULTS_FILE
    from roikit import render

    with render.progress("drawing", "pictures") as progress:
        report = make_miniature(
            out,
            images=2000 if images is None else images,
            seed=seed,
            datasets=DATASETS if names is None else names,
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


def _full_scale(
    out: Path, names: list[str] | None, seed: int, overwrite: bool, as_json: bool
) -> None:
    from pipelines.full_scale import make_full_scale
    from roikit import render

    with render.progress("drawing pictures", "records") as progress:
        reports = make_full_scale(
            out, datasets=names, seed=seed, overwrite=overwrite, progress=progress
        )
    if as_json:
        return render.document(reports)
    rows = [
        (
            report.dataset,
            report.images,
            report.records,
            render.bytes_text(report.file_bytes),
            "there already" if report.was_done else f"{report.seconds:.1f} s",
        )
        for report in reports
    ]
    render.table(("dataset", "images", "records", "files", "written"), rows)
    render.note(
        "all of it is synthetic: texts and boxes are invented, a few hundred drawn pictures stand"
        " under all names; for measuring conversion, not for training"
    )
    first = reports[0]
    render.note(f"roikit convert {first.dataset} {first.folder}")
