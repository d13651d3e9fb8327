"""Room on the disk for what a run writes: how much it takes, and what to say where it lacks."""

import errno
import shutil
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.optim import Optimizer

from roikit.errors import RoikitError
from roikit.render import bytes_text
from roikit.train.muon import Muon

#: Beside a checkpoint's tensors: torch's metadata, `state.json`, files' last blocks.
EXTRA_BYTES = 1_000_000


def check_room(
    out: Path, *, model: nn.Module, optimizers: list[Optimizer], saves: int, kept: int
) -> None:
    """Refuse to begin where the disk will not hold the run's checkpoints and model.

    What is in `out` now counts as free: it is replaced, or part of what the run will hold.

    Args:
        out: the run's folder; need not be there yet.
        model: as it is trained.
        optimizers: of its learning parameters.
        saves: checkpoints that the whole run writes, about.
        kept: checkpoints that stay beside the one being written.

    Raises:
        RoikitError: less is free than that takes.
    """
    checkpoint = checkpoint_bytes(model, optimizers)
    result = num_bytes(model.parameters())
    count = min(saves, kept + 1)
    needed = max(count * checkpoint, min(saves, kept) * checkpoint + result)
    there = next(path for path in (out, *out.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    free += sum(path.lstat().st_size for path in out.rglob("*")) if out.is_dir() else 0
    if free < needed:
        raise RoikitError(
            f"{out}: expected {bytes_text(needed)} of room on the disk, found {bytes_text(free)}: "
            f"a checkpoint takes about {bytes_text(checkpoint)} and there are up to {count} at "
            f"once, the model takes {bytes_text(result)}",
            hint="free some space, keep fewer checkpoints (`keep`, `keep_best`), or name a folder "
            "on another disk with --out",
        )


def checkpoint_bytes(model: nn.Module, optimizers: list[Optimizer]) -> int:
    """Return about how large a checkpoint is, also before the optimisers' first step."""
    total = EXTRA_BYTES + num_bytes(model.buffers())
    for optimizer in optimizers:
        moments = 1 if isinstance(optimizer, Muon) else 2
        for group in optimizer.param_groups:
            total += (1 + moments) * num_bytes(group["params"])
    return total


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the size of tensors, as wholes where they are sharded."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def as_error(target: Path, error: BaseException, needed: int) -> RoikitError:
    """Say in one line why a checkpoint was not written."""
    if isinstance(error, RoikitError):
        return error
    found = _system_error(error)
    free = shutil.disk_usage(target.parent).free if target.parent.is_dir() else None
    full = found is not None and found.errno in (errno.ENOSPC, errno.EDQUOT)
    # torch's writer may hide the system's error behind one of its own
    if full or (found is None and free is not None and free < needed):
        return RoikitError(
            f"{target}: not written, no space left on the disk: it needs about "
            f"{bytes_text(needed)}, {bytes_text(free or 0)} are free",
            hint="free some space, or keep fewer checkpoints (`keep`), and run the same command "
            "again: it goes on from the checkpoint before",
        )
    reason = found.strerror or str(found) if found is not None else str(error).strip()
    mend = "allow larger files (`ulimit -f`)" if found and found.errno == errno.EFBIG else "mend it"
    return RoikitError(
        f"{target}: not written: {reason}",
        hint=f"{mend} and run the same command again: it goes on from the checkpoint before",
    )


def _system_error(error: BaseException) -> OSError | None:
    """The system's error among an error, its causes, and those of the processes it gathers."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, OSError) and one.errno is not None:
            return one
        pending += [one.__cause__, one.__context__]
        if isinstance(one, CheckpointException):
            pending += [failure for failure, _ in one.failures.values()]
    return None
