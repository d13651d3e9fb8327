"""Two processes on one run: the second is refused, unless the first is dead."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from roikit.errors import UsageError
from roikit.train.claim import claimed, is_claimed

_HOLD = """
import sys
from pathlib import Path
from roikit.train.claim import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(out: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": "."},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def write_claim(out: Path, **changes: Any) -> Path:
    path = out.with_name(f".{out.name}.claim")
    holder = {"host": "elsewhere", "pid": 1, "machine": "elsewhere", "began": "1"}
    path.write_text(json.dumps(holder | changes), encoding="utf-8")
    return path


def test_a_second_process_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    out = tmp_path / "stage1"
    with another_process(out) as process:
        assert is_claimed(out)
        pattern = rf"stage1: process {process.pid} on {socket.gethostname()} works on this run"
        with pytest.raises(UsageError, match=pattern), claimed(out):
            pass
        process.communicate("")  # its end of input
    assert not is_claimed(out)
    with claimed(out):
        assert is_claimed(out)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    out = tmp_path / "stage1"
    with another_process(out) as process:
        process.kill()
        # not reaped yet: its number still exists, and it is dead all the same
        deadline = time.monotonic() + 20
        while is_claimed(out) and time.monotonic() < deadline:
            time.sleep(0.01)
        started = time.monotonic()
        with claimed(out):
            pass
        assert time.monotonic() - started < 5


def test_a_later_process_of_the_same_number_is_not_taken_for_it(tmp_path: Path) -> None:
    out = tmp_path / "stage1"
    with claimed(out):
        mine = json.loads((tmp_path / ".stage1.claim").read_text(encoding="utf-8"))
    write_claim(out, **mine | {"began": "1"})
    with claimed(out):
        pass


def test_a_process_refuses_itself_as_well(tmp_path: Path) -> None:
    with claimed(tmp_path / "a"), pytest.raises(UsageError), claimed(tmp_path / "a"):
        pass


@pytest.mark.parametrize("content", [None, "{"])
def test_another_machines_claim_is_taken_over_once_it_is_silent(
    tmp_path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "stage1"
    path = write_claim(out)
    if content is not None:
        path.write_text(content, encoding="utf-8")
    started = time.monotonic()
    with claimed(out, silence_s=0.5):
        assert 0.4 < time.monotonic() - started < 5
    assert "waiting up to" in caplog.text


def test_another_machines_claim_that_is_touched_is_respected(tmp_path: Path) -> None:
    out = tmp_path / "stage1"
    path = write_claim(out)
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(0.05):
            os.utime(path)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(UsageError, match="process 1 on elsewhere"), claimed(out, silence_s=10):
            pass
    finally:
        ended.set()
        thread.join()
    assert path.is_file()


def test_a_claim_is_touched_while_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / ".a.claim"
    with claimed(tmp_path / "a", beat_s=0.02):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0
