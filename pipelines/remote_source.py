"""A dataset's official files behind a URL, as the dataset modules want them: an ordinary folder.

One listing of the URL finds everything below it. Annotation files are fetched once into a local
tree of the same names, again when the store lists another version; pictures, and metadata files
that go with one picture each, stay where they are: they are found in the listing and read with one
request by the task that needs them. Dataset modules see the tree and know nothing of the URL.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import msgspec

from roikit import remote
from roikit.remote import NothingThereError, RemoteFile
from roikit.urls import join
from shards.atomic import locked, write_bytes
from shards.remote import slug

#: Of every file that a dataset module opens by itself while it plans.
ANNOTATION_SUFFIXES = frozenset({".json", ".jsonl", ".p", ".pkl", ".txt", ".xml"})
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
#: Beside the tree, which holds nothing but the source's names.
_LISTING_NAME = "listing.json"
_FETCHED_NAME = "fetched.json"
_TREE = "tree"

#: Called with (files fetched, files to fetch).
Tell = Callable[[int, int], None]


class _Listing(msgspec.Struct, frozen=True):
    url: str
    sizes: dict[str, int]  #: bytes by name


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFolder:
    """A folder of pictures behind a URL."""

    url: str
    #: bytes by name below the source, as listed; empty where pictures are read, not looked for
    sizes: Mapping[str, int] = field(default_factory=dict, repr=False, hash=False)
    below: str = ""  #: where the folder lies below the source: `` or `train2017/`

    def __str__(self) -> str:
        return self.url

    def file_bytes(self, name: str) -> int | None:
        """Return a file's length by the listing; None where it is not listed."""
        return self.sizes.get(f"{self.below}{PurePosixPath(name).as_posix()}")

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: it is gone.
            RemoteError: the store does not answer.
        """
        try:
            return remote.read(self.url, PurePosixPath(name).as_posix())
        except NothingThereError as error:
            raise FileNotFoundError(2, "no such file", name) from error


def fetch_source(url: str, cache: Path, tell: Tell) -> Path:
    """Return a local tree of the annotation files below `url`, or the one file that `url` is.

    Args:
        url: the source, without a login.
        cache: folder of such trees, and of nothing else.
        tell: told of progress.

    Raises:
        UsageError: no such bucket, or access is denied.
        RemoteError: the store does not answer.
    """
    there = remote.list_files(url)
    if set(there) != {""}:
        return _mirror(url, cache, there, set(_annotations(there)), tell)
    url, _, name = url.rpartition("/")
    there = remote.list_files(url)
    return _mirror(url, cache, there, {name}, tell, only=name) / name


def list_pictures(url: str, cache: Path) -> Path:
    """Return a local tree that stands for a folder of pictures: its folders, and no file."""
    return _mirror(url, cache, remote.list_files(url), set(), lambda done, total: None)


def fetch_file(url: str, cache: Path) -> Path:
    """Return a local copy of one file, whatever its kind.

    Raises:
        UsageError: it is not there, or access is denied.
    """
    folder, _, name = url.rpartition("/")
    there = {n: file for n, file in remote.list_files(url).items() if n == ""}
    if not there:
        raise NothingThereError(f"`{url}`: expected a file, found none", hint="check the name")
    listing = {name: there[""]}
    return _mirror(folder, cache, listing, {name}, lambda done, total: None, only=name) / name


def remote_folder(folder: Path) -> RemoteFolder | None:
    """Return what a folder of a local tree stands for; None for an ordinary folder."""
    found = _find(folder)
    if found is None:
        return None
    listing, name = found
    below = "" if name == "." else f"{name}/"
    url = join(listing.url, below.rstrip("/"))
    return RemoteFolder(url=url, sizes=listing.sizes, below=below)


def as_given(path: Path) -> str:
    """Return a file's name as the user knows it: the URL of what was fetched, else the path."""
    found = _find(path)
    return str(path) if found is None else join(found[0].url, found[1])


def _annotations(there: Mapping[str, RemoteFile]) -> Iterator[str]:
    """Yield what is fetched ahead: annotation files, but no picture's own metadata file.

    VCR has one of those beside each of its 110,000 pictures, and a task reads it with its picture.
    """
    paths = [PurePosixPath(name) for name in there]
    pictures = {path.with_suffix("") for path in paths if path.suffix.lower() in PICTURE_SUFFIXES}
    for path in paths:
        is_annotation = path.suffix.lower() in ANNOTATION_SUFFIXES
        if is_annotation and path.with_suffix("") not in pictures:
            yield path.as_posix()


def _mirror(
    url: str,
    cache: Path,
    there: Mapping[str, RemoteFile],
    wanted: set[str],
    tell: Tell,
    *,
    only: str = "",
) -> Path:
    """Make the local tree of `url` hold `wanted` as they are in the store, and nothing else."""
    home = cache / slug(join(url, only))
    tree = home / _TREE
    tree.mkdir(parents=True, exist_ok=True)
    with locked(home / ".lock"):
        known = _known(home)
        versions = {n: f"{there[n].size_bytes} {there[n].version}" for n in wanted}
        changed = sorted(
            name
            for name in wanted
            # A store that tells no versions is asked for the file itself every time.
            if not there[name].version
            or known.get(name) != versions[name]
            or not (tree / name).is_file()
        )
        folders = {parent for name in there for parent in PurePosixPath(name).parents}
        _remove_others(tree, wanted, {folder.as_posix() for folder in folders})
        for folder in folders:
            (tree / folder).mkdir(parents=True, exist_ok=True)
        tell(0, len(changed))
        remote.fetch(url, changed, tree, lambda done: tell(done, len(changed)))
        write_bytes(home / _FETCHED_NAME, msgspec.json.encode(versions))
        sizes = {name: file.size_bytes for name, file in there.items()}
        write_bytes(home / _LISTING_NAME, msgspec.json.encode(_Listing(url, sizes)))
    return tree


def _known(home: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode((home / _FETCHED_NAME).read_bytes(), type=dict[str, str])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


def _remove_others(tree: Path, files: set[str], folders: set[str]) -> None:
    for path in sorted(tree.rglob("*"), reverse=True):  # what lies in a folder before the folder
        name = path.relative_to(tree).as_posix()
        if not path.is_dir():
            if name not in files:
                path.unlink()
        elif name not in folders:
            path.rmdir()


def _find(path: Path) -> tuple[_Listing, str] | None:
    """Return the listing of the tree that `path` lies in, and its name there."""
    path = path.absolute()
    for parent in (path, *path.parents):
        listing = parent.parent / _LISTING_NAME
        if parent.name == _TREE and listing.is_file():
            status = listing.stat()
            found = _read_listing(listing, status.st_mtime_ns, status.st_ino)
            return found, path.relative_to(parent).as_posix()
    return None


@functools.lru_cache(maxsize=8)
def _read_listing(path: Path, mtime_ns: int, inode: int) -> _Listing:
    """Read a listing once, though every image folder and many messages ask for it."""
    return msgspec.json.decode(path.read_bytes(), type=_Listing)
