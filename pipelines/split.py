"""One split of a conversion: plan it, make its shards, commit it.

What `run.py` does one after the other in one process, and `steps.py` in many.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

import roikit
from pipelines.draft import OfficialCounts, OpenSource
from pipelines.engines import run_tasks
from pipelines.extend import find_addition
from pipelines.job import Job
from pipelines.known import drop_older, keep_known
from pipelines.plan import (
    PLAN_DIR,
    Plan,
    make_plan,
    plan_settings,
    remove_plans,
    split_name,
    uncollected,
)
from pipelines.reports import Progress, SplitReport
from pipelines.source import require_pictures
from pipelines.space import check_space
from pipelines.task import TaskCounts
from roikit.errors import RoikitError
from shards import manifest
from shards import remote as store
from shards.atomic import leftovers, locked
from shards.claim import claim_extension, claim_split
from shards.commit import (
    DatasetInfo,
    RunInfo,
    commit_dataset,
    find_lost_shard,
    is_whole,
    load_dataset,
    tidy_index,
)
from shards.index import open_index
from shards.layout import commit_path, split_dir, split_prefix

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedSplit:
    """A plan, and the folder that holds it."""

    plan: Plan
    folder: Path

    @property
    def is_empty(self) -> bool:
        """Whether the source has nothing of this split."""
        return not self.plan.num_images and not self.plan.num_stray_records


@contextmanager
def only_one(job: Job, stored: str) -> Iterator[None]:
    """Let one process at a time plan or commit a split.

    Raises:
        UsageError: another one does; it is named.
    """
    with locked(work_dir(job) / f"{split_prefix(job.spec.name, stored)}.lock", wait=False):
        yield


def work_dir(job: Job) -> Path:
    """Return where plans and their locks lie."""
    return job.out / PLAN_DIR


def settings_of(job: Job, split: str) -> dict[str, Any]:
    """Return what the shards' content depends on beside the source."""
    return plan_settings(
        job.spec,
        split,
        seed=job.seed,
        limit=job.limit,
        max_shard_bytes=job.max_shard_bytes,
        options=job.options,
        decode_images=job.decode_images,
    )


def plan_split(job: Job, opened: OpenSource, split: str, work: Path) -> PlannedSplit | None:
    """Read a split and plan it, or what is new in it.

    Returns:
        The plan; None where a committed split is to be extended and there is nothing new.

    Raises:
        UsageError: annotation files that cannot be used, none of the pictures is there, or
            nothing can be added to what is there.
        RoikitError: a file changed while it was read, or a shard to be added to is lost.
    """
    stored = split_name(split, job.limit)
    info = None
    if job.extend and commit_path(job.out, job.spec.name, stored).is_file():
        info = load_dataset(job.out, job.spec.name, stored)
        _require_whole(job, info)
    job.progress(Progress(split=stored, step="reading"))
    began_ns = time.time_ns()
    with uncollected():
        records = opened.splits[split]()
        require_pictures(f"{job.spec.name} {stored}", records.drafts, opened.roots)
        addition = None
        if info is not None:
            addition = find_addition(job.out, info, records, settings_of(job, split))
            if addition.is_empty:
                return None
        plan, folder = make_plan(
            job.spec,
            opened,
            split,
            addition.records if addition else records,
            work=work,
            seed=job.seed,
            limit=job.limit,
            max_shard_bytes=job.max_shard_bytes,
            source=job.source,
            options=job.options,
            decode_images=job.decode_images,
            base=addition.base if addition else None,
            known=addition.known if addition else None,
        )
    for path, mtime_ns in plan.source_stamps:
        if began_ns < mtime_ns <= time.time_ns():
            raise RoikitError(
                f"`{path}`: changed while it was read",
                hint="wait until it is whole, and run the same command again",
            )
    return PlannedSplit(plan=plan, folder=folder)


