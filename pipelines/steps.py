"""The three steps of a conversion apart, for job arrays: plan, tasks, commit.

`plan_step` reads the annotations and leaves the plan below the shards' root. `tasks_step` makes a
share of its shards, in any number of processes on any machines that see the same folders; it reads
the plan, not the annotations. `commit_step` puts the result together. Plan and commit hold a lock,
tasks need none. Every step is given the whole command again, and says so where it differs from
the plan's.
"""

import datetime
import logging
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from pipelines.draft import OfficialCounts, OpenSource
from pipelines.engines import make_ready, sigterm_as_exit
from pipelines.extend import setting_differences
from pipelines.faults import clear_disk_errors, make_root
from pipelines.job import (
    DEFAULT_MAX_REJECTS,
    Job,
    check_share,
    choose_splits,
    open_source,
    rejections_query,
)
from pipelines.plan import changed_source, find_plan, remove_plans, split_name
from pipelines.remote_source import remote_folder
from pipelines.reports import SplitReport, StepReport, check_reports
from pipelines.space import check_space, expected_bytes
from pipelines.split import (
    PlannedSplit,
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
    settings_of,
    work_dir,
)
from pipelines.task import read_counts, unfinished_tasks
from roikit.errors import RoikitError, UsageError
from shards import remote as store
from shards.claim import claimed_by
from shards.commit import DatasetInfo, list_readable, load_dataset
from shards.layout import PLAN_MARK_NAME

log = logging.getLogger(__name__)

_SHARE = re.compile(r"(\d+)/(\d+)")
#: Tasks named one by one before the rest is only counted.
_MAX_LISTED = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskShare:
    """Every `of`-th task of a plan, from number `first`."""

    first: int = 0
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "TaskShare":
        """Read `i/n`, i from 0.

        Raises:
            UsageError: `text` is not of that form.
        """
        match = _SHARE.fullmatch(text.strip())
        if match is None or int(match[1]) >= int(match[2]):
            raise UsageError(
                f"tasks: expected i/n with i from 0 to n - 1, like `0/8`, got `{text}`"
            )
        return cls(first=int(match[1]), of=int(match[2]))

    def indices(self, num_tasks: int) -> range:
        """Return this share of `num_tasks` tasks."""
        return range(self.first, num_tasks, self.of)


def plan_step(job: Job) -> list[StepReport]:
    """Plan every split that is asked for, and leave the plans below the shards' root.

    Raises:
        UsageError: a wrong path, file or option, or another process plans or commits.
        RoikitError: the disk has too little room, or cannot be written.
    """
    _require_folder(job)
    opened = open_source(job)
    make_root(job.out)
    reports: list[StepReport] = []
    with sigterm_as_exit(), clear_disk_errors(job.out):
        for split in choose_splits(job, opened):
            started = time.monotonic()
            stored = split_name(split, job.limit)
            with only_one(job, stored):
                planned = plan_split(job, opened, split, work_dir(job))
                if planned is None:
                    committed = load_dataset(job.out, job.spec.name, stored)
                    clean_up(job, committed)
                    reports.append(_report_done(committed, "plan", started))
                    continue
                if planned.is_empty:
                    remove_plans(work_dir(job), job.spec.name, stored)
                    continue
                claim(job, planned)
                done = find_commit(job, planned.plan)
                if done is not None:
                    clean_up(job, done)
                    reports.append(_report_done(done, "plan", started))
                    continue
            reports.append(_report(job, planned, "plan", 0, started))
    if not reports:
        raise UsageError(
            f"`{job.source}`: expected images in {', '.join(choose_splits(job, opened))},"
            " found none",
            hint="are these the dataset's own annotation files?",
        )
    return [_with_next(job, report, reports) for report in reports]


def tasks_step(job: Job, share: TaskShare) -> list[StepReport]:
    """Make a share of the planned shards; those that are finished are left.

    Raises:
        UsageError: there is no plan, it is another one than the job's, or the source has changed.
        RoikitError: a worker crashed, or the disk is full or cannot be written.
    """
    _require_folder(job)
    reports: list[StepReport] = []
    with sigterm_as_exit(), clear_disk_errors(job.out):
        planned_splits, done = _find_planned(job)
        for planned in planned_splits:
            changed = changed_source(planned.plan)
            if changed is not None:
                raise UsageError(
                    f"`{changed}`: has changed since {planned.plan.dataset} {planned.plan.split}"
                    " was planned",
                    hint=_hint(job, "plan it again", *_plan_words(planned)),
                )
        if planned_splits:
            make_ready(job.workers, job.engine)
        for planned in planned_splits:
            started = time.monotonic()
            indices = share.indices(len(planned.plan.shards))
            check_space(planned.plan, planned.folder, job.out, indices)
            make_shards(job, planned, indices, job.out)
            reports.append(_report(job, planned, "tasks", len(indices), started))
    reports += [_report_done(info, "tasks", time.monotonic()) for info in done]
    return [_with_next(job, report, reports) for report in reports]


