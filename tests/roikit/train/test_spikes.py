"""Steps that went wrong: found, named, and not taken."""

import math
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from roikit.train.spikes import (
    WARMUP,
    WINDOW,
    NonFiniteError,
    SpikeDetector,
    check_finite,
    named,
)


def falling(count: int) -> list[float]:
    """A loss that falls from 4 to about 1, with noise of 5 %."""
    rng = random.Random(0)
    return [(1 + 3 * math.exp(-i / 60)) * rng.gauss(1, 0.05) for i in range(count)]


def test_a_falling_noisy_loss_has_no_spike_and_a_jump_is_one() -> None:
    detector = SpikeDetector()
    losses = falling(300)
    assert [loss for loss in losses if detector.observe(loss)] == []
    spike = detector.observe(3.0)
    assert spike is not None
    assert spike.loss == 3.0
    assert 0.8 < spike.median < 1.3
    assert spike.score > 6
    assert detector.observe(losses[-1]) is None


def test_many_spikes_do_not_hide_the_next_one() -> None:
    detector = SpikeDetector(falling(300)[-WINDOW:])
    found = [detector.observe(3.0 if i % 3 == 0 else 1.0) is not None for i in range(60)]
    assert found == [i % 3 == 0 for i in range(60)]


def test_a_loss_that_hardly_moves_needs_more_than_a_hair() -> None:
    detector = SpikeDetector([0.5] * WINDOW)
    assert detector.observe(0.52) is None
    assert detector.observe(0.9) is not None


def test_nothing_is_a_spike_before_there_is_enough_to_compare_with() -> None:
    detector = SpikeDetector()
    assert not any(detector.observe(1.0 if i % 2 else 50.0) for i in range(WARMUP))


def test_a_resumed_detector_finds_what_the_first_would_have() -> None:
    losses = [*falling(200), 5.0, 1.0, 4.0]
    whole = SpikeDetector()
    expected = [whole.observe(loss) for loss in losses]
    resumed = SpikeDetector(losses[150 - WINDOW : 150])
    assert [resumed.observe(loss) for loss in losses[150:]] == expected[150:]


def check(**changes: Any) -> None:
    values: dict[str, Any] = {
        "step": 7,
        "stage": "stage2",
        "loss": math.nan,
        "grad_norm": 1.0,
        "losses": [0.1, math.nan, 0.2],
        "keys": [("a", "b"), ("c", "d"), ("e",)],
    }
    check_finite(**(values | changes))


def test_only_the_micro_batch_without_a_loss_is_suspected() -> None:
    check(loss=0.3, losses=[0.1, 0.1, 0.1])
    with pytest.raises(NonFiniteError, match=r"step 7: the loss is nan; the batch held c, d$") as e:
        check()
    assert e.value.keys == ("c", "d")
    assert e.value.hint is not None
    assert "roikit show KEY" in e.value.hint
    assert "--set stage2.lr" in e.value.hint


def test_a_gradient_that_is_no_number_suspects_the_whole_step() -> None:
    with pytest.raises(
        NonFiniteError, match=r"the loss is 0\.3, but the gradient's norm is inf"
    ) as e:
        check(loss=0.3, losses=[0.1, 0.1, 0.1], grad_norm=math.inf)
    assert e.value.keys == ("a", "b", "c", "d", "e")


def in_threads(count: int, work: Callable[[int, Callable[[Any], list[Any]]], None]) -> None:
    """Run `work(rank, gather)` in several threads whose `gather` is that of processes."""
    barrier = threading.Barrier(count, timeout=20)
    slots: list[Any] = [None] * count

    def gather_of(rank: int) -> Callable[[Any], list[Any]]:
        def gather(value: Any) -> list[Any]:
            slots[rank] = value
            barrier.wait()
            found = list(slots)
            barrier.wait()
            return found

        return gather

    threads = [threading.Thread(target=work, args=(r, gather_of(r))) for r in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_every_process_names_the_culprit_of_another() -> None:
    found: list[tuple[str, ...]] = []
    losses = ([0.1, 0.2], [0.3, math.inf])

    def work(rank: int, gather: Callable[[Any], list[Any]]) -> None:
        keys = [(f"rank{rank}-first",), (f"rank{rank}-second",)]
        try:
            check(loss=math.inf, losses=losses[rank], keys=keys, gather=gather)
        except NonFiniteError as error:
            found.append(error.keys)

    in_threads(2, work)
    assert found == [("rank1-second",)] * 2


def test_a_message_names_a_few_samples_and_counts_the_rest() -> None:
    assert named(["a", "b", "a"]) == "a, b"
    assert named(f"k{i}" for i in range(100)).endswith("k7 and 92 more")
