import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from roikit.errors import UsageError
from shards.atomic import (
    leftovers,
    locked,
    replacing,
    temporary_files,
    write_bytes,
    write_parts,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    with pytest.raises(ValueError, match="stop"), replacing(path) as file:
        file.write(b"new")
        file.flush()
        raise ValueError("stop")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_file_under_way_is_not_under_its_name_and_no_leftover(tmp_path):
    path = tmp_path / "a.bin"
    with replacing(path) as file:
        file.write(b"half")
        assert not path.exists()
        assert len(temporary_files(tmp_path)) == 1
        assert leftovers(tmp_path) == []
    assert path.read_bytes() == b"half"
    assert temporary_files(tmp_path) == []


def _write_half(path):
    with replacing(path) as file:
        file.write(b"half")
        file.flush()
        os._exit(9)


def test_what_a_process_left_that_is_gone_is_a_leftover(tmp_path):
    process = multiprocessing.get_context("fork").Process(
        target=_write_half, args=(tmp_path / "a.bin",)
    )
    process.start()
    # Before somebody asks for its exit status it has its number still.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert len(leftovers(tmp_path)) == 1
    process.join()
    assert len(leftovers(tmp_path)) == 1


def test_another_machine_s_file_is_a_leftover_when_it_is_a_day_old(tmp_path):
    path = tmp_path / ".a.bin.tmp-00000000-1-00000000"
    path.touch()
    assert leftovers(tmp_path) == []
    os.utime(path, (time.time() - 25 * 3600,) * 2)
    assert leftovers(tmp_path) == [path]


def _try_lock(path, queue):
    try:
        with locked(path, wait=False):
            queue.put("got it")
    except UsageError as error:
        queue.put(str(error))


def test_a_lock_keeps_other_processes_out_until_it_is_let_go(tmp_path):
    path = tmp_path / ".lock"
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def attempt():
        process = context.Process(target=_try_lock, args=(path, queue))
        process.start()
        answer = queue.get(timeout=20)
        process.join()
        return answer

    with locked(path):
        assert "another process holds this lock" in attempt()
    assert attempt() == "got it"


@pytest.mark.parametrize("num_parts", [0, 1, 3, 1000])
def test_parts_are_written_in_order_though_the_system_takes_them_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_parts: int
) -> None:
    parts = [bytes([i % 251]) * (i % 7) for i in range(num_parts)]
    real = os.writev

    def some(descriptor: int, waiting: Sequence[bytes]) -> int:
        return real(descriptor, [bytes(b"".join(waiting))[:2]])

    monkeypatch.setattr(os, "writev", some)
    with (tmp_path / "a").open("wb") as file:
        file.write(b"before")
        write_parts(file, parts)
    assert (tmp_path / "a").read_bytes() == b"before" + b"".join(parts)
