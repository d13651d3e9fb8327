"""Where a model runs and in which numbers: what `--device` and `--dtype` mean, everywhere alike."""

import resource
from pathlib import Path

import torch

from roikit.errors import UsageError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(device: str) -> str:
    """Return `device`; for `auto` CUDA, then MPS, then the CPU.

    Raises:
        UsageError: no such device, or this machine has none.
    """
    if device == "auto":
        mps = torch.backends.mps.is_available()
        return "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"device: `{device}` cannot be used: {(str(error) or 'unknown').splitlines()[0]}",
            hint="`--device auto` takes what is there; `roikit doctor` lists it",
        ) from error
    return device


def choose_dtype(dtype: str, auto: str) -> torch.dtype:
    """Return the numbers that `dtype` names, `auto` standing for those of the name `auto`.

    Raises:
        UsageError: none of `DTYPES`.
    """
    name = auto if dtype == "auto" else dtype
    if name not in DTYPES:
        raise UsageError(f"dtype: expected auto, {', '.join(DTYPES)}, got `{dtype}`")
    return DTYPES[name]


def memory_in_use(device: torch.device) -> int:
    """Return bytes: the most that tensors took on a CUDA device, else what the process holds."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    # macOS counts the peak in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
