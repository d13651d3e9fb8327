"""A path that the system refuses: one line that names the path as the user gave it, and exit 2.

For places that a command reads or writes; without this, an error would name a temporary file. A
disk that is full or failing is something else, and passes on.
"""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from roikit.errors import UsageError

#: No right to it, or something else than what it should be. Nothing there is told where it matters.
WRONG_PATH = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ELOOP, errno.ENAMETOOLONG),
)


@contextmanager
def usable(path: Path, to_be: Literal["read", "written"]) -> Iterator[None]:
    """Say that `path` cannot be read or written where the system refuses what the block does.

    Reading names the very file that is refused; writing names `path`, not a temporary one.

    Raises:
        UsageError: it does.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in WRONG_PATH:
            raise
        named = error.filename if to_be == "read" and error.filename is not None else path
        raise UsageError(
            f"`{named}`: cannot be {to_be}: {error.strerror}",
            hint="give yourself the right, or choose another path",
        ) from error


def check_writable(path: Path) -> None:
    """See that a file or folder can be made at `path`, before long work; leaves nothing behind.

    Raises:
        UsageError: it cannot.
    """
    with usable(path, "written"):
        there = next(folder for folder in path.absolute().parents if folder.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
