"""What the command does around the libraries: exit codes, one-line errors, JSON, defaults."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import roikit.__main__ as entry
from roikit import paths
from roikit.errors import ChecksFailedError, CorruptSampleError, UsageError

ROOT = Path(__file__).resolve().parents[1]


def roikit(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-m", "roikit", *arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["roikit", *arguments])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


# --- how failures end ---


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UsageError("`x`: no such folder", hint="make it"), ("`x`: no such folder", "make it", 2)),
        (ChecksFailedError("2 of 9 rejected"), ("2 of 9 rejected", None, 3)),
        (CorruptSampleError("a.tar: b.jpg"), ("a.tar: b.jpg", None, 1)),
        (OSError(errno.EACCES, "Permission denied", "/x"), ("/x: Permission denied", None, 1)),
        (ValueError("first\nsecond"), ("ValueError: first", None, 1)),
        (ZeroDivisionError(), ("ZeroDivisionError", None, 1)),
    ],
)
def test_an_error_becomes_message_hint_and_exit_code(
    error: Exception, expected: tuple[str, str | None, int]
) -> None:
    assert entry.describe(error) == expected


def test_a_full_disk_says_so_and_where() -> None:
    message, hint, code = entry.describe(OSError(errno.ENOSPC, "No space left", "/data/a.tar"))
    assert (message, code) == ("the disk is full at `/data/a.tar`", 1)
    assert hint is not None and "run it again" in hint


def test_an_unexpected_error_is_one_line_unless_debugging(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: Any) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr("cli.app", fail)
    assert run(monkeypatch) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: ValueError: a defect",
        "hint: run again with --debug to see where",
    ]
    assert run(monkeypatch, "stats", "--debug") == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("error: ValueError: a defect\n")


def test_debug_may_stand_anywhere_but_not_behind_two_dashes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[list[str]] = []

    def record(*, args: list[str], **_: Any) -> None:
        seen.append(args)

    monkeypatch.setattr("cli.app", record)
    run(monkeypatch, "convert", "--debug", "coco")
    run(monkeypatch, "show", "--", "--debug")
    assert seen == [["convert", "coco"], ["show", "--", "--debug"]]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_with_their_exit_code(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    script = (
        "import os, sys, roikit.__main__ as m, cli\n"
        f"cli.app = lambda **_: os.kill(os.getpid(), {int(sent)}) or __import__('time').sleep(9)\n"
        "m.main()"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, check=False
    )
    assert done.returncode == code
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["no-such-command"], ["stats", "--no-such-option"]])
def test_usage_errors_end_with_2(tmp_path: Path, arguments: list[str]) -> None:
    done = roikit(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""


# --- defaults ---


def test_everything_lies_below_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ROIKIT_HOME", raising=False)
    assert paths.shards_dir() == Path("data/shards")
    monkeypatch.setenv("ROIKIT_HOME", str(tmp_path))
    assert paths.source_dir("vcr") == tmp_path / "data" / "vcr"
    assert paths.shards_dir() == tmp_path / "data" / "shards"
    assert paths.runs_dir() == tmp_path / "runs"
