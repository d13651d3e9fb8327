"""What a run leaves behind while it goes: lines, spikes, events, and the state they amount to."""

import json
import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from roikit.config import Recipe, StageRecipe
from roikit.errors import UsageError
from roikit.run_status import run_status
from roikit.sample import Example
from roikit.train.claim import claimed
from roikit.train.events import append_event, read_events
from roikit.train.loop import Interrupted
from roikit.train.metrics import HeldOutReport, StepReport, read_held_out, read_metrics
from roikit.train.run import train_stage
from roikit.train.spikes import NonFiniteError
from roikit.train.watch import Watch, read_spikes
from tests.roikit.conftest import TEXTS, TINY, ToySource
from tests.roikit.train.test_spikes import in_threads

RUN = StageRecipe(
    train=("vision_tower", "projector", "region_encoder", "language_model"),
    steps=5,
    batch_size=2,
    lr=1e-2,
    warmup=2,
    dtype="fp32",
    save_every=2,
    max_tokens=200,
    held_out=0.1,
    eval_every=2,
    eval_size=3,
)
RECIPE = Recipe(name="toy", stage="align", model=TINY, run=RUN)


def report(step: int, loss: float = 1.0) -> StepReport:
    return StepReport(
        step=step, steps=100, loss=loss, lr=1e-3, lr_share=1.0, grad_norm=1.0, tokens=100,
        labels=10, padding=0.1, epoch=0, seconds=0.5, data_wait=0.1, memory_bytes=1, skipped=0,
    )  # fmt: skip


def watch(out: Path, after_step: int = 0, **arguments: Any) -> Watch:
    return Watch(out, RECIPE, steps=100, after_step=after_step, device="cpu", **arguments)


def train(out: Path, recipe: Recipe = RECIPE, **arguments: Any) -> Any:
    torch.set_num_threads(1)
    return train_stage(
        recipe,
        source=arguments.pop("source", None) or ToySource(),
        out=out,
        texts=lambda: TEXTS,
        device="cpu",
        **arguments,
    )


def test_a_spike_is_written_with_its_samples_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with watch(tmp_path) as watching:
        for step in range(1, 61):
            loss = 9.0 if step in (50, 55) else 1.0 + 0.01 * (step % 3)
            watching.step(report(step, loss), [f"toy-train-{step:09d}"])
    spikes = read_spikes(tmp_path)
    assert [spike["step"] for spike in spikes] == [50, 55]
    assert spikes[0]["keys"] == ["toy-train-000000050"]
    assert spikes[0]["places"] == [98, 100]
    assert spikes[0]["loss"] == 9.0
    (warning,) = caplog.messages
    assert "step 50: the loss jumped to 9" in warning
    assert "toy-train-000000050 (`roikit show KEY`" in warning


def test_a_resumed_watch_drops_what_is_taken_again_and_finds_the_same(tmp_path: Path) -> None:
    def go(after_step: int, last: int) -> None:
        with watch(tmp_path, after_step) as watching:
            for step in range(after_step + 1, last + 1):
                watching.step(report(step, 9.0 if step in (40, 50) else 1.0), ["k"])
                if step % 20 == 0:
                    watching.held_out(HeldOutReport(step=step, held_out=2.0, labels=5, seconds=0.1))

    go(0, 60)
    go(45, 60)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [*range(1, 61)]
    assert [line["step"] for line in read_held_out(tmp_path / "metrics.jsonl")] == [20, 40, 60]
    assert [spike["step"] for spike in read_spikes(tmp_path)] == [40, 50]


