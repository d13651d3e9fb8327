"""TensorBoard and Weights & Biases, where a run asks for them: `--track tensorboard,wandb`.

`metrics.jsonl` is always written and holds the same numbers. A tracker that fails, because the
network is gone or the account is not there, is given up with one warning; training goes on.
"""

import importlib.util
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from roikit.errors import UsageError

log = logging.getLogger(__name__)

#: Seconds that Weights & Biases may take to answer when a run begins.
_ANSWER_S = 60


class Tracker(Protocol):
    """Takes a run's numbers."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of one step, by name: `train/loss`."""
        ...

    def close(self, *, failed: bool) -> None:
        """Say that no more will come, and whether the run failed."""
        ...


class TensorBoard:
    """Event files in the run's `tensorboard`; a run that goes on hides the steps that were lost.

    Args:
        out: the run's folder.
        after_step: steps taken before.
    """

    def __init__(self, out: Path, after_step: int, _: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = after_step + 1 if after_step else None
        self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=purge)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers; TensorBoard's thread flushes them."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, *, failed: bool) -> None:
        """Flush and close the file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of the project `WANDB_PROJECT`, or `roikit`; its id is kept in the run's `wandb.id`.

    wandb itself reads the account and `WANDB_MODE=offline` from the environment. Steps are logged
    with a step of their own, since wandb refuses to go back to those that a kill has lost.

    Args:
        out: the run's folder.
        config: what to show beside the run.
    """

    def __init__(self, out: Path, _: int, config: Mapping[str, Any]) -> None:
        import os

        import wandb

        file = out / "wandb.id"
        known = file.read_text(encoding="utf-8").strip() if file.is_file() else None
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "roikit"),
            name=out.resolve().name,
            id=known,
            resume="allow",
            dir=str(out),
            config=dict(config),
            settings=wandb.Settings(init_timeout=_ANSWER_S, console="off", silent=True),
        )
        file.write_text(self._run.id, encoding="utf-8")
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hand the numbers to wandb's own process, which sends them."""
        self._run.log({"step": step, **values})

    def close(self, *, failed: bool) -> None:
        """End the run there; waits until what was handed over is sent."""
        self._run.finish(exit_code=int(failed))


#: A tracker's module and what opens it.
_TRACKERS: dict[str, tuple[str, Callable[[Path, int, Mapping[str, Any]], Tracker]]] = {
    "tensorboard": ("tensorboard", TensorBoard),
    "wandb": ("wandb", WeightsAndBiases),
}


def check_trackers(names: Iterable[str]) -> None:
    """Refuse trackers that do not exist or are not installed, before a run begins.

    Raises:
        UsageError: says how to install it.
    """
    for name in names:
        if name not in _TRACKERS:
            raise UsageError(f"track: expected {' or '.join(_TRACKERS)}, got `{name}`")
        if importlib.util.find_spec(_TRACKERS[name][0]) is None:
            raise UsageError(
                f"track: `{name}` is not installed",
                hint="pip install 'roikit[track]', or leave it out: metrics.jsonl has the numbers",
            )


class Trackers:
    """Several trackers as one that never fails.

    Args:
        names: which; `check_trackers` has passed them.
        out: the run's folder.
        after_step: steps taken before.
        config: what to show beside the run.
    """

    def __init__(
        self, names: Iterable[str], *, out: Path, after_step: int, config: Mapping[str, Any]
    ) -> None:
        self._open: dict[str, Tracker] = {}
        for name in names:
            # Whatever goes wrong in a tracker is no reason to lose a run: hence every `Exception`.
            try:
                self._open[name] = _TRACKERS[name][1](out, after_step, config)
            except Exception as error:
                _warn(name, error)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hand numbers to every tracker that still works."""
        for name, tracker in list(self._open.items()):
            try:
                tracker.log(step, values)
            except Exception as error:
                del self._open[name]
                _warn(name, error)

    def close(self, *, failed: bool) -> None:
        """Close them."""
        for name, tracker in self._open.items():
            try:
                tracker.close(failed=failed)
            except Exception as error:
                _warn(name, error)
        self._open.clear()


def _warn(name: str, error: Exception) -> None:
    first_line = next(iter(str(error).splitlines()), "")
    log.warning(
        "%s: given up, training goes on without it: %s: %s",
        name,
        type(error).__name__,
        first_line,
    )
