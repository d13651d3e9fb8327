"""`roikit runs`: what folders tell, without torch."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import roikit.__main__ as entry
from roikit.config import Recipe, StageRecipe
from roikit.errors import UsageError
from roikit.run_compare import compare_runs
from roikit.run_status import find_runs, resolve_run, run_status
from roikit.train.claim import claimed
from roikit.train.events import append_event
from roikit.train.metrics import plot_losses
from roikit.train.quarantine import Quarantine

ROOT = Path(__file__).resolve().parents[2]


def make_run(
    out: Path,
    *,
    steps: int = 40,
    taken: int = 40,
    lr: float = 1e-3,
    slope: float = 1.0,
    processes: int = 1,
    device: str = "cpu",
) -> Path:
    """A run's folder as training leaves it, with a loss of slope / step and a step of 9 seconds."""
    out.mkdir(parents=True)
    recipe = Recipe(name="tiny", stage="stage1", run=StageRecipe(lr=lr, mix="coco=1"))
    told: dict[str, Any] = {
        "recipe": "tiny", "stage": "stage1", "resolved": recipe.to_toml(),
        "start": "/somewhere/align", "start_sha256": "ab" * 32,
        "data": {"mix": "coco=1", "splits": {"coco/train": "cd" * 32}},
    }  # fmt: skip
    (out / "run.json").write_text(json.dumps(told), encoding="utf-8")
    append_event(
        out, "started", step=0, steps=steps, processes=processes, device=device, host="h", pid=1
    )
    with (out / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step in range(1, taken + 1):
            line = {"step": step, "steps": steps, "loss": slope / step, "tokens": 90, "seconds": 9}
            file.write(json.dumps(line) + "\n")
            if step % 20 == 0:
                held = {"step": step, "held_out": 2 * slope / step, "labels": 5, "seconds": 1.0}
                file.write(json.dumps(held) + "\n")
    return out


def finish(run: Path) -> Path:
    (run / "model").mkdir()
    (run / "model" / "config.json").write_text("{}", encoding="utf-8")
    return run


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["roikit", *arguments])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROIKIT_HOME", str(tmp_path))
    return tmp_path


def test_states_are_told_apart(tmp_path: Path) -> None:
    for name in ("finished", "running", "stopped", "failed", "killed"):
        make_run(tmp_path / name, taken=10)
    finish(tmp_path / "finished")
    append_event(tmp_path / "stopped", "stopped", step=10, message="stopped by SIGTERM")
    append_event(tmp_path / "failed", "failed", step=10, message="the disk is full")
    with claimed(tmp_path / "running"):
        found = {path.name: run_status(path).state for path in find_runs(tmp_path)}
    assert found == {name: name for name in found}
    assert len(found) == 5


def test_runs_are_found_below_folders_but_not_inside_runs_or_half_written(tmp_path: Path) -> None:
    make_run(tmp_path / "b" / "seed1")
    outer = make_run(tmp_path / "a")
    make_run(outer / "inner")
    make_run(tmp_path / ".stage1.new")
    assert find_runs(tmp_path) == [tmp_path / "a", tmp_path / "b" / "seed1"]
    assert find_runs(tmp_path / "nothing") == []
    assert resolve_run("b/seed1", tmp_path) == tmp_path / "b" / "seed1"
    with pytest.raises(UsageError) as caught:
        resolve_run("seed1", tmp_path)
    assert caught.value.hint == "there are: a, b/seed1"


def test_numbers_are_of_the_last_steps_and_hours_of_all(tmp_path: Path) -> None:
    out = make_run(tmp_path / "a", device="cuda", processes=2, taken=20)
    status = run_status(out)
    assert status.loss == pytest.approx(sum(1 / step for step in range(1, 21)) / 20)
    assert status.held_out == pytest.approx(0.1)
    assert status.tokens_per_s == pytest.approx(10)
    assert (status.step, status.steps) == (20, 40)
    assert status.hours == pytest.approx(20 * 9 / 3600)
    assert status.gpu_hours == pytest.approx(2 * status.hours)
    # steps after 15 were taken again, on one process
    append_event(out, "started", step=15, steps=40, processes=1, device="cuda", host="h", pid=2)
    again = run_status(out).gpu_hours
    assert again == pytest.approx((15 * 2 + 5) * 9 / 3600)
    assert run_status(make_run(tmp_path / "cpu")).gpu_hours is None


