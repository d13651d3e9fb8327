"""The held-out loss: the same from any number of processes, and nothing moves by measuring it."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from roikit.batch import Batch
from roikit.config import StageRecipe
from roikit.errors import UsageError
from roikit.train.held_out import HeldOut
from roikit.train.loop import batch_loss
from roikit.train.metrics import HeldOutReport
from roikit.train.parts import choose_parts
from tests.roikit.conftest import make_example

RUN = StageRecipe(batch_size=4, max_tokens=200, dtype="fp32")
EXAMPLES = [make_example(i) for i in range(11)]


def parts(
    built: Any, run: StageRecipe, world_size: int, examples: Any = EXAMPLES
) -> tuple[list[float], list[int]]:
    """Sum and count of all ranks, and the forwards each of them ran."""
    totals = [0.0, 0.0]
    forwards = []
    for rank in range(world_size):
        calls: list[int] = []

        def summed(batch: Batch, calls: list[int] = calls) -> torch.Tensor:
            calls.append(len(batch.keys))
            return batch_loss(built.model, built.processor, batch, 1)

        def add(values: list[float]) -> list[float]:
            totals[0] += values[0]
            totals[1] += values[1]
            return values

        held = HeldOut(examples, built.processor, run, seed=0, rank=rank, world_size=world_size)
        held.measure(built.model, summed, step=1, add_up=add)
        forwards.append(len(calls))
    return totals, forwards


def measure(built: Any, run: StageRecipe = RUN, model: Any = None) -> HeldOutReport:
    model = model or built.model
    held = HeldOut(EXAMPLES, built.processor, run, seed=0)
    return held.measure(model, lambda batch: batch_loss(model, built.processor, batch, 1), step=5)


def test_it_is_the_mean_over_all_labels(built: Any) -> None:
    found = measure(built)
    one_by_one = measure(built, replace(RUN, micro_batch=1))
    assert found.step == 5
    assert found.labels == one_by_one.labels > 0
    assert found.held_out == pytest.approx(one_by_one.held_out, rel=1e-5)


@pytest.mark.parametrize("world_size", [2, 3, 16])
def test_ranks_with_uneven_shares_run_the_same_number_of_forwards(
    built: Any, world_size: int
) -> None:
    run = replace(RUN, micro_batch=2)
    (total, count), _ = parts(built, run, 1)
    (shared_total, shared_count), forwards = parts(built, run, world_size)
    assert shared_count == count
    assert shared_total == pytest.approx(total, rel=1e-5)
    assert len(set(forwards)) == 1
    assert forwards[0] >= 1


def test_nothing_moves(built: Any) -> None:
    model = copy.deepcopy(built.model)
    choose_parts(model, ("region_encoder",))
    modes = [module.training for module in model.modules()]
    assert len(set(modes)) == 2
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    first = measure(built, model=model)
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert measure(built, model=model).held_out == first.held_out


def test_dropout_is_off(built: Any) -> None:
    seen = []
    held = HeldOut(EXAMPLES, built.processor, RUN, seed=0)

    def summed(batch: Batch) -> torch.Tensor:
        seen.append(any(module.training for module in built.model.modules()))
        return torch.zeros(())

    held.measure(built.model, summed, step=1)
    assert seen == [False] * len(seen)
    assert seen


def test_nothing_to_measure_on_is_refused(built: Any) -> None:
    with pytest.raises(UsageError, match="no picture of the mixture is held out"):
        HeldOut([], built.processor, RUN, seed=0)
    with pytest.raises(UsageError, match="nothing can be learned from any of 11"):
        HeldOut(EXAMPLES, built.processor, replace(RUN, max_tokens=3), seed=0)
