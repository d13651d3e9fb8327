"""A few steps of a stage for their time alone: nothing is written, and the model is thrown away."""

import contextlib
import signal
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from roikit.config import Recipe
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.processing import RoikitProcessor
from roikit.train.feed import Feeding
from roikit.train.loop import Interrupted, Progress, train_steps, uses_bf16
from roikit.train.metrics import StepReport
from roikit.train.optim import build_optimizers
from roikit.train.parts import prepare
from roikit.train.quarantine import Quarantine
from roikit.train.world import World


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What the steps after the first took."""

    device: str
    steps: int  #: that were timed
    seconds: float  #: of a step, the median
    data_wait: float  #: of those, the median
    tokens: float  #: of a step, the mean
    conversations: float  #: of a step, the mean
    padding: float  #: share of places that held no token, 0 to 1; the mean
    peak_bytes: int | None  #: memory allocated on the device; None for a CPU


def run_trial(
    model: RoikitForConditionalGeneration,
    processor: RoikitProcessor,
    feedings: Iterator[Feeding],
    recipe: Recipe,
    *,
    steps: int,
    device: torch.device,
    budget_s: float = 60.0,
) -> Trial | None:
    """Train with the loop's own steps until they or the time are spent; the first is not timed.

    Args:
        model: a built one; it is trained in place.
        processor: the model's.
        feedings: one a step.
        recipe: what learns and how.
        steps: how many, the first included.
        device: where.
        budget_s: seconds after which no further step is begun, once two are taken.

    Returns:
        None where fewer than two steps could be taken.

    Raises:
        RoikitError: the memory does not suffice, a loss is no number, or a sample is unreadable.
    """
    prepare(model, recipe)
    model.to(device)
    is_cuda = device.type == "cuda"
    taken: list[StepReport] = []
    conversations: list[int] = []
    began = time.perf_counter()

    def out_of_time() -> int | None:
        is_late = len(taken) > 1 and time.perf_counter() - began > budget_s
        return signal.SIGINT if is_late else None

    def note(report: StepReport, keys: tuple[str, ...]) -> None:
        taken.append(report)
        conversations.append(len(keys))

    with contextlib.suppress(Interrupted):  # out of time
        train_steps(
            model,
            processor,
            build_optimizers(model, recipe.run),
            feedings,
            recipe,
            Progress(step=0, stream_state=None),
            steps=steps,
            world=World(rank=0, local_rank=0, world_size=1, device=device),
            bf16=uses_bf16(recipe.run.dtype, device),
            stopped_by=out_of_time,
            quarantine=Quarantine(Path(), max_bad=0, writes=False),
            on_step=note,
        )
    timed = taken[1:]
    if not timed:
        return None
    return Trial(
        device=torch.cuda.get_device_name(device) if is_cuda else device.type,
        steps=len(timed),
        seconds=statistics.median(one.seconds for one in timed),
        data_wait=statistics.median(one.data_wait for one in timed),
        tokens=statistics.mean(one.tokens for one in timed),
        conversations=statistics.mean(conversations[1:]),
        padding=statistics.mean(one.padding for one in timed),
        peak_bytes=torch.cuda.max_memory_allocated(device) if is_cuda else None,
    )
