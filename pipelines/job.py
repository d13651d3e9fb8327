"""A conversion as the user asked for it, checked before anything is read."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.draft import DatasetSpec, OpenSource, SourceOptions
from pipelines.engines import Engine
from pipelines.reports import ProgressCall
from roikit import paths
from roikit.errors import UsageError
from roikit.path_errors import usable
from roikit.urls import clean_command
from shards import remote as store

DEFAULT_MAX_SHARD_BYTES = 256 * 1024 * 1024
DEFAULT_MAX_REJECTS = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What to convert, from where to where, and how.

    Raises:
        UsageError: an option is out of its range, or of no use to this dataset.
    """

    spec: DatasetSpec
    source: Path  #: folder with the dataset's official files
    out: Path  #: root of the shards
    splits: Sequence[str] | None = None  #: the dataset's own names; None takes all that are there
    image_roots: Sequence[Path] = ()  #: further folders that pictures may come from
    options: SourceOptions = field(default_factory=SourceOptions)
    limit: int | None = None  #: only the first images of the order, as a split `train-first1000`
    seed: int = 0  #: of the order and of the wordings
    workers: int | None = 1  #: tasks at once; None: one a core, with Ray as many as it has room for
    engine: Engine = "process"  #: what runs the tasks
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES  #: a shard is cut before it grows larger
    decode_images: bool = False  #: decode each picture wholly, and reject what does not decode
    overwrite: bool = False  #: replace shards that were made from other sources or settings
    extend: bool = False  #: add what is new to a split that is committed
    progress: ProgressCall = lambda _: None  #: told how far it is
    command: str | None = (
        None  #: the command line, to be noted and shown; its secrets are taken out
    )

    def __post_init__(self) -> None:
        for name in ("limit", "workers", "max_shard_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}: expected at least 1, got {value}")
        if self.extend and self.overwrite:
            raise UsageError("extend: keeps the shards that are there, `--overwrite` replaces them")
        if self.extend and store.url_of(self.out) is not None:
            raise UsageError(
                "extend: adds to shards in a folder, these lie behind a URL",
                hint="copy them into a folder and extend them there (docs/remote.md), or convert"
                " anew with `--overwrite`",
            )
        if self.extend and self.limit is not None:
            raise UsageError(
                "extend: a limited split is the first images of an order that new ones change",
                hint="leave out `--limit`, or convert it again with `--overwrite`",
            )
        check_source_options(self.spec, self.options)
        if self.command is not None:
            object.__setattr__(self, "command", clean_command(self.command))  # the class is frozen


def open_source(job: Job) -> OpenSource:
    """Find the dataset's files.

    Raises:
        UsageError: they are not there, or the source cannot be read.
    """
    with usable(job.source, "read"):
        return job.spec.open_source(job.source, job.image_roots, job.options)


def choose_splits(job: Job, opened: OpenSource) -> list[str]:
    """Return the splits to convert, by the dataset's own names.

    Raises:
        UsageError: one that was asked for is not there.
    """
    if job.splits is None:
        return [split for split in opened.splits if split not in opened.on_request]
    for split in job.splits:
        if split not in opened.splits:
            there = ", ".join(opened.splits)
            raise UsageError(
                f"split: expected one of {there}, as found in `{opened.folder}`, got `{split}`"
            )
    return list(dict.fromkeys(job.splits))


def check_source_options(spec: DatasetSpec, options: SourceOptions) -> None:
    """Refuse options that the dataset has no use for."""
    for name in options.given():
        if name not in spec.options:
            taken = ", ".join(f"`{_flag(n)}`" for n in spec.options) or "none of its kind"
            raise UsageError(f"`{_flag(name)}`: {spec.title} has no use for it; it takes {taken}")


def check_share(max_rejects: float) -> None:
    """Refuse a share that is none."""
    if not 0 <= max_rejects <= 1:
        raise UsageError(f"max_rejects: expected a share from 0 to 1, got {max_rejects}")


def rejections_query(job: Job) -> str:
    """Return the command that lists what a job's conversion rejected."""
    sql = f"select * from rejections where dataset = '{job.spec.name}'"
    command = f'roikit query "{sql}"'
    if job.out == paths.shards_dir():
        return command
    return f"{command} --shards {shlex.quote(store.url_of(job.out) or str(job.out))}"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
