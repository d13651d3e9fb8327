"""A few steps of a stage for their time alone: nothing is written, and the model is thrown away."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from roikit.batch import to_device
from roikit.config import Recipe
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.processing import RoikitProcessor
from roikit.train.feed import Feeding
from roikit.train.loop import autocast, batch_loss, uses_bf16
from roikit.train.optim import build_optimizers
from roikit.train.parts import prepare


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What the steps after the first took."""

    device: str
    steps: int  #: that were timed
    seconds: float  #: of a step, the median
    data_wait: float  #: of those, the median
    tokens: float  #: of a step, the mean
    conversations: float  #: of a step, the mean
    padding: float  #: share of places that held no token, 0 to 1
    peak_bytes: int | None  #: memory allocated on the device; None for a CPU


def run_trial(
    model: RoikitForConditionalGeneration,
    processor: RoikitProcessor,
    feedings: Iterator[Feeding],
    recipe: Recipe,
    *,
    device: torch.device,
    budget_s: float = 60.0,
) -> Trial | None:
    """Train until the feedings or the time are spent; the first step is not timed.

    Args:
        model: a built one; it is trained in place.
        processor: the model's.
        feedings: one a step.
        recipe: what learns and how.
        device: where.
        budget_s: seconds after which no further step is begun.

    Returns:
        None where fewer than two steps could be taken.
    """
    run = recipe.run
    prepare(model, recipe)
    model.to(device)
    optimizers = build_optimizers(model, run)
    learning = [p for p in model.parameters() if p.requires_grad]
    bf16 = uses_bf16(run.dtype, device)
    is_cuda = device.type == "cuda"
    seconds, waits, tokens, places, conversations = [], [], [], [], []
    began = time.perf_counter()
    started = began
    for feeding in feedings:
        waited = time.perf_counter() - started
        batches = [batch for batch in feeding.batches if batch is not None]
        num_labels = max(1, sum(batch.num_labels for batch in batches))
        for batch in batches:
            with autocast(device, bf16=bf16):
                loss = batch_loss(model, processor, to_device(batch, device), num_labels)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, run.grad_clip or torch.inf)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if is_cuda:
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        seconds.append(now - started)
        waits.append(waited)
        tokens.append(sum(batch.num_tokens for batch in batches))
        places.append(sum(batch.input_ids.numel() for batch in batches))
        conversations.append(sum(len(batch.keys) for batch in batches))
        if len(seconds) > 1 and now - began > budget_s:
            break
        started = time.perf_counter()
    if len(seconds) < 2:
        return None
    return Trial(
        device=torch.cuda.get_device_name(device) if is_cuda else device.type,
        steps=len(seconds) - 1,
        seconds=statistics.median(seconds[1:]),
        data_wait=statistics.median(waits[1:]),
        tokens=statistics.mean(tokens[1:]),
        conversations=statistics.mean(conversations[1:]),
        padding=1 - sum(tokens) / max(1, sum(places)),
        peak_bytes=torch.cuda.max_memory_allocated(device) if is_cuda else None,
    )
