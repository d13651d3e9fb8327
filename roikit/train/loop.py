"""The step loop: the same for every stage, size and device."""

import contextlib
import hashlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from roikit.batch import Batch, to_device
from roikit.config import Recipe
from roikit.errors import PeerError, RoikitError
from roikit.model.device import memory_in_use
from roikit.model.processing import RoikitProcessor
from roikit.train.feed import Feeding
from roikit.train.idle import idle_batch
from roikit.train.memory import advice_when_full
from roikit.train.metrics import StepReport
from roikit.train.optim import schedule, set_learning_rate
from roikit.train.parallel import clip_gradients, synchronised
from roikit.train.quarantine import Quarantine
from roikit.train.spikes import check_finite
from roikit.train.world import World


@dataclass(kw_only=True, slots=True)
class Progress:
    """Where a run stands."""

    step: int  #: optimiser steps taken
    stream_state: dict[str, Any] | None  #: after the last batch trained on


def train_steps(
    model: nn.Module,
    processor: RoikitProcessor,
    optimizers: list[Optimizer],
    feedings: Iterator[Feeding],
    recipe: Recipe,
    progress: Progress,
    *,
    steps: int,
    world: World,
    bf16: bool,
    stopped_by: Callable[[], int | None],
    quarantine: Quarantine,
    on_step: Callable[[StepReport, tuple[str, ...]], None],
) -> None:
    """Take the remaining steps, keeping `progress` true after each; every process calls this.

    Args:
        model: as `spread` returns it.
        processor: the model's.
        optimizers: over what learns.
        feedings: this process's micro-batches, as many as every other process has.
        recipe: the stage's.
        progress: where to begin; moved on with each step.
        steps: of the whole run.
        world: this process and the others.
        bf16: compute in bfloat16 where that is safe (autocast).
        stopped_by: the signal that this process was sent, if any.
        quarantine: is told the samples that could not be read, in every process.
        on_step: called in every process after each step, with the samples of its own part.

    Raises:
        Interrupted: any of the processes was sent a signal; all stop before the same step.
        NonFiniteError: loss or gradient are no numbers; names the samples, the step is not taken.
        CorruptSampleError: too many samples could not be read.
        RoikitError: the memory does not suffice.
        PeerError: another process failed, and says why.
    """
    run = recipe.run
    trainable = [p for p in model.parameters() if p.requires_grad]
    idle = to_device(idle_batch(processor), world.device)
    skipped = 0
    failure: Exception | None = None
    while progress.step < steps:
        started = time.perf_counter()
        feeding, num_labels = _next_feeding(feedings, world, stopped_by, failure)
        waited = time.perf_counter() - started
        share = schedule(progress.step, steps=steps, warmup=run.warmup)
        set_learning_rate(optimizers, share)
        # dropout draws by step, so that a run that goes on needs no generator's state
        torch.manual_seed(_step_seed(recipe.seed, progress.step, world.rank))
        with advice_when_full(model, recipe, world, feeding.batches):
            # losses are scaled so that the mean over processes is the mean over the step's labels
            divisor = max(1, num_labels) / world.world_size
            losses = gradients(model, processor, feeding.batches, idle, divisor, world, bf16)
            batches = [batch for batch in feeding.batches if batch is not None]
            tokens = sum(batch.num_tokens for batch in batches)
            places = sum(batch.input_ids.numel() for batch in batches)
            said = [sum(losses), tokens, feeding.skipped, places, len(feeding.quarantined)]
            summed = world.sum(said)
            loss = summed[0] / world.world_size
            grad_norm = clip_gradients(trainable, run.grad_clip)
            unreadable = world.gather(feeding.quarantined) if summed[4] else []
            with _said_once(world):
                for part in unreadable:
                    quarantine.add(part, step=progress.step + 1)
                check_finite(
                    step=progress.step + 1,
                    stage=recipe.stage,
                    loss=loss,
                    grad_norm=grad_norm,
                    losses=losses,
                    keys=[batch.keys if batch is not None else () for batch in feeding.batches],
                    gather=world.gather,
                )
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        skipped += int(summed[2])
        progress.step += 1
        progress.stream_state = feeding.state
        report = StepReport(
            step=progress.step,
            steps=steps,
            loss=loss,
            lr=optimizers[0].param_groups[0]["lr"],
            lr_share=share,
            grad_norm=grad_norm,
            tokens=int(summed[1]),
            labels=num_labels,
            padding=1 - summed[1] / max(1, summed[3]),
            epoch=feeding.epoch,
            seconds=time.perf_counter() - started,
            data_wait=waited,
            memory_bytes=memory_in_use(world.device),
            skipped=skipped,
        )
        try:
            on_step(report, tuple(key for batch in batches for key in batch.keys))
        except Exception as error:  # raised by the next agreement, once the others know
            failure = error
    _agree(world, stopped_by, labels=0, failure=failure)


