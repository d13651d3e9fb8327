"""Trackers: refused where missing, continued after a stop, and never a reason to end a run."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from roikit.errors import UsageError
from roikit.train import trackers
from roikit.train.trackers import Trackers, check_trackers


class FakeRun:
    def __init__(self, number: str, broken: bool) -> None:
        self.id = number
        self.logged: list[dict[str, float]] = []
        self.exit_code: int | None = None
        self.broken = broken

    def define_metric(self, name: str, **_: Any) -> None:
        pass

    def log(self, values: dict[str, float]) -> None:
        if self.broken:
            raise ConnectionError("network is unreachable\nTraceback")
        self.logged.append(values)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for the package: what it was asked for, and runs that may break."""
    module: Any = ModuleType("wandb")
    module.asked = []
    module.runs = []
    module.broken = False

    def init(**arguments: Any) -> FakeRun:
        module.asked.append(arguments)
        if module.broken == "at once":
            raise TimeoutError("no answer")
        run = FakeRun(arguments["id"] or f"id{len(module.runs)}", bool(module.broken))
        module.runs.append(run)
        return run

    module.init = init
    module.Settings = dict
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_what_is_missing_or_unknown_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="`wandb` is not installed") as caught:
        check_trackers(["wandb"])
    assert caught.value.hint is not None
    assert "roikit[track]" in caught.value.hint
    with pytest.raises(UsageError, match="expected tensorboard or wandb, got `mlflow`"):
        check_trackers(["mlflow"])
    check_trackers([])


def test_a_resumed_run_is_the_same_run_there(wandb: Any, tmp_path: Path) -> None:
    for after_step, failed in ((0, True), (5, False)):
        some = Trackers(["wandb"], out=tmp_path, after_step=after_step, config={"steps": 9})
        some.log(after_step + 1, {"train/loss": 0.5})
        some.close(failed=failed)
    first, second = wandb.asked
    assert (first["id"], second["id"]) == (None, "id0")
    assert second["resume"] == "allow"
    assert [run.logged for run in wandb.runs] == [
        [{"step": 1, "train/loss": 0.5}],
        [{"step": 6, "train/loss": 0.5}],
    ]
    assert [run.exit_code for run in wandb.runs] == [1, 0]


@pytest.mark.parametrize("broken", ["at once", "later"])
def test_a_network_that_fails_costs_one_warning(
    wandb: Any, tmp_path: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    wandb.broken = broken
    some = Trackers(["wandb"], out=tmp_path, after_step=0, config={})
    for step in range(5):
        some.log(step, {"train/loss": 1.0})
    some.close(failed=False)
    (record,) = caplog.records
    assert "wandb: given up, training goes on without it" in record.message
    assert "\n" not in record.message


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for after_step, last in ((0, 6), (3, 8)):
        some = Trackers(["tensorboard"], out=tmp_path, after_step=after_step, config={})
        for step in range(after_step + 1, last + 1):
            some.log(step, {"train/loss": float(step)})
        some.close(failed=False)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [
        (step, float(step)) for step in range(1, 9)
    ]
