"""Files behind URLs (`s3://bucket/vcr`): list, read, fetch, upload, remove.

In: the URL of a folder and names below it, with forward slashes. Any fsspec protocol; its package
must be installed. Failures of the network are tried again, and what remains is raised as one clear
line. A password in a URL never leaves this module: `keep_login` takes it out and keeps it in the
environment, where worker processes find it. Knows no dataset and no shard.
"""

import contextlib
import errno
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from roikit.errors import RoikitError, UsageError

log = logging.getLogger(__name__)

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_LOGIN = re.compile(r"(?<=://)[^/@\s'\"]+@")
_QUERY = re.compile(r"(://[^\s?'\"`]+)\?[^\s'\"`]*")
#: Holds {"https://host": "user:password"}; secrets, so not on a disk.
_LOGINS = "ROIKIT_URL_LOGINS"
#: Nothing is put there.
_READ_ONLY = ("http", "https")
#: Files fetched at once: the file system takes them together, and progress is told in between.
_BATCH = 256
#: Pauses before another try, in seconds.
_PAUSES_S = (1.0, 3.0)
#: What tells one content of a file from the next, by the stores' own names for it.
_VERSIONS = ("ETag", "etag", "md5Hash", "generation", "LastModified", "Last-Modified", "mtime")
_CREDENTIALS_HINT = (
    "give credentials as the store's own tools take them (for S3: AWS_PROFILE, ~/.aws, or the "
    "variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), and check what they may do"
)

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


def is_url(place: Path | str) -> bool:
    """Tell whether a user's `place` is a URL; `file://` is one, too."""
    return isinstance(place, str) and _URL.match(place) is not None


def place(text: str) -> Path | str:
    """Read a folder or file as a user gives it: a path, or a URL, whose login is kept apart."""
    if not is_url(text):
        return Path(text)
    if text.startswith("file://"):
        return Path(unquote(urlsplit(text).path))
    return keep_login(text)


def keep_login(url: str) -> str:
    """Return the URL without `user:password@`, which this process and its children remember.

    Raises:
        UsageError: it holds a query, such as a signature: that speaks of one file, not of those
            below a folder.
    """
    parts = urlsplit(url)
    if parts.query:
        raise UsageError(
            f"`{without_secrets(url)}`: expected the URL of a folder or file, found a query "
            "(`?...`) behind it",
            hint=_CREDENTIALS_HINT,
        )
    login, at, host = parts.netloc.rpartition("@")
    if at:
        logins = json.loads(os.environ.get(_LOGINS, "{}"))
        logins[f"{parts.scheme}://{host}"] = login
        os.environ[_LOGINS] = json.dumps(logins)
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


def without_secrets(text: str) -> str:
    """Take logins and queries out of every URL in `text`."""
    return _QUERY.sub(r"\1", _LOGIN.sub("", text))


def join(url: str, name: str) -> str:
    """Return the URL of `name` below the folder `url`, to be shown or used as a folder."""
    return f"{url.rstrip('/')}/{name}" if name else url


def check_writable(url: str) -> None:
    """Check that the bucket is there and answers, before hours of work.

    Raises:
        UsageError: it is not there, denies access, or its protocol can only be read.
    """
    protocol = url.split("://")[0]
    if protocol in _READ_ONLY:
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


def _file_system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # brings in what only URLs need

    parts = urlsplit(url)
    login = json.loads(os.environ.get(_LOGINS, "{}")).get(f"{parts.scheme}://{parts.netloc}")
    if login is not None:
        url = urlunsplit((parts.scheme, f"{login}@{parts.netloc}", parts.path, "", ""))
    fs, path = url_to_fs(url)
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
        return UsageError(f"`{url}`: access denied", hint=_CREDENTIALS_HINT)
    if "Credential" in name or "Auth" in name:
        return UsageError(f"`{url}`: found no credentials for it", hint=_CREDENTIALS_HINT)
    is_theirs = type(error).__module__.split(".")[0] not in ("builtins", "roikit")
    if isinstance(error, OSError | TimeoutError) or is_theirs:
        return RemoteError(
            f"`{url}`: the connection failed ({name})",
            hint="run the same command again when it is back: finished shards are kept",
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