def commit_step(
    job: Job, *, max_rejects: float = DEFAULT_MAX_REJECTS, strict: bool = False
) -> list[SplitReport]:
    """Declare the planned splits' shards datasets; all of them must be finished.

    Raises:
        UsageError: there is no plan, it is another one than the job's, or another process plans or
            commits.
        RoikitError: tasks are unfinished; they are named.
        TooManyRejectsError: after the commit; it carries the reports.
        CountsDifferError: as that, with `strict`.
    """
    _require_folder(job)
    check_share(max_rejects)
    with sigterm_as_exit(), clear_disk_errors(job.out):
        planned_splits, done = _find_planned(job)
        for planned in planned_splits:
            _require_finished(job, planned)
        reports = [_commit(job, planned) for planned in planned_splits]
        reports += [_tidy_done(job, info) for info in done]
    listing = rejections_query(job)
    check_reports(reports, max_rejects=max_rejects, strict=strict, listing=listing)
    return reports


def _require_folder(job: Job) -> None:
    """Refuse shards behind a URL: the plan would lie on this machine, where no other sees it."""
    if store.url_of(job.out) is not None:
        raise UsageError(
            "step: the steps apart need a folder that every machine sees, `--out` is a URL",
            hint="convert without `--step`, or into a shared folder and copy that",
        )


def _commit(job: Job, planned: PlannedSplit) -> SplitReport:
    started = time.monotonic()
    stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    plan = planned.plan
    with only_one(job, plan.split):
        done = find_commit(job, plan)
        if done is not None:
            clean_up(job, done)
            return report_done(done, plan.official, started=started)
        changed = changed_source(plan)
        if changed is not None:
            log.warning("`%s`: has changed since the plan; the shards hold what it was", changed)
        tasks = [read_counts(planned.folder, index) for index in range(len(plan.shards))]
        counts = add_counts(plan, tasks)
        # How many made the shards, and for how long, is spread over processes that are gone.
        seconds = time.monotonic() - started
        run = run_info(job, started=stamp, seconds=seconds, engine="steps", workers=0)
        committed = commit_split(job, planned, counts, run=run)
    return report_made(plan, counts, committed, started=started)


def _tidy_done(job: Job, info: DatasetInfo) -> SplitReport:
    """Do what the run that committed a split may not have come to."""
    started = time.monotonic()
    with only_one(job, info.split):
        # Another process may have planned in the meantime: then there is a plan to be kept.
        if claimed_by(job.out, info.dataset, info.split) == info.plan_hash:
            clean_up(job, info)
    published = msgspec.convert(info.settings.get("published", {}), OfficialCounts)
    return report_done(info, published, started=started)


def _find_planned(job: Job) -> tuple[list[PlannedSplit], list[DatasetInfo]]:
    """Return the job's plans, and the splits of it that are committed and need none.

    Raises:
        UsageError: a split has neither, or its plan is of other settings.
    """
    dataset = job.spec.name
    wanted = None if job.splits is None else set(job.splits)
    planned = [
        one
        for one in _claimed_plans(job)
        if one.plan.settings["limit"] == job.limit
        and (wanted is None or one.plan.settings["split"] in wanted)
    ]
    for one in planned:
        _check_same(job, one)
    there = {one.plan.split for one in planned}
    done = [
        info
        for info in list_readable(job.out, dataset)
        if info.split not in there
        and info.settings.get("limit") == job.limit
        and (wanted is None or info.settings.get("split") in wanted)
        and claimed_by(job.out, dataset, info.split) == info.plan_hash
    ]
    found = there | {info.split for info in done}
    missing = {split_name(split, job.limit) for split in wanted or ()} - found
    if missing or not found:
        which = " ".join([dataset, ", ".join(sorted(missing))]).strip()
        raise UsageError(
            f"`{job.out}`: expected a plan of {which} there, found none",
            hint=_hint(job, "plan first", "--step", "plan"),
        )
    if done:
        opened = open_source(job)
        for info in done:
            _check_done(job, info, opened)
    return planned, done


def _claimed_plans(job: Job) -> Iterator[PlannedSplit]:
    """Yield the plans that the dataset's folders were claimed for and that are there."""
    dataset = job.spec.name
    for mark in sorted(job.out.glob(f"{dataset}/*/{PLAN_MARK_NAME}")):
        split = mark.parent.name
        plan_hash = claimed_by(job.out, dataset, split)
        found = plan_hash and find_plan(work_dir(job), dataset, split, plan_hash)
        if found and found[0].plan_hash == plan_hash:
            yield PlannedSplit(plan=found[0], folder=found[1])


