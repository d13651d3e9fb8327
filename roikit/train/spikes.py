"""Steps that went wrong: a loss that is no number ends a run, one that jumps is noted.

Both name the samples that were in the batch. Under several processes every one of them runs these
functions on the same numbers, and so all agree on when to put their samples together.
"""

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from roikit.errors import RoikitError, few

#: Puts together what each process has, in order of rank; called by all of them at once.
Gather = Callable[[Any], list[Any]]

#: Steps that the last loss is compared with.
WINDOW = 64
#: Steps before the first comparison: a run's first losses fall fast.
WARMUP = 32
#: Robust standard deviations above the median that make a spike.
THRESHOLD = 6.0
#: The least standard deviation, as a share of the median: a run that hardly moves has hardly any.
LEAST_SPREAD = 0.05
#: Samples that a message names.
_NAMED = 8


def alone(value: Any) -> list[Any]:
    """Put together what one process has."""
    return [value]


class NonFiniteError(RoikitError):
    """The loss or the gradient of a step is not a number; the step was not taken.

    Args:
        message: which step.
        keys: the samples suspected.
        hint: what to do.
    """

    def __init__(self, message: str, *, keys: tuple[str, ...], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.keys = keys


def check_finite(
    *,
    step: int,
    stage: str,
    loss: float,
    grad_norm: float,
    losses: Sequence[float],
    keys: Sequence[Sequence[str]],
    gather: Gather = alone,
) -> None:
    """End the run, before the optimiser moves a weight, where a step's numbers are none.

    Args:
        step: from 1.
        stage: for the advice.
        loss: of the whole step, the same on every process.
        grad_norm: likewise.
        losses: of this process's micro-batches.
        keys: the samples of each of those micro-batches.
        gather: puts the processes' suspects together.

    Raises:
        NonFiniteError: names the samples of the micro-batches whose own loss is no number; where
            every loss is one and only the gradient is none, all samples of the step.
    """
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    pairs = list(zip(losses, keys, strict=True))
    bad = [key for value, part in pairs if not math.isfinite(value) for key in part]
    found = gather((bad, [key for _, part in pairs for key in part]))
    suspects = [key for bad, _ in found for key in bad] or [
        key for _, all_ in found for key in all_
    ]
    what = f"the loss is {loss}"
    if math.isfinite(loss):
        what = f"the loss is {loss:.4g}, but the gradient's norm is {grad_norm}"
    raise NonFiniteError(
        f"step {step}: {what}; the batch held {named(suspects)}",
        keys=tuple(suspects),
        hint="no weight was moved by it. `roikit show KEY` shows a sample; if they look right, "
        f"lower the learning rate (--set {stage}.lr=…) and start over with --overwrite",
    )


def named(keys: Iterable[str]) -> str:
    """Return the first few of some keys as text, and how many there are beside them."""
    return few(list(dict.fromkeys(keys)), shown=_NAMED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spike:
    """A loss far above those before it."""

    loss: float
    median: float  #: of the steps before
    score: float  #: robust standard deviations above that


class SpikeDetector:
    """Compares each loss with the median of those before it.

    The spread is the median absolute deviation, so that earlier spikes neither hide a later one nor
    make what follows them look low.

    Args:
        history: losses of the steps before, for a run that goes on.
    """

    def __init__(self, history: Iterable[float] = ()) -> None:
        self._losses = deque(history, maxlen=WINDOW)

    def observe(self, loss: float) -> Spike | None:
        """Take the next step's loss; say whether it is a spike."""
        spike = None
        if len(self._losses) >= WARMUP:
            median = statistics.median(self._losses)
            deviation = statistics.median(abs(value - median) for value in self._losses)
            # 1.4826 makes it the standard deviation where losses are normally distributed
            spread = max(1.4826 * deviation, LEAST_SPREAD * abs(median), 1e-12)
            score = (loss - median) / spread
            if score > THRESHOLD:
                spike = Spike(loss=loss, median=median, score=score)
        self._losses.append(loss)
        return spike
