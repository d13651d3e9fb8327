"""List the pictures of a dataset's evaluation splits, from its annotation files alone.

In: a dataset's official files; pictures need not be there. Out: ROOT/benchmarks/DATASET@SPLIT.txt,
by native id, for training to leave them out where the split itself is not converted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.draft import SourceOptions
from pipelines.job import check_source_options
from pipelines.registry import find_dataset
from roikit.errors import UsageError
from shards.kept_clean import write_list


@dataclass(frozen=True, kw_only=True, slots=True)
class ListReport:
    """One list, as written."""

    benchmark: str  #: `DATASET@SPLIT`
    pictures: int
    path: Path


def list_pictures(
    name: str,
    source: Path,
    out: Path,
    *,
    splits: Sequence[str] | None = None,
    options: SourceOptions | None = None,
    overwrite: bool = False,
) -> list[ListReport]:
    """Write the list of each split's pictures.

    Args:
        name: the dataset, as `pipelines.registry.DATASETS` names it.
        source: folder with its annotation files.
        out: root of the shards.
        splits: the dataset's own names; None takes all but those for training.
        options: what the dataset takes beside; see `SourceOptions`.
        overwrite: replace other lists of those names.

    Returns:
        A report a split that holds a picture, in order.

    Raises:
        UsageError: a wrong path, file or option, no such split, or no picture in any of them.
    """
    spec = find_dataset(name)
    options = options or SourceOptions()
    check_source_options(spec, options)
    opened = spec.open_source(source, (), options)
    chosen = splits or [split for split in opened.splits if not split.startswith("train")]
    unknown = [split for split in chosen if split not in opened.splits]
    if unknown:
        there = ", ".join(opened.splits)
        raise UsageError(
            f"split: expected one of {there}, as found in `{opened.folder}`, got `{unknown[0]}`"
        )
    reports = []
    for split in dict.fromkeys(chosen):
        records = opened.splits[split]()
        known = {draft.native_id for draft in records.drafts}
        if not known:
            continue
        files = ", ".join(path.name for path in records.source_files)
        benchmark = f"{name}@{split}"
        path = write_list(out, benchmark, known, origin=files, overwrite=overwrite)
        reports.append(ListReport(benchmark=benchmark, pictures=len(known), path=path))
    if not reports:
        raise UsageError(
            f"`{source}`: expected pictures in {', '.join(chosen) or 'a split for evaluation'}, "
            f"found none; its splits: {', '.join(opened.splits)}"
        )
    return reports
