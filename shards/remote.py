"""A root of shards that lies behind a URL, and the folder beside us that stands for it.

The store keeps a split's tars, sidecars, index and commit, under the names of `shards/layout.py`;
the local side keeps the same without the tars, and the manifest. The store decides: what it lacks
is removed here, what it has is fetched, so any machine finds what another has finished. A shard
goes up tar first, then its counts, then its sidecar; `dataset.json` is the last file of a split.
Each is one PUT, which an object store shows whole or not at all.
"""

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import msgspec

from roikit import remote
from roikit.errors import CorruptSampleError, UsageError
from roikit.remote import RemoteFile
from roikit.urls import join
from shards.atomic import locked, put_in_place, write_bytes
from shards.claim import claim_split
from shards.commit import LOCK_NAME
from shards.layout import (
    COMMIT_NAME,
    CONVERSATIONS_INDEX_NAME,
    FORMAT_VERSION,
    KNOWN_PREFIX,
    PLAN_MARK_NAME,
    SAMPLES_INDEX_NAME,
    known_path,
    shard_stem,
    split_dir,
)
from shards.sidecar import read_info

#: In the local side's root: names the URL.
_MARK_NAME = ".remote.json"
#: In a split's local folder: which version of each file was fetched or put.
_VERSIONS_NAME = ".remote-versions.json"
_INDEX_NAMES = (SAMPLES_INDEX_NAME, CONVERSATIONS_INDEX_NAME)
_KNOWN = re.compile(re.escape(KNOWN_PREFIX) + r"[0-9a-f]{16}\.msgpack")
_COUNTS = re.compile(r"\..+\.[0-9a-f]{16}\.counts\.json")


class _Mark(msgspec.Struct, frozen=True):
    url: str


