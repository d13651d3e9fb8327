"""Run a detector over pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.options import Device, Json, Overwrite, given
from commands.quiet import quiet_transformers
from roikit.errors import ChecksFailedError

if TYPE_CHECKING:
    from pipelines.detect import LabelReport


def label(
    images: Annotated[
        Path,
        typer.Argument(
            help="Folder of pictures, searched with all below it; a text file with a path a line; "
            "or a picture.",
            show_default=False,
        ),
    ],
    detector: Annotated[
        str,
        typer.Option(
            metavar="NAME|DIR",
            help="An object-detection model of Hugging Face: its name on the hub, or a folder.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The table of boxes (Parquet).",
            show_default="data/detections/IMAGES-DETECTOR.parquet",
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            help="What to look for, for OWL-ViT and OWLv2: a class a line, or an annotation file "
            "with `categories`, e.g. LVIS's."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Boxes at or below this score are left out.", show_default="0.3"
        ),
    ] = None,
    max_boxes: Annotated[
        int | None, typer.Option(min=1, help="Boxes a picture, the best.", show_default="100")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Pictures in the model at once.", show_default="8")
    ] = None,
    device: Device = "auto",
    dtype: Annotated[str, typer.Option(help="auto (fp32), fp32, bf16 or fp16.")] = "auto",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first pictures.", show_default="all")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Threads that read and decode.", show_default="one a core"),
    ] = None,
    max_rejects: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of pictures that may be bad.", show_default="0.01"),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Find objects in pictures with a detector; `convert llava --detections` reads the table.

    Interrupt it as you like: the same command goes on, and writes the same table. What was found is
    kept in data/detections/cache, by the pictures' bytes, the detector and the settings. A picture
    that cannot be read is named, counted and left out.

    Example: roikit label data/llava/train2017 --detector PekingU/rtdetr_r50vd --threshold 0.5
    """
    from pipelines import detect
    from roikit import render

    quiet_transformers()
    with render.progress("labelling", "pictures") as progress:
        report = detect.label(
            images,
            detector,
            out=out,
            classes=classes,
            device=device,
            dtype=dtype,
            limit=limit,
            workers=workers,
            overwrite=overwrite,
            progress=progress,
            **given(threshold=threshold, max_boxes=max_boxes, batch_size=batch_size),
        )
    if as_json:
        render.document(report)
    else:
        _show(report)
    if report.out is not None and not report.boxes:
        render.note(f"wrote {report.out}; no picture has a box above the threshold")
    problem = detect.check_rejections(report, **given(max_rejects=max_rejects))
    if problem is not None:
        others = "the others are labelled; `--max-rejects` allows more bad ones"
        raise ChecksFailedError(problem, hint=others if report.out is not None else None)


def _show(report: "LabelReport") -> None:
    from roikit import render

    columns = ("pictures", "labelled", "from cache", "without boxes", "rejected", "boxes")
    row = (report.pictures, report.labelled, report.from_cache, report.without_boxes)
    render.table(
        (*columns, "seconds"),
        [(*row, len(report.rejections), report.boxes, f"{report.seconds:.1f}")],
    )
    if report.rejections:
        render.line("")
        render.table(("rejected", "pictures"), list(report.rejected.items()))
    if report.out is not None and report.boxes:
        reads = f"`roikit convert llava --detections {report.out}` reads it"
        render.note(f"wrote {report.out}; {reads}")
