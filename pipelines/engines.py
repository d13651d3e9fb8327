"""Run a conversion's tasks: here, or in a pool of processes.

Workers are spawned, not forked (threads and locks of the parent do not come along), leave Ctrl-C to
the parent, and end with it, however it ends. A worker that crashes ends the run with one clear
line.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Literal

from pipelines.task import TaskCounts, run_task
from roikit.errors import RoikitError

#: How often progress is looked at, in seconds.
_POLL_S = 0.2

#: What runs tasks: a pool of processes here, or a Ray cluster.
Engine = Literal["process", "ray"]

#: Called with (images done, bytes read) so far.
Report = Callable[[int, int], None]


def num_at_once(workers: int | None, engine: Engine) -> int:
    """Return how many tasks run at once at most."""
    if workers is not None:
        return workers
    if engine == "ray":
        from pipelines.ray_engine import num_cpus

        return num_cpus()
    return os.cpu_count() or 1


def make_ready(workers: int | None, engine: Engine) -> None:
    """See that the engine can run tasks, before anything is removed for what they will make.

    Raises:
        UsageError: Ray is not installed, or its cluster does not answer.
    """
    if engine == "ray":
        from pipelines.ray_engine import connect

        connect(workers)


def run_tasks(
    plan_dir: Path,
    indices: Sequence[int],
    out: Path | None,
    *,
    workers: int | None,
    report: Report,
    engine: Engine = "process",
) -> list[TaskCounts]:
    """Run the tasks `indices` of a plan, any number at once.

    Args:
        plan_dir: the plan's folder.
        indices: of the shards to make.
        out: root of the shards; None checks only.
        workers: tasks at once; 1 works in this process. None: one a core, or all of Ray's.
        report: told of progress, now and then.
        engine: what runs them.

    Returns:
        Each task's counts, in the order of `indices`.

    Raises:
        RoikitError: a worker crashed, or there is no Ray.
        OSError: the disk is full, or cannot be written.
    """
    if engine == "ray":
        from pipelines.ray_engine import run_in_ray

        return run_in_ray(plan_dir, indices, out, workers=workers, report=report)
    workers = min(num_at_once(workers, engine), len(indices))
    if workers <= 1:
        return _run_here(plan_dir, indices, out, report)
    return _run_in_pool(plan_dir, indices, out, workers, report)


def _run_here(
    plan_dir: Path, indices: Sequence[int], out: Path | None, report: Report
) -> list[TaskCounts]:
    done = [0, 0]

    def tick(num_images: int, num_bytes: int) -> None:
        done[0] += num_images
        done[1] += num_bytes
        report(done[0], done[1])

    return [run_task(plan_dir, index, out, tick) for index in indices]


def _run_in_pool(
    plan_dir: Path, indices: Sequence[int], out: Path | None, workers: int, report: Report
) -> list[TaskCounts]:
    context = multiprocessing.get_context("spawn")
    done = context.Array("q", 2)
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(done,)
    )
    futures: list[Future[TaskCounts]] = []
    try:
        futures = [pool.submit(_run_in_worker, plan_dir, index, out) for index in indices]
        waiting = set(futures)
        while waiting:
            finished, waiting = wait(waiting, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()  # the first error ends the run
            report(done[0], done[1])
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise RoikitError(
            f"a worker process ended without a word while making one of {len(indices)} shards",
            hint="often it is out of memory: run the same command again with fewer `--workers`; "
            "finished shards are kept",
        ) from error
    finally:
        _stop(pool)


def _stop(pool: ProcessPoolExecutor) -> None:
    """End the pool now: what is under way has only temporary files, and is made again."""
    for process in list((pool._processes or {}).values()):
        process.terminate()
    pool.shutdown(wait=True, cancel_futures=True)


_done: Any = None


def _start_worker(done: Any) -> None:
    global _done
    _done = done
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait for the parent's end: a worker that outlives it would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _run_in_worker(plan_dir: Path, index: int, out: Path | None) -> TaskCounts:
    def tick(num_images: int, num_bytes: int) -> None:
        with _done.get_lock():
            _done[0] += num_images
            _done[1] += num_bytes

    return run_task(plan_dir, index, out, tick)


class Terminated(SystemExit):
    """SIGTERM, as an exception: blocks are left in order, locks are freed, workers ended."""


@contextlib.contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Let SIGTERM unwind the block and end the process with 143, where nobody else handles it."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(signum: int, frame: Any) -> None:
        raise Terminated(128 + signum)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
