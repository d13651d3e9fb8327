"""Convert a dataset: plan, tasks, commit, one split after the other.

In: a dataset's official files. Out: shards, sidecars, the commit and the manifest below one root,
or (dry run) the counts alone. Safe to run again after any kind of end: finished shards are kept,
and a finished split is recognised. Rejected records never stop a conversion; too many of them end
it with exit 3 after the commit. `steps.py` does the same in separate processes.
"""

import datetime
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipelines.draft import OfficialCounts, OpenSource, SourceOptions
from pipelines.engines import Engine, make_ready, num_at_once, sigterm_as_exit
from pipelines.faults import check_root, clear_disk_errors, make_root
from pipelines.job import (
    DEFAULT_MAX_REJECTS,
    DEFAULT_MAX_SHARD_BYTES,
    Job,
    check_share,
    choose_splits,
    open_source,
    rejections_query,
)
from pipelines.plan import remove_plans, split_name
from pipelines.registry import find_dataset
from pipelines.reports import ProgressCall, SplitReport, check_reports, sum_differences
from pipelines.space import expected_bytes, free_bytes
from pipelines.split import (
    add_counts,
    claim,
    clean_up,
    commit_split,
    find_commit,
    make_shards,
    only_one,
    plan_split,
    report_done,
    report_made,
    run_info,
    work_dir,
)
from pipelines.task import remove_half_made
from roikit.errors import UsageError
from shards.atomic import leftovers
from shards.claim import check_claim
from shards.commit import load_dataset
from shards.layout import split_dir

log = logging.getLogger(__name__)


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
    workers: int | None = 1,
    engine: Engine = "process",
    max_rejects: float = DEFAULT_MAX_REJECTS,
    strict: bool = False,
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
    decode_images: bool = False,
    overwrite: bool = False,
    extend: bool = False,
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
        workers: tasks at once; None: one a core, with Ray as many as its cluster has room for.
        engine: what runs the tasks: `process` (a pool of processes here) or `ray`. Dry runs take
            the pool.
        max_rejects: share of the records that may be lost to faults, 0 to 1.
        strict: end with an error where counts differ from the published ones.
        max_shard_bytes: a shard is cut before it grows larger.
        decode_images: decode each picture wholly, and reject what does not decode.
        overwrite: replace shards that were made from other sources or settings.
        extend: leave the shards of a committed split as they are and add what is new.
        dry_run: read and check everything, refuse what would be refused, write nothing.
        progress: told how far it is.
        command: the command line, noted with the run.

    Returns:
        A report a split, in order.

    Raises:
        UsageError: a wrong path, file or option.
        TooManyRejectsError: after the commit; it carries the reports.
        CountsDifferError: as that, with `strict`.
        RoikitError: the disk is full or too small, a worker crashed, or the source changed.
    """
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
        engine=engine,
        max_shard_bytes=max_shard_bytes,
        decode_images=decode_images,
        overwrite=overwrite,
        extend=extend,
        progress=progress or (lambda _: None),
        command=command,
    )
    return convert_job(job, max_rejects=max_rejects, strict=strict, dry_run=dry_run)


def convert_job(
    job: Job,
    *,
    max_rejects: float = DEFAULT_MAX_REJECTS,
    strict: bool = False,
    dry_run: bool = False,
) -> list[SplitReport]:
    """Do what `convert` does, for a job."""
    check_share(max_rejects)
    opened = open_source(job)
    if dry_run:
        check_root(job.out)
        # Its plan lies in a temporary folder, which other nodes do not see.
        job = replace(job, engine="process")
    else:
        make_root(job.out)
    reports: list[SplitReport] = []
    with sigterm_as_exit(), clear_disk_errors(job.out):
        make_ready(job.workers, job.engine)
        for split in choose_splits(job, opened):
            report = (_dry_run if dry_run else _convert_split)(job, opened, split)
            if report.images_found or report.records_found or job.splits is not None:
                reports.append(report)
    if not any(report.images_found for report in reports):
        chosen = ", ".join(job.splits or opened.splits)
        raise UsageError(
            f"`{job.source}`: expected images in {chosen}, found none",
            hint="are these the dataset's own annotation files?",
        )
    is_all = job.splits is None and job.limit is None
    official_sum = opened.official_sum if is_all else None
    for difference in sum_differences(reports, official_sum):
        log.warning("counts differ: %s", difference)
    check_reports(
        reports,
        max_rejects=max_rejects,
        strict=strict,
        listing=None if dry_run else rejections_query(job),
        official_sum=official_sum,
    )
    return reports


def _convert_split(job: Job, opened: OpenSource, split: str) -> SplitReport:
    started = time.monotonic()
    stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    stored = split_name(split, job.limit)
    with only_one(job, stored):
        planned = plan_split(job, opened, split, work_dir(job))
        if planned is None:
            committed = load_dataset(job.out, job.spec.name, stored)
            clean_up(job, committed)
            official = opened.official.get(stored, OfficialCounts())
            return report_done(committed, official, started=started)
        plan = planned.plan
        if planned.is_empty:
            log.info("%s: split `%s` holds no image", job.spec.name, split)
            remove_plans(work_dir(job), plan.dataset, stored)
            return report_made(plan, add_counts(plan, []), None, started=started)
        claim(job, planned)
        done = find_commit(job, plan)
        if done is not None:
            clean_up(job, done)
            return report_done(done, plan.official, started=started)
        remove_half_made(planned.folder)  # of a run that was killed
        try:
            tasks = make_shards(job, planned, range(len(plan.shards)), job.out)
        except BaseException:
            # Ended workers leave the files they were writing. Task processes of a job array, which
            # hold no lock, may be writing, too: what they have under way is not among these.
            remove_half_made(planned.folder)
            for path in leftovers(split_dir(job.out, plan.dataset, stored)):
                path.unlink(missing_ok=True)
            raise
        counts = add_counts(plan, tasks)
        run = run_info(
            job,
            started=stamp,
            seconds=time.monotonic() - started,
            engine=job.engine,
            workers=num_at_once(job.workers, job.engine),
        )
        committed = commit_split(job, planned, counts, run=run)
    return report_made(plan, counts, committed, started=started)


def _dry_run(job: Job, opened: OpenSource, split: str) -> SplitReport:
    """Do all but the writing; draft files go to a temporary folder."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="roikit-") as work:
        planned = plan_split(job, opened, split, Path(work))
        if planned is None:
            committed = load_dataset(job.out, job.spec.name, split)
            official = opened.official.get(split, OfficialCounts())
            report = report_done(committed, official, started=started)
            return replace(report, bytes_free=free_bytes(job.out))
        plan = planned.plan
        if plan.base is None and not job.overwrite:
            check_claim(job.out, plan.dataset, plan.split, plan_hash=plan.plan_hash)
        tasks = make_shards(job, planned, range(len(plan.shards)), None)
        needed = expected_bytes(plan, planned.folder, job.out)
    report = report_made(plan, add_counts(plan, tasks), None, started=started)
    return replace(report, bytes_needed=needed, bytes_free=free_bytes(job.out))
