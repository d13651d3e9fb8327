"""Runs beside each other: where their recipes and data differ, and their losses at equal steps."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roikit.run_status import read_run
from roikit.train.metrics import METRICS_NAME, read_held_out, read_metrics

#: Rows of losses.
_ROWS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A setting that is not the same everywhere."""

    key: str  #: `lr`, `model.region_grid`, `data coco/train`, `start`
    values: tuple[Any, ...]  #: one a run; None where a run has no such key


@dataclass(frozen=True, kw_only=True, slots=True)
class LossRow:
    """Losses of all runs at one step; None where a run has none."""

    step: int
    losses: tuple[float | None, ...]  #: mean of the steps since the row before
    held_out: tuple[float | None, ...]  #: of the last evaluation since the row before


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two or more runs beside each other."""

    runs: tuple[Path, ...]
    differences: tuple[Difference, ...]
    losses: tuple[LossRow, ...]  #: at about ten steps that all runs have taken


def compare_runs(runs: Sequence[Path]) -> Comparison:
    """Compare runs.

    Args:
        runs: two or more.

    Raises:
        UsageError: a `run.json` cannot be read.
    """
    settings = [_settings(read_run(run)) for run in runs]
    keys = dict.fromkeys(key for one in settings for key in one)
    differences = []
    for key in keys:
        values = tuple(one.get(key) for one in settings)
        if any(value != values[0] for value in values):
            differences.append(Difference(key=key, values=values))
    return Comparison(runs=tuple(runs), differences=tuple(differences), losses=_losses(runs))


def _settings(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that makes a run, flat. A stage's keys go without its name: `lr`, not `stage1.lr`.

    So two stages of one recipe can be compared as well.
    """
    recipe = tomllib.loads(str(told.get("resolved", "")))
    stage = told.get("stage")
    found: dict[str, Any] = {"recipe": told.get("recipe"), "stage": stage}
    for table, values in recipe.items():
        if not isinstance(values, dict):
            found[table] = values
            continue
        prefix = "" if table == stage else f"{table}."
        found |= {f"{prefix}{key}": value for key, value in values.items()}
    data = told.get("data") or {}
    for split, root in (data.get("splits") or {}).items():
        found[f"data {split}"] = root
    found["pictures left out"] = (data.get("kept_clean") or {}).get("sha256")
    found["start"] = told.get("start")
    found["start's weights"] = told.get("start_sha256")
    return found


def _losses(runs: Sequence[Path]) -> tuple[LossRow, ...]:
    by_step = [
        {line["step"]: line["loss"] for line in read_metrics(run / METRICS_NAME)} for run in runs
    ]
    held_out = [
        {line["step"]: line["held_out"] for line in read_held_out(run / METRICS_NAME)}
        for run in runs
    ]
    last = min((max(losses, default=0) for losses in by_step), default=0)
    marks = sorted({round(last * i / _ROWS) for i in range(1, _ROWS + 1)} - {0})
    rows = []
    before = 0
    for step in marks:
        here = range(before + 1, step + 1)
        parts = [[x[s] for s in here if s in x] for x in by_step]
        rows.append(
            LossRow(
                step=step,
                losses=tuple(sum(part) / len(part) if part else None for part in parts),
                held_out=tuple(
                    next((x[s] for s in reversed(here) if s in x), None) for x in held_out
                ),
            )
        )
        before = step
    return tuple(rows)
