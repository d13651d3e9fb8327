"""The plan of a conversion: which image goes into which shard, before anything is written.

In: one split's records, read and joined. Out: a folder with `plan.json` and one draft file a shard,
from which any process can make its shard alone. The order is a hash of the seed and the image's id,
shards are cut by the pictures' sizes, so the same sources and settings give the same plan, and its
hash names it. Draft files hold no absolute path: the data may move.
"""

import gc
import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from pipelines import phrasing
from pipelines.draft import (
    DatasetSpec,
    Draft,
    OfficialCounts,
    OpenSource,
    SourceOptions,
    SplitRecords,
)
from pipelines.known import KNOWN_NAME, Base, Known, know
from pipelines.remote_source import RemoteFolder, as_given
from roikit.errors import UsageError
from roikit.sample import SCHEMA_VERSION, Rejection
from shards.atomic import write_bytes
from shards.commit import SourceFile
from shards.layout import FORMAT_VERSION, split_prefix

PLAN_DIR = ".plan"
_PLAN_NAME = "plan.json"
_NEW = "new"
#: What a sample takes in a tar beside its picture, roughly: two headers, padding, the record.
_OVERHEAD_BYTES = 2560


class PlannedShard(msgspec.Struct, frozen=True):
    """One shard, as the plan cut it."""

    num_images: int
    num_bytes: int  #: expected size; only for cutting and for progress
    sha256: str  #: of the draft file


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a task needs to know beside its draft file."""

    plan_hash: str
    name: str  #: of the dataset, in the registry
    dataset: str
    split: str
    converter: str
    phrasing: str
    seed: int
    roots: list[str]  #: folders that pictures come from
    shards: list[PlannedShard]
    num_stray_records: int  #: rejected records that belong to no image
    settings: dict[str, Any]
    source: str  #: as the user gave it, absolute
    source_files: list[SourceFile]
    source_stamps: list[tuple[str, int]]  #: where each of them lies, and its time in ns
    base: Base | None = None  #: the commit that this plan adds to
    official: OfficialCounts  #: of the split, as published
    kinds: dict[str, int] = {}  #: records found, of the kinds that are counted apart

    @property
    def num_images(self) -> int:
        """Images in all of its shards."""
        return sum(shard.num_images for shard in self.shards)

    def shard_number(self, index: int) -> int:
        """Return the number that the plan's shard `index` has in its split."""
        return index + (self.base.num_shards if self.base else 0)


class ShardDraft(msgspec.Struct, frozen=True, array_like=True):
    """The content of a draft file."""

    first: int  #: number of the first image's key
    drafts: list[Draft]
    rejections: list[Rejection]  #: of records that belong to no image; first shard only


def split_name(split: str, limit: int | None) -> str:
    """Return the name a split is stored under: `train-first1000` where it is limited."""
    return split if limit is None else f"{split}-first{limit}"


def plan_settings(
    spec: DatasetSpec,
    split: str,
    *,
    seed: int,
    limit: int | None,
    max_shard_bytes: int,
    options: SourceOptions,
    decode_images: bool,
) -> dict[str, Any]:
    """Return what the shards' content depends on beside the source."""
    settings: dict[str, Any] = {
        "converter": spec.converter,
        "phrasing": phrasing.version(spec.families),
        "seed": seed,
        "split": split,
        "limit": limit,
        "max_shard_bytes": max_shard_bytes,
    }
    settings |= {n: v.name if isinstance(v, Path) else v for n, v in options.given().items()}
    if decode_images:
        settings["decode_images"] = True
    return settings


def make_plan(
    spec: DatasetSpec,
    opened: OpenSource,
    split: str,
    records: SplitRecords,
    *,
    work: Path,
    seed: int,
    limit: int | None,
    max_shard_bytes: int,
    source: Path | None = None,
    options: SourceOptions | None = None,
    decode_images: bool = False,
    base: Base | None = None,
    known: Known | None = None,
) -> tuple[Plan, Path]:
    """Order, cut and write a plan.

    Args:
        spec: the dataset.
        opened: its source.
        split: the dataset's own name of the split.
        records: what the split holds; for an extension, what is new in it.
        work: folder for plans; the plan gets a folder of its own in it, named by its hash.
        seed: of the order and of the wordings.
        limit: take only the first images in the order. Records of no image are left out then: they
            speak of the whole file.
        max_shard_bytes: cut before a shard grows larger (a single image may).
        source: what the user gave as the source; None: the folder of its files.
        options: what the source was opened with; noted, without the folders of files.
        decode_images: decode each picture wholly in its task.
        base: the commit that this plan adds to.
        known: what the split was made of, for an extension: base and addition together.

    Returns:
        The plan and its folder. A finished folder of the same plan is kept, with what its tasks
        have noted in it.
    """
    stored = split_name(split, limit)
    ordered = _order(records.drafts, f"{seed}\0{spec.name}\0{split}")[:limit]
    strays = records.rejections if limit is None else []
    prefix = split_prefix(spec.name, stored)
    folder = work / f"{prefix}-{_NEW}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shards: list[PlannedShard] = []
    first = base.num_keys if base else 0
    for drafts, num_bytes in _cut(ordered, max_shard_bytes):
        rejections = [] if shards else strays
        data = msgspec.msgpack.encode(ShardDraft(first, drafts, rejections))
        _draft_path(folder, len(shards)).write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        shards.append(PlannedShard(len(drafts), num_bytes, sha256))
        first += len(drafts)
    settings = plan_settings(
        spec,
        split,
        seed=seed,
        limit=limit,
        max_shard_bytes=max_shard_bytes,
        options=options or SourceOptions(),
        decode_images=decode_images,
    )
    if base is not None:
        settings["extends"] = {"plan_hash": base.plan_hash, "merkle_root": base.merkle_root}
    # A limited split is stored under a name of its own, which nobody has published counts of.
    official = opened.official.get(stored, OfficialCounts())
    plan_hash = _plan_hash(spec.name, stored, settings, shards)
    plan = Plan(
        plan_hash=plan_hash,
        name=spec.name,
        dataset=spec.name,
        split=stored,
        converter=spec.converter,
        phrasing=settings["phrasing"],
        seed=seed,
        roots=[
            r.url if isinstance(r, RemoteFolder) else str(r.resolve()) for r in opened.roots.folders
        ],
        shards=shards,
        num_stray_records=len(strays),
        settings=settings,
        source=str((source or opened.folder).resolve()),
        source_files=[_source_file(path, opened.folder) for path in records.source_files],
        source_stamps=[
            (str(path.resolve()), path.stat().st_mtime_ns) for path in records.source_files
        ],
        base=base,
        official=official,
        kinds=dict(records.kinds) if limit is None else {},
    )
    if limit is None:  # a limited split cannot be extended
        write_bytes(folder / KNOWN_NAME, msgspec.msgpack.encode(known or know(records)))
    final = _plan_path(work, spec.name, stored, plan_hash)
    if (final / _PLAN_NAME).is_file():
        shutil.rmtree(folder)
    else:
        shutil.rmtree(final, ignore_errors=True)
        folder.rename(final)
    write_bytes(final / _PLAN_NAME, msgspec.json.encode(plan))
    return plan, final


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep Python from looking for garbage while records are read and a plan is made of them.

    Millions of records stay in use and hardly a cycle arises: looking through all of them again
    and again took a fifth of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read_plan(folder: Path) -> Plan:
    """Read a plan that `make_plan` wrote."""
    return msgspec.json.decode((folder / _PLAN_NAME).read_bytes(), type=Plan)


