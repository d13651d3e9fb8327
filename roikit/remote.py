"""Files behind URLs (`s3://bucket/vcr`): list, read whole or by ranges, fetch, upload, remove.

In: the URL of a folder and names below it, with forward slashes. Any fsspec protocol; its package
must be installed. Failures of the network are tried again, and what remains is raised as one clear
line. URLs come without a login (`roikit/urls.py` keeps it); it is put back in here, for the store's
library alone. Knows no dataset and no shard.
"""

import contextlib
import errno
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, unquote

from roikit.errors import RoikitError, UsageError
from roikit.urls import CREDENTIALS_HINT, WEB, join, login_of, with_login

log = logging.getLogger(__name__)

#: Files fetched at once: the file system takes them together, and progress is told in between.
_BATCH = 256
#: Pauses before another try, in seconds.
_PAUSES_S = (1.0, 3.0)
#: A range that has not come after so long is asked for again, in seconds.
_RANGE_TIMEOUT_S = 60.0
#: What tells one content of a file from the next, by the stores' own names for it.
_VERSIONS = ("ETag", "etag", "md5Hash", "generation", "LastModified", "Last-Modified", "mtime")
#: What a login is called by the file systems that do not take it in the URL.
_LOGIN_OPTIONS = ("username", "user", "password")

T = TypeVar("T")


class RemoteError(RoikitError):
    """A store does not answer, or not as it should."""