def gradients(
    model: nn.Module,
    processor: RoikitProcessor,
    batches: Sequence[Batch | None],
    idle: Batch,
    divisor: float,
    world: World,
    bf16: bool,
) -> list[float]:
    """Add up the gradients of this process's micro-batches and return their losses.

    Where a micro-batch is None, this process has no part in it and computes `idle`, since the
    others wait for it. `divisor` is what the sum over labels is divided by.
    """
    losses = []
    for i, batch in enumerate(batches):
        with synchronised(model, is_last=i == len(batches) - 1):
            here = idle if batch is None else to_device(batch, world.device)
            with autocast(world.device, bf16=bf16):
                part = batch_loss(model, processor, here, divisor)
            part.backward()
        losses.append(part.detach())
    found: list[float] = torch.stack(losses).tolist()  # the device is waited for once
    return found


def _next_feeding(
    feedings: Iterator[Feeding],
    world: World,
    stopped_by: Callable[[], int | None],
    failure: Exception | None,
) -> tuple[Feeding, int]:
    """This process's part of the next step, and the labels of all parts.

    `failure` is what this process has failed with before; the others stop as well.
    """
    feeding, labels = None, 0
    if failure is None:
        try:
            feeding = next(feedings)
            labels = sum(batch.num_labels for batch in feeding.batches if batch is not None)
        except Exception as error:  # raised again below, once the others know
            failure = error
    num_labels = _agree(world, stopped_by, labels=labels, failure=failure)
    assert feeding is not None
    return feeding, num_labels


def _agree(
    world: World,
    stopped_by: Callable[[], int | None],
    *,
    labels: int,
    failure: Exception | None,
) -> int:
    """Sum the processes' labels, and let all of them stop where one has to."""
    signum = stopped_by()
    said = [labels, signum == signal.SIGTERM, signum == signal.SIGINT, failure is not None]
    num_labels, terminated, interrupted, failed = world.sum([float(value) for value in said])
    if failed:
        ranks = world.gather(failure is not None)
        raise failure if failure is not None else PeerError(ranks.index(True))
    if terminated or interrupted:
        raise Interrupted(signal.SIGTERM if terminated else signal.SIGINT)
    return int(num_labels)


@contextlib.contextmanager
def _said_once(world: World) -> Iterator[None]:
    """Let the first process alone tell an error that all of them raise."""
    try:
        yield
    except RoikitError:
        if world.is_main:
            raise
        raise PeerError(0) from None


def _step_seed(seed: int, step: int, rank: int) -> int:
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def uses_bf16(dtype: str, device: torch.device) -> bool:
    """Whether a stage's `dtype` means bfloat16 on this device."""
    return dtype == "bf16" or (dtype == "auto" and _has_fast_bf16(device))


def autocast(device: torch.device, *, bf16: bool) -> contextlib.AbstractContextManager[None]:
    """Compute in bfloat16 where that is safe, or not at all."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


def _has_fast_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; a CPU without that emulates it, slowly."""
    if device.type != "cpu":
        return True
    has = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(has is not None and has())


def batch_loss(
    model: nn.Module, processor: RoikitProcessor, batch: Batch, divisor: float
) -> Tensor:
    """Return a batch's loss, summed over its labels and divided by `divisor`."""
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        **batch.views.model_inputs(processor.normalise),
        labels=batch.labels,
        num_items_in_batch=divisor,
        use_cache=False,
    )
    loss: Tensor = output.loss
    return loss


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived; raised between two steps, in every process alike.

    Args:
        signum: which one.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


@contextlib.contextmanager
def hold_signals(
    on_signal: Callable[[int], None] | None = None,
) -> Iterator[Callable[[], int | None]]:
    """Hold SIGINT and SIGTERM back; the yielded function tells the first that came.

    Outside the main thread signals cannot be caught, and it tells none.

    Args:
        on_signal: called with each that comes, at once.
    """
    caught: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        caught.append(signum)
        if on_signal is not None:
            on_signal(signum)

    previous = {}
    try:
        for signum in (signal.SIGINT, signal.SIGTERM):
            previous[signum] = signal.signal(signum, note)
    except ValueError:
        previous = {}
    try:
        yield lambda: caught[0] if caught else None
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
