"""What costs a training run its memory, and what to set when it does not suffice."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from roikit.batch import Batch
from roikit.config import Recipe
from roikit.errors import RoikitError
from roikit.train.parallel import choose_parallel
from roikit.train.world import World

#: Bytes that a learning weight needs beside its own 4: its gradient and AdamW's two moments.
_BYTES_TO_LEARN = 4 + 8


@contextlib.contextmanager
def advice_when_full(
    model: nn.Module, recipe: Recipe, world: World, batches: Sequence[Batch | None] = ()
) -> Iterator[None]:
    """Turn running out of memory inside the block into one error that says what to set.

    Args:
        model: as it is trained.
        recipe: the stage's.
        world: this process and the others.
        batches: what the block computes; none while the model is put in place.

    Raises:
        RoikitError: the device's memory, or the machine's, did not suffice.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not is_out_of_memory(error):
            raise
        raise _advice(model, recipe, world, batches) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: on a GPU, or on the CPU, which has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _advice(
    model: nn.Module, recipe: Recipe, world: World, batches: Sequence[Batch | None]
) -> RoikitError:
    run, stage = recipe.run, recipe.stage
    largest = max(
        (batch for batch in batches if batch is not None),
        key=lambda batch: batch.input_ids.numel(),
        default=None,
    )
    conversations = 0 if largest is None else len(largest.keys)
    weights, learning = _bytes_here(model)
    held = weights + learning // 4 * _BYTES_TO_LEARN
    message = f"out of memory on `{world.device}`"
    if largest is None:
        message += " while the model was put in place"
    else:
        places = largest.input_ids.numel()
        message += f": {conversations} conversations at once, {places:,} tokens with padding"
    message += f"; weights, gradients and moments take {_gb(held)}{_allocated(world.device)}"
    steps = []
    if conversations > 1:
        fewer = conversations // 2
        steps.append(
            f"--set {stage}.micro_batch={fewer} ({conversations} now; all but those "
            f"{_gb(held)} shrinks to {fewer / conversations:.0%}; the result stays the same)"
        )
    if not run.gradient_checkpointing:
        steps.append(
            f"--set {stage}.gradient_checkpointing=true (keeps one of about ten activations, "
            "for a third more time)"
        )
    kind = choose_parallel(run, world)
    if learning and kind != "fsdp":
        more = max(2, 2 * world.world_size)
        steps.append(
            f"torchrun --nproc-per-node {more} with --set {stage}.parallel=fsdp (the {_gb(held)} "
            f"become {_gb(held // more)} a process)"
        )
    elif kind == "fsdp":
        steps.append(
            f"torchrun with {2 * world.world_size} processes (the {_gb(held)} become "
            f"{_gb(held // 2)} a process)"
        )
    if "language_model" in run.train and not run.lora_rank:
        saved = learning // 4 * _BYTES_TO_LEARN
        steps.append(f"--set {stage}.lora_rank=16 (saves most of {_gb(saved)})")
    steps.append(f"--set {stage}.max_tokens={max(1, run.max_tokens // 2)} ({run.max_tokens} now)")
    return RoikitError(message, hint="in this order: " + "; then ".join(steps))


def _bytes_here(model: nn.Module) -> tuple[int, int]:
    """Bytes of the weights on this process, and of those that learn."""
    weights = learning = 0
    for parameter in model.parameters():
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        weights += local.numel() * local.element_size()
        learning += local.numel() * local.element_size() * parameter.requires_grad
    return weights, learning


def _allocated(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    free, total = torch.cuda.mem_get_info(device)
    used = torch.cuda.max_memory_allocated(device)
    return f"; {_gb(used)} were in use, {_gb(free)} of the GPU's {_gb(total)} are free"


def _gb(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"
