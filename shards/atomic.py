"""Files that appear whole or not at all, and locks between processes.

A file is written under a temporary name in its own folder, flushed to the disk, then renamed: a
reader, or a rerun after `kill -9`, finds the old file, the new file or none, never a part of one.
"""

import contextlib
import datetime
import errno
import fcntl
import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from roikit.errors import UsageError

_TEMPORARY = ".tmp-"
#: Systems take at least 16 at once, Linux 1,024.
_MAX_PARTS = 256
#: How a temporary name ends: host, process, a random number.
_WRITER = re.compile(r"\.tmp-(?P<host>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}")
#: A file that has not been written to for so long is nobody's, in seconds.
_ABANDONED_S = 24 * 3600
_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes `path`'s place when the block ends without an error.

    The temporary file carries host, process and a random number, so that two processes that
    (wrongly, or in a job array) make the same file do not write into each other's, on one machine
    or two; it is removed on an error and left behind by `kill -9`.
    """
    temporary = temporary_path(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        put_in_place(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # what went wrong is said, not what followed from it
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and (
            (error.errno in _WRITING and error.filename is None)  # of a failed write it is not said
            or error.filename == str(temporary)
        ):
            error.filename = str(path)
        raise


def write_parts(file: BinaryIO, parts: Sequence[bytes]) -> None:
    """Write `parts` one after the other; large ones are not copied together first."""
    if len(parts) > _MAX_PARTS:  # many small ones are written faster in one piece
        file.write(b"".join(parts))
        return
    file.flush()
    waiting: list[bytes | memoryview] = [part for part in parts if part]
    while waiting:
        written = os.writev(file.fileno(), waiting)
        while waiting and written >= len(waiting[0]):
            written -= len(waiting.pop(0))
        if written:
            waiting[0] = memoryview(waiting[0])[written:]


def start_writing_back(file: BinaryIO, offset: int, length: int) -> None:
    """Ask the system to bring a written part of a file to the disk now, without waiting for it.

    Only Linux does so at this hint; elsewhere the flush at the end has it all to do.
    """
    if hasattr(os, "posix_fadvise"):
        file.flush()
        os.posix_fadvise(file.fileno(), offset, length, os.POSIX_FADV_DONTNEED)


def temporary_path(path: Path) -> Path:
    """Return a new name that `path` may be written under before it is renamed."""
    # In containers every process may have the same id, on the same host name.
    writer = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name}{_TEMPORARY}{writer}")


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename a finished file and make the rename itself durable."""
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file in one step."""
    with replacing(path) as file:
        file.write(data)


def temporary_files(folder: Path) -> list[Path]:
    """Return the temporary files in `folder`, sorted; processes may be at work on some of them."""
    return sorted(path for path in folder.glob(f".*{_TEMPORARY}*") if path.is_file())


def leftovers(folder: Path) -> list[Path]:
    """Return the temporary files that interrupted writers left in `folder`, sorted.

    One that was written to within a day is none, unless its process ran on this machine and is
    gone: who makes a shard of a job array holds no lock.
    """
    return [path for path in temporary_files(folder) if _is_left(path)]


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on the file `path` (made when missing) against other processes.

    The lock ends with the process that holds it, however it ends. The file itself stays, and
    names who holds the lock while somebody does.

    Raises:
        UsageError: `wait` is false and somebody else holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.seek(0)
            holder = file.readline().strip()
            raise UsageError(
                f"{path}: another process holds this lock" + (f": {holder}" if holder else ""),
                hint="wait for it to end, then run again",
            ) from error
        file.truncate(0)
        since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {since}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _is_left(path: Path) -> bool:
    writer = _WRITER.search(path.name)
    if writer is None:  # of an older version, which did not say who wrote it
        return True
    if writer["host"] == _host() and not _is_alive(int(writer["process"])):
        return True
    try:
        return path.stat().st_mtime < time.time() - _ABANDONED_S
    except FileNotFoundError:
        return False


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    try:  # where nobody asked for its exit status, an ended process keeps its number (Linux)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state != "Z"


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
