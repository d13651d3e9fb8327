"""The step loop: the same for every stage, size and device."""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from roikit.batch import Batch, to_device
from roikit.config import Recipe
from roikit.errors import RoikitError
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.processing import RoikitProcessor
from roikit.train.feed import Feeding
from roikit.train.metrics import StepReport
from roikit.train.optim import schedule, set_learning_rate

PARTS = ("vision_tower", "projector", "region_encoder", "language_model")


@dataclass(kw_only=True, slots=True)
class Progress:
    """Where a run stands."""

    step: int  #: optimiser steps taken
    stream_state: dict[str, Any] | None  #: after the last batch trained on


def choose_parts(model: RoikitForConditionalGeneration, parts: tuple[str, ...]) -> None:
    """Let the named parts learn and freeze the others.

    Raises:
        RoikitError: a name that is no part.
    """
    for name in parts:
        if name not in PARTS:
            raise RoikitError(f"train: expected parts among {', '.join(PARTS)}, got `{name}`")
    for part in PARTS:
        module = getattr(model, part)
        module.requires_grad_(part in parts)
        module.train(part in parts)


def train_steps(
    model: RoikitForConditionalGeneration,
    processor: RoikitProcessor,
    optimizers: list[Optimizer],
    feedings: Iterator[Feeding],
    recipe: Recipe,
    progress: Progress,
    *,
    steps: int,
    device: torch.device,
    on_step: Callable[[StepReport], None],
) -> None:
    """Take the remaining steps, keeping `progress` true after each.

    Raises:
        RoikitError: the loss is not a number; names the samples of the batch.
    """
    run = recipe.run
    trainable = [p for p in model.parameters() if p.requires_grad]
    autocast = (
        torch.autocast(device.type, dtype=torch.bfloat16)
        if run.dtype == "bf16" or (run.dtype == "auto" and _has_fast_bf16(device))
        else contextlib.nullcontext()
    )
    skipped = 0
    while progress.step < steps:
        started = time.perf_counter()
        feeding = next(feedings)
        waited = time.perf_counter() - started
        share = schedule(progress.step, steps=steps, warmup=run.warmup)
        set_learning_rate(optimizers, share)
        batches = [batch for batch in feeding.batches if batch is not None]
        skipped += feeding.skipped
        num_labels = sum(batch.num_labels for batch in batches)
        loss = 0.0
        for batch in batches:
            with autocast:
                part = _loss(model, processor, to_device(batch, device), num_labels)
            part.backward()
            loss += float(part.detach())
        if not math.isfinite(loss):
            keys = ", ".join(key for batch in batches for key in batch.keys)
            raise RoikitError(
                f"step {progress.step + 1}: the loss is {loss}; the batch held {keys}",
                hint="lower the learning rate (--set STAGE.lr=…) and start over with --overwrite",
            )
        limit = run.grad_clip if run.grad_clip > 0 else math.inf
        grad_norm = torch.nn.utils.clip_grad_norm_(trainable, limit)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.stream_state = feeding.state
        on_step(
            StepReport(
                step=progress.step,
                steps=steps,
                loss=loss,
                lr_share=share,
                grad_norm=float(grad_norm),
                tokens=sum(batch.num_tokens for batch in batches),
                labels=num_labels,
                epoch=feeding.epoch,
                seconds=time.perf_counter() - started,
                data_wait=waited,
                skipped=skipped,
            )
        )


def _has_fast_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; a CPU without that emulates it, slowly."""
    if device.type != "cpu":
        return True
    has = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(has is not None and has())


def _loss(
    model: RoikitForConditionalGeneration,
    processor: RoikitProcessor,
    batch: Batch,
    num_labels: int,
) -> Tensor:
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        pixel_values=processor.normalise(batch.pixels),
        region_boxes=batch.region_boxes,
        region_image_index=batch.region_image_index,
        labels=batch.labels,
        num_items_in_batch=max(1, num_labels),
        use_cache=False,
    )
    loss: Tensor = output.loss
    return loss


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived; raised between two steps.

    Args:
        signum: which one.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


@contextlib.contextmanager
def stop_between_steps() -> Iterator[Callable[[], None]]:
    """Hold SIGINT and SIGTERM back until the yielded function is called; then raise `Interrupted`.

    Outside the main thread signals cannot be caught, and the function does nothing.
    """
    caught: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        caught.append(signum)

    def check() -> None:
        if caught:
            raise Interrupted(caught[0])

    previous = {}
    try:
        for signum in (signal.SIGINT, signal.SIGTERM):
            previous[signum] = signal.signal(signum, note)
    except ValueError:
        previous = {}
    try:
        yield check
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
