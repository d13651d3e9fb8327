"""Tensors of a checkpoint one at a time: read from any published form, written as safetensors.

Reading and writing hold one tensor in memory, however large the checkpoint is. Knows files, names,
shapes and types; not whose weights they are.
"""

import json
import pickle
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from roikit.errors import UsageError

#: Single files and indexes of several, the ones preferred first.
_SAFE, _TORCH = "model.safetensors", "pytorch_model.bin"
_FORMS = (_SAFE, f"{_SAFE}.index.json", _TORCH, f"{_TORCH}.index.json")
#: Names of types in safetensors files. Source: its README, "Format".
_TYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_TYPES = {"F64": torch.float64, "I64": torch.int64, **{v: k for k, v in _TYPE_NAMES.items()}}


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """Where a tensor lies, and its form."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype


def list_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Read the names, shapes and types of a checkpoint, not its numbers.

    Args:
        folder: with `model.safetensors` or `pytorch_model.bin`, or the index of several such files.

    Raises:
        UsageError: no checkpoint there, or a file that is missing, damaged or of an old form.
    """
    found: dict[str, StoredTensor] = {}
    for file in _files(folder):
        for name, tensor in list_file(file).items():
            if name in found:
                raise UsageError(
                    f"{file}: `{name}` stands in `{found[name].file.name}` too, expected it once",
                    hint="leave the files of one checkpoint alone in the folder",
                )
            found[name] = tensor
    return found


def list_file(file: Path) -> dict[str, StoredTensor]:
    """Read the names, shapes and types of one file: safetensors, or else torch's.

    Raises:
        UsageError: it is damaged or of an old form.
    """
    if file.suffix != ".safetensors":
        return {
            name: StoredTensor(file=file, shape=tuple(tensor.shape), dtype=tensor.dtype)
            for name, tensor in _load_torch(file).items()
        }
    found = {}
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (no mapping)
                part = opened.get_slice(name)
                dtype = _TYPES.get(part.get_dtype(), torch.uint8)
                found[name] = StoredTensor(file=file, shape=tuple(part.get_shape()), dtype=dtype)
    except SafetensorError as error:
        raise _unreadable(file, error) from error
    return found


def read_tensor(name: str, stored: StoredTensor) -> Tensor:
    """Read one tensor.

    It is mapped, not copied, where the file allows, and the file is opened for it alone: what was
    read does not stay in memory once the tensor is gone.
    """
    try:
        if stored.file.suffix == ".safetensors":
            with safe_open(stored.file, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
                return tensor
        loaded: Tensor = _load_torch(stored.file)[name]
    except SafetensorError as error:
        raise _unreadable(stored.file, error) from error
    return loaded


@dataclass(frozen=True, kw_only=True, slots=True)
class OutFile:
    """One file of a checkpoint to be written."""

    name: str
    tensors: dict[str, tuple[int, ...]]  #: shapes, in order
    num_bytes: int  #: of the numbers


def plan_files(
    shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, *, max_bytes: int
) -> list[OutFile]:
    """Cut a checkpoint into files of at most `max_bytes`; a larger tensor has one to itself."""
    parts: list[dict[str, tuple[int, ...]]] = []
    filled = max_bytes
    for name, shape in shapes.items():
        size = _num_bytes(shape, dtype)
        if filled + size > max_bytes:
            parts.append({})
            filled = 0
        parts[-1][name] = shape
        filled += size
    count = len(parts)
    return [
        OutFile(
            name=_SAFE if count == 1 else f"model-{i:05}-of-{count:05}.safetensors",
            tensors=part,
            num_bytes=sum(_num_bytes(shape, dtype) for shape in part.values()),
        )
        for i, part in enumerate(parts, 1)
    ]


def write_file(
    folder: Path, planned: OutFile, dtype: torch.dtype, tensors: Iterable[Tensor]
) -> None:
    """Write a safetensors file from tensors that come in the planned order, of type `dtype`.

    safetensors' own writer wants all of a file's tensors in memory at once.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in planned.tensors.items():
        start, end = end, end + _num_bytes(shape, dtype)
        header[name] = {
            "dtype": _TYPE_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / planned.name).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for (name, shape), tensor in zip(planned.tensors.items(), tensors, strict=True):
            assert tuple(tensor.shape) == shape and tensor.dtype == dtype, name
            file.write(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)


def write_index(folder: Path, planned: Sequence[OutFile]) -> None:
    """Write the index that says which file holds which tensor; for one file there is none."""
    if len(planned) > 1:
        index = {
            "metadata": {"total_size": sum(file.num_bytes for file in planned)},
            "weight_map": {name: file.name for file in planned for name in file.tensors},
        }
        path = folder / f"{_SAFE}.index.json"
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _files(folder: Path) -> list[Path]:
    form = next((folder / name for name in _FORMS if (folder / name).is_file()), None)
    if form is None:
        raise UsageError(
            f"{folder}: expected a checkpoint: {', '.join(f'`{name}`' for name in _FORMS[:3])} or "
            f"`{_FORMS[3]}`, found none",
            hint="name the folder that the weights were downloaded into",
        )
    if form.suffix != ".json":
        return [form]
    try:
        names = sorted(set(json.loads(form.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(f"{form}: expected an index with `weight_map`") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UsageError(
            f"{folder}: {len(missing)} of {len(names)} files of the checkpoint are missing, the "
            f"first is `{missing[0]}`",
            hint="download the rest; `du -h` tells a file of git-lfs from its pointer",
        )
    return [folder / name for name in names]


def _load_torch(file: Path) -> dict[str, Tensor]:
    """Map a file of torch's: the numbers are read when they are used."""
    try:
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise _unreadable(file, error) from error
    if not isinstance(held, dict):
        raise UsageError(f"{file}: expected tensors by name, found `{type(held).__name__}`")
    return {name: value for name, value in held.items() if isinstance(value, Tensor)}


def _unreadable(file: Path, error: Exception) -> UsageError:
    return UsageError(
        f"{file}: cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}",
        hint="download it again; a file of a few hundred bytes is git-lfs's pointer to it",
    )


def _num_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return torch.Size(shape).numel() * dtype.itemsize