def slug(url: str) -> str:
    """Return a folder's name for a URL: readable, and another one for each URL."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", url).strip("-").lower()[:60]
    return f"{readable}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def local_side(url: str, below: Path) -> Path:
    """Return the folder below `below` that stands for the root `url`; it is made where missing."""
    root = below / slug(url)
    if url_of(root) != url:
        root.mkdir(parents=True, exist_ok=True)
        write_bytes(root / _MARK_NAME, msgspec.json.encode(_Mark(url)))
    return root


def url_of(root: Path | str) -> str | None:
    """Return the URL that a folder is the local side of; None for an ordinary root of shards."""
    try:
        data = (Path(root) / _MARK_NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return msgspec.json.decode(data, type=_Mark).url


def split_url(root: Path | str, dataset: str, split: str) -> str:
    """Return where a split of the local side `root` lies."""
    folder = split_dir(root, dataset, split)
    url = url_of(root)
    assert url is not None, root
    return join(url, folder.relative_to(root).as_posix())


def claim(root: Path, dataset: str, split: str, *, plan_hash: str, overwrite: bool) -> None:
    """Bring the local side up to date, and claim the split for one plan, as `claim_split` does.

    Two machines with one plan make the same bytes and do no harm. One with another plan is refused:
    the plan's mark is put only where there is none, and by the store itself where it can.

    Raises:
        UsageError: the store holds another plan's shards and `overwrite` is false.
    """
    url = split_url(root, dataset, split)
    there = pull(root, dataset, split)
    folder = split_dir(root, dataset, split)
    facts = {name for name in there if _is_fact(name)}
    mark = folder / PLAN_MARK_NAME
    is_foreign = mark.is_file() and mark.read_text() != plan_hash
    lone = [n for n in there if n.endswith(".tar") and f"{n[:-4]}.parquet" not in there]
    if lone and not mark.is_file():
        if not overwrite:
            raise UsageError(
                f"{url}: `{lone[0]}` is not from an unfinished run of this plan",
                hint="choose another --out, or give --overwrite to replace these shards",
            )
        is_foreign = True
    claim_split(root, dataset, split, plan_hash=plan_hash, overwrite=overwrite)
    if is_foreign or any(not (folder / name).is_file() for name in facts):  # it was cleared here
        remote.remove(url, [COMMIT_NAME] if COMMIT_NAME in there else [])
        remote.remove(url, [n for n in there if n != COMMIT_NAME and _is_ours(n, dataset, split)])
        there = {}
    if PLAN_MARK_NAME not in there:
        is_put = remote.create(url, PLAN_MARK_NAME, plan_hash.encode())
        if not is_put and remote.read(url, PLAN_MARK_NAME) != plan_hash.encode():
            mark.unlink()
            raise UsageError(
                f"{url}: another machine has just begun to convert this split, by another plan",
                hint="give both the same sources, settings and version of roikit, or another --out",
            )


def pull(
    root: Path, dataset: str, split: str, *, is_changed: bool = False
) -> dict[str, RemoteFile]:
    """Make the local side of a split what the store holds, but for the tars.

    Args:
        root: the local side.
        dataset: the dataset's name.
        split: the split's name.
        is_changed: the commit is known to be another than the one here; then files of which the
            store gives no version are fetched, however long they are.

    Returns:
        What lies in the store.
    """
    url = split_url(root, dataset, split)
    folder = split_dir(root, dataset, split)
    there = remote.list_files(url)
    facts = {name: file for name, file in there.items() if _is_fact(name)}
    if not facts and not folder.is_dir():
        return there
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK_NAME):
        for path in folder.iterdir():
            if _is_fact(path.name) and path.name not in facts:
                path.unlink()
        known = _known_versions(folder)
        changed = [
            name
            for name, file in facts.items()
            if known.get(name) != _mark_of(file)
            or not (folder / name).is_file()
            or (is_changed and not file.version)
        ]
        changed.sort(key=lambda name: name == COMMIT_NAME)  # last: where it is, all of it is
        remote.fetch(url, changed, folder)
        _note_versions(folder, facts)
    return there


def pull_all(
    root: Path, tell: Callable[[int, int], None] = lambda done, total: None
) -> list[tuple[str, str]]:
    """Make the local side of every committed split what the store holds.

    Args:
        root: the local side.
        tell: called with (splits done, splits in all).

    Returns:
        The splits, as (dataset, split).
    """
    splits = committed_splits(root)
    for folder in root.glob(f"*/*/{COMMIT_NAME}"):
        if (folder.parent.parent.name, folder.parent.name) not in splits:
            folder.unlink()
    for done, (dataset, split) in enumerate(splits, start=1):
        pull(root, dataset, split)
        tell(done, len(splits))
    return splits


def committed_splits(root: Path | str) -> list[tuple[str, str]]:
    """Return the splits that the store of a local side holds, as (dataset, split)."""
    url = url_of(root)
    assert url is not None, root
    names = [name.split("/") for name in remote.list_files(url) if name.endswith(f"/{COMMIT_NAME}")]
    return [(parts[0], parts[1]) for parts in names if len(parts) == 3]


def bring(root: Path | str, dataset: str, split: str) -> None:
    """Make the local side of a committed split what the store holds, for one who reads samples.

    One request where nothing has changed. Does nothing for an ordinary root.

    Raises:
        UsageError: the store holds no such committed split.
        RemoteError: the store does not answer.
    """
    if url_of(root) is None:
        return
    url, folder = split_url(root, dataset, split), split_dir(root, dataset, split)
    try:
        commit = remote.read(url, COMMIT_NAME)
    except remote.NothingThereError as error:
        (folder / COMMIT_NAME).unlink(missing_ok=True)
        there = ", ".join(f"`{one}@{other}`" for one, other in committed_splits(root))
        raise UsageError(
            f"{url}: no such dataset and split, or it is unfinished (no `{COMMIT_NAME}`)",
            hint=f"there are {there}" if there else "`roikit convert` makes shards",
        ) from error
    is_there = all((folder / name).is_file() for name in (*_INDEX_NAMES, COMMIT_NAME))
    if not is_there or (folder / COMMIT_NAME).read_bytes() != commit:
        pull(Path(root), dataset, split, is_changed=True)


def stored_paths(root: Path | str) -> list[Path]:
    """Return every split's tars, and the counts that unfinished runs left in a store.

    What lies in the store of a URL has the path that it would have here.
    """
    root, url = Path(root), url_of(root)
    if url is None:
        return sorted(root.glob("*/*/*.tar"))
    names = [PurePosixPath(name) for name in remote.list_files(url)]
    return [
        root / name
        for name in names
        if len(name.parts) == 3 and (name.suffix == ".tar" or _COUNTS.fullmatch(name.name))
    ]


def finished_counts(
    root: Path, dataset: str, split: str, index: int, plan_hash: str
) -> bytes | None:
    """Return the counts of a shard that the store holds in full; None where it must be made."""
    folder, stem = split_dir(root, dataset, split), shard_stem(dataset, split, index)
    try:
        info = read_info(folder / f"{stem}.parquet")
    except CorruptSampleError:
        return None
    if (info.plan_hash, info.format) != (plan_hash, FORMAT_VERSION):
        return None
    url = split_url(root, dataset, split)
    if remote.file_bytes(url, f"{stem}.tar") != info.tar_bytes:
        return None
    try:
        return remote.read(url, _counts_name(stem, plan_hash))
    except remote.NothingThereError:
        return None


def put_shard(
    root: Path, dataset: str, split: str, index: int, *, made: Path, counts: Path, plan_hash: str
) -> None:
    """Put a finished shard into the store: tar, counts, and last the sidecar, which ends the task.

    Args:
        root: the local side; the sidecar is kept there once it is in the store.
        dataset: the dataset's name.
        split: the split's name.
        index: of the shard.
        made: an ordinary root that the shard was made in.
        counts: file of the task's counts, for a run from another machine.
        plan_hash: the plan's.
    """
    stem = shard_stem(dataset, split, index)
    url, folder = split_url(root, dataset, split), split_dir(made, dataset, split)
    remote.upload(folder / f"{stem}.tar", url, f"{stem}.tar")
    remote.upload(counts, url, _counts_name(stem, plan_hash))
    remote.upload(folder / f"{stem}.parquet", url, f"{stem}.parquet")
    kept = split_dir(root, dataset, split) / f"{stem}.parquet"
    put_in_place(folder / f"{stem}.parquet", kept)


def tar_lengths(root: Path, dataset: str, split: str) -> Mapping[str, int]:
    """Return the length in bytes of each of a split's tars in the store, by its stem."""
    listed = remote.list_files(split_url(root, dataset, split))
    return {n[:-4]: file.size_bytes for n, file in listed.items() if n.endswith(".tar")}


