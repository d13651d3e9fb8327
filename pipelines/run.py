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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

import roikit
from pipelines.draft import DatasetSpec, OfficialCounts, OpenSource, SourceOptions
from pipelines.engines import run_tasks, sigterm_as_exit
from pipelines.plan import PLAN_DIR, Plan, make_plan, remove_plans, split_name, uncollected
from pipelines.registry import find_dataset
from pipelines.task import TaskCounts
from roikit.errors import ChecksFailedError, RoikitError, UsageError
from roikit.remote import without_secrets
from shards import manifest
from shards import remote as store
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

DEFAULT_MAX_SHARD_BYTES = 256 * 1024 * 1024
DEFAULT_MAX_REJECTS = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a conversion has come."""

    split: str
    step: str  #: "reading" (no figures yet), "converting", "committing"
    done: int = 0  #: images
    total: int | None = None  #: images
    num_bytes: int = 0  #: of pictures read


ProgressCall = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitReport:
    """What became of one split."""

    dataset: str
    split: str
    images_found: int
    images_converted: int
    records_found: int  #: boxes, captions, regions or questions
    records_converted: int
    records_by_policy: int  #: left out on purpose (crowds)
    boxes_clipped: int  #: boxes that overshot the picture and were cut to it
    rejections: dict[str, int]  #: by code; an unusable picture is one, with all its records
    num_shards: int
    num_bytes: int  #: of the tars; 0 on a dry run
    seconds: float
    was_done: bool  #: it had been converted before, and nothing was written
    merkle_root: str | None  #: names the content; None on a dry run
    official_images: int | None = None  #: as published; None where that is not known or `limit` cut
    official_records: int | None = None

    @property
    def count_differences(self) -> list[str]:
        """How the counts found differ from the published ones; empty where they agree."""
        pairs = (
            ("images", self.images_found, self.official_images),
            ("records", self.records_found, self.official_records),
        )
        return [
            f"{self.dataset} {self.split}: {found:,} {what}, published {official:,}"
            f" ({found - official:+,})"
            for what, found, official in pairs
            if official is not None and found != official
        ]

    @property
    def faults(self) -> int:
        """Records lost because something is wrong with them or with their picture."""
        return self.records_found - self.records_converted - self.records_by_policy

    @property
    def fault_share(self) -> float:
        """Faults as a share of the records found; 0 where there is none."""
        return self.faults / self.records_found if self.records_found else 0.0


class FailedConversionError(ChecksFailedError):
    """A split is committed, but is not as the user demanded."""

    def __init__(self, message: str, *, hint: str, reports: list[SplitReport]) -> None:
        super().__init__(message, hint=hint)
        self.reports = reports


class TooManyRejectsError(FailedConversionError):
    """A split lost more records to faults than allowed."""


class CountsDifferError(FailedConversionError):
    """A split holds another number of images or records than was published."""


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
    _check_options(limit, workers, max_rejects, max_shard_bytes)
    spec = find_dataset(name)
    options = options or SourceOptions()
    _check_source_options(spec, options)
    opened = spec.open_source(source, image_roots, options)
    job = _Job(
        spec=spec,
        opened=opened,
        options=options,
        out=out,
        limit=limit,
        seed=seed,
        workers=workers,
        max_shard_bytes=max_shard_bytes,
        overwrite=overwrite,
        progress=progress or (lambda _: None),
        command=command,
    )
    if not dry_run:
        _make_root(out)
    reports: list[SplitReport] = []
    with sigterm_as_exit(), _clear_disk_errors(out):
        for split in _choose_splits(opened, splits):
            report = _dry_run(job, split) if dry_run else _convert_split(job, split)
            if report.images_found or report.records_found or splits is not None:
                reports.append(report)
    if not any(report.images_found for report in reports):
        chosen = ", ".join(splits or opened.splits)
        raise UsageError(
            f"`{source}`: expected images in {chosen}, found none",
            hint="are these the dataset's own annotation files?",
        )
    _check_faults(reports, max_rejects)
    _check_counts(reports, strict)
    return reports


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    spec: DatasetSpec
    opened: OpenSource
    options: SourceOptions
    out: Path
    limit: int | None
    seed: int
    workers: int
    max_shard_bytes: int
    overwrite: bool
    progress: ProgressCall
    command: str | None


def _check_source_options(spec: DatasetSpec, options: SourceOptions) -> None:
    for name in options.given():
        if name not in spec.options:
            taken = ", ".join(f"`{_flag(n)}`" for n in spec.options) or "none of its kind"
            raise UsageError(f"`{_flag(name)}`: {spec.title} has no use for it; it takes {taken}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _check_options(
    limit: int | None, workers: int, max_rejects: float, max_shard_bytes: int
) -> None:
    if limit is not None and limit < 1:
        raise UsageError(f"limit: expected at least 1, got {limit}")
    if workers < 1:
        raise UsageError(f"workers: expected at least 1, got {workers}")
    if not 0 <= max_rejects <= 1:
        raise UsageError(f"max_rejects: expected a share from 0 to 1, got {max_rejects}")
    if max_shard_bytes < 1:
        raise UsageError(f"max_shard_bytes: expected at least 1, got {max_shard_bytes}")


def _make_root(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"`{out}`: expected a folder to write shards into, cannot make it: {error.strerror}",
            hint="choose another `--out`",
        ) from error


def _choose_splits(opened: OpenSource, splits: Sequence[str] | None) -> list[str]:
    if splits is None:
        return [split for split in opened.splits if split not in opened.on_request]
    for split in splits:
        if split not in opened.splits:
            there = ", ".join(opened.splits)
            raise UsageError(
                f"split: expected one of {there}, as found in `{opened.folder}`, got `{split}`"
            )
    return list(dict.fromkeys(splits))


def _convert_split(job: _Job, split: str) -> SplitReport:
    started = time.monotonic()
    stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    stored = split_name(split, job.limit)
    dataset = job.spec.name
    work = job.out / PLAN_DIR
    with _only_one(work / f"{split_prefix(dataset, stored)}.lock"):
        plan, folder = _plan(job, split, work)
        if not any(shard.num_images for shard in plan.shards) and not plan.num_stray_records:
            log.info("%s: split `%s` holds no image", dataset, split)
            remove_plans(work, dataset, stored)
            return _report(job, plan, TaskCounts(), started, None, was_done=False)
        claim = store.claim if store.url_of(job.out) else claim_split
        claim(job.out, dataset, stored, plan_hash=plan.plan_hash, overwrite=job.overwrite)
        committed = _committed(job.out, dataset, stored, plan.plan_hash)
        if committed is not None:
            _tidy_store(job.out, dataset, stored)
            manifest.update(job.out, dataset, stored)  # the last run may have ended before it
            remove_plans(work, dataset, stored)
            counts = msgspec.convert(committed.settings["counts"], TaskCounts)
            return _report(job, plan, counts, started, committed, was_done=True)
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
                command=job.command and without_secrets(job.command),
            ),
            licence=str(job.spec.licence),
            registration=job.spec.registration,
            tar_lengths=_tar_lengths(job.out, dataset, stored),
        )
        if store.url_of(job.out):
            store.put_commit(job.out, dataset, stored)
        _tidy_store(job.out, dataset, stored)
        manifest.update(job.out, dataset, stored)
        remove_plans(work, dataset, stored)
    return _report(job, plan, counts, started, committed, was_done=False)


def _dry_run(job: _Job, split: str) -> SplitReport:
    """Do all but the writing; draft files go to a temporary folder."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="roikit-") as work:
        plan, folder = _plan(job, split, Path(work))
        counts = _run(job, plan, folder, None)
    return _report(job, plan, counts, started, None, was_done=False)