def test_samples_left_out_are_counted(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = make_run(home / "runs" / "a")
    assert run_status(out).quarantined == 0
    Quarantine(out, max_bad=9).add({"x": "torn", "y": "short"}, step=3)
    assert run(monkeypatch, "runs", "show", "a") == 0
    said = capsys.readouterr().out
    assert re.search(r"^quarantined +2 *$", said, re.MULTILINE)
    assert "1 process on cpu, h, pid 1" in said


def test_a_run_of_before_there_were_events_is_listed(tmp_path: Path) -> None:
    out = finish(make_run(tmp_path / "old"))
    (out / "events.jsonl").unlink()
    (out / "metrics.jsonl").unlink()
    status = run_status(out)
    assert (status.state, status.step, status.steps, status.loss) == ("finished", 0, None, None)
    assert status.started is not None


def test_a_comparison_names_what_differs_and_averages_between_rows(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one")
    other = make_run(tmp_path / "other", lr=2e-3, slope=2, taken=20)
    found = compare_runs([one, other])
    assert [(d.key, d.values) for d in found.differences] == [("lr", (1e-3, 2e-3))]
    assert [row.step for row in found.losses] == list(range(2, 21, 2))
    last = found.losses[-1]
    assert last.losses == pytest.approx(((1 / 19 + 1 / 20) / 2, 1 / 19 + 1 / 20))
    assert last.held_out == pytest.approx((0.1, 0.2))
    assert found.losses[0].held_out == (None, None)


def test_a_comparison_with_a_run_that_has_no_step_says_so(tmp_path: Path) -> None:
    found = compare_runs([make_run(tmp_path / "one"), make_run(tmp_path / "none", taken=0)])
    assert found.losses == ()


def test_the_list_is_the_default_and_speaks_json(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "runs") == 0
    assert "no runs" in capsys.readouterr().err
    finish(make_run(home / "runs" / "stage1"))
    assert run(monkeypatch, "runs") == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split()[:5] == ["run", "stage", "recipe", "state", "step"]
    assert row.split()[:5] == ["stage1", "stage1", "tiny", "finished", "40/40"]
    assert row.split()[-1] == "align"
    assert run(monkeypatch, "runs", "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["state"], told["held_out"]) == ("finished", 0.05)


def test_show_tells_recipe_events_and_spikes(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = make_run(home / "runs" / "stage1")
    append_event(out, "failed", step=40, message="the disk is full")
    spike = {"step": 33, "loss": 9.5, "median": 1.0, "score": 20.0, "keys": ["coco-train-7"]}
    (out / "spikes.jsonl").write_text(json.dumps(spike) + "\n", encoding="utf-8")
    assert run(monkeypatch, "runs", "show", "stage1") == 0
    said = capsys.readouterr().out
    for text in ("failed", "lr = 0.001", "the disk is full", "coco-train-7", "coco/train"):
        assert text in said
    assert run(monkeypatch, "runs", "show", "stage1", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["status"]["spikes"] == 1
    assert told["events"][-1]["event"] == "failed"
    assert told["spikes"] == [spike]


def test_compare_prints_both_tables_and_wants_two_runs(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(home / "runs" / "a")
    make_run(home / "runs" / "b", lr=2e-3)
    assert run(monkeypatch, "runs", "compare", "a", "b") == 0
    said = capsys.readouterr().out
    assert "lr       0.001  0.002" in said
    assert "loss a" in said and "held-out b" in said
    assert run(monkeypatch, "runs", "compare", "a") == 2
    assert run(monkeypatch, "runs", "compare", "a", "c") == 2
    assert "there are: a, b" in capsys.readouterr().err


def test_a_plot_is_drawn_once_and_not_over_another(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(home / "runs" / "a")
    make_run(home / "runs" / "b", slope=3)
    out = home / "losses.png"
    arguments = ("runs", "plot", "a", "b", "--out", str(out))
    assert run(monkeypatch, *arguments) == 0
    with Image.open(out) as picture:
        assert picture.width > 500
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or ()}
    assert {(31, 119, 180), (255, 127, 14)} <= colours  # a line a run
    assert run(monkeypatch, *arguments) == 2
    assert run(monkeypatch, *arguments, "--overwrite") == 0
    capsys.readouterr()


def test_a_run_without_a_step_can_be_plotted(tmp_path: Path) -> None:
    empty = make_run(tmp_path / "empty", taken=0)
    full = make_run(tmp_path / "full")
    plot_losses({run.name: run / "metrics.jsonl" for run in (empty, full)}, tmp_path / "both.png")
    assert (tmp_path / "both.png").stat().st_size > 1000


def test_runs_loads_no_torch(home: Path) -> None:
    make_run(home / "runs" / "a")
    code = (
        "import sys; sys.argv = ['roikit', *sys.argv[1:]]\n"
        "import roikit.__main__ as entry\n"
        "try:\n    entry.main()\nexcept SystemExit as e:\n    assert e.code == 0, e.code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    for arguments in (("runs",), ("runs", "show", "a"), ("runs", "plot", "a", "--out", "x.png")):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=home,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
