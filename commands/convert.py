"""Convert a dataset."""

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.options import Json, Overwrite, Seed, Workers, given
from roikit import paths
from roikit.errors import UsageError

if TYPE_CHECKING:
    from pipelines.reports import Progress, SplitReport, StepReport
    from roikit.sample import Rejection

log = logging.getLogger(__name__)


class Engine(StrEnum):
    """What runs the tasks of a conversion."""

    PROCESS = "process"
    RAY = "ray"


class Step(StrEnum):
    """The steps of a conversion, in order."""

    PLAN = "plan"
    TASKS = "tasks"
    COMMIT = "commit"


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
    engine: Annotated[
        Engine, typer.Option(help="What makes the shards: processes here, or a Ray cluster.")
    ] = Engine.PROCESS,
    step: Annotated[
        Step | None,
        typer.Option(help="Only this step, for job arrays.", show_default="all three"),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="With --step tasks, the share i/n of them, i from 0.", show_default="all"
        ),
    ] = None,
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
    decode_images: Annotated[
        bool,
        typer.Option("--decode-images", help="Decode every picture wholly; reject what does not."),
    ] = False,
    overwrite: Overwrite = False,
    extend: Annotated[
        bool,
        typer.Option(
            "--extend", help="Keep converted shards as they are and add pictures that are new."
        ),
    ] = False,
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
    from pipelines import terms
    from pipelines.draft import SourceOptions
    from pipelines.job import Job
    from pipelines.places import brought_here
    from pipelines.registry import find_dataset
    from pipelines.reports import FailedConversionError
    from pipelines.run import convert_job
    from pipelines.steps import TaskShare, commit_step, plan_step, tasks_step
    from roikit import render
    from roikit.urls import place

    _refuse_empty(
        {
            "SOURCE": [source],
            "--out": [out],
            "--split": split,
            "--images": images,
            "--split-by": [split_by],
            "--split-file": [split_file],
            "--detections": [detections],
            "--categories": [categories],
        }
    )
    if tasks is not None and step is not Step.TASKS:
        raise UsageError("--tasks: names a share of the tasks; give it with `--step tasks`")
    if dry_run and step is not None:
        raise UsageError("--dry-run: looks at the whole conversion; give it without `--step`")
    spec = find_dataset(name)  # before anything is fetched for it
    failed: FailedConversionError | None = None
    checks: dict[str, Any] = {"strict": strict} | given(max_rejects=max_rejects)
    with (
        render.progress(name, "pictures") as bar,
        brought_here(
            place(source) if source is not None else paths.source_dir(name),
            place(out) if out is not None else paths.shards_dir(),
            [place(root) for root in images or ()],
            below=paths.remote_dir(),
            workers=workers or os.cpu_count() or 1,
            dry_run=dry_run,
            tell=lambda done, total: bar(done, total, f"{name}: fetching annotation files"),
        ) as here,
    ):
        notice = terms.notice(name, here.out)

        def show(progress: "Progress") -> None:
            while notice:  # shown when the source is found sound enough to start
                render.note(notice.pop(0))
            bar(progress.done, progress.total, f"{name} {progress.split}: {progress.step}")

        job = Job(
            spec=spec,
            source=here.source,
            out=here.out,
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
            engine=engine.value,
            decode_images=decode_images,
            overwrite=overwrite,
            extend=extend,
            progress=show,
            command=shlex.join(["roikit", *sys.argv[1:]]),
            **given(max_shard_bytes=max_shard_bytes),
        )
        try:
            if step is Step.PLAN:
                return _show_steps(plan_step(job), as_json=as_json)
            if step is Step.TASKS:
                share = TaskShare.parse(tasks) if tasks is not None else TaskShare()
                return _show_steps(tasks_step(job, share), as_json=as_json)
            if step is Step.COMMIT:
                reports = commit_step(job, **checks)
            else:
                reports = convert_job(job, dry_run=dry_run, **checks)
        except FailedConversionError as error:  # committed all the same: say what there is
            reports, failed = error.reports, error
    if here.out in here.urls and not dry_run:
        render.note(f"manifest and sidecars of {here.urls[here.out]}: {here.out}")
    if as_json:
        render.document(reports)
    else:
        disk = None if job.out in here.urls else job.out
        _show_conversion(reports, disk=disk, dry_run=dry_run)
    if not strict:  # else the error says so
        for difference in (text for report in reports for text in report.count_differences):
            log.warning("counts differ: %s", difference)
    if failed is not None:
        raise failed


