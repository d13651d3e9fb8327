"""What a checkpoint holds of a model: what learns, its optimisers' state, and buffers, by name.

What is frozen is not: stage 1 trains under one per cent of the weights, and the rest comes from the
run's start or, built anew, from the recipe's seed. Its hash is saved in its place and compared.
Learning rate and weight decay are functions of recipe and step, and so is what dropout draws.
Knows no files.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer


def collect(model: nn.Module, optimizers: list[Optimizer]) -> dict[str, Tensor]:
    """Return what is saved, by name: the very tensors, not copies."""
    learning = {_plain(name) for name, p in model.named_parameters() if p.requires_grad}
    parameters = {_plain(name) for name, _ in model.named_parameters(remove_duplicate=False)}
    tensors = {
        f"model.{name}": tensor
        for name, tensor in get_model_state_dict(model).items()
        if isinstance(tensor, Tensor) and (name in learning or name not in parameters)
    }
    states: dict[str, Any] = get_optimizer_state_dict(model, optimizers)["state"]  # type: ignore[assignment]
    for name, slots in states.items():
        for slot, tensor in slots.items():
            tensors[f"optimizer.{slot}.{name}"] = tensor
    return tensors


def put_back(tensors: Mapping[str, Tensor], model: nn.Module, optimizers: list[Optimizer]) -> None:
    """Give model and optimisers the tensors that `collect` named, after they were read."""
    weights: dict[str, Any] = {}
    states: dict[str, Any] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "model":
            weights[rest] = tensor
        else:
            slot, _, parameter = rest.partition(".")
            states.setdefault(parameter, {})[slot] = tensor
    partly = StateDictOptions(strict=False)  # names were compared before
    set_model_state_dict(model, weights, options=partly)
    both = get_optimizer_state_dict(model, optimizers) | {"state": states}
    set_optimizer_state_dict(model, optimizers, both, options=partly)


def copy_to_cpu(tensors: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to CPU memory; the steps that follow do not change the copies.

    Args:
        tensors: by name; shards stay shards.
        kept: earlier copies, written over: new pages cost more than the copy.
    """
    copies = {}
    for name, tensor in tensors.items():
        copy = kept.get(name)
        if isinstance(tensor, DTensor):
            if isinstance(copy, DTensor):
                copy.to_local().copy_(tensor.to_local(), non_blocking=True)
            else:
                copy = tensor.to("cpu", copy=True)
        else:
            if copy is None:  # pinned memory lets the copies of a GPU run at its bus's speed
                copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            copy.copy_(tensor, non_blocking=True)
        copies[name] = copy
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return copies


def frozen_sha256(model: nn.Module) -> str:
    """Return the hash of all parameters that do not learn: names, types, shapes, values.

    With sharded parameters every process has to call this.
    """
    whole = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            continue
        tensor = parameter.detach()
        if isinstance(tensor, DTensor):
            tensor = tensor.full_tensor()
        whole.update(f"{_plain(name)} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def _plain(name: str) -> str:
    """A parameter's name without what torch.compile and gradient checkpointing wrap it in."""
    return name.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")
