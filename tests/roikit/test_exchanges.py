"""Which exchanges a pass takes, and how they are asked."""

from typing import Any

import msgspec
import pytest

from roikit.draws import Place
from roikit.exchanges import ask_together, draw_exchanges, kept_exchanges
from roikit.mentions import mentioned
from roikit.sample import Conversation, Turn
from tests.roikit.conftest import make_example

PLACE: Place = {"seed": 0, "key": "k", "ordinal": 0, "passes": 0}


def asked(*pairs: tuple[str, str], independent: bool = True) -> Conversation:
    turns = tuple(
        Turn(role, text)
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    )
    return msgspec.structs.replace(
        make_example(0).conversation, turns=turns, independent=independent
    )


def test_exchanges_are_drawn_in_pairs_and_all_come_within_a_cycle() -> None:
    conversation = asked(*((f"question {i}", f"answer {i}") for i in range(20)))

    def draw(**changes: Any) -> tuple[Turn, ...]:
        return draw_exchanges(conversation, **({"limit": 6, **PLACE} | changes)).turns

    passes = [draw(passes=i) for i in range(4)]
    assert [len(turns) for turns in passes] == [10, 10, 10, 10]
    pairs = [pair for turns in passes for pair in zip(turns[::2], turns[1::2], strict=True)]
    assert all(u.text[len("question ") :] == a.text[len("answer ") :] for u, a in pairs)
    assert len({u.text for u, _ in pairs}) == 20
    drawn = draw(limit=0)
    assert drawn != conversation.turns
    assert set(drawn) == set(conversation.turns)


def test_a_dialogue_is_kept_whole_and_in_order() -> None:
    conversation = asked(("a", "b"), ("c", "d"), independent=False)
    assert draw_exchanges(conversation, limit=1, **PLACE) is conversation


def together(conversation: Conversation, share: float = 1.0, **changes: Any) -> list[str]:
    changed = ask_together(conversation, **({"share": share, **PLACE} | changes))
    return [turn.text for turn in changed.turns]


THREE = asked(("Name <region3>.", "cat"), ("<region1>?", "dog"), ("<region7>?", "cow"))


def test_questions_asked_together_are_answered_by_name() -> None:
    orders = set()
    for passes in range(60):
        question, answer = together(THREE, passes=passes)
        introduced, separator, rest = question.partition(". ")
        assert (separator, rest) == (". ", "Name <region3>, <region1> and <region7>.")
        assert answer == "<region3>: cat\n<region1>: dog\n<region7>: cow"
        orders.add(tuple(mentioned(introduced)))
    # any order of introduction comes up: the place in the list does not say what is answered
    assert len(orders) == 6


def test_a_share_of_the_lists_is_asked_together() -> None:
    alone = [turn.text for turn in THREE.turns]
    assert together(THREE, share=0.0) == alone
    changed = sum(together(THREE, share=0.3, key=str(i)) != alone for i in range(1000))
    assert 240 < changed < 360


@pytest.mark.parametrize(
    "conversation",
    [
        asked(("<region1>?", "dog"), ("<region2>?", "cow"), independent=False),
        asked(("<region1>?", "dog")),
        asked(("<region1>?", "dog"), ("<region1>?", "brown")),
        asked(("<region1>?", "dog"), ("What is <region1> beside <region2>?", "cow")),
        asked(("<region1>?", "dog"), ("What does the picture show?", "a farm")),
    ],
    ids=["dialogue", "one", "same region", "two in one", "none"],
)
def test_only_questions_of_one_region_each_are_asked_together(conversation: Conversation) -> None:
    assert together(conversation) == [turn.text for turn in conversation.turns]


@pytest.mark.parametrize("lengths", [[5], [3, 3, 3, 3], [1, 1, 20, 1], [30, 1, 1], [2] * 40])
@pytest.mark.parametrize("limit", [2, 7, 12, 31, 100])
def test_what_is_kept_fits_and_is_something_wherever_one_exchange_fits(
    lengths: list[int], limit: int
) -> None:
    kept = kept_exchanges(len(lengths), limit, lambda n: sum(lengths[:n]))
    assert sum(lengths[:kept]) <= limit
    assert (kept > 0) == (lengths[0] <= limit)
    if sum(lengths) <= limit:
        assert kept == len(lengths)