def claim(job: Job, planned: PlannedSplit) -> None:
    """Make the split's folder ready for the plan's shards, if there is room for them."""
    plan = planned.plan
    if store.url_of(job.out) is not None:
        store.claim(
            job.out, plan.dataset, plan.split, plan_hash=plan.plan_hash, overwrite=job.overwrite
        )
        return
    check_space(plan, planned.folder, job.out)
    if plan.base is None:
        claim_split(
            job.out, plan.dataset, plan.split, plan_hash=plan.plan_hash, overwrite=job.overwrite
        )
    else:
        claim_extension(job.out, _base_of(job, plan), plan_hash=plan.plan_hash)


def make_shards(
    job: Job, planned: PlannedSplit, indices: Sequence[int], out: Path | None
) -> list[TaskCounts]:
    """Run the tasks `indices`; without `out` they check and write nothing."""
    plan = planned.plan
    total = sum(plan.shards[index].num_images for index in indices)

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
    return run_tasks(
        planned.folder, indices, out, workers=job.workers, report=report, engine=job.engine
    )


def commit_split(
    job: Job, planned: PlannedSplit, counts: TaskCounts, *, run: RunInfo
) -> DatasetInfo:
    """Declare a plan's finished shards a dataset, and bring the manifest up to date."""
    plan, out = planned.plan, job.out
    job.progress(Progress(split=plan.split, step="committing"))
    base = None
    if plan.base is not None:
        base = _base_of(job, plan)
        _require_whole(job, base)
    settings = plan.settings | {"counts": counts.committed()}
    if plan.official != OfficialCounts():
        settings["published"] = msgspec.to_builtins(plan.official)
    if plan.kinds:
        settings["kinds"] = plan.kinds
    keep_known(planned.folder, out, plan.dataset, plan.split, plan.plan_hash)
    committed = commit_dataset(
        out,
        plan.dataset,
        plan.split,
        num_shards=plan.shard_number(len(plan.shards)),
        plan_hash=plan.plan_hash,
        settings=settings,
        source_files=plan.source_files,
        run=run,
        base=base,
        licence=str(job.spec.licence),
        registration=job.spec.registration,
        superseded=plan.base.superseded if plan.base else None,
        tar_lengths=_tar_lengths(job, plan),
    )
    if store.url_of(out) is not None:
        store.put_commit(out, plan.dataset, plan.split, plan.plan_hash)
    clean_up(job, committed)
    return committed


def clean_up(job: Job, committed: DatasetInfo) -> None:
    """Do what follows a commit; the run that made it may have ended before it came to that."""
    if store.url_of(job.out) is not None:
        store.tidy(job.out, committed.dataset, committed.split, committed.plan_hash)
    for path in leftovers(split_dir(job.out, committed.dataset, committed.split)):
        path.unlink(missing_ok=True)
    tidy_index(job.out, committed)
    manifest.update(job.out, committed.dataset, committed.split)
    drop_older(job.out, committed.dataset, committed.split, committed.plan_hash)
    remove_plans(work_dir(job), committed.dataset, committed.split)


def find_commit(job: Job, plan: Plan) -> DatasetInfo | None:
    """Return the split's commit, if this very plan was finished before and no file is lost."""
    if not commit_path(job.out, plan.dataset, plan.split).is_file():
        return None
    committed = load_dataset(job.out, plan.dataset, plan.split)
    if committed.plan_hash != plan.plan_hash:
        return None
    if is_whole(job.out, committed, _tar_lengths(job, plan)):
        return committed
    log.warning(
        "%s %s: was converted before, but files of it are lost or damaged: all its shards are made"
        " again, since what their tasks noted went with the commit", plan.dataset, plan.split,
    )  # fmt: skip
    return None


def _tar_lengths(job: Job, plan: Plan) -> Mapping[str, int] | None:
    """Return the tars' lengths where they lie behind a URL; None where they lie in `out`."""
    if store.url_of(job.out) is None:
        return None
    return store.tar_lengths(job.out, plan.dataset, plan.split)


