"""Checkpoints that are complete at every moment, written while training goes on.

In: model and optimisers, on one process or on many (DDP, FSDP2). Out: the folders that
checkpoint_files.py describes, as torch's distributed checkpoint, which is read back by any number
of processes.

What learns is saved, with its optimisers' state, buffers and every process's random generators.
What is frozen is not: stage 1 trains under one per cent of the weights, and the rest comes from the
run's start or, built anew, from the recipe's seed. Its hash is saved in its place and compared.
Learning rate and weight decay are functions of recipe and step, and come from there.
"""

import errno
import hashlib
import logging
import pickle
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from roikit.errors import RoikitError
from roikit.render import bytes_text
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

log = logging.getLogger(__name__)

_T = TypeVar("_T")
#: Beside the tensors: torch's metadata, `state.json`, what files take to be whole blocks.
_EXTRA_BYTES = 1_000_000


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
        """Bring model, optimisers and generators back to the newest sound checkpoint.

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
        load_checkpoint(latest, model=self._model, optimizers=self._optimizers, frozen=self._frozen)
        self._step = read_state(latest)["step"]
        return read_state(latest)

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
            tensors = self._stage()
            document = {
                "step": step,
                "score": score,
                "world_size": self._world_size,
                "frozen_sha256": self._frozen,
                **state,
            }
            self._writing = self._thread.submit(self._write, tensors, document)
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

    def _stage(self) -> dict[str, Tensor]:
        """Copy to CPU memory, kept for the next time: new pages cost more than the copy."""
        staged = {}
        for name, tensor in _tensors(self._model, self._optimizers).items():
            kept = self._staged.get(name)
            if isinstance(tensor, DTensor):
                if isinstance(kept, DTensor):
                    kept.to_local().copy_(tensor.to_local(), non_blocking=True)
                else:
                    kept = tensor.to("cpu", copy=True)
            else:
                if kept is None:  # pinned memory lets the copies of a GPU run at its bus's speed
                    kept = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
                kept.copy_(tensor, non_blocking=True)
            staged[name] = kept
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self._staged = staged
        return staged | _generators(self._rank)

    def _write(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        started = time.perf_counter()
        step = document["step"]
        needed = _EXTRA_BYTES + sum(t.numel() * t.element_size() for t in tensors.values())
        target = self._folder / f"step-{step:08d}"
        temporary = None
        try:
            (temporary, *_) = self._together(lambda: self._begin(step, needed))
            assert temporary is not None  # the first process's
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # without a process group it says that there is none
                state_dict_saver.save(tensors, checkpoint_id=temporary, process_group=self._group)
            mine = [*temporary.glob(f"__{self._rank}_*")]
            if self._rank == 0:
                mine.append(temporary / ".metadata")
            files: dict[str, Any] = {}
            for described in self._together(lambda: describe_files(mine)):
                files |= described
            self._together(lambda: self._commit(temporary, document | {"files": files}))
        except (OSError, ValueError, RuntimeError, CheckpointException) as error:
            wrong = _as_error(target, error, needed)
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


def load_checkpoint(
    checkpoint: Path, *, model: nn.Module, optimizers: list[Optimizer], frozen: str | None = None
) -> None:
    """Bring model, optimisers and random generators back to where they were.

    Any number of processes may read what any other number wrote; a process that was not there
    keeps the generator that it has.

    Args:
        checkpoint: its folder.
        model: as it was before its first step, frozen and sharded.
        optimizers: of its learning parameters.
        frozen: `frozen_sha256` of the model, where it is known.

    Raises:
        RoikitError: the files do not fit this model.
    """
    state = read_state(checkpoint)
    if state["frozen_sha256"] != (frozen or frozen_sha256(model)):
        raise RoikitError(
            f"{checkpoint}: was saved beside other frozen weights than this run begins with",
            hint="the start, a package of weights or torch's version has changed: bring back what "
            "it was, or start over with --overwrite",
        )
    rank = dist.get_rank() if dist.is_initialized() else 0
    group = dist.new_group(backend="gloo") if dist.is_initialized() else None
    wanted = _tensors(model, optimizers)
    generators = _generators(rank)
    try:
        reader = _Reader(checkpoint)
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
        generators = {name: tensor for name, tensor in generators.items() if name in saved}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without a process group it says that there is none
            state_dict_loader.load(wanted | generators, storage_reader=reader, process_group=group)
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
    _set_tensors(wanted, model, optimizers)
    _set_generators(generators, rank)


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


def _tensors(model: nn.Module, optimizers: list[Optimizer]) -> dict[str, Tensor]:
    """What is saved, by name; the very tensors, so that loading into them loads the model."""
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


def _set_tensors(
    tensors: Mapping[str, Tensor], model: nn.Module, optimizers: list[Optimizer]
) -> None:
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


def _plain(name: str) -> str:
    """A parameter's name without what torch.compile and gradient checkpointing wrap it in."""
    return name.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")


def _generators(rank: int) -> dict[str, Tensor]:
    """States of this process's random generators; dropout draws from them."""
    states = {f"generator.cpu.{rank}": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        states[f"generator.cuda.{rank}"] = torch.cuda.get_rng_state()
    return states


def _set_generators(states: Mapping[str, Tensor], rank: int) -> None:
    if f"generator.cpu.{rank}" in states:
        torch.set_rng_state(states[f"generator.cpu.{rank}"])
    if f"generator.cuda.{rank}" in states:
        torch.cuda.set_rng_state(states[f"generator.cuda.{rank}"])


class _Unpickler(pickle.Unpickler):
    """Reads what torch writes about tensors and nothing else: a pickle may name any function."""

    _ALLOWED: Mapping[str, tuple[str, ...]] = {
        "torch.distributed.checkpoint.metadata": (
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        ),
        "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
        "torch.serialization": ("_get_layout",),
        "torch": ("Size",),
        "pathlib": ("Path", "PosixPath"),
        "pathlib._local": ("Path", "PosixPath"),
    }

    def find_class(self, module: str, name: str) -> Any:
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_type or name in self._ALLOWED.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"`{module}.{name}` has no place in a checkpoint's metadata")


class _Reader(FileSystemReader):
    """torch's reader, whose metadata may hold tensors' descriptions alone."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata: Metadata = _Unpickler(file).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def _as_error(target: Path, error: BaseException, needed: int) -> RoikitError:
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
