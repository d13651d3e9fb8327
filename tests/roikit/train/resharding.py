"""What each process of `test_resharding.py` does: loads, compares, trains on, saves.

Run by torchrun, or on its own: resharding.py FOLDER STEP, where each STEP is
`make:TO`, `load:FROM`, `save:TO` or `fail:TO`, with `LAYOUT` (plain, fsdp) first.
"""

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard

from roikit.errors import RoikitError
from roikit.train.checkpoint import Checkpoints
from roikit.train.checkpoint_files import find_latest
from roikit.train.muon import Muon


class Blocks(nn.Module):
    """Odd sizes, so that processes hold unequal shards; one part rests."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(7, 7).requires_grad_(False)
        self.blocks = nn.ModuleList(nn.Linear(7, 7) for _ in range(2))
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.frozen(x)
        for block in self.blocks:
            x = torch.tanh(block(x))
        return x.square().mean()


def build(layout: str) -> tuple[Blocks, list[torch.optim.Optimizer]]:
    torch.manual_seed(0)
    model = Blocks()
    if layout == "fsdp":
        for block in model.blocks:
            fully_shard(block)
        fully_shard(model)
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    rest = [p for p in model.blocks.parameters() if p.ndim == 1]
    return model, [torch.optim.AdamW(rest, lr=0.1), Muon(matrices, lr=0.1)]


def learn(model: Blocks, optimizers: list[torch.optim.Optimizer]) -> None:
    loss = model(torch.arange(14.0).view(2, 7) / 14)
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    model.seen += 1


def whole(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    """Everything, gathered on every process."""
    options = StateDictOptions(full_state_dict=True)
    found: dict[str, Any] = dict(get_model_state_dict(model, options=options))
    states: Any = get_optimizer_state_dict(model, optimizers, options=options)["state"]
    for name, slots in states.items():
        found |= {f"{name}.{slot}": value for slot, value in slots.items()}
    return found


def main(folder: Path, layout: str, *steps: str) -> None:
    torch.set_num_threads(1)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    rank = dist.get_rank() if dist.is_initialized() else 0
    model, optimizers = build(layout)
    for step in steps:
        verb, _, name = step.partition(":")
        runs = Checkpoints(folder / name, model=model, optimizers=optimizers, keep=0)
        if verb == "make":
            for _ in range(3):
                learn(model, optimizers)
            torch.save(whole(model, optimizers), folder / "expected.pt")
        elif verb == "load":
            assert runs.load_latest()
            expected = torch.load(folder / "expected.pt", weights_only=True)
            found = whole(model, optimizers)
            assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
            for key, value in expected.items():
                assert torch.equal(found[key], value), key
        if verb in ("make", "save"):
            runs.save(step=3, state={"stream": 3})
            for _ in range(2):  # collectives of its own, while the checkpoint is written
                whole(model, optimizers)
            runs.finish()
        elif verb == "fail":  # one process's disk is full: all say so, and the older one loads
            runs.save(step=3, state={}, wait=True)
            full = mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
            patched = mock.patch("roikit.train.checkpoint.describe_files", full)
            with patched if rank == 1 else contextlib.nullcontext():
                try:
                    runs.save(step=4, state={}, wait=True)
                    raise SystemExit("expected an error")
                except RoikitError as error:
                    assert "step-00000004: not written, no space left" in str(error), error
            assert find_latest(folder / name) == folder / name / "step-00000003"
            if rank == 0:  # who removes it
                assert not list((folder / name).glob(".writing*"))
        runs.close()
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
