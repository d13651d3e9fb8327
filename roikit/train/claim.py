"""One process at a time works on a run: a file beside the run's folder says which.

`.NAME.claim` names host and process and is touched every few seconds. It stands beside the folder,
since `--overwrite` replaces the folder itself. A claim of a dead process on this machine is taken
over at once; one of another machine, whose processes cannot be asked, after it was not touched for
a while. That is watched, not read off a clock: two machines' clocks may differ.
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from roikit.errors import UsageError

log = logging.getLogger(__name__)

#: Seconds between two touches of a claim.
BEAT_S = 10.0
#: Seconds without a touch after which a claim of another machine is dead.
SILENCE_S = 45.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """The process that a claim names."""

    host: str
    pid: int
    machine: str  #: where `pid` means this process: boot and, in containers, namespace
    began: str  #: tells it from a later process of the same number; empty where unknown


@contextmanager
def claimed(out: Path, *, beat_s: float = BEAT_S, silence_s: float = SILENCE_S) -> Iterator[None]:
    """Hold a run's folder for this process while the block runs.

    Args:
        out: the run's folder; it need not exist.
        beat_s: seconds between two touches.
        silence_s: seconds after which another machine's claim counts as dead; several `beat_s`.

    Raises:
        UsageError: another process holds it.
    """
    path = _claim_path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = _myself()
    _take(path, out, mine, silence_s)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(beat_s):
            try:
                os.utime(path)
            except OSError as error:  # a moment without the file system ends no run
                log.debug("%s: not touched: %s", path, error)

    thread = threading.Thread(target=beat, name="roikit-claim", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if _read(path) == mine:
            path.unlink(missing_ok=True)


def is_claimed(out: Path) -> bool:
    """Whether a living process works on a run, as far as can be told at once."""
    path = _claim_path(out)
    holder = _read(path)
    if holder is not None and holder.machine == _machine():
        return _is_alive(holder)
    touched = _touched(path)
    return touched is not None and time.time() - touched / 1e9 < 2 * SILENCE_S


def _claim_path(out: Path) -> Path:
    resolved = out.resolve()
    return resolved.with_name(f".{resolved.name}.claim")


def _take(path: Path, out: Path, mine: Holder, silence_s: float) -> None:
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            pass
        else:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(mine), file)
            return
        holder = _read(path)
        if holder is not None and holder.machine == mine.machine:
            is_held = _is_alive(holder)
        else:
            is_held = _is_touched(path, silence_s, holder)
        if is_held:
            who = f"process {holder.pid} on {holder.host}" if holder else "another process"
            raise UsageError(
                f"{out}: {who} works on this run",
                hint="wait for it to end (`roikit runs` shows it), or name another --out",
            )
        _remove(path, holder)


def _is_touched(path: Path, silence_s: float, holder: Holder | None) -> bool:
    """Watch a claim for a while: whether somebody touches it. One that vanishes is free."""
    before = _touched(path)
    if before is None:
        return False
    where = holder.host if holder is not None else "a machine it does not name"
    log.warning(
        "%s: claimed by a process on %s; waiting up to %.0f s to see whether it lives",
        path,
        where,
        silence_s,
    )
    deadline = time.monotonic() + silence_s
    while time.monotonic() < deadline:
        time.sleep(min(1.0, silence_s / 10))
        now = _touched(path)
        if now is None:
            return False
        if now != before:
            return True
    return False


def _remove(path: Path, dead: Holder | None) -> None:
    """Remove a dead claim, and not one that another process has made in the meantime."""
    aside = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if _read(aside) == dead:
        aside.unlink()
    else:
        aside.rename(path)


def _read(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # gone, or being written
        return None


def _touched(path: Path) -> int | None:
    """When a claim was touched, nanoseconds; None where there is none."""
    try:
        # opening it asks a file server anew, where a plain `stat` may be answered from a cache
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None


def _myself() -> Holder:
    pid = os.getpid()
    return Holder(host=socket.gethostname(), pid=pid, machine=_machine(), began=_began(pid) or "")


def _machine() -> str:
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:  # not Linux: the host's name must do
        pass
    return " ".join(parts)


def _is_alive(holder: Holder) -> bool:
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is there, and another user's
    began = _began(holder.pid)
    return began is None or not holder.began or began == holder.began


def _began(pid: int) -> str | None:
    """When a process began, in ticks; `dead` if it only waits to be reaped; None: unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()
    return "dead" if state in ("Z", "X") else rest[18]