def _refuse_empty(options: dict[str, Sequence[str | None] | None]) -> None:
    """Refuse a value that is empty: as a path it would mean the current folder, or nothing."""
    for name, values in options.items():
        if any(value is not None and not value.strip() for value in values or ()):
            raise UsageError(
                f"`{name}`: expected a value, found it empty",
                hint="leave it out, or see whether the shell variable in it is set",
            )


def _show_steps(reports: "Sequence[StepReport]", *, as_json: bool) -> None:
    from roikit import render

    if as_json:
        return render.document(reports)
    columns = ("dataset", "split", "pictures", "tasks", "finished here", "unfinished")
    rows = [
        (
            *(r.dataset, r.split, r.images, r.tasks, r.tasks_here, len(r.unfinished)),
            *(render.bytes_text(r.bytes_needed), f"{r.seconds:.1f}"),
        )
        for r in reports
    ]
    render.table((*columns, "still to write", "seconds"), rows)
    if all(report.was_done for report in reports):
        render.note("all of it was converted before; there is nothing left to do")
    for command in dict.fromkeys(report.next_command for report in reports):
        if command is not None:
            render.note(f"next: {command}")
    if any("--tasks" in (report.next_command or "") for report in reports):
        render.note("      any n, each i from 0 to n - 1, on as many machines as you like")


def _show_conversion(reports: "Sequence[SplitReport]", *, disk: Path | None, dry_run: bool) -> None:
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
    kinds = [
        (r.dataset, r.split, kind, r.kinds[kind], published)
        for r in reports
        for kind, published in r.official_kinds.items()
        if kind in r.kinds
    ]
    if kinds:
        render.line("")
        render.table(("dataset", "split", "of the records", "found", "published"), kinds)
    _show_rejections(reports, dry_run=dry_run)
    if dry_run:
        needed, free = sum(r.bytes_needed for r in reports), max(r.bytes_free for r in reports)
        said = f"dry run: nothing was written; the shards need about {render.bytes_text(needed)}"
        render.note(f"{said}, {render.bytes_text(free)} are free at {disk}" if disk else said)
    elif all(report.was_done for report in reports):
        render.note("all of it was converted before; nothing was written")


def _show_rejections(reports: "Sequence[SplitReport]", *, dry_run: bool) -> None:
    """Show how many there are by code, with an example of each; all examples on a dry run."""
    from roikit import render

    counts = [
        (r.dataset, r.split, code, number, r.examples.get(code, []))
        for r in reports
        for code, number in r.rejections.items()
    ]
    if not counts:
        return
    columns = ("dataset", "split", "rejected", "rejections")
    render.line("")
    if not dry_run:
        rows = [(*row, _example_text(examples)) for *row, examples in counts]
        return render.table((*columns, "for example"), rows)
    render.table(columns, [row[:-1] for row in counts])
    render.line("")
    render.table(
        ("split", "rejected", "file", "record", "reason"),
        [
            (split, code, one.source.file, one.source.record, " ".join(one.message.split()))
            for _, split, code, _, examples in counts
            for one in examples
        ],
    )
    if any(number > len(examples) for *_, number, examples in counts):
        render.note("the first few of each code are listed; a conversion keeps all of them")


def _example_text(examples: "Sequence[Rejection]") -> str | None:
    if not examples:
        return None
    one = examples[0]
    return f"{one.source.file}: {one.source.record}: {' '.join(one.message.split())}"
