"""Run a conversion's tasks with Ray Core: on a cluster that is there, or on one started here.

The nodes need roikit, and see source and output under the same paths. Ray runs a task again whose
worker or node died; an error of the task itself ends the run, as it does in the pool. Ray is an
extra (`pip install "roikit[ray]"`) and imported only here.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pipelines.engines import Report
from pipelines.plan import read_plan
from pipelines.task import TaskCounts, run_task
from roikit.errors import RoikitError, UsageError

log = logging.getLogger(__name__)

#: How often a task is tried again whose worker or node died.
_MAX_RETRIES = 5
#: How often signals are looked at while waiting, in seconds.
_POLL_S = 0.2
#: How long a cluster may take to take a connection, in seconds.
_KNOCK_S = 20


def run_in_ray(
    plan_dir: Path,
    indices: Sequence[int],
    out: Path | None,
    *,
    workers: int | None,
    report: Report,
) -> list[TaskCounts]:
    """Run the tasks `indices` of a plan.

    Args:
        plan_dir: the plan's folder; every node must see it.
        indices: of the shards to make.
        out: root of the shards; every node must see it. None checks only.
        workers: tasks at once; None leaves that to Ray.
        report: told of progress, a task at a time.

    Returns:
        Each task's counts, in the order of `indices`.

    Raises:
        UsageError: Ray is not installed, or the cluster of `RAY_ADDRESS` does not answer.
        RoikitError: a task's worker died again and again.
        OSError: the disk is full, or cannot be written.
    """
    ray = connect(workers)
    plan = read_plan(plan_dir)
    remote = ray.remote(num_cpus=1, max_retries=_MAX_RETRIES)(_run_remote)
    plan_dir, out = plan_dir.resolve(), out.resolve() if out is not None else None
    waiting: dict[Any, int] = {}
    left = list(reversed(indices))
    counts: dict[int, TaskCounts] = {}
    done_images = done_bytes = 0
    try:
        with _sigterm_between_calls() as obey:
            while left or waiting:
                while left and (workers is None or len(waiting) < workers):
                    index = left.pop()
                    waiting[remote.remote(plan_dir, index, out)] = index
                finished, _ = ray.wait(list(waiting), timeout=_POLL_S)
                for ref in finished:
                    index = waiting.pop(ref)
                    counts[index] = ray.get(ref)
                    done_images += plan.shards[index].num_images
                    done_bytes += plan.shards[index].num_bytes
                report(done_images, done_bytes)
                obey()
    except ray.exceptions.RayTaskError as error:
        cause = error.as_instanceof_cause()
        raise (error.cause if isinstance(error.cause, Exception) else cause) from None
    except ray.exceptions.RayError as error:
        raise RoikitError(
            f"a Ray worker died {_MAX_RETRIES + 1} times while making one of {len(indices)} shards:"
            f" {str(error).strip().splitlines()[0]}",
            hint="often it is out of memory: run the same command again with fewer `--workers`; "
            "finished shards are kept",
        ) from error
    finally:
        for ref in waiting:
            ray.cancel(ref, force=True)
    return [counts[index] for index in indices]


def connect(workers: int | None) -> Any:
    """Import Ray and connect to a cluster, once a process; one is started where there is none.

    Raises:
        UsageError: Ray is not installed, or the cluster of `RAY_ADDRESS` does not answer.
        RoikitError: Ray could not be started here.
    """
    with _own_sigterm():
        try:
            import ray
        except ImportError as error:
            raise UsageError(
                "engine: expected Ray to be installed, found none",
                hint='pip install "roikit[ray]"; `--engine process` needs nothing',
            ) from error
        if not ray.is_initialized():
            _connect(ray, workers)
    return ray


def num_cpus() -> int:
    """Return how many CPUs the cluster in use has."""
    ray = connect(None)
    return int(ray.cluster_resources().get("CPU", 1))


def _run_remote(plan_dir: Path, index: int, out: Path | None) -> TaskCounts:
    return run_task(plan_dir, index, out, lambda num_images, num_bytes: None)


def _connect(ray: Any, workers: int | None) -> None:
    named = os.environ.get("RAY_ADDRESS")
    options = {"logging_level": logging.WARNING, "log_to_driver": False}
    try:
        _knock(named)
        ray.init(address=named or "auto", **options)
    except (OSError, ValueError, RuntimeError) as error:
        if named:
            said = (str(error) or type(error).__name__).splitlines()[0]
            raise UsageError(
                f"RAY_ADDRESS: expected a Ray cluster at `{named}`, cannot reach it: {said}",
                hint="start it (`ray start --head`), or unset RAY_ADDRESS to start one here",
            ) from error
        log.warning("no Ray cluster is running: starting one on this machine")
        _start(ray, workers, options)


def _knock(address: str | None) -> None:
    """Raise OSError where nobody listens: Ray itself would wait for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()


def _start(ray: Any, workers: int | None, options: dict[str, Any]) -> None:
    try:
        ray.init(address="local", num_cpus=workers, include_dashboard=False, **options)
    except Exception as error:  # Ray raises this very class where a part of it does not come up
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise RoikitError(
            f"Ray could not be started here: {said}",
            hint="run it again when the machine is less busy, or take `--engine process`",
        ) from error


@contextmanager
def _sigterm_between_calls() -> Iterator[Callable[[], None]]:
    """Give a function that does what SIGTERM asked for since it was last called.

    Inside a call of Ray the handler's SystemExit would come out with another exit code.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield lambda: None
        return
    asked: list[FrameType | None] = []

    def obey() -> None:
        if asked:
            handler(signal.SIGTERM, asked[0])

    signal.signal(signal.SIGTERM, lambda _, frame: asked.append(frame))
    try:
        yield obey
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep our handler of SIGTERM: Ray sets its own, which ends with another exit code."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
