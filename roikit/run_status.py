"""How training runs stand: what their folders tell without loading a model or torch.

In: a folder with runs below it, or one run's. Out: a `RunStatus` each.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from roikit.errors import UsageError
from roikit.train.claim import is_claimed
from roikit.train.events import read_events
from roikit.train.metrics import METRICS_NAME, read_held_out, read_metrics
from roikit.train.quarantine import read_quarantined
from roikit.train.watch import read_spikes

#: Last steps that a run's loss and speed are means of.
_LAST = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """One run."""

    run: Path
    stage: str
    recipe: str
    #: `finished`; `running`; `stopped` by a signal; `failed` with an error; `killed`: ended unsaid
    state: str
    step: int  #: optimiser steps taken
    steps: int | None  #: of the whole run; None before the first
    loss: float | None  #: mean of the last 20 steps
    held_out: float | None  #: of the last evaluation on the pictures held out
    tokens_per_s: float | None  #: over the last 20 steps
    hours: float  #: of the steps taken, without saving, evaluating and work that a kill has lost
    gpu_hours: float | None  #: those times processes; None where no accelerator took part
    spikes: int  #: steps whose loss jumped
    quarantined: int  #: samples that could not be read, with others in their place
    started: str | None  #: when the first process began, UTC
    start: str | None  #: the run or model that it started from


def find_runs(folder: Path) -> list[Path]:
    """Return the runs below a folder, by name; those inside another run are not looked for."""
    found = []
    for parent, names, files in os.walk(folder):
        if "run.json" in files:
            found.append(Path(parent))
            names.clear()
        # a folder with a dot is one being written
        names[:] = sorted(name for name in names if not name.startswith("."))
    return sorted(found)


def resolve_run(name: str, runs: Path) -> Path:
    """Return the run that a path, or a name below `runs`, stands for.

    Raises:
        UsageError: there is none.
    """
    for folder in (Path(name), runs / name):
        if (folder / "run.json").is_file():
            return folder
    known = ", ".join(str(run.relative_to(runs)) for run in find_runs(runs))
    raise UsageError(
        f"`{name}`: expected a run's folder, or a name below {runs}",
        hint=f"there are: {known}" if known else "there is none yet: `roikit train` makes one",
    )


def run_status(run: Path) -> RunStatus:
    """Return how a run stands.

    Raises:
        UsageError: its `run.json` cannot be read.
    """
    told = read_run(run)
    events = list(read_events(run))
    starts = [event for event in events if event["event"] == "started"]
    lines = list(read_metrics(run / METRICS_NAME))
    evaluations = list(read_held_out(run / METRICS_NAME))
    last = lines[-_LAST:]
    steps = lines[-1]["steps"] if lines else starts[-1]["steps"] if starts else None
    return RunStatus(
        run=run,
        stage=str(told.get("stage")),
        recipe=str(told.get("recipe")),
        state=_state(run, events),
        step=lines[-1]["step"] if lines else 0,
        steps=steps,
        loss=_mean([line["loss"] for line in last]),
        held_out=evaluations[-1]["held_out"] if evaluations else None,
        tokens_per_s=_speed(last),
        hours=sum(line["seconds"] for line in lines) / 3600,
        gpu_hours=_gpu_hours(lines, starts),
        spikes=len(read_spikes(run)),
        quarantined=len(read_quarantined(run)),
        started=starts[0]["at"] if starts else _modified(run / "run.json"),
        start=told.get("start"),
    )


def read_run(run: Path) -> dict[str, Any]:
    """Return a run's `run.json`.

    Raises:
        UsageError: it cannot be read.
    """
    file = run / "run.json"
    try:
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: expected a run's JSON: {error}") from error
    return told


def _state(run: Path, events: Sequence[dict[str, Any]]) -> str:
    if (run / "model" / "config.json").is_file():
        return "finished"
    if is_claimed(run):
        return "running"
    last = events[-1]["event"] if events else None
    return last if last in ("stopped", "failed") else "killed"


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _speed(lines: Sequence[dict[str, Any]]) -> float | None:
    seconds = sum(line["seconds"] for line in lines)
    return sum(line["tokens"] for line in lines) / seconds if seconds else None


def _gpu_hours(lines: Sequence[dict[str, Any]], starts: Sequence[dict[str, Any]]) -> float | None:
    """Seconds of each step times the processes that the last start before it had, as hours."""
    total, seen = 0.0, False
    for line in lines:
        # of several starts that came before a step, the last one took it: earlier work was lost
        start = next((one for one in reversed(starts) if one["step"] < line["step"]), None)
        if start is not None and not str(start["device"]).startswith("cpu"):
            total += line["seconds"] * start["processes"]
            seen = True
    return total / 3600 if seen else None


def _modified(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
