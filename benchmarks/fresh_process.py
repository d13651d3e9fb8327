"""Runs a function in a process of its own, soon: what it needs is imported already.

The processes come from a server that has imported the libraries once, since imports took longer
than what is measured. They may start workers themselves, which a pool's may not.
"""

import functools
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any


def prepare(modules: Sequence[str]) -> None:
    """Say what is imported before the first process is made."""
    # the server does not get the script's path by itself
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    multiprocessing.set_forkserver_preload(list(modules))


def in_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `work` returns in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=functools.partial(_send, work, arguments, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise SystemExit(f"a measurement died with exit code {process.exitcode}") from None
    finally:
        process.join()


def _send(work: Callable[..., Any], arguments: tuple[Any, ...], sender: Any) -> None:
    # workers share what the reader has opened, as they do in a training run on Linux
    multiprocessing.set_start_method("fork", force=True)
    sender.send(work(*arguments))
