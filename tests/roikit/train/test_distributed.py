"""Two processes under torchrun do what one does, and either goes on where the other stopped."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from roikit.model.generate import load_model
from roikit.train.loop import Interrupted
from roikit.train.metrics import read_held_out, read_metrics
from tests.roikit.train.distributed_cases import CASES, NEEDS_START, MixedSource, train
from tests.roikit.train.test_train import losses, make_recipe, run

SCRIPT = Path(__file__).with_name("distributed_cases.py")


def torchrun(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(SCRIPT), name, str(folder)]
    environment = os.environ | {"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def told(folder: Path, name: str) -> list[dict[str, Any]]:
    return [
        json.loads((folder / f"{name}-{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)
    ]


def assert_same_losses(one: Path, two: Path, *, steps: int) -> None:
    first, second = losses(one), losses(two)
    assert [step for step, _ in second] == list(range(1, steps + 1))
    assert [x for _, x in second] == pytest.approx([x for _, x in first], rel=2e-5)
    # AdamW learns the same from a gradient of another length, so that is compared itself
    norms = [
        [line["grad_norm"] for line in read_metrics(out / "metrics.jsonl")] for out in (one, two)
    ]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One process's runs in `one`, the same cases of two processes in `two`."""
    folder = tmp_path_factory.mktemp("distributed")
    train(folder / "start")
    for name, changes in CASES.items():
        start = folder / "start" if name in NEEDS_START else None
        train(folder / "one" / name, changes=changes, start=start)
    train(folder / "one" / "from-one", changes={"steps": 6})
    with pytest.raises(Interrupted):
        stop_after(folder / "from-one", step=3)
    (folder / "two").mkdir()
    done = torchrun("all", folder / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def stop_after(out: Path, *, step: int) -> None:
    def stop(report: Any) -> None:
        if report.step == step:
            signal.raise_signal(signal.SIGTERM)

    recipe = make_recipe(batch_size=3, steps=6, save_every=2)
    run(out, recipe, source=MixedSource(), on_step=stop)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_does(folder: Path, name: str) -> None:
    assert_same_losses(folder / "one" / name, folder / "two" / name, steps=4)
    one, two = (
        load_model(folder / who / name, device="cpu").model.state_dict() for who in ("one", "two")
    )
    assert one.keys() == two.keys()
    for key in one:
        assert torch.allclose(one[key], two[key], atol=2e-3), key
    places = [rank[name] for rank in told(folder / "two", "all")]
    assert not set(places[0]) & set(places[1])
    assert sorted(places[0] + places[1]) == list(range(12))


def test_two_processes_evaluate_as_one_does_and_keep_the_same_best(folder: Path) -> None:
    one, two = (folder / who / "fsdp-held-out" for who in ("one", "two"))
    first, second = (list(read_held_out(out / "metrics.jsonl")) for out in (one, two))
    assert [(x["step"], x["labels"]) for x in second] == [(x["step"], x["labels"]) for x in first]
    assert [x["held_out"] for x in second] == pytest.approx(
        [x["held_out"] for x in first], rel=1e-4
    )
    best = min(first, key=lambda x: x["held_out"])
    for out in (one, two):
        assert (out / "checkpoints" / "best").resolve().name == f"step-{best['step']:08d}"
        card = (out / "model" / "README.md").read_text(encoding="utf-8")
        assert "| held-out loss, step 4 |" in card


def test_a_failure_before_an_evaluation_leaves_nobody_waiting(folder: Path) -> None:
    main, other = (rank["not-noted"] for rank in told(folder / "two", "all"))
    assert main == ["RoikitError", "the disk is full"]
    assert other == ["PeerError", "process 0 of this run failed and has said why"]


def test_two_processes_go_on_where_one_was_stopped(folder: Path) -> None:
    assert_same_losses(folder / "one" / "from-one", folder / "from-one", steps=6)
    places = [rank["from-one"] for rank in told(folder / "two", "all")]
    assert sorted(places[0] + places[1]) == list(range(9, 18))


def test_what_one_process_cannot_read_ends_all_and_is_said_once(folder: Path) -> None:
    main, other = (rank["bad-data"] for rank in told(folder / "two", "all"))
    assert other == ["RoikitError", "place 4 cannot be read"]
    assert main == ["PeerError", "process 1 of this run failed and has said why"]


def test_a_loss_that_is_no_number_names_the_samples_of_all_processes(folder: Path) -> None:
    main, other = (rank["no-number"] for rank in told(folder / "two", "all"))
    assert "the loss is" in main[1]
    assert main[1].count("toy-train-") == 3
    assert other[0] == "PeerError"


def test_a_signal_or_a_kill_of_one_process_costs_nothing_but_time(folder: Path) -> None:
    done = torchrun("stopped", folder)
    assert done.returncode != 0  # the second run of the script was killed
    saved = sorted(path.name for path in (folder / "stopped" / "checkpoints").glob("step-*"))
    assert saved == ["step-00000002", "step-00000003"]
    assert [rank["stopped"] for rank in told(folder, "stopped")] == ["stopped by SIGTERM"] * 2
    assert losses(folder / "stopped")[2:] != []
    result = run(
        folder / "stopped", make_recipe(batch_size=3, steps=6, save_every=2), source=MixedSource()
    )
    assert result.resumed_from == 3
    assert not list((folder / "stopped" / "checkpoints").glob(".*"))
    assert_same_losses(folder / "one" / "from-one", folder / "stopped", steps=6)
