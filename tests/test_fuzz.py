"""A few damaged sources a tree; `python -m tests.fuzz.run --cases 20000` runs many."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.mutate import CANARY, EVIL_PICKLES, mutate
from tests.fuzz.run import Watch

ROOT = Path(__file__).resolve().parents[1]


def test_damaged_sources_end_in_reports_or_one_clear_line() -> None:
    command = [sys.executable, "-m", "tests.fuzz.run", "--cases", "60", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "60 cases, 0 failed\n"


@pytest.mark.slow
def test_many_damaged_sources() -> None:
    command = [sys.executable, "-m", "tests.fuzz.run", "--cases", "20000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.p", "a.xml", "a.txt"])
def test_the_same_case_is_the_same_damage(name: str) -> None:
    data = b'{"a": [1, "x"]}\n'
    made = [mutate(name, data, random.Random(f"0/{i}")) for i in range(30)]
    assert made == [mutate(name, data, random.Random(f"0/{i}")) for i in range(30)]
    assert len(set(made)) > 15


def test_the_evil_pickles_are_evil(tmp_path: Path) -> None:
    # Otherwise "no code was run" would say nothing.
    code = "import pickle, sys; pickle.loads(bytes.fromhex(sys.argv[1]))"
    command = [sys.executable, "-c", code, EVIL_PICKLES[1].hex()]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / CANARY).exists()


def test_a_file_outside_the_output_and_a_process_are_seen(tmp_path: Path) -> None:
    watch = Watch()
    watch.allowed = (str(tmp_path / "out"),)
    try:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "a").write_text("")
        assert watch.seen == []
        (tmp_path / "outside").write_text("")
        subprocess.run(["true"], check=True)
    finally:
        watch.allowed = ()
    assert any("outside" in seen for seen in watch.seen)
    assert any(seen.startswith("subprocess.Popen") for seen in watch.seen)