def add_counts(plan: Plan, tasks: Sequence[TaskCounts]) -> TaskCounts:
    """Return what became of a split's images and records, those of an extension's base included."""
    counts = msgspec.convert(plan.base.counts, TaskCounts) if plan.base else TaskCounts()
    counts.rejections = dict(counts.rejections)
    for task in tasks:
        counts.add(task)
    counts.rejections = dict(sorted(counts.rejections.items()))
    return counts


def run_info(job: Job, *, started: str, seconds: float, engine: str, workers: int) -> RunInfo:
    """Say how a split was made."""
    return RunInfo(
        roikit=roikit.__version__,
        started=started,
        seconds=round(seconds, 3),
        workers=workers,
        engine=engine,
        command=job.command,
    )


def report_split(
    dataset: str,
    split: str,
    counts: TaskCounts,
    *,
    num_shards: int,
    official: OfficialCounts,
    kinds: Mapping[str, int],
    committed: DatasetInfo | None,
    started: float,
    was_done: bool = False,
    images_added: int = 0,
) -> SplitReport:
    """Say what became of a split; `started` is a `time.monotonic()`."""
    return SplitReport(
        dataset=dataset,
        split=split,
        images_found=counts.images_found,
        images_converted=counts.images_converted,
        records_found=counts.records_found,
        records_converted=counts.records_converted,
        records_by_policy=counts.records_by_policy,
        boxes_clipped=counts.boxes_clipped,
        rejections=counts.rejections,
        examples=dict(sorted(counts.examples.items())),
        num_shards=num_shards,
        num_bytes=committed.tar_bytes if committed else 0,
        seconds=time.monotonic() - started,
        was_done=was_done,
        merkle_root=committed.merkle_root if committed else None,
        official_images=official.images,
        official_records=official.records,
        kinds=dict(kinds),
        official_kinds=dict(official.kinds),
        images_added=images_added,
    )


def report_done(committed: DatasetInfo, official: OfficialCounts, *, started: float) -> SplitReport:
    """Say what a committed split holds that there was nothing to do for."""
    return report_split(
        committed.dataset,
        committed.split,
        msgspec.convert(committed.settings["counts"], TaskCounts),
        num_shards=len(committed.shards),
        official=official,
        kinds=committed.settings.get("kinds", {}),
        committed=committed,
        started=started,
        was_done=True,
    )


def report_made(
    plan: Plan, counts: TaskCounts, committed: DatasetInfo | None, *, started: float
) -> SplitReport:
    """Say what became of a planned split; without a commit nothing was written."""
    return report_split(
        plan.dataset,
        plan.split,
        counts,
        num_shards=plan.shard_number(len(plan.shards)),
        official=plan.official,
        kinds=plan.kinds,
        committed=committed,
        started=started,
        images_added=plan.num_images if plan.base else 0,
    )


def _require_whole(job: Job, info: DatasetInfo) -> None:
    """Refuse to add to a split that has lost a file.

    Raises:
        RoikitError: it has; the file is named.
    """
    lost = find_lost_shard(job.out, info)
    if lost is not None:
        anew = "" if "extends" in info.settings else " (without, if the source is as it was then)"
        raise RoikitError(
            f"{info.dataset} {info.split}: expected every shard that is to be added to, one is lost"
            f" or damaged: {lost}",
            hint="bring its tar and sidecar back from a copy, or convert the whole split again with"
            f" `--overwrite`{anew} instead of `--extend`",
        ) from lost
    open_index(job.out, info.dataset, info.split, info.merkle_root)


def _base_of(job: Job, plan: Plan) -> DatasetInfo:
    """Return the commit that an extension's plan adds to.

    Raises:
        RoikitError: it is not the one that the plan was made for.
    """
    info = load_dataset(job.out, plan.dataset, plan.split)
    if plan.base is None or info.plan_hash != plan.base.plan_hash:
        raise RoikitError(
            f"{plan.dataset} {plan.split}: the commit that this plan adds to has been replaced",
            hint="plan it again",
        )
    return info
