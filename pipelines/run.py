"""Convert a dataset: plan, tasks, commit, one split after the other.

In: a dataset's official files. Out: shards, sidecars, the commit and the manifest below one root,
or (dry run) the counts alone. Safe to run again after any kind of end: finished shards are kept,
and a finished split is recognised. Rejected records never stop a conversion; too many of them end
it with exit 3 after the commit.
"""

import datetime
import errno
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

import roikit
from pipelines.draft import OfficialCounts, OpenSource, SourceOptions
from pipelines.engines import run_tasks, sigterm_as_exit
from pipelines.job import DEFAULT_MAX_SHARD_BYTES, Job, choose_splits, open_source
from pipelines.plan import PLAN_DIR, Plan, make_plan, remove_plans, split_name
from pipelines.registry import find_dataset
from pipelines.reports import Progress, ProgressCall, SplitReport, check_counts, check_faults
from pipelines.task import TaskCounts
from roikit.errors import RoikitError, UsageError
from shards import manifest
from shards.atomic import leftovers, locked
from shards.commit import (
    DatasetInfo,
    RunInfo,
    claim_split,
    commit_dataset,
    is_whole,
    load_dataset,
)
from shards.layout import commit_path, split_dir, split_prefix

log = logging.getLogger(__name__)

DEFAULT_MAX_REJECTS = 0.01


def convert(
    name: str,
    source: Path,
    out: Path,
    *,
    splits: Sequence[str] | None = None,
    image_roots: Sequence[Path] = (),
    options: SourceOptions | None = None,
    limit: int | None = None,
    seed: int = 0,
    workers: int = 1,
    max_rejects: float = DEFAULT_MAX_REJECTS,
    strict: bool = False,
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: ProgressCall | None = None,
    command: str | None = None,
) -> list[SplitReport]:
    """Convert a dataset's splits into shards below `out`.

    Args:
        name: the dataset, as `pipelines.registry.DATASETS` names it.
        source: folder with its official files.
        out: root of the shards.
        splits: the dataset's own names; None takes all that are there.
        image_roots: further folders that pictures may come from.
        options: what the dataset takes beside; see `SourceOptions`.
        limit: take the first images of the seeded order only, as a split `train-first1000`.
        seed: of the order and of the wordings.
        workers: processes that make shards.
        max_rejects: share of the records that may be lost to faults, 0 to 1.
        strict: end with an error where counts differ from the published ones.
        max_shard_bytes: a shard is cut before it grows larger.
        overwrite: replace shards that were made from other sources or settings.
        dry_run: read and check everything, write nothing.
        progress: told how far it is.
        command: the command line, noted with the run.

    Returns:
        A report a split, in order.

    Raises:
        UsageError: a wrong path, file or option.
        TooManyRejectsError: after the commit; it carries the reports.
        CountsDifferError: as that, with `strict`.
        RoikitError: the disk is full, or a worker crashed.
    """
    if not 0 <= max_rejects <= 1:
        raise UsageError(f"max_rejects: expected a share from 0 to 1, got {max_rejects}")
    job = Job(
        spec=find_dataset(name),
        source=source,
        out=out,
        splits=splits,
        image_roots=image_roots,
        options=options or SourceOptions(),
        limit=limit,
        seed=seed,
        workers=workers,
        max_shard_bytes=max_shard_bytes,
        overwrite=overwrite,
        progress=progress or (lambda _: None),
        command=command,
    )
    opened = open_source(job)
    if not dry_run:
        _make_root(out)
    reports: list[SplitReport] = []
    with sigterm_as_exit(), _clear_disk_errors(out):
        for split in choose_splits(job, opened):
            report = (_dry_run if dry_run else _convert_split)(job, opened, split)
            if report.images_found or report.records_found or splits is not None:
                reports.append(report)
    if not any(report.images_found for report in reports):
        chosen = ", ".join(splits or opened.splits)
        raise UsageError(
            f"`{source}`: expected images in {chosen}, found none",
            hint="are these the dataset's own annotation files?",
        )
    check_faults(reports, max_rejects)
    if strict:
        check_counts(reports)
    return reports


def _make_root(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"`{out}`: expected a folder to write shards into, cannot make it: {error.strerror}",
            hint="choose another `--out`",
        ) from error


