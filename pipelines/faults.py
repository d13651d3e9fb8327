"""What a disk that is full, closed or failing means, in one line."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roikit.errors import RoikitError, UsageError


def make_root(out: Path) -> None:
    """Make the shards' root folder."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_folder(out, error.strerror) from error


def check_root(out: Path) -> None:
    """Refuse a file where the shards' root folder is to be, without making any folder."""
    there = next(path for path in (out, *out.resolve().parents) if path.exists())
    if not there.is_dir():
        raise _no_folder(out, f"`{there}` is a file")


@contextmanager
def clear_disk_errors(out: Path) -> Iterator[None]:
    """Say in one line what an error of the disk means."""
    try:
        yield
    except OSError as error:
        where = error.filename or out
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        is_closed = error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
        if is_closed and not Path(where).resolve().is_relative_to(out.resolve()):
            raise UsageError(
                f"`{where}`: cannot be used: {error.strerror}", hint="give yourself the right"
            ) from error
        if is_closed:
            raise UsageError(
                f"`{where}`: expected to be allowed to write there: {error.strerror}",
                hint="give yourself the right, or choose another `--out`",
            ) from error
        problem = "no space left on the disk" if is_full else error.strerror or str(error)
        mend = "free some space" if is_full else "mend that"
        if error.errno == errno.EFBIG:
            mend = "allow larger files there (`ulimit -f`)"
        raise RoikitError(
            f"`{where}`: {problem}",
            hint=f"{mend} and run the same command again: finished shards are kept",
        ) from error


def _no_folder(out: Path, reason: str | None) -> UsageError:
    return UsageError(
        f"`{out}`: expected a folder to write shards into, cannot make it: {reason}",
        hint="choose another `--out`",
    )