def find_plan(work: Path, dataset: str, split: str, plan_hash: str) -> tuple[Plan, Path] | None:
    """Return a finished plan below `work` and its folder; None where it is not there.

    Raises:
        UsageError: it cannot be read.
    """
    folder = _plan_path(work, dataset, split, plan_hash)
    try:
        return read_plan(folder), folder
    except (FileNotFoundError, NotADirectoryError):
        return None
    except msgspec.DecodeError as error:
        raise UsageError(
            f"`{folder / _PLAN_NAME}`: cannot read this plan, perhaps of another version: {error}",
            hint="plan it again: the same command with `--step plan`",
        ) from error


def draft_bytes(folder: Path, index: int) -> int:
    """Return the length of shard `index`'s draft file."""
    return _draft_path(folder, index).stat().st_size


def changed_source(plan: Plan) -> str | None:
    """Return the first annotation file that is not what the plan read, if there is one.

    A file of the same time and length is taken for the same; any other is hashed.
    """
    for file, (name, mtime_ns) in zip(plan.source_files, plan.source_stamps, strict=True):
        path = Path(name)
        try:
            status = path.stat()
            if (status.st_size, status.st_mtime_ns) != (file.bytes, mtime_ns) and (
                status.st_size != file.bytes or _sha256(path) != file.sha256
            ):
                return str(path)
        except OSError:
            return str(path)
    return None


def read_draft(folder: Path, index: int) -> ShardDraft:
    """Read what shard `index` is to be made of."""
    return msgspec.msgpack.decode(_draft_path(folder, index).read_bytes(), type=ShardDraft)


def remove_plans(work: Path, dataset: str, split: str) -> None:
    """Remove a split's plan and those that interrupted runs left."""
    name = re.compile(re.escape(split_prefix(dataset, split)) + rf"-([0-9a-f]{{16}}|{_NEW})")
    for folder in work.iterdir():
        if folder.is_dir() and name.fullmatch(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _order(drafts: Sequence[Draft], salt: str) -> list[Draft]:
    def rank(draft: Draft) -> tuple[bytes, str]:
        name = f"{salt}\0{draft.group}".encode(errors="surrogatepass")
        return hashlib.blake2b(name, digest_size=8).digest(), draft.group

    return sorted(drafts, key=rank)


def _cut(drafts: Sequence[Draft], max_shard_bytes: int) -> Iterator[tuple[list[Draft], int]]:
    """Yield each shard's drafts and expected bytes; one empty shard where there is no draft.

    Even a split without a usable image has a shard, whose sidecar keeps the rejections.
    """
    shard: list[Draft] = []
    size = 0
    for draft in drafts:
        own = draft.num_bytes + _OVERHEAD_BYTES if draft.num_bytes else 0
        if shard and size + own > max_shard_bytes:
            yield shard, size
            shard, size = [], 0
        shard.append(draft)
        size += own
    yield shard, size


def _plan_hash(
    dataset: str, split: str, settings: dict[str, Any], shards: Sequence[PlannedShard]
) -> str:
    identity = {
        "format": FORMAT_VERSION,
        "schema": SCHEMA_VERSION,
        "dataset": dataset,
        "split": split,
        "settings": settings,
        "drafts": [shard.sha256 for shard in shards],
    }
    return hashlib.sha256(msgspec.json.encode(identity, order="sorted")).hexdigest()


def _source_file(path: Path, source: Path) -> SourceFile:
    name = path.relative_to(source).as_posix() if path.is_relative_to(source) else as_given(path)
    return SourceFile(path=name, bytes=path.stat().st_size, sha256=_sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plan_path(work: Path, dataset: str, split: str, plan_hash: str) -> Path:
    return work / f"{split_prefix(dataset, split)}-{plan_hash[:16]}"


def _draft_path(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.msgpack"
