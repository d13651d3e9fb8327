"""Parts of remote files, kept on this node's disk: one sparse file for each remote one.

A part is written where it stands in the original, and nothing notes that it is there. Whoever reads
must be able to tell whole bytes from holes and halves, by a hash, and gets what fails from the
store again. So any number of processes share a cache without a lock, and one that is killed in the
middle of a write leaves nothing wrong. Files are held open for one read or write only: one that is
removed to make room is missing, never in the way. Knows no shard and no store.
"""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from roikit import paths
from roikit.errors import UsageError

log = logging.getLogger(__name__)

#: Names the limit, in GB (1e9 bytes); 0 keeps nothing.
LIMIT_VARIABLE = "ROIKIT_CACHE_GB"
#: A file read or written within so long is in use and is not removed, in seconds. Where more is
#: read in turns than fits, what is there serves again; removing the oldest would never.
_IN_USE_S = 600.0
#: A file's time of last use is this exact, in seconds.
_TOUCH_S = 60.0
#: Where nothing could be removed, room is looked for again after so long, in seconds.
_LOOK_AGAIN_S = 60.0
#: How often the files are counted: after a process has written this share of the limit.
_COUNT_SHARE = 0.005
#: What is left after old files were removed, of the limit.
_KEPT_SHARE = 0.9


class RangeCache:
    """Parts of files, by the file's name and the place in it.

    It may be used by several threads and processes at once, and after a fork.

    Args:
        folder: where the files lie; it is made when first needed.
        limit_bytes: what they may take on the disk, all together. Processes that write at the same
            moment may pass it by half a percent each.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._is_off = False
        self._is_full_said = False
        #: Bytes that this process may write before the files are counted again.
        self._left = 0
        self._look_again = 0.0

    def read(self, name: str, start: int, length: int) -> bytes | None:
        """Return what lies at a place, which may be anything; None where it is surely not whole.

        Args:
            name: of the file, with forward slashes.
            start: first byte.
            length: bytes.
        """
        try:
            descriptor = os.open(self.folder / name, os.O_RDONLY)
        except OSError:
            return None
        try:
            data = os.pread(descriptor, length, start)
            if time.time() - os.fstat(descriptor).st_mtime > _TOUCH_S:
                with contextlib.suppress(OSError):  # another user's: it looks unused, no more
                    os.utime(descriptor)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return data if len(data) == length else None

    def write(self, name: str, start: int, data: bytes) -> None:
        """Keep bytes for later readers; a disk that takes no more is no error.

        Args:
            name: of the file, with forward slashes.
            start: where the bytes stand in it.
            data: whole and checked.
        """
        if self._is_off or not self._has_room(len(data)):
            return
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                rest = memoryview(data)
                while rest:
                    written = os.pwrite(descriptor, rest, start + len(data) - len(rest))
                    rest = rest[written:]
            finally:
                os.close(descriptor)
        except OSError as error:
            self._is_off = True
            log.warning(
                "%s: cannot keep what is read from the store: %s; going on without (ROIKIT_CACHE"
                " names another folder, %s limits it)",
                self.folder,
                error.strerror,
                LIMIT_VARIABLE,
            )

    def _has_room(self, num_bytes: int) -> bool:
        if num_bytes > self._left:
            if time.monotonic() < self._look_again:
                return False
            total = self._make_room(num_bytes)
            share = max(num_bytes, int(self.limit_bytes * _COUNT_SHARE))
            self._left = min(share, self.limit_bytes - total)
        if num_bytes > self._left:
            self._look_again = time.monotonic() + _LOOK_AGAIN_S
            if not self._is_full_said:
                self._is_full_said = True
                log.warning(
                    "%s: holds %.3g GB, its limit, all of it in use: the rest is read from the"
                    " store each time (%s raises the limit)",
                    self.folder,
                    self.limit_bytes / 1e9,
                    LIMIT_VARIABLE,
                )
            return False
        self._left -= num_bytes
        return True

    def _make_room(self, num_bytes: int) -> int:
        """Remove the files that were not used for longest, if need be; return what is kept."""
        files = sorted(_files(self.folder))
        total = sum(size for _, size, _ in files)
        if total + num_bytes <= self.limit_bytes:
            return total
        in_use_since = time.time() - _IN_USE_S
        for used, size, path in files:
            if used > in_use_since or total + num_bytes <= self.limit_bytes * _KEPT_SHARE:
                break
            with contextlib.suppress(OSError):  # another process was first
                path.unlink()
            total -= size
        return total


def cache_of_this_node() -> RangeCache | None:
    """Return the cache that the environment names; None where it is to keep nothing.

    Without a limit it takes half of what the disk has for it: free space and what it holds already.

    Raises:
        UsageError: the limit is no number of GB.
    """
    folder = paths.cache_dir()
    text = os.environ.get(LIMIT_VARIABLE)
    if not text:
        there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
        held = sum(size for _, size, _ in _files(folder))
        return RangeCache(folder, (held + shutil.disk_usage(there).free) // 2)
    try:
        limit_bytes = int(float(text) * 1e9)
    except (ValueError, OverflowError):
        limit_bytes = -1
    if limit_bytes < 0:
        raise UsageError(
            f"{LIMIT_VARIABLE}: expected a number of GB, got `{text}`",
            hint="such as 200; 0 keeps nothing; unset, it is half of the free disk",
        )
    return RangeCache(folder, limit_bytes) if limit_bytes else None


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield each file with the time of its last use and the bytes it takes on the disk."""
    for below, _, names in os.walk(folder):
        for name in names:
            path = Path(below, name)
            with contextlib.suppress(OSError):
                found = path.stat()
                yield found.st_mtime, found.st_blocks * 512, path
