"""What a training run's folder tells: where it started, what it was trained on, its weights.

Reads `run.json` and file names, never weights into memory but to hash them; knows no torch.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roikit.errors import PeerError, UsageError

#: The pictures that a run left out of its training data: one identity a line.
EXCLUDED_NAME = "excluded.txt"

#: The stage whose result each stage starts from.
BEFORE = {"align": None, "stage1": "align", "stage2": "stage1"}


def is_main_process() -> bool:
    """Whether this process is the one of its run that reports: under `torchrun`, the first."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def said_once_a_machine() -> Iterator[None]:
    """Let one process of a machine tell a wrong option or path that all of them meet alike.

    For what `torchrun`'s processes do before they join; other errors may be one process's own.

    Raises:
        PeerError: in the others, instead of the `UsageError`.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    try:
        yield
    except UsageError:
        if local_rank == 0:
            raise
        raise PeerError(int(os.environ.get("RANK", "0")) - local_rank) from None


def default_model(runs: Path) -> Path:
    """Return the newest finished run of stage 2 or stage 1 below `runs`.

    Raises:
        UsageError: there is none.
    """
    finished = {
        config.stat().st_mtime_ns: runs / stage
        for stage in ("stage1", "stage2")
        if (config := runs / stage / "model" / "config.json").is_file()
    }
    if not finished:
        raise UsageError(
            f"{runs}: expected a finished run, `stage2` or `stage1`, found none",
            hint="train one with `roikit train`, or name a model with --model",
        )
    return finished[max(finished)]


def default_start(runs: Path, stage: str) -> Path | None:
    """Return the run that `stage` starts from when nothing is said.

    Returns:
        The stage before; None for `align`, and for stage 1 where nothing was aligned: then the
        model is built anew, which a recipe allows whose stage 1 trains every part that is not
        pretrained.

    Raises:
        UsageError: the stage before is unfinished, or stage 2 has no stage 1 to start from.
    """
    before = BEFORE[stage]
    if before is None:
        return None
    run = runs / before
    if (run / "model" / "config.json").is_file():
        return run
    if run.exists():
        raise UsageError(
            f"{run}: this run is not finished, so {stage} cannot start from it",
            hint=f"`roikit train {before}` goes on with it; --from names another run",
        )
    if stage == "stage1":
        return None
    raise UsageError(
        f"{run}: expected the run that {stage} starts from, found nothing",
        hint=f"run `roikit train {before}` first, or name a run with --from",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedOn:
    """What one run was trained on, as it froze it."""

    run: Path
    mix: str
    splits: dict[str, str]  #: Merkle root by `dataset/split`
    #: pictures left out, by native id or SHA-256; None where the list is missing or was changed
    excluded: frozenset[str] | None
    where: str = ""  #: condition on the conversations trained on
    where_sha256: str | None = None  #: of the conversations that it held for
    held_out: float = 0.0  #: share of the pictures held out


def trained_on(model: Path) -> list[TrainedOn] | None:
    """Return what a run and the runs it started from were trained on, the first run last.

    Returns:
        None where that is not known: `model` is not a run of ours, or a run before it is gone.
    """
    found: list[TrainedOn] = []
    run: Path | None = model
    seen: set[Path] = set()
    while run is not None and run not in seen:
        seen.add(run)
        run = run.parent if run.name == "model" else run
        try:
            told: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
            data = told["data"]
            mix, splits = str(data["mix"]), dict(data["splits"])
            where, held_out = str(data.get("where", "")), float(data.get("held_out", 0.0))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        frozen = (data.get("kept_clean") or {}).get("sha256")
        found.append(
            TrainedOn(
                run=run,
                mix=mix,
                splits=splits,
                excluded=_excluded(run, frozen),
                where=where,
                where_sha256=data.get("where_sha256"),
                held_out=held_out,
            )
        )
        run = Path(told["start"]) if told.get("start") else None
    return found


def excluded_text(identities: Sequence[str]) -> str:
    """Return a sorted list of identities as a run keeps it: one a line."""
    return "".join(f"{one}\n" for one in identities)


def excluded_sha256(identities: Sequence[str]) -> str:
    """Return the hash that a run freezes of a sorted list of identities."""
    return hashlib.sha256(excluded_text(identities).encode()).hexdigest()


def _excluded(run: Path, sha256: str | None) -> frozenset[str] | None:
    """Read the list of pictures left out, and check that it is what the run froze."""
    if sha256 is None:  # a run of before there was such a list: it left none out
        return frozenset()
    try:
        data = (run / EXCLUDED_NAME).read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest() != sha256:
        return None
    return frozenset(data.decode().split("\n")) - {""}


def weights_sha256(model: Path) -> str | None:
    """Return the hash of a model's weights: of its safetensors files, in order of name.

    Returns:
        None where there are none, as for a name on the hub.
    """
    folder = model / "model" if (model / "model").is_dir() else model
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        return None
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
