"""Writes down what a run does, as it does it.

OUT/metrics.jsonl   one line a step, one an evaluation on the pictures held out
OUT/spikes.jsonl    steps whose loss jumped, with the samples of their batch
OUT/events.jsonl    when a process began and ended work on the run
and TensorBoard and Weights & Biases, where they are asked for.

Under several processes each has a `Watch`, so that a spike's samples can be put together from all
of them; only the first one's writes.
"""

import json
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from roikit.config import Recipe
from roikit.json_lines import append_line, read_lines
from roikit.train.events import append_event
from roikit.train.metrics import (
    METRICS_NAME,
    HeldOutReport,
    MetricsWriter,
    StepReport,
    read_metrics,
)
from roikit.train.spikes import (
    WINDOW,
    Gather,
    NonFiniteError,
    Spike,
    SpikeDetector,
    alone,
    named,
)
from roikit.train.trackers import Trackers

log = logging.getLogger(__name__)

SPIKES_NAME = "spikes.jsonl"
#: Seconds between two warnings of spikes; all of them stand in the file.
_QUIET_S = 300.0


class Watch:
    """A run's record keeper, for as long as a process works on it.

    Args:
        out: the run's folder.
        recipe: the stage's, resolved.
        steps: of the whole run.
        after_step: steps the checkpoint has taken; what was written after it is dropped.
        device: where the model is, for the record.
        track: trackers that `check_trackers` has passed.
        world_size: processes.
        is_main: whether this process writes.
        gather: puts together what each process has; called by all at once.
    """

    def __init__(
        self,
        out: Path,
        recipe: Recipe,
        *,
        steps: int,
        after_step: int,
        device: str,
        track: Sequence[str] = (),
        world_size: int = 1,
        is_main: bool = True,
        gather: Gather = alone,
    ) -> None:
        self._out = out
        self._recipe = recipe
        self._gather = gather
        self._is_main = is_main
        self._last_told = -_QUIET_S
        self._untold = 0
        self._step = after_step
        history: list[float] = []
        if is_main:
            self._metrics = MetricsWriter(out / METRICS_NAME, after_step=after_step)
            _drop_spikes(out / SPIKES_NAME, after_step)
            lines = read_metrics(out / METRICS_NAME)
            history = [line["loss"] for line in deque(lines, maxlen=WINDOW)]
            self._trackers = Trackers(
                track, out=out, after_step=after_step, config=_config(recipe, steps)
            )
            append_event(
                out,
                "started",
                step=after_step,
                steps=steps,
                processes=world_size,
                device=device,
                host=socket.gethostname(),
                pid=os.getpid(),
            )
        # every process compares with the same losses, and so finds the same spikes
        self._detector = SpikeDetector(gather(history)[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        if not self._is_main:
            return
        is_stop = isinstance(error, KeyboardInterrupt | SystemExit) or hasattr(error, "signum")
        event = "trained" if error is None else "stopped" if is_stop else "failed"
        told: dict[str, Any] = {"step": self._step}
        if error is not None:
            told["message"] = str(error) or type(error).__name__
        if isinstance(error, NonFiniteError):
            told["keys"] = list(error.keys)
        try:
            append_event(self._out, event, **told)
        except OSError as problem:  # a full disk must not hide the error that is on its way
            log.warning("%s: the end is not noted: %s", self._out, problem)
        self._metrics.close()
        self._trackers.close(failed=event == "failed")

    def step(self, report: StepReport, keys: Sequence[str]) -> None:
        """Write a step down.

        Args:
            report: the same on every process, but for memory and padding.
            keys: the samples of this process's part of the step.
        """
        self._step = report.step
        spike = self._detector.observe(report.loss)
        if spike is not None:
            all_keys = list(chain.from_iterable(self._gather(list(keys))))
            if self._is_main:
                self._note_spike(report, spike, all_keys)
        if self._is_main:
            self._metrics.write(report)
            self._trackers.log(report.step, _train_values(report))

    def held_out(self, report: HeldOutReport) -> None:
        """Write an evaluation on the pictures held out down."""
        if self._is_main:
            self._metrics.write(report)
            self._trackers.log(report.step, {"held_out/loss": report.held_out})

    def _note_spike(self, report: StepReport, spike: Spike, keys: list[str]) -> None:
        size = self._recipe.run.batch_size
        line = {
            "step": report.step,
            "loss": spike.loss,
            "median": spike.median,
            "score": spike.score,
            "grad_norm": report.grad_norm,
            "epoch": report.epoch,
            # counted through all epochs; last one exclusive
            "places": [(report.step - 1) * size, report.step * size],
            "keys": keys,
        }
        append_line(self._out / SPIKES_NAME, line)
        now = time.monotonic()
        if now - self._last_told < _QUIET_S:
            self._untold += 1
            return
        before = f" ({self._untold} more since the last warning)" if self._untold else ""
        log.warning(
            "step %d: the loss jumped to %.4g, the median before it is %.4g%s; the batch held %s "
            "(`roikit show KEY`; all of them: %s)",
            report.step,
            spike.loss,
            spike.median,
            before,
            named(keys),
            self._out / SPIKES_NAME,
        )
        self._last_told, self._untold = now, 0


def read_spikes(out: Path) -> list[dict[str, Any]]:
    """Return a run's spikes, oldest first; a line cut short by a kill is left out."""
    return list(read_lines(out / SPIKES_NAME))


def _drop_spikes(path: Path, after_step: int) -> None:
    """Leave out the spikes of steps that a resumed run takes again."""
    if path.is_file():
        kept = [line for line in read_spikes(path.parent) if line["step"] <= after_step]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def _config(recipe: Recipe, steps: int) -> Mapping[str, Any]:
    import tomllib

    return {"recipe": recipe.name, "steps": steps, **tomllib.loads(recipe.to_toml())}


def _train_values(report: StepReport) -> dict[str, float]:
    return {
        "train/loss": report.loss,
        "train/lr": report.lr,
        "train/grad_norm": report.grad_norm,
        "train/tokens_per_s": report.tokens_per_s,
        "train/data_wait": report.data_wait / max(report.seconds, 1e-9),
        "train/padding": report.padding,
        "train/memory_bytes": report.memory_bytes,
        "train/epoch": report.epoch,
    }
