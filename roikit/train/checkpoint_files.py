"""A run's checkpoints on disk: which are whole, which is the latest, which may go.

    checkpoints/step-00000200/   torch distributed checkpoint, and state.json, written last
    checkpoints/latest           symbolic link to the newest
    checkpoints/best             symbolic link to the one of the lowest score, where scores are kept

A checkpoint is written under a temporary name, flushed, renamed, and only then becomes `latest`.
`state.json` holds size and SHA-256 of every file and a hash of itself, so that a file that was cut
short or changed is seen, and an older checkpoint taken. Knows files, not tensors.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from roikit.errors import RoikitError

log = logging.getLogger(__name__)

STATE_NAME = "state.json"
_WRITING = ".writing-"
_REMOVING = ".removing-"


def find_latest(folder: Path) -> Path | None:
    """Return the newest checkpoint that is as it was written, reading all of its files.

    Returns:
        None where no checkpoint was ever finished.

    Raises:
        RoikitError: there are checkpoints, and all of them are damaged.
    """
    problems = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        problem = find_problem(path, read=True)
        if problem is None:
            return path
        log.warning("%s: passed over: %s", path, problem)
        problems.append(f"{path.name}: {problem}")
    if problems:
        raise RoikitError(
            f"{folder}: expected a sound checkpoint, all {len(problems)} are damaged: "
            f"{'; '.join(problems)}",
            hint="bring one back from a copy, or start over with --overwrite",
        )
    return None


def find_problem(path: Path, *, read: bool) -> str | None:
    """Say what is wrong with a checkpoint; None if nothing is.

    Args:
        path: its folder.
        read: also read all files and compare their hashes; else sizes alone, which costs nothing.
    """
    try:
        files = read_state(path)["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"`{STATE_NAME}` is missing, damaged or of an older roikit"
    for name, expected in files.items():
        found = (path / name).stat().st_size if (path / name).is_file() else None
        if found != expected["bytes"]:
            return (
                f"`{name}`: expected {expected['bytes']} bytes, "
                f"found {found if found is not None else 'none'}"
            )
    if read:
        try:
            described = describe_files(path / name for name in files)
        except OSError as error:
            return f"cannot be read: {error}"
        for name, expected in files.items():
            if described[name] != expected:
                return f"`{name}`: its bytes are not those that were written (SHA-256)"
    return None


def describe_files(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 by file name; several files are read at once."""

    def describe(path: Path) -> dict[str, Any]:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": path.stat().st_size, "sha256": digest}

    paths = list(paths)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:  # hashing lets go of the GIL
        return dict(zip((path.name for path in paths), threads.map(describe, paths), strict=True))


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return what was saved beside the tensors.

    Raises:
        ValueError: the file is damaged.
    """
    text = (checkpoint / STATE_NAME).read_text(encoding="utf-8")
    state: dict[str, Any] = json.loads(text)
    if state.pop("sha256", None) != _state_sha256(state):
        raise ValueError(f"{checkpoint / STATE_NAME}: the file was changed or is damaged")
    return state


def _state_sha256(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def begin(folder: Path, step: int) -> Path:
    """Make and return the empty folder that a checkpoint is written into."""
    temporary = folder / f"{_WRITING}{step:08d}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def commit(temporary: Path, state: Mapping[str, Any]) -> Path:
    """Turn a written folder into the latest checkpoint.

    Args:
        temporary: as `begin` made it; its other files are complete and on the disk.
        state: anything JSON can hold, with `step` and `files`.
    """
    folder, target = temporary.parent, temporary.parent / f"step-{state['step']:08d}"
    state = json.loads(json.dumps(state))  # as it will be read: tuples become lists
    with (temporary / STATE_NAME).open("w", encoding="utf-8") as file:
        json.dump({"sha256": _state_sha256(state), **state}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    sync(temporary)
    if target.exists():  # a damaged one was passed over, and the run has come to its step again
        _remove(target)
    temporary.rename(target)
    sync(folder)
    _link(folder / "latest", target)
    return target


def prune(folder: Path, *, newest: Path, keep: int, keep_best: int) -> None:
    """Remove all but `newest`, the last `keep` before it and the `keep_best` of lowest score."""
    sound = [p for p in sorted(folder.glob("step-*")) if find_problem(p, read=False) is None]
    scores = {path: read_state(path).get("score") for path in sound}
    scored = [(s, p) for p, s in scores.items() if s is not None and math.isfinite(s)]
    best = [path for _, path in sorted(scored)[:keep_best]]
    for path in sound[: -(keep + 1)]:
        if path != newest and path not in best:
            _remove(path)
    if best:
        _link(folder / "best", best[0])
    else:  # a run that goes on may keep none any more
        (folder / "best").unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what an earlier process was writing or removing when it was killed."""
    for left in [*folder.glob(f"{_WRITING}*"), *folder.glob(f"{_REMOVING}*")]:
        shutil.rmtree(left, ignore_errors=True)


def sync(path: Path) -> None:
    """Hand a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a checkpoint; a kill in between leaves none that looks damaged."""
    leaving = path.with_name(f"{_REMOVING}{path.name}")
    shutil.rmtree(leaving, ignore_errors=True)
    path.rename(leaving)
    shutil.rmtree(leaving, ignore_errors=True)


def _link(link: Path, target: Path) -> None:
    temporary = link.with_name(f".{link.name}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(target.name)
    temporary.replace(link)
    sync(link.parent)
