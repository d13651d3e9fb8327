"""Evaluation pictures that stand in training data, and lists of them."""

from pathlib import Path
from typing import Annotated

import typer

from commands.options import Json, Overwrite, Shards, Workers
from roikit import paths
from roikit.errors import ChecksFailedError, UsageError
from roikit.path_errors import check_writable


def leaks(
    shards: Shards,
    evaluation: Annotated[
        list[str] | None,
        typer.Option(
            "--eval",
            metavar="DATASET@SPLIT",
            help="An evaluation split; may be given several times.",
            show_default="every split that is not for training",
        ),
    ] = None,
    training: Annotated[
        list[str] | None,
        typer.Option(
            "--train",
            metavar="DATASET@SPLIT",
            help="A training split; may be given several times.",
            show_default="every split whose name starts with train",
        ),
    ] = None,
    no_pixels: Annotated[
        bool,
        typer.Option("--no-pixels", help="Compare ids and bytes alone: opens no picture."),
    ] = False,
    save: Annotated[
        Path | None, typer.Option(help="Write the pairs that look alike as one HTML page.")
    ] = None,
    write_list: Annotated[
        bool,
        typer.Option(
            "--write-list",
            help="List each evaluation split's pictures, and training's copies of them, for "
            "training to leave out.",
        ),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail where a picture is found in training data.")
    ] = False,
    workers: Workers = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Count the evaluation pictures that stand in the training splits too.

    Compared are the datasets' own ids (COCO's, as Visual Genome and others give them), the bytes,
    the decoded pixels, and the look: resized and re-encoded copies are similar, and for you to look
    at. Pictures are hashed once; the hashes are kept beside the shards.

    Printed are the pairs that share something, and each evaluation split against all training
    splits together; `--json` has every pair.

    Example: roikit leaks --eval vg@test --train coco@train --save alike.html
    """
    from roikit import render
    from shards.commit import list_datasets
    from shards.contact_sheet import write_contact_sheet
    from shards.kept_clean import dataset_and_split, list_path
    from shards.leaks import find_leaks

    all_splits = [(info.dataset, info.split) for info in list_datasets(shards)]
    asked = [dataset_and_split(name) for name in evaluation or ()]
    asked = asked or [name for name in all_splits if not name[1].startswith("train")]
    trained = [dataset_and_split(name) for name in training or ()]
    trained = trained or [name for name in all_splits if name[1].startswith("train")]
    if not asked or not trained:
        raise UsageError(
            f"{shards}: expected a split for evaluation and one for training",
            hint="convert them first, or name them with --eval and --train",
        )
    if save is not None and no_pixels:
        raise UsageError("--save: looks are not compared with --no-pixels")
    if save is not None and save.exists() and not overwrite:  # before the work, not after it
        raise UsageError(f"`{save}` exists", hint="pass --overwrite, or another name")
    for path in [list_path(shards, "@".join(name)) for name in asked] if write_list else []:
        check_writable(path)
    if save is not None:
        check_writable(save)
    with render.progress("hashing", "pictures") as progress:
        found = find_leaks(
            shards,
            evaluations=asked,
            training=trained,
            with_pixels=not no_pixels,
            write_lists=write_list,
            overwrite=overwrite,
            workers=workers,
            progress=progress,
        )
    if as_json:
        render.document(found)
    else:
        is_summed = {row.evaluation for row in found.rows if row.training is None}
        shown = [
            row
            for row in found.rows
            if row.any or row.training is None or row.evaluation not in is_summed
        ]
        columns = ("evaluation", "training", "pictures", "same id", "same bytes", "same pixels")
        render.table(
            (*columns, "found", "similar, look at them", "any"),
            [
                (
                    *(r.evaluation, r.training or "all of them", r.total, r.by_id, r.by_bytes),
                    *(r.by_pixels, r.found, r.similar, r.any),
                )
                for r in shown
            ],
        )
        if hidden := len(found.rows) - len(shown):
            render.line(f"{hidden:,} further pairs share nothing")
    if save is not None:
        drawn = write_contact_sheet(shards, found.look_alikes, save, overwrite=overwrite)
        render.note(f"wrote {save}: {drawn:,} of {len(found.look_alikes):,} pairs")
    for path in found.lists:
        render.note(f"wrote {path}")
    leaking = sorted({row.evaluation for row in found.rows if row.found})
    if strict and leaking:
        raise ChecksFailedError(
            f"pictures of {', '.join(leaking)} stand in training data",
            hint="a recipe leaves them out of training that names them in keep_clean",
        )


def list_pictures(
    name: Annotated[
        str, typer.Argument(help="The dataset; `roikit datasets` lists them.", show_default=False)
    ],
    shards: Shards,
    source: Annotated[
        Path | None,
        typer.Argument(help="Folder of the annotation files.", show_default="data/NAME"),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="The dataset's own name; may be given several times.",
            show_default="all but those for training",
        ),
    ] = None,
    split_by: Annotated[
        str | None,
        typer.Option(help="Whose splits, where several lie side by side: unc, umd or google."),
    ] = None,
    split_file: Annotated[
        Path | None, typer.Option(help="File that lists the pictures of each split.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """List the pictures of a dataset's evaluation splits, from its annotation files alone.

    Training leaves them out where a recipe keeps that benchmark clean (its key keep_clean) and it
    is not converted. The pictures themselves need not be there. Writes
    SHARDS/benchmarks/DATASET@SPLIT.txt.

    Example: roikit list-pictures refcoco data/refcoco
    """
    from pipelines.draft import SourceOptions
    from pipelines.picture_lists import list_pictures as write_lists
    from roikit import render

    reports = write_lists(
        name,
        source if source is not None else paths.source_dir(name),
        shards,
        splits=split or None,
        options=SourceOptions(split_by=split_by, split_file=split_file),
        overwrite=overwrite,
    )
    if as_json:
        return render.document(reports)
    rows = [(report.benchmark, report.pictures, str(report.path)) for report in reports]
    render.table(("benchmark", "pictures", "list"), rows)
