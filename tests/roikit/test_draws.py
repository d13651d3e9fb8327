"""Draws: what one cycle of passes takes, and what a generator depends on."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roikit.draws import drawn_exchanges, rng, shuffled

PLACE: dict[str, Any] = {"seed": 0, "key": "toy-train-000000000", "ordinal": 0}


@given(
    num=st.integers(0, 60), limit=st.integers(0, 70), cycle=st.integers(0, 5), seed=st.integers()
)
def test_a_cycle_of_passes_takes_every_exchange_once(
    num: int, limit: int, cycle: int, seed: int
) -> None:
    passes = -(-num // limit) if limit and num else 1
    place = PLACE | {"seed": seed}
    drawn = [drawn_exchanges(num, limit, passes=cycle * passes + i, **place) for i in range(passes)]
    assert sorted(index for part in drawn for index in part) == list(range(num))
    sizes = {len(part) for part in drawn}
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= (limit or num)


def test_every_exchange_comes_first_about_equally_often() -> None:
    first = Counter(drawn_exchanges(5, 2, passes=3 * i, **PLACE)[0] for i in range(2000))
    assert all(300 < first[index] < 500 for index in range(5))


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"key": "toy-train-000000001"}, {"ordinal": 1}, {"passes": 5}]
)
def test_another_place_gives_another_draw(change: dict[str, Any]) -> None:
    place = PLACE | {"passes": 4}
    assert drawn_exchanges(20, 5, **place) == drawn_exchanges(20, 5, **place)
    assert drawn_exchanges(20, 5, **place) != drawn_exchanges(20, 5, **(place | change))


def test_uses_are_drawn_independently() -> None:
    assert rng(0, "k", 0, 0, "wording").random() != rng(0, "k", 0, 0, "flip").random()
    # places that would read alike if their parts were only joined
    assert rng(1, "1", 0, 0, "x").random() != rng(11, "", 0, 0, "x").random()


def test_draws_stay_what_they_were() -> None:
    # A change here changes what every run learns from: say so in the change notes, as ORDER.
    assert drawn_exchanges(10, 4, passes=1, **PLACE) == [0, 1, 7]
    assert sorted(shuffled("abc", rng(0, "k", 0, 0, "x"))) == ["a", "b", "c"]
