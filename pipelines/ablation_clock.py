"""How far an ablation is, and how long the rest takes, from what the finished took."""

import math
from collections.abc import Sequence
from pathlib import Path

from pipelines.ablation_plan import Run, Trial, distinct_runs


class Clock:
    """Counts runs and evaluations.

    Args:
        trials: all of the ablation.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.done: set[Path] = set()
        self._runs = distinct_runs(trials)
        self._num_trials = sum(bool(trial.runs) for trial in trials)
        self._num_evaluated = 0
        self._trainings: dict[str, list[float]] = {}  # seconds, by stage
        self._evaluations: list[float] = []  # seconds

    def trained(self, run: Run, seconds: float) -> None:
        """Note a finished run; one that several variations share counts once."""
        if run.out not in self.done:
            self.done.add(run.out)
            self._trainings.setdefault(run.recipe.stage, []).append(seconds)

    def evaluated(self, seconds: float | None) -> None:
        """Note an evaluated trial; None: its results were there already."""
        self._num_evaluated += 1
        if seconds is not None:
            self._evaluations.append(seconds)

    def said(self) -> str:
        """Return `3 of 24 runs done, about 0:20:00 left:`."""
        place = f"{len(self.done)} of {len(self._runs)} runs done"
        left = self._left()
        if left is None:
            return f"{place}:"
        minutes, seconds = divmod(round(left), 60)
        return f"{place}, about {minutes // 60}:{minutes % 60:02}:{seconds:02} left:"

    def _left(self) -> float | None:
        """Seconds; None until every stage that is left was trained, and a model evaluated, once."""
        left = [run.recipe.stage for run in self._runs if run.out not in self.done]
        if any(stage not in self._trainings for stage in left) or not self._evaluations:
            return None
        training = math.fsum(_mean(self._trainings[stage]) for stage in left)
        return training + _mean(self._evaluations) * (self._num_trials - self._num_evaluated)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
