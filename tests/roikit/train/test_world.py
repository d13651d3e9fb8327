"""Where a process finds its place, and how the model is spread."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from roikit.errors import UsageError
from roikit.train.parallel import choose_parallel
from roikit.train.world import World, join_world
from tests.roikit.train.test_train import ALIGN, losses, make_recipe, run


def test_without_torchrun_a_process_is_alone() -> None:
    with join_world("cpu") as world:
        assert (world.rank, world.world_size, world.is_main) == (0, 1, True)
        assert world.sum([1, 2]) == [1, 2]
        assert world.gather("a") == ["a"]
        assert world.on_main(lambda: 3) == 3


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("roikit.train.world.choose_device", lambda device: device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="found 2 for process 3") as caught, join_world("cuda"):
        pass
    assert caught.value.hint == "start it with --nproc-per-node 2"
    with pytest.raises(UsageError, match="`cuda:1` is one GPU"), join_world("cuda:1"):
        pass
    with pytest.raises(UsageError, match="`mps` trains in one process"), join_world("mps"):
        pass


@pytest.mark.parametrize(
    ("parts", "changes", "expected"),
    [
        (("region_encoder",), {}, "ddp"),
        (("language_model",), {}, "fsdp"),
        (("language_model",), {"lora_rank": 8}, "ddp"),
        (("language_model",), {"parallel": "ddp"}, "ddp"),
    ],
)
def test_a_model_that_learns_as_a_whole_is_spread_in_pieces(
    parts: tuple[str, ...], changes: dict[str, object], expected: str
) -> None:
    two = World(rank=0, local_rank=0, world_size=2, device=torch.device("cpu"))
    stage = replace(ALIGN, train=parts, **changes)  # type: ignore[arg-type]
    assert choose_parallel(stage, two) == expected
    assert choose_parallel(stage, replace(two, world_size=1)) == "single"


def test_a_run_that_goes_on_may_change_how_the_work_is_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.roikit.train.test_train import Stopping

    run(tmp_path / "whole", make_recipe(steps=4))
    with pytest.raises(RuntimeError):
        run(tmp_path / "cut", make_recipe(steps=4), source=Stopping(after=6))
    caplog.set_level("INFO")
    run(tmp_path / "cut", make_recipe(steps=4, micro_batch=1, gradient_checkpointing=True))
    assert "micro_batch = 1" in caplog.text
    one, two = losses(tmp_path / "whole"), losses(tmp_path / "cut")
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], rel=1e-4)
    with pytest.raises(UsageError, match=r"recipe: align\.lr: it has ") as caught:
        run(tmp_path / "cut", make_recipe(steps=4, lr=0.5, micro_batch=2))
    assert "micro_batch" not in str(caught.value)