def _plan(job: _Job, split: str, work: Path) -> tuple[Plan, Path]:
    job.progress(Progress(split=split_name(split, job.limit), step="reading"))
    with uncollected():
        return make_plan(
            job.spec,
            job.opened,
            split,
            job.opened.splits[split](),
            work=work,
            seed=job.seed,
            limit=job.limit,
            max_shard_bytes=job.max_shard_bytes,
            options=job.options,
        )


def _run(job: _Job, plan: Plan, folder: Path, out: Path | None) -> TaskCounts:
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
    lengths = _tar_lengths(out, dataset, split)
    return committed if is_ours and is_whole(out, committed, lengths) else None


def _tar_lengths(out: Path, dataset: str, split: str) -> Mapping[str, int] | None:
    """Return the tars' lengths where they lie behind a URL; None where they lie in `out`."""
    return store.tar_lengths(out, dataset, split) if store.url_of(out) else None


def _tidy_store(out: Path, dataset: str, split: str) -> None:
    if store.url_of(out):
        store.tidy(out, dataset, split)


def _report(
    job: _Job,
    plan: Plan,
    counts: TaskCounts,
    started: float,
    committed: DatasetInfo | None,
    *,
    was_done: bool,
) -> SplitReport:
    # A limited split is stored under a name of its own, which nobody has published counts of.
    official = job.opened.official.get(plan.split, OfficialCounts())
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


def _check_faults(reports: list[SplitReport], max_rejects: float) -> None:
    bad = [report for report in reports if report.fault_share > max_rejects]
    if not bad:
        return
    worst = "; ".join(
        f"{report.dataset} {report.split}: {report.faults:,} of {report.records_found:,} records"
        f" ({report.fault_share:.1%})"
        for report in bad
    )
    raise TooManyRejectsError(
        f"lost more than {max_rejects:.1%} of the records to faults: {worst}",
        hint='the rest is converted; `roikit query "select * from rejections"` lists them, '
        "`--max-rejects` allows more",
        reports=reports,
    )


def _check_counts(reports: list[SplitReport], strict: bool) -> None:
    if not strict:
        return
    for report in reports:
        if report.official_images is None and report.official_records is None:
            log.warning(
                "--strict: no published counts of %s %s are known here, nothing was compared",
                report.dataset, report.split,
            )  # fmt: skip
    differences = [text for report in reports for text in report.count_differences]
    if differences:
        raise CountsDifferError(
            f"counts differ from the published ones: {'; '.join(differences)}",
            hint="are all files there, and of the release that docs/datasets.md names?",
            reports=reports,
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
