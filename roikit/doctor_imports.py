"""Import packages in a process of their own, so that one that crashes or hangs harms nobody.

Uses the standard library alone.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_MARK = "\x1eroikit "

# Says before each import what comes, so that a crash can be laid at the right door.
_PROGRAM = r"""
import importlib, json, os, sys
out = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)
def say(**what):
    out.write("\x1eroikit " + json.dumps(what) + "\n")
    out.flush()
def line(error):
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return type(error).__name__ + ": " + text[:300]
for name in sys.argv[2:]:
    say(starts=name)
    try:
        importlib.import_module(name)
    except BaseException as error:
        say(name=name, error=line(error))
    else:
        say(name=name, error=None)
if sys.argv[1] == "devices" and "torch" in sys.modules:
    say(starts="devices")
    devices = {}
    try:
        import torch
        devices["cpu"] = "torch uses " + torch.backends.cpu.get_cpu_capability() + ", " \
            + str(torch.get_num_threads()) + " threads"
        devices["mps"] = torch.backends.mps.is_available()
        devices["cuda"] = []
        for i in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(i)
            devices["cuda"].append(card.name + ", %.1f GiB, compute capability %d.%d"
                % (card.total_memory / 2**30, card.major, card.minor))
    except BaseException as error:
        devices["error"] = line(error)
    say(devices=devices)
# without the interpreter's own ending, where some libraries crash or wait
out.flush()
os._exit(0)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportOutcome:
    """What became of one import."""

    error: str | None  #: one line; None where it worked


def try_imports(
    modules: Sequence[str], *, with_devices: bool = False, timeout_s: float = 120.0
) -> tuple[dict[str, ImportOutcome], dict[str, object] | None]:
    """Import modules one after the other and say which could not be.

    Where one ends the process or does not come back in time, the rest is tried in a new one.

    Args:
        modules: dotted names, imported in this order.
        with_devices: also ask torch, if it is among them, for its devices.
        timeout_s: how long one process may take.

    Returns:
        An outcome for each module, and torch's devices: `cpu` (text), `mps` (bool), `cuda` (list of
        texts), `error` where asking failed; None where torch was not there to be asked.
    """
    outcomes: dict[str, ImportOutcome] = {}
    devices: dict[str, object] | None = None
    left = list(modules)
    while left:
        output, ending = _run(left, with_devices=with_devices, timeout_s=timeout_s)
        started = None
        for line in output.split("\n"):  # `splitlines` would split at the mark
            if not line.startswith(_MARK):
                continue
            said: dict[str, Any] = json.loads(line.removeprefix(_MARK))
            if "starts" in said:
                started = said["starts"]
            elif "devices" in said:
                devices, started = said["devices"], None
            else:
                outcomes[said["name"]] = ImportOutcome(error=said["error"])
                started = None
        if started == "devices":
            devices = {"error": f"asking for devices {ending}"}
        elif started is not None:
            outcomes[started] = ImportOutcome(error=f"importing it {ending}")
        still_left = [module for module in left if module not in outcomes]
        if len(still_left) == len(left):  # not even the interpreter started
            outcomes |= {module: ImportOutcome(error=f"Python {ending}") for module in left}
            break
        left = still_left
    return outcomes, devices


def _run(modules: Sequence[str], *, with_devices: bool, timeout_s: float) -> tuple[str, str]:
    """Return what the process printed, and in words how it ended."""
    task = "devices" if with_devices else "imports"
    # -P: a file of the working directory must not pass for a package
    command = [sys.executable, "-P", "-c", _PROGRAM, task, *modules]
    search_path = os.pathsep.join(entry for entry in sys.path if entry)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": search_path},
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        printed = error.stdout or b""
        return printed.decode("utf-8", "replace"), f"did not end within {timeout_s:.0f} s"
    except OSError as error:
        return "", f"could not be started: {error}"
    ending = f"ended the process with code {done.returncode}"
    if done.returncode < 0:
        ending = f"ended the process with signal {-done.returncode}"
    return done.stdout.decode("utf-8", "replace"), ending
