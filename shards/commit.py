"""Declare a split's shards a dataset, and find what is declared.

`dataset.json` is written last, by rename. Without it there is no dataset: readers refuse the
folder, however many shards lie in it. Knows nothing of what the shards hold beyond what their
sidecars say. `claim.py` makes the folder ready before.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from roikit.errors import CorruptSampleError, RoikitError, UsageError
from shards import merkle
from shards.atomic import leftovers, locked, write_bytes
from shards.index import build_index, open_index, remove_index, settle_index
from shards.layout import (
    COMMIT_NAME,
    FORMAT_VERSION,
    commit_path,
    shard_stem,
    split_dir,
    split_prefix,
)
from shards.sidecar import ShardInfo, is_done, read_info, read_rejections

LOCK_NAME = ".lock"

log = logging.getLogger(__name__)


class SourceFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the dataset that the plan read."""

    path: str  #: as the user gave it, or below the source folder
    bytes: int
    sha256: str | None = None


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How and when the shards were made. No part of their identity."""

    roikit: str  #: version
    started: str  #: ISO 8601, UTC
    seconds: float
    workers: int
    engine: str = "process"
    command: str | None = None


class ShardEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One shard, as the commit lists it."""

    stem: str
    samples: int
    tar_bytes: int
    merkle_root: str
    #: of the plan that made it, where that is not the commit's: the split was extended later
    plan_hash: str | msgspec.UnsetType = msgspec.UNSET
    #: numbers of the sidecar's rejections, from 0, that an extension's later try has replaced
    superseded: list[int] | msgspec.UnsetType = msgspec.UNSET


class DatasetInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A committed split: the content of `dataset.json`."""

    format: int
    dataset: str
    split: str
    plan_hash: str
    merkle_root: str  #: over the shards' roots; names the split's content
    samples: int
    regions: int
    conversations: int
    exchanges: int
    tar_bytes: int
    tasks: dict[str, int]  #: conversations by task
    rejections: dict[str, int]  #: rejected records by code, without superseded ones
    settings: dict[str, Any]  #: of the conversion, as the converter gave them
    source_files: list[SourceFile] = []
    run: RunInfo | None = None
    licence: str | None = None  #: of annotations and pictures; None in commits of older versions
    registration: str | None = None  #: form or agreement that the dataset asks for; None for none
    shards: list[ShardEntry]

    def plan_hash_of(self, shard: ShardEntry) -> str:
        """Return the hash of the plan that made one of the shards."""
        return self.plan_hash if shard.plan_hash is msgspec.UNSET else shard.plan_hash


def commit_dataset(
    root: Path | str,
    dataset: str,
    split: str,
    *,
    num_shards: int,
    plan_hash: str,
    settings: Mapping[str, Any],
    source_files: Sequence[SourceFile] = (),
    run: RunInfo | None = None,
    licence: str | None = None,
    registration: str | None = None,
    base: DatasetInfo | None = None,
    superseded: Mapping[str, Sequence[int]] | None = None,
    tar_lengths: Mapping[str, int] | None = None,
) -> DatasetInfo:
    """Build the index, write `dataset.json`, and return what stands in it.

    Everything is read from the sidecars' footers; no member is opened or hashed again. Running it
    again with the same shards gives the same index and, but for `run`, the same `dataset.json`.

    Args:
        root: the shards' root folder.
        dataset: the dataset's name.
        split: the split's name.
        num_shards: how many shards the plan has; shards 0 to num_shards - 1 must be finished.
        plan_hash: the plan's; every sidecar past the base's must carry it.
        settings: whatever the conversion depended on, JSON-encodable.
        source_files: what the plan read.
        run: how and when this was made.
        licence: of annotations and pictures.
        registration: form or agreement that the dataset asks for.
        base: the commit that this one extends: its shards are the first ones and stay as they are.
        superseded: by the base's stems, the numbers of the sidecar's rejections that count no more.
        tar_lengths: bytes of each tar by its stem, where the tars lie elsewhere.

    Raises:
        RoikitError: a shard is missing or of another plan.
    """
    folder = split_dir(root, dataset, split)
    with locked(folder / LOCK_NAME):
        hashes = [base.plan_hash_of(shard) for shard in base.shards] if base else []
        hashes += [plan_hash] * (num_shards - len(hashes))
        infos = _all_finished(folder, dataset, split, hashes, tar_lengths)
        for shard, info in zip(base.shards if base else (), infos, strict=False):
            if shard.merkle_root != info.merkle_root:
                raise RoikitError(f"{folder / shard.stem}: is not the shard that was committed")
        _remove_strays(folder, dataset, split, num_shards)
        merkle_root = merkle.root([merkle.leaf(info.stem, info.merkle_root) for info in infos])
        if base is not None:
            settle_index(folder, base.merkle_root)
        remove_index(folder, keep_plain=True)
        build_index(
            folder,
            num_shards,
            dataset=dataset,
            split=split,
            merkle_root=merkle_root,
            is_ahead=base is not None,
        )
        replaced = superseded or {}
        committed = DatasetInfo(
            format=FORMAT_VERSION,
            dataset=dataset,
            split=split,
            plan_hash=plan_hash,
            merkle_root=merkle_root,
            samples=sum(info.samples for info in infos),
            regions=sum(info.regions for info in infos),
            conversations=sum(info.conversations for info in infos),
            exchanges=sum(info.exchanges for info in infos),
            tar_bytes=sum(info.tar_bytes for info in infos),
            tasks=_total(info.tasks for info in infos),
            rejections=_total(
                _rejections(folder, info, replaced.get(info.stem, ())) for info in infos
            ),
            settings=dict(settings),
            source_files=list(source_files),
            run=run,
            licence=licence,
            registration=registration,
            shards=[
                ShardEntry(
                    stem=info.stem,
                    samples=info.samples,
                    tar_bytes=info.tar_bytes,
                    merkle_root=info.merkle_root,
                    plan_hash=info.plan_hash if info.plan_hash != plan_hash else msgspec.UNSET,
                    superseded=sorted(replaced.get(info.stem, ())) or msgspec.UNSET,
                )
                for info in infos
            ],
        )
        text = msgspec.json.format(msgspec.json.encode(committed), indent=2)
        write_bytes(folder / COMMIT_NAME, text + b"\n")
        settle_index(folder, merkle_root)
    return committed


def find_lost_shard(
    root: Path | str, info: DatasetInfo, tar_lengths: Mapping[str, int] | None = None
) -> RoikitError | None:
    """Return what is wrong with a committed split's shards, as far as headers and lengths show.

    Where the tars lie elsewhere, `tar_lengths` has their bytes by stem, and no header is read.
    """
    folder = split_dir(root, info.dataset, info.split)
    try:
        hashes = [info.plan_hash_of(shard) for shard in info.shards]
        _all_finished(folder, info.dataset, info.split, hashes, tar_lengths)
        for shard, plan_hash in zip(info.shards, hashes, strict=True):
            tar, sidecar = (folder / f"{shard.stem}.{suffix}" for suffix in ("tar", "parquet"))
            if tar_lengths is None and not is_done(tar, sidecar, plan_hash):
                return RoikitError(f"{tar}: does not hold what its sidecar says")
    except RoikitError as error:
        return error
    return None


def is_whole(
    root: Path | str, info: DatasetInfo, tar_lengths: Mapping[str, int] | None = None
) -> bool:
    """Say whether a committed split has all its files, as far as `find_lost_shard` sees.

    What a rerun asks before it calls a split done. `roikit verify` reads every byte.
    """
    if find_lost_shard(root, info, tar_lengths) is not None:
        return False
    try:
        open_index(root, info.dataset, info.split, info.merkle_root)
    except RoikitError:
        return False
    return True


def tidy_index(root: Path | str, info: DatasetInfo) -> None:
    """Give a commit's index the plain names, where its run ended before it came to that."""
    folder = split_dir(root, info.dataset, info.split)
    with locked(folder / LOCK_NAME):
        settle_index(folder, info.merkle_root)


def rebuild_index(root: Path | str, dataset: str, split: str) -> None:
    """Make a committed split's index again from its sidecars.

    Raises:
        UsageError: there is no such committed split.
        CorruptSampleError: a sidecar is missing or unreadable.
    """
    load_dataset(root, dataset, split)
    folder = split_dir(root, dataset, split)
    with locked(folder / LOCK_NAME):
        # Read under the lock: the index must not be that of a commit replaced in the meantime.
        info = load_dataset(root, dataset, split)
        build_index(
            folder,
            len(info.shards),
            dataset=dataset,
            split=split,
            merkle_root=info.merkle_root,
        )


def load_dataset(root: Path | str, dataset: str, split: str) -> DatasetInfo:
    """Read a committed split's `dataset.json`.

    Raises:
        UsageError: there is no such committed split below `root`, or it is of another format
            version.
    """
    path = commit_path(root, dataset, split)
    if not path.is_file():
        there = ", ".join(f"`{info.dataset}@{info.split}`" for info in list_readable(root))
        state = "its shards are unfinished" if path.parent.is_dir() else "no such dataset and split"
        raise UsageError(
            f"{path.parent}: {state} (no `{COMMIT_NAME}`)",
            hint=f"here are {there}" if there else "`roikit convert` makes shards",
        )
    return read_commit(path)