def test_a_spikes_samples_come_from_all_processes(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i, "loss": 1.0}) + "\n" for i in range(1, 41)),
        encoding="utf-8",
    )

    def work(rank: int, gather: Any) -> None:
        # the second process sees no file of the run, and agrees all the same
        out = tmp_path if rank == 0 else tmp_path / "elsewhere"
        watching = watch(out, 40, world_size=2, is_main=rank == 0, gather=gather)
        with watching:
            watching.step(report(41, 8.0), [f"of-rank-{rank}"])

    in_threads(2, work)
    (spike,) = read_spikes(tmp_path)
    assert spike["keys"] == ["of-rank-0", "of-rank-1"]
    assert not (tmp_path / "elsewhere").exists()


def test_an_event_after_one_cut_short_is_still_read(tmp_path: Path) -> None:
    append_event(tmp_path, "started", step=0)
    file = tmp_path / "events.jsonl"
    file.write_text(file.read_text(encoding="utf-8") + '{"event": "tra', encoding="utf-8")
    append_event(tmp_path, "stopped", step=3)
    assert [event["event"] for event in read_events(tmp_path)] == ["started", "stopped"]


def test_lines_of_older_runs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "steps": 2, "loss": 2.0}\n', encoding="utf-8")
    assert [line["loss"] for line in read_metrics(path)] == [2.0]
    assert list(read_held_out(path)) == []


def test_a_run_evaluates_on_held_out_pictures_and_a_stop_changes_nothing(tmp_path: Path) -> None:
    heard: list[int] = []
    train(tmp_path / "whole", on_held_out=lambda found: heard.append(found.step))
    assert heard == [2, 4, 5]

    def stop(taken: StepReport) -> None:
        if taken.step == 3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(tmp_path / "stopped", on_step=stop)
    assert run_status(tmp_path / "stopped").state == "stopped"
    train(tmp_path / "stopped")
    whole, stopped = (
        [
            (line["step"], line["held_out"], line["labels"])
            for line in read_held_out(tmp_path / name / "metrics.jsonl")
        ]
        for name in ("whole", "stopped")
    )
    assert whole == stopped
    status = run_status(tmp_path / "stopped")
    assert (status.state, status.step, status.steps) == ("finished", 5, 5)
    assert status.held_out == whole[-1][1]
    events = [event["event"] for event in read_events(tmp_path / "stopped")]
    assert events == ["started", "stopped", "started", "trained"]


def test_evaluating_does_not_change_what_is_learned(tmp_path: Path) -> None:
    train(tmp_path / "with")
    train(tmp_path / "without", replace(RECIPE, run=replace(RUN, eval_every=0)))
    with_, without = (
        [line["loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl")]
        for name in ("with", "without")
    )
    assert with_ == without


def test_a_step_that_is_no_number_is_not_taken(tmp_path: Path) -> None:
    recipe = replace(RECIPE, run=replace(RUN, lr=1e30, warmup=0, grad_clip=0, save_every=1))
    with pytest.raises(NonFiniteError) as caught:
        train(tmp_path / "run", recipe)
    assert caught.value.keys
    last = list(read_events(tmp_path / "run"))[-1]
    assert last["event"] == "failed"
    assert tuple(last["keys"]) == caught.value.keys
    assert run_status(tmp_path / "run").state == "failed"
    lines = list(read_metrics(tmp_path / "run" / "metrics.jsonl"))
    assert all(math.isfinite(line["loss"]) for line in lines)
    newest = (tmp_path / "run" / "checkpoints" / "latest").resolve().name
    assert newest == f"step-{len(lines):08d}"


def test_a_folder_in_use_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out)
    before = sorted(path.stat().st_mtime_ns for path in out.rglob("*"))
    with claimed(out):
        for overwrite in (False, True):
            with pytest.raises(UsageError, match="works on this run"):
                train(out, overwrite=overwrite)
    assert sorted(path.stat().st_mtime_ns for path in out.rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


class NothingHeldOut(ToySource):
    def held_out(self, limit: int) -> list[Example]:
        return []


def test_evaluation_without_held_out_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no picture of the mixture is held out"):
        train(tmp_path / "run", source=NothingHeldOut())
    assert not (tmp_path / "run").exists()