def _convert_split(job: Job, opened: OpenSource, split: str) -> SplitReport:
    started = time.monotonic()
    stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    stored = split_name(split, job.limit)
    dataset = job.spec.name
    work = job.out / PLAN_DIR
    with _only_one(work / f"{split_prefix(dataset, stored)}.lock"):
        plan, folder = _plan(job, opened, split, work)
        if not any(shard.num_images for shard in plan.shards) and not plan.num_stray_records:
            log.info("%s: split `%s` holds no image", dataset, split)
            remove_plans(work, dataset, stored)
            return _report(opened, plan, TaskCounts(), started, None, was_done=False)
        claim_split(job.out, dataset, stored, plan_hash=plan.plan_hash, overwrite=job.overwrite)
        committed = _committed(job.out, dataset, stored, plan.plan_hash)
        if committed is not None:
            manifest.update(job.out, dataset, stored)  # the last run may have ended before it
            remove_plans(work, dataset, stored)
            counts = msgspec.convert(committed.settings["counts"], TaskCounts)
            return _report(opened, plan, counts, started, committed, was_done=True)
        try:
            counts = _run(job, plan, folder, job.out)
        except BaseException:
            # Ended workers leave the files they were writing. Nobody else writes: we hold the lock.
            for path in leftovers(split_dir(job.out, dataset, stored)):
                path.unlink(missing_ok=True)
            raise
        job.progress(Progress(split=stored, step="committing"))
        committed = commit_dataset(
            job.out,
            dataset,
            stored,
            num_shards=len(plan.shards),
            plan_hash=plan.plan_hash,
            settings=plan.settings | {"counts": msgspec.to_builtins(counts)},
            source_files=plan.source_files,
            run=RunInfo(
                roikit=roikit.__version__,
                started=stamp,
                seconds=round(time.monotonic() - started, 3),
                workers=job.workers,
                command=job.command,
            ),
        )
        manifest.update(job.out, dataset, stored)
        remove_plans(work, dataset, stored)
    return _report(opened, plan, counts, started, committed, was_done=False)


def _dry_run(job: Job, opened: OpenSource, split: str) -> SplitReport:
    """Do all but the writing; draft files go to a temporary folder."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="roikit-") as work:
        plan, folder = _plan(job, opened, split, Path(work))
        counts = _run(job, plan, folder, None)
    return _report(opened, plan, counts, started, None, was_done=False)


def _plan(job: Job, opened: OpenSource, split: str, work: Path) -> tuple[Plan, Path]:
    job.progress(Progress(split=split_name(split, job.limit), step="reading"))
    return make_plan(
        job.spec,
        opened,
        split,
        opened.splits[split](),
        work=work,
        seed=job.seed,
        limit=job.limit,
        max_shard_bytes=job.max_shard_bytes,
        options=job.options,
    )


def _run(job: Job, plan: Plan, folder: Path, out: Path | None) -> TaskCounts:
    total = sum(shard.num_images for shard in plan.shards)

    def report(num_images: int, num_bytes: int) -> None:
        job.progress(
            Progress(
                split=plan.split,
                step="converting",
                done=num_images,
                total=total,
                num_bytes=num_bytes,
            )
        )

    report(0, 0)
    counts = TaskCounts()
    indices = range(len(plan.shards))
    for task in run_tasks(folder, indices, out, workers=job.workers, report=report):
        counts.add(task)
    counts.rejections = dict(sorted(counts.rejections.items()))
    return counts


def _committed(out: Path, dataset: str, split: str, plan_hash: str) -> DatasetInfo | None:
    """Return the split's commit, if this very plan was finished before and no file is lost."""
    if not commit_path(out, dataset, split).is_file():
        return None
    committed = load_dataset(out, dataset, split)
    is_ours = committed.plan_hash == plan_hash
    return committed if is_ours and is_whole(out, committed) else None


def _report(
    opened: OpenSource,
    plan: Plan,
    counts: TaskCounts,
    started: float,
    committed: DatasetInfo | None,
    *,
    was_done: bool,
) -> SplitReport:
    # A limited split is stored under a name of its own, which nobody has published counts of.
    official = opened.official.get(plan.split, OfficialCounts())
    return SplitReport(
        dataset=plan.dataset,
        split=plan.split,
        images_found=counts.images_found,
        images_converted=counts.images_converted,
        records_found=counts.records_found,
        records_converted=counts.records_converted,
        records_by_policy=counts.records_by_policy,
        boxes_clipped=counts.boxes_clipped,
        rejections=counts.rejections,
        num_shards=len(plan.shards),
        num_bytes=committed.tar_bytes if committed else 0,
        seconds=time.monotonic() - started,
        was_done=was_done,
        merkle_root=committed.merkle_root if committed else None,
        official_images=official.images,
        official_records=official.records,
    )


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Let one process at a time convert a split."""
    with locked(lock, wait=False):
        yield


@contextmanager
def _clear_disk_errors(out: Path) -> Iterator[None]:
    """Say in one line what an error of the disk means."""
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        problem = "no space left on the disk" if is_full else error.strerror or str(error)
        mend = "free some space" if is_full else "mend that"
        raise RoikitError(
            f"`{error.filename or out}`: {problem}",
            hint=f"{mend} and run the same command again: finished shards are kept",
        ) from error