def list_datasets(root: Path | str) -> list[DatasetInfo]:
    """Return every committed split below `root`, by name; none where `root` is missing.

    Raises:
        UsageError: one cannot be read, or is of another format version.
    """
    return [read_commit(path) for path in sorted(Path(root).glob(f"*/*/{COMMIT_NAME}"))]


def list_readable(root: Path | str, dataset: str = "*") -> list[DatasetInfo]:
    """Return every committed split that can be read, of one dataset or all; warn of the others."""
    found: list[DatasetInfo] = []
    for path in sorted(Path(root).glob(f"{dataset}/*/{COMMIT_NAME}")):
        try:
            found.append(read_commit(path))
        except UsageError as error:
            log.warning("left out: %s", error)
    return found


def read_commit(path: Path) -> DatasetInfo:
    """Read a `dataset.json`.

    Raises:
        UsageError: it cannot be read, or is of another format version.
    """
    hint = "convert that split again with this version of roikit and `--overwrite`"
    try:
        info = msgspec.json.decode(path.read_bytes(), type=DatasetInfo)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{path}: cannot read this commit: {error}", hint=hint) from error
    if info.format != FORMAT_VERSION:
        raise UsageError(
            f"{path}: expected shard format {FORMAT_VERSION}, found {info.format}", hint=hint
        )
    return info


def shard_files(folder: Path, dataset: str, split: str) -> list[Path]:
    """Return the tars and sidecars named like this split's, sorted."""
    pattern = f"{split_prefix(dataset, split)}-{'[0-9]' * 6}"
    return sorted([*folder.glob(f"{pattern}.tar"), *folder.glob(f"{pattern}.parquet")])


def is_finished(root: Path | str, dataset: str, split: str, index: int, plan_hash: str) -> bool:
    """Say whether shard `index` is there, of this plan, and as long as its sidecar says."""
    try:
        _finished(split_dir(root, dataset, split), dataset, split, index, plan_hash, None)
    except RoikitError:
        return False
    return True


def _all_finished(
    folder: Path,
    dataset: str,
    split: str,
    plan_hashes: Sequence[str],
    tar_lengths: Mapping[str, int] | None,
) -> list[ShardInfo]:
    infos: list[ShardInfo] = []
    errors: list[RoikitError] = []
    for index, plan_hash in enumerate(plan_hashes):
        try:
            infos.append(_finished(folder, dataset, split, index, plan_hash, tar_lengths))
        except RoikitError as error:
            errors.append(error)
    if errors:
        more = f" (and {len(errors) - 1:,} more of {len(plan_hashes):,})" if errors[1:] else ""
        raise RoikitError(f"{errors[0]}{more}", hint=errors[0].hint) from errors[0]
    return infos


def _finished(
    folder: Path,
    dataset: str,
    split: str,
    index: int,
    plan_hash: str,
    tar_lengths: Mapping[str, int] | None,
) -> ShardInfo:
    """Return shard `index`'s info; check that it is this plan's and that its tar is there."""
    stem = shard_stem(dataset, split, index)
    hint = "run the conversion again; finished shards are kept"
    try:
        info = read_info(folder / f"{stem}.parquet")
        if tar_lengths is None:
            tar_bytes = (folder / f"{stem}.tar").stat().st_size
        else:
            tar_bytes = tar_lengths.get(stem, 0)
    except (OSError, CorruptSampleError) as error:
        raise RoikitError(
            f"{folder / stem}: this shard is not finished: {error}", hint=hint
        ) from error
    if info.plan_hash != plan_hash:
        raise RoikitError(f"{folder / stem}: this shard was made by another plan", hint=hint)
    if tar_bytes != info.tar_bytes:
        raise RoikitError(
            f"{folder / stem}.tar: expected {info.tar_bytes} bytes, found {tar_bytes}", hint=hint
        )
    return info


def _remove_strays(folder: Path, dataset: str, split: str, num_shards: int) -> None:
    """Remove what interrupted runs left: temporary files, and tars past the plan's last shard."""
    stems = {shard_stem(dataset, split, i) for i in range(num_shards)}
    strays = [path for path in shard_files(folder, dataset, split) if path.stem not in stems]
    for path in [*strays, *leftovers(folder)]:
        path.unlink(missing_ok=True)


def _rejections(folder: Path, info: ShardInfo, superseded: Sequence[int]) -> dict[str, int]:
    """Return a shard's rejections by code, without the superseded ones."""
    if not superseded:
        return info.rejections
    every = read_rejections(folder / f"{info.stem}.parquet")
    return Counter(one.code for i, one in enumerate(every) if i not in superseded)


def _total(counts: Any) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))
