import re
from collections import Counter

import pytest

from pipelines import phrasing
from pipelines.registry import DATASETS
from roikit.errors import UsageError

SLOTS = {
    "category": ["region"],
    "caption": ["region"],
    "grounded-caption": ["regions"],
    "image-caption": [],
    "refer": ["region"],
    "refer-appearance": ["region"],
    "refer-sentence": ["region"],
    "pointing": ["question", "regions"],
    "reasoning-all": ["regions", "question"],
    "which-phrase": ["region"],
    "named-regions": ["regions", "question"],
    "why": [],
}


@pytest.mark.parametrize("family", SLOTS)
def test_wordings_are_many_short_different_and_hold_their_slots(family: str) -> None:
    templates = phrasing.wordings(family)
    assert len(templates) >= 10
    assert len({template.lower() for template in templates}) == len(templates)
    for template in templates:
        assert re.findall(r"\{(\w+)\}", template) == SLOTS[family]
        assert len(template.split()) <= 14


def test_every_family_a_dataset_draws_from_is_there() -> None:
    for spec in DATASETS.values():
        assert set(spec.families) <= set(phrasing.families())


def test_draws_depend_on_seed_key_and_turn_only_and_reach_every_wording() -> None:
    draws = [
        phrasing.draw("category", 0, "coco-val-000000001", f"1/category:{i}") for i in range(600)
    ]
    again = [
        phrasing.draw("category", 0, "coco-val-000000001", f"1/category:{i}") for i in range(600)
    ]
    assert draws == again
    counts = Counter(draws)
    assert set(counts) == set(phrasing.wordings("category"))
    assert min(counts.values()) > 20
    assert draws != [
        phrasing.draw("category", 1, "coco-val-000000001", f"1/category:{i}") for i in range(600)
    ]


def test_golden_draw() -> None:
    # Drawn once and read: another result means that old shards and new ones differ in their texts.
    assert phrasing.draw("why", 0, "vcr-train-000000042", "train-97/all:2") == (
        "What makes you say that?"
    )


def test_a_list_reads_as_a_person_would_say_it() -> None:
    lists = [[], ["a"], ["a", "b"], ["a", "b", "c"]]
    assert list(map(phrasing.enumerated, lists)) == ["", "a", "a and b", "a, b and c"]


def test_a_shuffled_list_depends_on_seed_key_and_place_only() -> None:
    phraser = phrasing.Phraser(seed=0, key="flickr30k-train-000000001")
    orders = {tuple(phraser.shuffle([1, 2, 3], str(i))) for i in range(100)}
    assert len(orders) == 6
    assert phraser.shuffle([3, 1, 2], "x") == phraser.shuffle([1, 2, 3], "x")


def test_filling_leaves_braces_of_the_text_alone() -> None:
    filled = phrasing.fill(
        "See {regions}. {question}", regions="{question}", question="{x} {regions}?"
    )
    assert filled == "See {question}. {x} {regions}?"


def test_the_version_changes_with_the_families() -> None:
    assert phrasing.version(("why",)) != phrasing.version(("category",))
    assert phrasing.version(("why", "category")) == phrasing.version(("category", "why"))


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(UsageError, match="expected one of caption, category"):
        phrasing.wordings("poem")
