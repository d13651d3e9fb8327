"""Claim a split's folder for one plan, before its first shard is written.

A folder that holds another plan's shards is refused, not overwritten. `commit.py` ends what begins
here.
"""

from pathlib import Path

from roikit.errors import CorruptSampleError, UsageError
from shards.atomic import leftovers, locked, write_bytes
from shards.commit import LOCK_NAME, DatasetInfo, read_commit, shard_files
from shards.index import remove_index
from shards.layout import COMMIT_NAME, FINGERPRINTS_SUFFIX, PLAN_MARK_NAME, split_dir
from shards.sidecar import read_info


def claim_split(
    root: Path | str, dataset: str, split: str, *, plan_hash: str, overwrite: bool = False
) -> Path:
    """Make a split's folder ready for the shards of one plan and return it.

    Shards of the same plan stay: they are what a rerun need not make again. A `dataset.json` of the
    same plan stays too.

    Raises:
        UsageError: the folder holds another plan's shards (or files like them) and `overwrite` is
            false.
    """
    folder = split_dir(root, dataset, split)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK_NAME):
        info = _readable(folder / COMMIT_NAME)
        if info is not None and info.plan_hash == plan_hash:
            # What lies past the commit is an extension's that was begun and given up.
            _make_ready_past(folder, info, plan_hash)
        other = _other_plan(folder, dataset, split, plan_hash)
        if other is not None:
            if not overwrite:
                raise _taken(folder, other)
            _clear(folder, dataset, split)
        write_bytes(folder / PLAN_MARK_NAME, plan_hash.encode())
    return folder


def check_claim(root: Path | str, dataset: str, split: str, *, plan_hash: str) -> None:
    """Refuse what `claim_split` refuses that is not told to overwrite, and change nothing.

    Raises:
        UsageError: the folder holds another plan's shards, or files like them.
    """
    folder = split_dir(root, dataset, split)
    info = _readable(folder / COMMIT_NAME)
    if info is None or info.plan_hash != plan_hash:
        other = _other_plan(folder, dataset, split, plan_hash)
        if other is not None:
            raise _taken(folder, other)


def claim_extension(root: Path | str, base: DatasetInfo, *, plan_hash: str) -> Path:
    """Make a committed split's folder ready for a plan's further shards and return it.

    The commit and its shards stay. Shards past them stay where they are this plan's; those of
    another extension, which never came to its commit, are removed.
    """
    folder = split_dir(root, base.dataset, base.split)
    with locked(folder / LOCK_NAME):
        _make_ready_past(folder, base, plan_hash)
    return folder


def claimed_by(root: Path | str, dataset: str, split: str) -> str | None:
    """Return the hash of the plan that a split's folder was last claimed for, if it was."""
    mark = split_dir(root, dataset, split) / PLAN_MARK_NAME
    return mark.read_text() if mark.is_file() else None


def _taken(folder: Path, other: str) -> UsageError:
    return UsageError(
        f"{folder}: {other}",
        hint="choose another `--out`; `--overwrite` replaces these shards, `--extend`"
        " adds to them what is new",
    )


def _readable(commit: Path) -> DatasetInfo | None:
    try:
        return read_commit(commit) if commit.is_file() else None
    except UsageError:
        return None


def _make_ready_past(folder: Path, base: DatasetInfo, plan_hash: str) -> None:
    mark = folder / PLAN_MARK_NAME
    if mark.is_file() and mark.read_text() == plan_hash:
        return
    committed = {shard.stem for shard in base.shards}
    paths = [p for p in shard_files(folder, base.dataset, base.split) if p.stem not in committed]
    for path in [*paths, *leftovers(folder)]:
        path.unlink(missing_ok=True)
    write_bytes(mark, plan_hash.encode())


def _other_plan(folder: Path, dataset: str, split: str, plan_hash: str) -> str | None:
    """Say which file shows that the folder is another plan's, if one does."""
    mark = folder / PLAN_MARK_NAME
    if mark.is_file() and mark.read_text() != plan_hash:
        return "holds the shards of another plan (other sources or settings)"
    commit = folder / COMMIT_NAME
    try:
        if commit.is_file() and read_commit(commit).plan_hash != plan_hash:
            return f"`{COMMIT_NAME}` is of another plan (other sources or settings)"
    except UsageError as error:
        return str(error).removeprefix(f"{folder}/")
    for path in shard_files(folder, dataset, split):
        if path.suffix == ".parquet":
            try:
                is_ours = read_info(path).plan_hash == plan_hash
            except CorruptSampleError:
                is_ours = mark.is_file()
            if not is_ours:
                return f"`{path.name}` is of another plan (other sources or settings)"
        elif not mark.is_file() and not path.with_suffix(".parquet").is_file():
            return f"`{path.name}` is not from an unfinished run of this plan"
    return None


def _clear(folder: Path, dataset: str, split: str) -> None:
    """Remove a split's files, the commit first: at no moment does it stand over missing shards."""
    (folder / COMMIT_NAME).unlink(missing_ok=True)
    remove_index(folder)
    derived = folder.glob(f"*{FINGERPRINTS_SUFFIX}")
    for path in [*shard_files(folder, dataset, split), *derived, *leftovers(folder)]:
        path.unlink(missing_ok=True)
    (folder / PLAN_MARK_NAME).unlink(missing_ok=True)
