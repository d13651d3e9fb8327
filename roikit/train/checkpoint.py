"""Checkpoints that are complete at every moment.

    checkpoints/step-00000200/   torch distributed checkpoint (model, optimisers), written last:
    state.json checkpoints/latest         symbolic link to the newest complete one

A checkpoint is written under a temporary name, flushed, renamed, and only then becomes `latest`.
`state.json` lists the size of every file, so one that was cut short is seen and passed over.
"""

import json
import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from roikit.errors import RoikitError

log = logging.getLogger(__name__)


def save_checkpoint(
    folder: Path,
    *,
    step: int,
    model: nn.Module,
    optimizers: list[Optimizer],
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write a checkpoint and make it the latest; older ones beyond `keep` are removed.

    Args:
        folder: the run's `checkpoints`.
        step: optimiser steps taken so far.
        model: all of it is saved, frozen parts too.
        optimizers: theirs as well.
        state: anything JSON can hold (the stream position).
        keep: how many to keep beside the latest.
    """
    target = folder / f"step-{step:08d}"
    temporary = folder / f".writing-{step:08d}"
    is_spread = distributed.is_initialized()
    is_main = not is_spread or distributed.get_rank() == 0
    if is_main:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
    tensors = {
        "model": get_model_state_dict(model),
        "optimizers": get_optimizer_state_dict(model, optimizers),
        "generator": torch.get_rng_state(),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that no process group was started: none is meant
        state_dict_saver.save(tensors, checkpoint_id=temporary, no_dist=not is_spread)
    if is_main:
        _commit(temporary, target, {"step": step, **state}, keep)
    if is_spread:
        distributed.all_reduce(torch.zeros(1))  # nobody goes on before it is in place
    return target


def _commit(temporary: Path, target: Path, state: dict[str, Any], keep: int) -> None:
    folder = target.parent
    sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
    text = json.dumps({"files": sizes, **state}, indent=1)
    (temporary / "state.json").write_text(text, encoding="utf-8")
    for path in temporary.iterdir():
        _sync(path)
    if target.exists() and _problem(target) is None:
        shutil.rmtree(temporary)  # saved before a stop at this very step: the same bytes
    else:
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    _sync(folder)
    link = folder / ".latest"
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    link.replace(folder / "latest")
    _sync(folder)
    sound = [path for path in sorted(folder.glob("step-*")) if _problem(path) is None]
    for old in sound[: -(keep + 1)]:
        if old != target:
            shutil.rmtree(old)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find_latest(folder: Path) -> Path | None:
    """The newest checkpoint whose files are all there at their full size; None if there is none."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        problem = _problem(path)
        if problem is None:
            return path
        log.warning("%s: passed over: %s", path, problem)
    return None


def _problem(path: Path) -> str | None:
    try:
        files = json.loads((path / "state.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return "`state.json` is missing or unreadable"
    for name, size in files.items():
        found = (path / name).stat().st_size if (path / name).is_file() else None
        if found != size:
            return (
                f"`{name}`: expected {size} bytes, found {found if found is not None else 'none'}"
            )
    return None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What was saved beside the tensors."""
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    return state


def load_checkpoint(checkpoint: Path, *, model: nn.Module, optimizers: list[Optimizer]) -> None:
    """Bring model, optimisers and the random generator back to where they were.

    Raises:
        RoikitError: the files do not fit this model.
    """
    tensors: dict[str, Any] = {
        "model": get_model_state_dict(model),
        "optimizers": get_optimizer_state_dict(model, optimizers),
        "generator": torch.get_rng_state(),
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state_dict_loader.load(
                tensors, checkpoint_id=checkpoint, no_dist=not distributed.is_initialized()
            )
    except (OSError, ValueError, RuntimeError, CheckpointException) as error:
        raise RoikitError(
            f"{checkpoint}: cannot be read: {error}", hint="start over with --overwrite"
        ) from error
    set_model_state_dict(model, tensors["model"])
    set_optimizer_state_dict(model, optimizers, tensors["optimizers"])
    torch.set_rng_state(tensors["generator"])