def put_commit(root: Path, dataset: str, split: str, plan_hash: str) -> None:
    """Put notes, index and last `dataset.json` into the store: now the split is a dataset there."""
    url, folder = split_url(root, dataset, split), split_dir(root, dataset, split)
    known = known_path(root, dataset, split, plan_hash)
    try:
        for name in ([known.name] if known.is_file() else []) + [*_INDEX_NAMES, COMMIT_NAME]:
            remote.upload(folder / name, url, name)
    except BaseException:
        (folder / COMMIT_NAME).unlink()  # not committed there, so not committed here
        raise


def tidy(root: Path, dataset: str, split: str, plan_hash: str) -> None:
    """Remove what a committed split needs no more, and note what lies in the store.

    That is the counts of its shards, and the notes of commits that this one has replaced.
    """
    url, folder = split_url(root, dataset, split), split_dir(root, dataset, split)
    there = remote.list_files(url)
    kept = known_path(root, dataset, split, plan_hash).name
    old = [n for n in there if _COUNTS.fullmatch(n) or (_KNOWN.fullmatch(n) and n != kept)]
    remote.remove(url, old)
    _note_versions(folder, {n: file for n, file in there.items() if _is_fact(n) and n not in old})


@contextlib.contextmanager
def opened_tar(root: Path | str, path: Path) -> Iterator[BinaryIO]:
    """Open a tar of the root, or the one in the store that `path` would be here."""
    url = url_of(root)
    if url is None:
        with path.open("rb") as file:
            yield file
        return
    with remote.opened(url, path.relative_to(root).as_posix()) as file:
        yield file


def _is_fact(name: str) -> bool:
    """Tell whether a file of a split's folder is kept on both sides."""
    is_named = name in (COMMIT_NAME, PLAN_MARK_NAME, *_INDEX_NAMES)
    return is_named or name.endswith(".parquet") or _KNOWN.fullmatch(name) is not None


def _is_ours(name: str, dataset: str, split: str) -> bool:
    pattern = rf"{re.escape(f'{dataset}-{split}')}-\d{{6}}\.(tar|parquet)"
    is_note = _COUNTS.fullmatch(name) or _KNOWN.fullmatch(name)
    return bool(is_note or re.fullmatch(pattern, name)) or name in (PLAN_MARK_NAME, *_INDEX_NAMES)


def _counts_name(stem: str, plan_hash: str) -> str:
    return f".{stem}.{plan_hash[:16]}.counts.json"


def _mark_of(file: RemoteFile) -> str:
    return f"{file.size_bytes} {file.version}"


def _known_versions(folder: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode((folder / _VERSIONS_NAME).read_bytes(), type=dict[str, str])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


def _note_versions(folder: Path, facts: Mapping[str, RemoteFile]) -> None:
    noted = {name: _mark_of(file) for name, file in facts.items()}
    if noted != _known_versions(folder):
        write_bytes(folder / _VERSIONS_NAME, msgspec.json.encode(noted))