def _check_same(job: Job, planned: PlannedSplit) -> None:
    plan = planned.plan
    before = {key: value for key, value in plan.settings.items() if key != "extends"}
    now = settings_of(job, plan.settings["split"])
    differing = [
        f"{key}: `{before.get(key)}` in the plan, `{now.get(key)}` here"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if plan.source != (source := str(job.source.resolve())):
        differing.append(f"source: `{plan.source}` in the plan, `{source}` here")
    differing += [
        f"images: `{folder}` is none of the plan's folders"
        for folder in job.image_roots
        if _root_name(folder) not in plan.roots
    ]
    if differing:
        raise UsageError(
            f"{plan.dataset} {plan.split}: expected the options that it was planned with:"
            f" {'; '.join(differing)}",
            hint=_hint(job, "repeat them, or plan again", *_plan_words(planned)),
        )


def _check_done(job: Job, info: DatasetInfo, opened: OpenSource) -> None:
    """Refuse a job that would not have made what is committed.

    The commit does not say where its source lay: that may move. What annotation files are called
    there and how long they are tells another source well enough. An extension has nothing to do
    where they grew without anything new.
    """
    differing = setting_differences(info, settings_of(job, info.settings["split"]))
    if not job.extend:
        differing += [
            f"source: `{file.path}` of {file.bytes:,} bytes then, not found now"
            for file in info.source_files
            if "://" not in file.path
            and not any(
                path.is_file() and path.stat().st_size == file.bytes
                for path in (opened.folder / file.path, Path(file.path))
            )
        ]
    if differing:
        raise UsageError(
            f"{info.dataset} {info.split}: expected the options and the source that it was"
            f" converted with: {'; '.join(differing)}",
            hint=_hint(job, "repeat them, or plan it anew", "--step", "plan", "--overwrite"),
        )


def _root_name(folder: Path) -> str:
    remote = remote_folder(folder)
    return remote.url if remote is not None else str(folder.resolve())


def _plan_words(planned: PlannedSplit) -> tuple[str, ...]:
    # An extension's unfinished shards make way without being told.
    return ("--step", "plan") if planned.plan.base else ("--step", "plan", "--overwrite")


def _require_finished(job: Job, planned: PlannedSplit) -> None:
    plan = planned.plan
    unfinished = unfinished_tasks(plan, planned.folder, job.out)
    if unfinished:
        listed = ", ".join(map(str, unfinished[:_MAX_LISTED]))
        more = ", ..." if len(unfinished) > _MAX_LISTED else ""
        raise RoikitError(
            f"{plan.dataset} {plan.split}: {len(unfinished):,} of {len(plan.shards):,} tasks are"
            f" not finished: {listed}{more}",
            hint=_hint(job, "make what is missing", "--step", "tasks"),
        )


def _report(
    job: Job, planned: PlannedSplit, step: str, tasks_here: int, started: float
) -> StepReport:
    plan = planned.plan
    return StepReport(
        dataset=plan.dataset,
        split=plan.split,
        step=step,
        images=plan.num_images,
        tasks=len(plan.shards),
        tasks_here=tasks_here,
        unfinished=unfinished_tasks(plan, planned.folder, job.out),
        bytes_needed=expected_bytes(plan, planned.folder, job.out),
        seconds=time.monotonic() - started,
        was_done=False,
        next_command=None,
    )


def _report_done(info: DatasetInfo, step: str, started: float) -> StepReport:
    return StepReport(
        dataset=info.dataset,
        split=info.split,
        step=step,
        images=info.settings["counts"]["images_found"],
        tasks=len(info.shards),
        tasks_here=0,
        unfinished=[],
        bytes_needed=0,
        seconds=time.monotonic() - started,
        was_done=True,
        next_command=None,
    )


def _with_next(job: Job, report: StepReport, reports: Sequence[StepReport]) -> StepReport:
    """Add what is to be run after all of these reports."""
    waiting = [other for other in reports if not other.was_done]
    if not waiting:
        return report
    if all(not other.unfinished for other in waiting):
        return replace(report, next_command=_command(job, "--step", "commit"))
    words = ["--step", "tasks"]
    if report.step == "plan":
        words += ["--tasks", f"0/{max(other.tasks for other in waiting)}"]
    return replace(report, next_command=_command(job, *words))


def _hint(job: Job, say: str, *words: str) -> str:
    return f"{say}: `{_command(job, *words) or shlex.join(words)}`"


def _command(job: Job, *words: str) -> str | None:
    """Return the job's command line with another step."""
    if job.command is None:
        return None
    kept: list[str] = []
    given = iter(shlex.split(job.command))
    for word in given:
        if word in ("--step", "--tasks"):
            next(given, None)
        elif not word.startswith(("--step=", "--tasks=")) and word != "--overwrite":
            kept.append(word)
    return shlex.join([*kept, *words])
