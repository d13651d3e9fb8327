"""Convert a dataset."""

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from commands.options import Json, Overwrite, Seed, Workers, given
from roikit import paths

if TYPE_CHECKING:
    from pipelines.run import SplitReport

log = logging.getLogger(__name__)


def convert(
    name: Annotated[
        str, typer.Argument(help="The dataset; `roikit datasets` lists them.", show_default=False)
    ],
    source: Annotated[
        str | None,
        typer.Argument(help="Folder or URL of the official files.", show_default="data/NAME"),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder or URL of the shards.", show_default="data/shards")
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="The dataset's own name; may be given several times.", show_default="all there"
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            help="Further folder or URL that pictures lie in; may be given several times."
        ),
    ] = None,
    split_by: Annotated[
        str | None,
        typer.Option(help="Whose splits, where several lie side by side: unc, umd or google."),
    ] = None,
    split_file: Annotated[
        str | None, typer.Option(help="File that lists the pictures of each split.")
    ] = None,
    detections: Annotated[str | None, typer.Option(help="File of detected boxes.")] = None,
    categories: Annotated[
        str | None,
        typer.Option(help="Annotation file that names the detected classes, e.g. LVIS's."),
    ] = None,
    masks: Annotated[
        bool,
        typer.Option(
            "--masks", help="Keep objects' masks: coco, lvis, paco, and refcoco* in REFER's form."
        ),
    ] = False,
    faithful: Annotated[
        bool,
        typer.Option(
            "--faithful", help="Bring back GPT4RoI's defects that change the training text."
        ),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures a split, kept apart as e.g. train-first1000."),
    ] = None,
    seed: Seed = 0,
    workers: Workers = None,
    max_rejects: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of records that may be bad.", show_default="0.01"),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail where counts differ from the published ones.")
    ] = False,
    max_shard_bytes: Annotated[
        int | None, typer.Option(min=1, help="Largest shard.", show_default="256 MiB")
    ] = None,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and check everything, write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Convert a dataset's official files into shards.

    Bad records are rejected, counted and kept in the manifest with their place; the rest is
    converted. Interrupt it as you like: the same command goes on, and gives the same bytes.
    Sources, pictures and shards may lie behind URLs, such as s3://bucket/vcr (docs/remote.md).

    Example: roikit convert vcr data/vcr --split val --limit 1000
    """
    from pipelines import run, terms
    from pipelines.draft import SourceOptions
    from pipelines.places import brought_here
    from pipelines.registry import find_dataset
    from roikit import render
    from roikit.remote import place

    find_dataset(name)  # before anything is fetched for it
    workers = workers or os.cpu_count() or 1
    failed: run.FailedConversionError | None = None
    with (
        render.progress(name, "pictures") as bar,
        brought_here(
            place(source) if source is not None else paths.source_dir(name),
            place(out) if out is not None else paths.shards_dir(),
            [place(root) for root in images or ()],
            below=paths.remote_dir(),
            workers=workers,
            dry_run=dry_run,
            tell=lambda done, total: bar(done, total, f"{name}: fetching annotation files"),
        ) as here,
    ):
        notice = terms.notice(name, here.out)

        def show(progress: run.Progress) -> None:
            while notice:  # shown when the source is found sound enough to start
                render.note(notice.pop(0))
            bar(progress.done, progress.total, f"{name} {progress.split}: {progress.step}")

        try:
            reports = run.convert(
                name,
                here.source,
                here.out,
                splits=split or None,
                image_roots=here.image_roots,
                options=SourceOptions(
                    split_by=split_by,
                    split_file=here.file(split_file and place(split_file)),
                    detections=here.file(detections and place(detections)),
                    categories=here.file(categories and place(categories)),
                    masks=masks,
                    faithful=faithful,
                ),
                limit=limit,
                seed=seed,
                workers=workers,
                strict=strict,
                overwrite=overwrite,
                dry_run=dry_run,
                progress=show,
                command=shlex.join(["roikit", *sys.argv[1:]]),
                **given(max_rejects=max_rejects, max_shard_bytes=max_shard_bytes),
            )
        except run.FailedConversionError as error:  # committed all the same: say what there is
            reports, failed = error.reports, error
    if here.out in here.urls and not dry_run:
        render.note(f"manifest and sidecars of {here.urls[here.out]}: {here.out}")
    if as_json:
        render.document(reports)
    else:
        _show_conversion(reports, dry_run=dry_run)
    if failed is not None:
        raise failed
    for difference in (text for report in reports for text in report.count_differences):
        log.warning("counts differ: %s", difference)


def _show_conversion(reports: "Sequence[SplitReport]", *, dry_run: bool) -> None:
    from roikit import render

    def official(count: int | None) -> int | str:
        return "-" if count is None else count

    columns = ("dataset", "split", "pictures", "published", "used", "records", "published", "used")
    rows = [
        (
            *(r.dataset, r.split, r.images_found, official(r.official_images), r.images_converted),
            *(r.records_found, official(r.official_records), r.records_converted),
            *(r.records_by_policy, r.faults, r.num_shards),
            *(render.bytes_text(r.num_bytes), f"{r.seconds:.1f}"),
        )
        for r in reports
    ]
    render.table((*columns, "left out by policy", "faults", "shards", "size", "seconds"), rows)
    rejected = [(r.dataset, r.split, code, n) for r in reports for code, n in r.rejections.items()]
    if rejected:
        render.line("")
        render.table(("dataset", "split", "rejected", "records"), rejected)
    if dry_run:
        render.note("dry run: nothing was written")
    elif all(report.was_done for report in reports):
        render.note("all of it was converted before; nothing was written")
