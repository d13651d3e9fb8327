import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from roikit.errors import UsageError
from shards.atomic import leftovers, locked, replacing, write_bytes, write_parts


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    with pytest.raises(ValueError, match="stop"), replacing(path) as file:
        file.write(b"new")
        file.flush()
        raise ValueError("stop")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_file_under_way_is_seen_as_a_leftover_and_not_under_its_name(tmp_path):
    path = tmp_path / "a.bin"
    with replacing(path) as file:
        file.write(b"half")
        assert not path.exists()
        assert len(leftovers(tmp_path)) == 1
    assert path.read_bytes() == b"half"
    assert leftovers(tmp_path) == []


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
