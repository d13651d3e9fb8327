"""How a model is spread over the processes of a run: copied (DDP) or in pieces (FSDP2).

Both average gradients over processes; the loop scales each process's loss so that what comes out is
the gradient of the whole step's loss. Precision: float32 weights; where the device computes in
bfloat16, autocast does, and FSDP gathers the language model in it too and sums gradients in
float32.
"""

import contextlib
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from roikit.config import StageRecipe
from roikit.errors import RoikitError
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.vision import VitTower
from roikit.train.world import World


def choose_parallel(run: StageRecipe, world: World) -> str:
    """Return `single`, `ddp` or `fsdp`.

    `auto` is `fsdp` where the language model's weights learn: gradients and AdamW's moments then
    take three times the weights' own memory. What learns elsewhere, adapters included, is small.
    """
    if world.world_size == 1:
        return "single"
    if run.parallel != "auto":
        return run.parallel
    return "fsdp" if "language_model" in run.train and not run.lora_rank else "ddp"


def spread(
    model: RoikitForConditionalGeneration, run: StageRecipe, world: World, *, bf16: bool
) -> nn.Module:
    """Put the model on this process's device, as a copy or as this process's piece of it.

    Args:
        model: on the CPU, the same in every process; it becomes the piece.
        run: says which parts learn, and how to spread.
        world: the processes.
        bf16: gather the language model's weights in bfloat16.

    Returns:
        What to call in `model`'s place; `model` keeps its own names of parameters.
    """
    kind = choose_parallel(run, world)
    if kind == "fsdp":
        _shard(model, world, bf16=bf16)
        return model
    model.to(world.device)
    if kind == "single":
        return model
    with warnings.catch_warnings():
        # newer versions call `broadcast_buffers` by another name, which older ones do not know
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(
            model,
            device_ids=[world.device] if world.device.type == "cuda" else None,
            broadcast_buffers=False,  # they are the same everywhere and never change
            gradient_as_bucket_view=True,
            # a ViT is read before its last layer, whose parameters then get no gradient
            find_unused_parameters="vision_tower" in run.train
            and isinstance(model.vision_tower, VitTower),
        )


def _shard(model: RoikitForConditionalGeneration, world: World, *, bf16: bool) -> None:
    mesh = init_device_mesh(world.device.type, (world.world_size,))
    numbers = MixedPrecisionPolicy()
    if bf16:
        numbers = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,  # boxes in bfloat16 would move by whole pixels
        )
    for layer in decoder_layers(model.language_model):
        fully_shard(layer, mesh=mesh, mp_policy=numbers)
    # in float32: statistics of a batch norm must not lose digits
    fully_shard(model.vision_tower, mesh=mesh)
    # the rest in one piece: the projector is called from two places, and tied embeddings from two
    fully_shard(model, mesh=mesh, mp_policy=numbers)


def decoder_layers(language_model: nn.Module) -> nn.ModuleList:
    """The language model's repeated layers.

    Raises:
        RoikitError: it has no list of as many modules as its configuration has hidden layers.
    """
    depth = language_model.config.num_hidden_layers  # type: ignore[union-attr]
    for module in language_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise RoikitError(
        f"{type(language_model).__name__}: expected a list of {depth} layers, found none",
        hint="train with parallel=ddp and compile=false",
    )


def synchronised(model: nn.Module, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
    """Hold DDP's exchange of gradients back until the step's last micro-batch.

    FSDP exchanges them after each one: whole gradients kept for later would take the memory that
    it is there to save.
    """
    if isinstance(model, DistributedDataParallel) and not is_last:
        return model.no_sync()
    return contextlib.nullcontext()


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """Scale gradients so that their norm, over all parameters and processes, is at most `limit`.

    Args:
        parameters: those that learn.
        limit: 0 for none.

    Returns:
        The norm before.
    """
    kept = [parameter for parameter in parameters if parameter.grad is not None]
    norm: Tensor = torch.nn.utils.get_total_norm([p.grad for p in kept if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    if limit > 0:
        torch.nn.utils.clip_grads_with_norm_(kept, limit, norm)
    return float(norm)
