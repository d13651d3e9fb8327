"""The processes of one training run: who each one is, and how they agree.

`torchrun` starts one process a device and tells each its place in the environment; without it a run
is a world of one, and nothing here does anything. What processes tell each other here is small and
goes through gloo on the CPU, so that a GPU is never waited for.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from roikit.errors import PeerError, UsageError
from roikit.model.device import choose_device

T = TypeVar("T")

#: The longest that one process waits for another: to learn a tokenizer, or to read slow shards.
_PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """One process's place among those of a run."""

    rank: int  #: from 0, over all machines
    local_rank: int  #: from 0, on this machine
    world_size: int  #: processes
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum each value over all processes, in float64; every process calls this."""
        if self.world_size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(total)
        summed: list[float] = total.tolist()
        return summed

    def gather(self, value: T) -> list[T]:
        """Return every process's value, by rank; every process calls this."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        distributed.all_gather_object(gathered, value)
        return gathered

    def together(self, work: Callable[[], object]) -> None:
        """Do some work in every process; where it fails in one, nobody goes on to the next thing.

        Raises:
            PeerError: in the other processes.
        """
        failure: Exception | None = None
        try:
            work()
        except Exception as error:  # raised below, once the others know
            failure = error
        ranks = self.gather(failure is not None)
        if failure is not None:
            raise failure
        if any(ranks):
            raise PeerError(ranks.index(True))

    def on_main(self, work: Callable[[], T]) -> T:
        """Let the main process do some work while the others wait, and hand all its result.

        Args:
            work: returns something small that can be pickled.

        Raises:
            PeerError: in the other processes, where the work raised in the main one.
        """
        if self.world_size == 1:
            return work()
        told: list[Any] = [None, False]
        cpu = torch.device("cpu")
        if self.is_main:
            try:
                told = [work(), False]
            except Exception:
                distributed.broadcast_object_list([None, True], src=0, device=cpu)
                raise
        distributed.broadcast_object_list(told, src=0, device=cpu)
        result, has_failed = told
        if has_failed:
            raise PeerError(0)
        return result  # type: ignore[no-any-return]


@contextlib.contextmanager
def join_world(device: str) -> Iterator[World]:
    """Take this process's place among those that `torchrun` started, and leave it at the end.

    A process group that the caller has started is used and left alone.

    Args:
        device: as `--device` says it; `auto` and `cuda` give each process a GPU of its own.

    Raises:
        UsageError: no such device, more processes than GPUs, or several processes on MPS.
    """
    chosen = torch.device(choose_device(device))
    is_started = distributed.is_initialized()
    if not is_started and not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        yield World(rank=0, local_rank=0, world_size=1, device=chosen)
        return
    size = distributed.get_world_size() if is_started else int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if chosen.type == "cuda":
        chosen = _own_gpu(chosen, local_rank, size)
        torch.cuda.set_device(chosen)
    elif chosen.type != "cpu" and size > 1:
        raise UsageError(
            f"device: `{chosen.type}` trains in one process, `torchrun` started {size}",
            hint="start it without torchrun, or with --device cpu",
        )
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    if not is_started:
        distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield World(
            rank=distributed.get_rank(), local_rank=local_rank, world_size=size, device=chosen
        )
    finally:
        if not is_started:
            distributed.destroy_process_group()


def _own_gpu(chosen: torch.device, local_rank: int, world_size: int) -> torch.device:
    if ":" in str(chosen):  # one GPU, named by its number
        if world_size > 1:
            raise UsageError(
                f"device: `{chosen}` is one GPU, `torchrun` started {world_size} processes",
                hint="--device cuda gives each its own; CUDA_VISIBLE_DEVICES says which they are",
            )
        return chosen
    found = torch.cuda.device_count()
    if local_rank >= found:
        raise UsageError(
            f"device: expected a GPU for each process of this machine, found {found} for process "
            f"{local_rank + 1}",
            hint=f"start it with --nproc-per-node {found}",
        )
    return torch.device("cuda", local_rank)
