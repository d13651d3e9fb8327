"""Batches of a step: the same wherever they are made, and errors in one line."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from roikit.config import StageRecipe
from roikit.errors import CorruptSampleError, RoikitError
from roikit.sample import Example
from roikit.train.feed import Feeding, StepReader, feed
from roikit.train.quarantine import QUARANTINE_NAME, Quarantine
from tests.roikit.conftest import ToySource

T = TypeVar("T")
RUN = StageRecipe(batch_size=4, micro_batch=2, max_tokens=500)


def read(source: ToySource, built: Any, **how: Any) -> list[Feeding]:
    return list(feed(StepReader(source, built.processor, RUN, seed=1), steps=5, **how))


def content(feeding: Feeding) -> list[Any]:
    batches = [batch for batch in feeding.batches if batch is not None]
    tensors = [
        tensor.tolist()
        for b in batches
        for tensor in (b.input_ids, b.labels, b.views.boxes_R4, b.views.pixels_N3SS)
    ]
    return [feeding.state, feeding.epoch, feeding.skipped, [b.keys for b in batches], *tensors]


@pytest.mark.parametrize("how", [{"ahead": 2}, {"workers": 2}, {"workers": 1}])
def test_steps_are_the_same_wherever_they_are_read(built: Any, how: dict[str, int]) -> None:
    source = ToySource(batch_size=4, micro_batch=2)
    here = [content(one) for one in read(source, built, first=2)]
    assert [content(one) for one in read(source, built, first=2, **how)] == here
    assert len(here) == 3


class Failing(ToySource):
    """Cannot read one place."""

    def read(self, place: int, use: Callable[[Example], T]) -> T:
        if place == 6:
            raise CorruptSampleError("toy.tar: sample `x`: torn")
        return super().read(place, use)


@pytest.mark.parametrize("how", [{}, {"ahead": 2}, {"workers": 2}])
def test_an_error_is_raised_as_it_was_said_after_the_steps_before_it(
    built: Any, how: dict[str, int]
) -> None:
    reader = StepReader(Failing(batch_size=4), built.processor, RUN, seed=1)
    feedings = feed(reader, first=0, steps=5, **how)
    next(feedings)
    with pytest.raises(CorruptSampleError) as caught:
        next(feedings)
    assert str(caught.value) == "toy.tar: sample `x`: torn"


class Killed(ToySource):
    """Ends the process that reads, as the system does when memory is short."""

    def read(self, place: int, use: Callable[[Example], T]) -> T:
        if place == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(place, use)


def test_a_reading_process_that_was_killed_is_told_in_one_line(built: Any) -> None:
    reader = StepReader(Killed(batch_size=4), built.processor, RUN, seed=1)
    with pytest.raises(RoikitError, match="reads training data ended") as caught:
        list(feed(reader, first=0, steps=5, workers=1))
    assert "\n" not in str(caught.value)
    assert "--workers" in (caught.value.hint or "")


class Interrupting(ToySource):
    """Gets the signals that a terminal or a scheduler sends to every process of a job."""

    def read(self, place: int, use: Callable[[Example], T]) -> T:
        for signum in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), signum)
        return super().read(place, use)


def test_readers_outlive_the_signals_that_end_a_job(built: Any) -> None:
    assert len(read(Interrupting(batch_size=4), built, first=0, workers=2)) == 5


def test_what_gives_nothing_to_learn_leaves_its_batch_smaller_or_empty(built: Any) -> None:
    source = ToySource(batch_size=4, micro_batch=2)
    run = replace(RUN, max_tokens=10)
    (feeding,) = feed(StepReader(source, built.processor, run, seed=1), first=0, steps=1)
    assert feeding.batches == (None, None)
    assert feeding.skipped == 4


def test_quarantined_samples_are_told_once(built: Any) -> None:
    source = ToySource(batch_size=4)
    reader = StepReader(source, built.processor, RUN, seed=1)
    assert reader[0].quarantined == {}
    source.quarantined = {"a": "torn"}
    assert [reader[step].quarantined for step in (1, 2)] == [{"a": "torn"}, {}]


def test_two_ranks_read_together_what_one_reads_alone(built: Any) -> None:
    source = ToySource(batch_size=4, micro_batch=1)
    run = replace(RUN, micro_batch=1)
    alone = StepReader(source, built.processor, run, seed=1)[3]
    ranks = [
        StepReader(source, built.processor, run, seed=1, rank=rank, world_size=2)[3]
        for rank in range(2)
    ]
    assert [len(one.batches) for one in ranks] == [2, 2]
    ids = sorted(b.input_ids.tolist() for b in alone.batches if b is not None)
    shared = sorted(b.input_ids.tolist() for one in ranks for b in one.batches if b is not None)
    assert ids == shared
    assert torch.equal(torch.tensor(ids[0]), torch.tensor(shared[0]))


def test_the_quarantines_limit_counts_over_stops(tmp_path: Path) -> None:
    Quarantine(tmp_path, max_bad=2).add({"a": "torn", "b": "gone"}, step=3)
    again = Quarantine(tmp_path, max_bad=2)  # the same run, gone on with
    again.add({"a": "torn"}, step=3)
    assert len((tmp_path / QUARANTINE_NAME).read_text(encoding="utf-8").splitlines()) == 2
    with pytest.raises(CorruptSampleError, match="3 samples cannot be read, the limit is 2"):
        again.add({"c": "torn"}, step=4)
