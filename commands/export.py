"""Write shards in other tools' forms."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.options import Json, Overwrite, Shards

if TYPE_CHECKING:
    from shards.export.folder import ExportReport


class Coordinates(StrEnum):
    """How LLaVA's texts give boxes."""

    NORMALISED = "normalised"
    THOUSANDTHS = "0-1000"
    PIXEL = "pixel"


Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[DATASET[@SPLIT]]...", help="Only these.", show_default="all"),
]
Out = Annotated[Path, typer.Option("--out", help="Folder to make.", show_default=False)]
Pictures = Annotated[
    bool,
    typer.Option(
        "--pictures/--no-pictures",
        help="Take the pictures out of the shards; without them, records keep the dataset's own "
        "file names.",
    ),
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Samples a split at most.", show_default="all")
]


def coco(
    shards: Shards,
    out: Out,
    names: Names = None,
    pictures: Pictures = True,
    limit: Limit = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write splits as COCO's JSON: images, boxes and masks, categories from the labels.

    Example: roikit export coco vg@val --out data/vg-coco
    """
    from roikit import render
    from shards.export.coco import export_coco
    from shards.selection import named_splits

    with render.progress("exporting", "samples") as progress:
        report = export_coco(
            shards,
            named_splits(shards, names or ()),
            out,
            with_pictures=pictures,
            limit=limit,
            overwrite=overwrite,
            progress=progress,
        )
    _show(report, "annotations", as_json)


def llava(
    shards: Shards,
    out: Out,
    names: Names = None,
    coordinates: Annotated[
        Coordinates,
        typer.Option(
            help="Boxes as shares of width and height, as whole thousandths, or as pixels."
        ),
    ] = Coordinates.NORMALISED,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this task; may be given several times.", show_default="all but choice"
        ),
    ] = None,
    pictures: Pictures = True,
    limit: Limit = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write splits as LLaVA's JSON: dialogues with regions as coordinates.

    Example: roikit export llava vcr@train --out data/vcr-llava --coordinates 0-1000
    """
    from roikit import render
    from shards.export.llava import export_llava
    from shards.selection import check_tasks, named_splits

    check_tasks(task or ())
    with render.progress("exporting", "samples") as progress:
        report = export_llava(
            shards,
            named_splits(shards, names or ()),
            out,
            coordinates=coordinates.value,
            tasks=task or (),
            with_pictures=pictures,
            limit=limit,
            overwrite=overwrite,
            progress=progress,
        )
    _show(report, "conversations", as_json)


def energon(
    shards: Shards,
    out: Out,
    names: Names = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Lay splits out for Megatron-Energon: linked shards, their indexes, and `.nv-meta`.

    Example: roikit export energon vcr --out data/energon
    """
    from roikit import render
    from shards.export.energon import export_energon
    from shards.selection import named_splits

    with render.progress("exporting", "shards") as progress:
        report = export_energon(
            shards,
            named_splits(shards, names or ()),
            out,
            overwrite=overwrite,
            progress=progress,
        )
    _show(report, "", as_json)


def _show(report: "ExportReport", unit: str, as_json: bool) -> None:
    from roikit import render

    if as_json:
        return render.document(report)
    counts = [(s.samples, s.records) if unit else (s.samples,) for s in report.splits]
    render.table(
        ("dataset", "split", "samples", *filter(None, [unit]), "file"),
        [
            (s.dataset, s.split, *count, s.file and report.out / s.file)
            for s, count in zip(report.splits, counts, strict=True)
        ],
    )
    for reason, count in _left_out(report):
        render.note(f"left out: {count:,} conversations, {reason}")


def _left_out(report: "ExportReport") -> Sequence[tuple[str, int]]:
    counts: dict[str, int] = {}
    for split in report.splits:
        for reason, count in split.left_out.items():
            counts[reason] = counts.get(reason, 0) + count
    return sorted(counts.items())
