"""What a conversion tells: how far it is, what became of each split, and what is wrong with it."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pipelines.draft import OfficialCounts
from roikit.errors import ChecksFailedError
from roikit.sample import Rejection

log = logging.getLogger(__name__)


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
    kinds: dict[str, int] = field(default_factory=dict)  #: records found, of kinds counted apart
    official_kinds: dict[str, int] = field(default_factory=dict)  #: of these, as published
    #: by code, the first few; none where it had been converted before
    examples: dict[str, list[Rejection]] = field(default_factory=dict)
    images_added: int = 0  #: by an extension
    bytes_needed: int = 0  #: about what the shards still need on the disk; dry runs only
    bytes_free: int = 0  #: there; dry runs only

    @property
    def count_differences(self) -> list[str]:
        """How the counts found differ from the published ones; empty where they agree."""
        found = (
            ("images", self.images_found, self.official_images),
            ("records", self.records_found, self.official_records),
            *((kind, found, self.official_kinds.get(kind)) for kind, found in self.kinds.items()),
        )
        return _differences(f"{self.dataset} {self.split}", found)

    @property
    def faults(self) -> int:
        """Records lost because something is wrong with them or with their picture."""
        return self.records_found - self.records_converted - self.records_by_policy

    @property
    def fault_share(self) -> float:
        """Faults as a share of the records found; 0 where there is none."""
        return self.faults / self.records_found if self.records_found else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """Where one split stands after its plan, or after a share of its tasks."""

    dataset: str
    split: str
    step: str  #: "plan" or "tasks"
    images: int  #: in the plan
    tasks: int  #: in the plan; each makes a shard
    tasks_here: int  #: finished by this run, or found finished by it
    unfinished: list[int]  #: tasks that have yet to run; others may be at them
    bytes_needed: int  #: about what they will write
    seconds: float
    was_done: bool  #: the split is committed: there is nothing left to do
    next_command: str | None  #: what to run then; None where there is nothing, or it is not known


class FailedConversionError(ChecksFailedError):
    """A split is read and, but for a dry run, committed; it is not as the user demanded."""

    def __init__(self, message: str, *, hint: str, reports: list[SplitReport]) -> None:
        super().__init__(message, hint=hint)
        self.reports = reports


class TooManyRejectsError(FailedConversionError):
    """A split lost more records to faults than allowed; its counts may differ as well."""


class CountsDifferError(FailedConversionError):
    """A split holds another number of images or records than was published."""


def check_reports(
    reports: list[SplitReport],
    *,
    max_rejects: float,
    strict: bool,
    listing: str | None,
    official_sum: OfficialCounts | None = None,
) -> None:
    """Fail where a split is not as the user demanded.

    Args:
        reports: of all splits.
        max_rejects: share of a split's records that may be lost to faults.
        strict: counts must be the published ones; it is said where none are known.
        listing: the command that lists the rejections; None on a dry run, which keeps none.
        official_sum: what all splits together are compared with, where that alone is known.

    Raises:
        TooManyRejectsError: more records were lost; it carries all reports.
        CountsDifferError: that is well, but counts differ.
    """
    lost = _lost(reports, max_rejects)
    differing = _differing(reports, official_sum) if strict else None
    counts_hint = "are all files there, and of the release that docs/datasets.md names?"
    if lost is not None:
        kept = (
            f"the rest is converted; `{listing}` lists them" if listing else "nothing was written"
        )
        hint = f"{kept}, `--max-rejects` allows more"
        raise TooManyRejectsError(
            f"{lost}; {differing}" if differing else lost,
            hint=f"{hint}; counts: {counts_hint}" if differing else hint,
            reports=reports,
        )
    if differing is not None:
        raise CountsDifferError(differing, hint=counts_hint, reports=reports)


def _lost(reports: list[SplitReport], max_rejects: float) -> str | None:
    worst = "; ".join(
        f"{report.dataset} {report.split}: {report.faults:,} of {report.records_found:,} records"
        f" ({report.fault_share:.1%})"
        for report in reports
        if report.fault_share > max_rejects
    )
    return f"lost more than {max_rejects:.1%} of the records to faults: {worst}" if worst else None


def sum_differences(reports: list[SplitReport], official: OfficialCounts | None) -> list[str]:
    """How the splits' counts together differ from the published sum, where there is one."""
    if official is None:
        return []
    names = f"{reports[0].dataset} {' + '.join(report.split for report in reports)}"
    found = (
        ("images", sum(report.images_found for report in reports), official.images),
        ("records", sum(report.records_found for report in reports), official.records),
    )
    return _differences(names, found)


def _differing(reports: list[SplitReport], official_sum: OfficialCounts | None) -> str | None:
    for report in reports if official_sum is None else ():
        has_kinds = bool(report.official_kinds.keys() & report.kinds)
        if not has_kinds and report.official_images is report.official_records is None:
            log.warning(
                "--strict: no published counts of %s %s are known here, nothing was compared",
                report.dataset, report.split,
            )  # fmt: skip
    found = [text for report in reports for text in report.count_differences]
    found += sum_differences(reports, official_sum)
    return f"counts differ from the published ones: {'; '.join(found)}" if found else None


def _differences(name: str, found: Iterable[tuple[str, int, int | None]]) -> list[str]:
    """Say what differs of (what, found, published)."""
    return [
        f"{name}: {count:,} {what}, published {official:,} ({count - official:+,})"
        for what, count, official in found
        if official is not None and count != official
    ]
