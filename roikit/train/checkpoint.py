"""Checkpoints that are complete at every moment, written while training goes on.

In: model and optimisers, on one process or on many (DDP, FSDP2). Out: the folders that
checkpoint_files.py describes, as torch's distributed checkpoint, which is read back by any number
of processes.

What is saved of them says checkpoint_tensors.py.
"""

import errno
import logging
import pickle
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.optim import Optimizer

from roikit.errors import RoikitError
from roikit.train.checkpoint_files import (
    begin,
    commit,
    describe_files,
    find_latest,
    prune,
    read_state,
    sweep,
    sync,
)
from roikit.train.checkpoint_reader import Reader
from roikit.train.checkpoint_space import EXTRA_BYTES, as_error, num_bytes
from roikit.train.checkpoint_tensors import collect, copy_to_cpu, frozen_sha256, put_back

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Checkpoints:
    """The checkpoints of one run.

    With a process group, every process makes one and calls every method at the same steps; the
    folder is one that all of them see.

    Args:
        folder: the run's `checkpoints`; made when the first one is written.
        model: what `optimizers` train, without DDP's wrapper; parts are frozen and sharded already.
        optimizers: of its learning parameters.
        keep: how many to keep beside the latest.
        keep_best: how many of the lowest score to keep beside those.
    """

    def __init__(
        self,
        folder: Path,
        *,
        model: nn.Module,
        optimizers: list[Optimizer],
        keep: int,
        keep_best: int = 0,
    ) -> None:
        self._folder = folder
        self._model = model
        self._optimizers = optimizers
        self._keep = keep
        self._keep_best = keep_best
        self._rank, self._world_size = 0, 1
        self._group: dist.ProcessGroup | None = None
        if dist.is_initialized():
            self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
            # a group of its own: the writing thread must not get between the model's collectives
            self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
        self._frozen = frozen_sha256(model)
        self._staged: dict[str, Tensor] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="roikit-checkpoint")
        self._writing: Future[None] | None = None
        self._step: int | None = None
        if self._rank == 0:
            sweep(folder)

    def load_latest(self) -> dict[str, Any] | None:
        """Bring model and optimisers back to the newest sound checkpoint.

        Any number of processes may read what any other number wrote.

        Returns:
            What was saved with it and `step`; None where there is none.

        Raises:
            RoikitError: all are damaged, or the newest was saved by another model.
        """
        (latest, *_) = self._together(
            lambda: find_latest(self._folder) if self._rank == 0 else None
        )
        if latest is None:
            return None
        state = read_state(latest)
        if state["frozen_sha256"] != self._frozen:
            raise RoikitError(
                f"{latest}: was saved beside other frozen weights than this run begins with",
                hint="the start, a package of weights or torch's version has changed: bring back "
                "what it was, or start over with --overwrite",
            )
        read_tensors(latest, model=self._model, optimizers=self._optimizers, group=self._group)
        self._step = state["step"]
        return state

    def save(
        self, *, step: int, state: Mapping[str, Any], score: float | None = None, wait: bool = False
    ) -> None:
        """Copy what is to be saved, and write it in a thread while training goes on.

        A second call at the same step does nothing, so that a stop right after a save costs none.

        Args:
            step: optimiser steps taken so far, 1 or more.
            state: anything JSON can hold (the stream's position).
            score: of the model at this step, the lower the better; None where none was measured.
            wait: return only when it is on the disk.

        Raises:
            RoikitError: the save before this one failed, or this one where it is waited for.
        """
        self.finish()
        if step != self._step:
            self._step = step
            self._staged = copy_to_cpu(collect(self._model, self._optimizers), self._staged)
            document = {
                "step": step,
                "score": score,
                "world_size": self._world_size,
                "frozen_sha256": self._frozen,
                **state,
            }
            self._writing = self._thread.submit(self._write, self._staged, document)
        if wait:
            self.finish()

    def check(self) -> None:
        """Raise the error of a save that failed meanwhile; to be called after every step.

        Raises:
            RoikitError: it was not written; the older ones are as they were.
        """
        if self._writing is not None and self._writing.done():
            self.finish()

    def finish(self) -> None:
        """Wait for the save under way.

        Raises:
            RoikitError: it failed.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            try:
                writing.result()
            except RoikitError:
                self._step = None
                raise

    def close(self) -> None:
        """Let the save under way end, and drop the copies; raises nothing."""
        self._thread.shutdown(wait=True)
        self._staged = {}

    def _write(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        started = time.perf_counter()
        step = document["step"]
        needed = EXTRA_BYTES + num_bytes(tensors.values())
        target = self._folder / f"step-{step:08d}"
        temporary = None
        try:
            (temporary, *_) = self._together(lambda: self._begin(step, needed))
            assert temporary is not None  # the first process's
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # without a process group it says so
                state_dict_saver.save(tensors, checkpoint_id=temporary, process_group=self._group)
            mine = [*temporary.glob(f"__{self._rank}_*")]
            if self._rank == 0:
                mine.append(temporary / ".metadata")
            files: dict[str, Any] = {}
            for described in self._together(lambda: describe_files(mine)):
                files |= described
            self._together(lambda: self._commit(temporary, document | {"files": files}))
        except (RoikitError, OSError, ValueError, RuntimeError, CheckpointException) as error:
            wrong = as_error(target, error, needed)
            if temporary is not None and self._rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
            raise wrong from error
        log.info("%s: written in %.1f s", target, time.perf_counter() - started)

    def _begin(self, step: int, needed: int) -> Path | None:
        if self._rank != 0:
            return None
        self._folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self._folder).free < needed:
            raise OSError(errno.ENOSPC, "no space left")
        return begin(self._folder, step)

    def _commit(self, temporary: Path, document: dict[str, Any]) -> None:
        if self._rank != 0:
            return
        for name in document["files"]:
            if not (temporary / name).is_file():
                raise RoikitError(
                    f"{temporary / name}: another process wrote this file, here it is not there",
                    hint="give --out on a disk that all machines of the run share",
                )
            sync(temporary / name)
        newest = commit(temporary, document)
        prune(self._folder, newest=newest, keep=self._keep, keep_best=self._keep_best)

    def _together(self, work: Callable[[], _T]) -> list[_T]:
        """Do something on every process; what failed on one is raised on all.

        Returns:
            The results, by rank.
        """
        result: tuple[_T | None, Exception | None]
        try:
            result = work(), None
        except Exception as error:  # raised below, here and on the others, who wait for this one
            if self._group is None:
                raise
            result = None, error
        results: list[Any] = [result]
        if self._group is not None:
            results = [None] * self._world_size
            dist.all_gather_object(results, result, group=self._group)
        for _, failure in results:
            if failure is not None:
                raise failure
        return [value for value, _ in results]


def read_tensors(
    checkpoint: Path,
    *,
    model: nn.Module,
    optimizers: list[Optimizer],
    group: dist.ProcessGroup | None = None,
) -> None:
    """Read a checkpoint's tensors into a model and its optimisers.

    Args:
        checkpoint: its folder.
        model: as it was before its first step, frozen and sharded.
        optimizers: of its learning parameters.
        group: of the processes that read together; None for one alone.

    Raises:
        RoikitError: the files do not fit this model.
    """
    wanted = collect(model, optimizers)
    try:
        reader = Reader(checkpoint)
        saved = set(reader.read_metadata().state_dict_metadata)
        odd = {n for n in saved ^ set(wanted) if n.startswith("model.")}
        if odd:
            raise RoikitError(
                f"{checkpoint}: expected the weights that learn, it and this run differ in "
                f"{len(odd)}, the first is `{min(odd).removeprefix('model.')}`",
                hint="go on with the recipe it was saved by, or start over with --overwrite",
            )
        # a weight without a gradient up to here has no optimiser's state yet
        wanted = {name: tensor for name, tensor in wanted.items() if name in saved}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without a process group it says so
            state_dict_loader.load(wanted, storage_reader=reader, process_group=group)
    except (
        OSError,
        ValueError,
        RuntimeError,
        pickle.UnpicklingError,
        CheckpointException,
    ) as error:
        raise RoikitError(
            f"{checkpoint}: cannot be read: {error}", hint="start over with --overwrite"
        ) from error
    put_back(wanted, model, optimizers)
