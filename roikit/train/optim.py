"""Optimisers and the learning rate's course."""

import math

import torch
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from roikit.config import StageRecipe
from roikit.errors import UsageError
from roikit.train.muon import Muon


def build_optimizers(model: nn.Module, run: StageRecipe) -> list[Optimizer]:
    """Optimisers over the parameters that train.

    Norms, biases, embeddings, the output head and single vectors get no weight decay. With `muon`,
    matrices inside the network go to Muon and everything else to AdamW (Jordan 2024: embeddings and
    heads stay with AdamW). LoRA's adapters stay with AdamW too: they are factors of an update, and
    orthogonal factors would give every direction of it the same weight.

    Args:
        model: as it is trained; under FSDP, already in pieces.
        run: the stage's; its keys have been checked.

    Raises:
        UsageError: nothing trains.
    """
    embedding_ids = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
    }
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    if head is not None:
        embedding_ids.add(id(head.weight))
    matrices, decayed, plain = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        # what is no layer's weight is added to tokens: a ViT's `cls_token`, `position_embeddings`
        is_added = not name.endswith("weight")
        if id(parameter) in embedding_ids or parameter.ndim < 2 or is_added:
            plain.append(parameter)
        elif run.optimizer == "muon" and ".lora_" not in name:
            matrices.append(parameter)
        else:
            decayed.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": run.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    optimizers: list[Optimizer] = []
    if groups:
        optimizers.append(torch.optim.AdamW(groups, lr=run.lr, betas=(run.betas[0], run.betas[1])))
    if matrices:
        optimizers.append(Muon(matrices, lr=run.lr_muon, weight_decay=run.weight_decay))
    if not optimizers:
        raise UsageError("train: no parameter learns", hint="name parts in `train`")
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def schedule(step: int, *, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at `step` (from 0): linear warm-up, then a cosine to 0.

    Args:
        step: the step about to be taken.
        steps: all steps of the run.
        warmup: steps if 1 or more, else a share of all steps.
    """
    warmup_steps = round(warmup if warmup >= 1 else warmup * steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate(optimizers: list[Optimizer], share: float) -> None:
    """Set every group to a share of its own peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