class NothingThereError(UsageError):
    """There is no such bucket, folder or file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """A file, as its store lists it."""

    size_bytes: int
    version: str  #: changes when the content does; empty where the store says nothing of the kind


def check_writable(url: str) -> None:
    """Check that the bucket is there and answers, before hours of work.

    Raises:
        UsageError: it is not there, denies access, or its protocol can only be read.
    """
    protocol = url.split("://")[0]
    if protocol in WEB:
        raise UsageError(
            f"`{url}`: nothing can be written over {protocol}",
            hint="choose another `--out`: a folder, or a store such as s3://bucket/shards",
        )
    # Below a name that nobody has: the bucket answers, and lists nothing long.
    _call(url, lambda fs, path: fs.find(f"{path.rstrip('/')}/.roikit-is-it-there"))


def list_files(url: str) -> dict[str, RemoteFile]:
    """List everything below a folder, at any depth; a lone file is listed under the empty name.

    Raises:
        UsageError: no such bucket, or access is denied.
        RemoteError: the store does not answer.
    """

    def find(fs: Any, path: str) -> dict[str, Any]:
        found: dict[str, Any] = fs.find(path, detail=True)
        # A web server's listing names files without their sizes: ask for each, many at once.
        bare = [name for name, info in found.items() if info.get("size") is None]
        for start in range(0, len(bare), _BATCH):
            names = bare[start : start + _BATCH]
            for name, info in zip(names, _infos(fs, names), strict=True):
                found[name] = info
        return {_relative(fs, name, path): info for name, info in found.items()}

    listed: dict[str, RemoteFile] = {}
    num_unsafe = 0
    for name, info in _call(url, find).items():
        if info.get("type", "file") != "file" or name.endswith("/"):
            continue
        if name and not _is_safe(name):
            num_unsafe += 1
            continue
        listed[name] = RemoteFile(size_bytes=int(info.get("size") or 0), version=_version(info))
    if num_unsafe:
        log.warning("%s: left out %d names that would leave the folder", url, num_unsafe)
    return dict(sorted(listed.items()))


def file_bytes(url: str, name: str) -> int | None:
    """Return the length of one file; None where it is not there."""
    try:
        return int(_call(url, lambda fs, path: fs.info(_below(fs, path, name))["size"]))
    except NothingThereError:
        return None


def read(url: str, name: str) -> bytes:
    """Read one file with one request.

    Raises:
        NothingThereError: it is not there.
        RemoteError: the store does not answer.
    """
    data: bytes = _call(
        url, lambda fs, path: fs.cat_file(_below(fs, path, name)), shown=join(url, name)
    )
    return data


def read_range(url: str, name: str, start: int, length: int) -> bytes:
    """Read `length` bytes of one file from byte `start` on, with one request.

    May be called by several threads at once, and again in a process that was forked. Fewer bytes
    come back only where the file ends before.

    Raises:
        NothingThereError: there is no such file.
        UsageError: access is denied, or the server sends whole files only.
        RemoteError: the store does not answer.
    """
    shown = join(url, name)

    def get(fs: Any, path: str) -> bytes:
        place = _below(fs, path, name)
        try:
            data = _range(fs, place, start, start + length)
        except Exception as error:
            if _is_past_end(error):
                return b""
            raise
        if len(data) > length:
            raise UsageError(
                f"`{shown}`: asked for {length:,} bytes, the server sent {len(data):,}: it does not"
                " read by ranges",
                hint="copy the shards to a folder or a store that does: docs/remote.md",
            )
        return data

    return _call(url, get, shown=shown)


@contextlib.contextmanager
def opened(url: str, name: str) -> Iterator[BinaryIO]:
    """Open one file, to be read front to back in large blocks."""
    try:
        with _call(url, lambda fs, path: fs.open(_below(fs, path, name), "rb")) as file:
            yield file
    except Exception as error:
        final = _in_our_words(error, join(url, name))
        if final is None:
            raise
        raise final from error


def fetch(
    url: str,
    names: Sequence[str],
    folder: Path,
    tell: Callable[[int], None] = lambda num_files: None,
) -> None:
    """Copy files to the same names below a local folder, each of them whole or not at all.

    Args:
        url: the folder they lie in.
        names: of the files.
        folder: the local folder; what is missing of it is made.
        tell: called with the number of files fetched, now and then.
    """
    for start in range(0, len(names), _BATCH):
        batch = names[start : start + _BATCH]
        final = [folder / name for name in batch]
        for path in final:
            path.parent.mkdir(parents=True, exist_ok=True)
        parts = [path.with_name(f".{path.name}.part-{os.getpid()}") for path in final]
        try:
            _call(url, _getting(batch, parts))
            for part, path in zip(parts, final, strict=True):
                part.replace(path)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)
        tell(start + len(batch))


def upload(path: Path, url: str, name: str) -> None:
    """Put a local file there. An object store shows it whole or not at all.

    Raises:
        UsageError: no such bucket, or access is denied.
        RemoteError: the store does not answer, or keeps another number of bytes.
    """
    size = path.stat().st_size

    def put(fs: Any, base: str) -> int:
        target = _below(fs, base, name)
        fs.put_file(str(path), target)
        fs.invalidate_cache()
        return int(fs.info(target)["size"])

    kept = _call(url, put)
    if kept != size:
        raise RemoteError(f"`{join(url, name)}`: sent {size:,} bytes, {kept:,} arrived")


def create(url: str, name: str, data: bytes) -> bool:
    """Put a small file where there is none, and say whether it was put.

    Stores that can refuse to overwrite do so themselves (S3's If-None-Match); elsewhere two
    machines that look at the same moment may both put theirs.
    """

    def put(fs: Any, base: str) -> bool:
        target = _below(fs, base, name)
        if not _has_buckets(fs):
            fs.makedirs(fs._parent(target), exist_ok=True)
        try:
            fs.pipe_file(target, data, mode="create")
        except FileExistsError:
            return False
        except (NotImplementedError, TypeError, ValueError):
            if fs.exists(target):
                return False
            fs.pipe_file(target, data)
        return True

    return _call(url, put)


def remove(url: str, names: Sequence[str]) -> None:
    """Remove files, in the order given; one that is not there is no error."""
    for name in names:
        with contextlib.suppress(NothingThereError):
            _call(url, _removing(name))


def _removing(name: str) -> Callable[[Any, str], None]:
    return lambda fs, path: fs.rm_file(_below(fs, path, name))


def _getting(names: Sequence[str], parts: Sequence[Path]) -> Callable[[Any, str], None]:
    return lambda fs, path: fs.get([_below(fs, path, n) for n in names], list(map(str, parts)))


def _call(url: str, action: Callable[[Any, str], T], *, shown: str | None = None) -> T:
    """Call `action` with the file system behind `url` and the folder's path on it.

    What may pass is tried again. What stays is raised in words of ours, without anything a library
    puts into its messages (addresses with signatures).
    """
    shown = shown or url
    for pause_s in (*_PAUSES_S, None):
        try:
            fs, path = _file_system(url)
            # Listings are kept by file systems for as long as they live: ask the store itself.
            fs.invalidate_cache()
            return action(fs, path)
        except Exception as error:
            final = _in_our_words(error, shown)
            if final is None:  # our own mistake, or the local disk's
                raise
            if pause_s is None or not isinstance(final, RemoteError):
                raise final from error
            log.debug("%s: %s; once more in %g s", shown, type(error).__name__, pause_s)
            time.sleep(pause_s)
    raise AssertionError("unreachable")


def _range(fs: Any, place: str, start: int, end: int) -> bytes:
    if not fs.async_impl:
        data: bytes = fs.cat_file(place, start=start, end=end)
        return data
    from fsspec.asyn import sync

    # As `cat_file` does it, but not for ever: a connection may stay open and bring nothing.
    data = sync(fs.loop, fs._cat_file, place, start=start, end=end, timeout=_RANGE_TIMEOUT_S)
    return data


def _is_past_end(error: Exception) -> bool:
    """Tell whether a store says that a range begins behind the file's end."""
    status = getattr(error, "status", getattr(error, "code", None))
    return status == 416 or "InvalidRange" in str(error) or "not satisfiable" in str(error)


def _file_system(url: str) -> tuple[Any, str]:
    from fsspec.core import get_filesystem_class, url_to_fs  # brings in what only URLs need

    options: dict[str, str] = {}
    login = login_of(url)
    if login is not None:
        whole = with_login(url, login)
        taken = get_filesystem_class(url.split("://")[0])._get_kwargs_from_urls(whole)
        options = {name: unquote(taken[name]) for name in _LOGIN_OPTIONS if name in taken}
        url = url if options else whole  # aiohttp reads it from there, and decodes it itself
    fs, path = url_to_fs(url, **options)
    return fs, path


def _in_our_words(error: Exception, url: str) -> RoikitError | None:
    """Return what to raise for a library's error; None for what is not the store's doing."""
    name = type(error).__name__
    status = getattr(error, "status", None)
    if isinstance(error, RoikitError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return None
    if isinstance(error, ImportError):
        protocol = url.split("://")[0]
        package = "roikit[s3]" if protocol in ("s3", "s3a") else _package(str(error), protocol)
        return UsageError(
            f"`{url}`: the package that reads `{protocol}://` is not installed",
            hint=f"pip install '{package}'",
        )
    if isinstance(error, ValueError) and "Protocol not known" in str(error):
        return UsageError(
            f"`{url}`: no such protocol as `{url.split('://')[0]}`",
            hint="usual ones are s3://, gs://, https:// and file://",
        )
    if isinstance(error, FileNotFoundError) or status == 404:
        return NothingThereError(
            f"`{url}`: found nothing there: no such bucket, folder or file",
            hint="check the name, and that the bucket exists; roikit makes none",
        )
    if isinstance(error, PermissionError) or status in (401, 403):
        return UsageError(f"`{url}`: access denied", hint=CREDENTIALS_HINT)
    if "Credential" in name or "Auth" in name:
        return UsageError(f"`{url}`: found no credentials for it", hint=CREDENTIALS_HINT)
    is_theirs = type(error).__module__.split(".")[0] not in ("builtins", "roikit")
    if isinstance(error, OSError | TimeoutError) or is_theirs:
        return RemoteError(
            f"`{url}`: the connection failed ({name})",
            hint="run the same command again when it is back: what is finished is kept",
        )
    return None


def _package(message: str, protocol: str) -> str:
    """Return the package that fsspec's message tells to install."""
    match = re.search(r"[Ii]nstall (?:the )?[`'\"]?([A-Za-z0-9_.-]+)", message)
    return match[1] if match else f"fsspec[{protocol}]"


def _infos(fs: Any, names: list[str]) -> list[dict[str, Any]]:
    if not fs.async_impl:
        return [fs.info(name) for name in names]
    from fsspec.asyn import _run_coros_in_chunks, sync

    async def ask() -> list[dict[str, Any]]:
        return list(await _run_coros_in_chunks([fs._info(name) for name in names]))

    return list(sync(fs.loop, ask))


def _version(info: Mapping[str, Any]) -> str:
    return next((str(info[name]) for name in _VERSIONS if info.get(name)), "")


def _is_web(fs: Any) -> bool:
    return "http" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def _has_buckets(fs: Any) -> bool:
    """Tell whether folders need not be made; making one in an object store makes a bucket."""
    return hasattr(fs, "split_path")


def _below(fs: Any, path: str, name: str) -> str:
    if not name:
        return path
    return f"{path.rstrip('/')}/{quote(name) if _is_web(fs) else name}"


def _relative(fs: Any, name: str, path: str) -> str:
    name = name.removeprefix(path.rstrip("/")).removeprefix("/")
    return unquote(name) if _is_web(fs) else name


def _is_safe(name: str) -> bool:
    parts = PurePosixPath(name).parts
    is_plain = PurePosixPath(name).as_posix() == name and "\\" not in name and "\0" not in name
    return is_plain and not name.startswith("/") and ".." not in parts
