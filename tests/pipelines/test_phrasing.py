import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import phrasing
from pipelines.registry import DATASETS
from roikit.draws import rng
from roikit.errors import UsageError
from roikit.mentions import escape, mention, mentioned
from roikit.sample import Turn

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


# --- another wording for a text that is there ---

numbers = st.lists(st.integers(1, 120), min_size=1, max_size=6)
#: What a question may hold beside any text: mentions, escapes, other wordings, braces.
nasty = st.lists(
    st.one_of(
        st.text(max_size=12).map(escape),
        st.sampled_from(
            [
                "<region1>",
                "<<region2>",
                " <region3>. ",
                ": ",
                "{question}",
                "{regions}",
                " and ",
                "\n",
                "<region1> and <region2>. ",
                " Choose from <region4>.",
                "(a) <region2>",
                ", ",
                "<<",
            ]
        ),
    ),
    min_size=1,
    max_size=6,
).map("".join)
names = st.text(st.characters(exclude_characters="()"), max_size=10).map(escape)
labels = st.one_of(names, st.builds("{} ({}){}".format, names, names, names))


@st.composite
def slot_texts(draw: st.DrawFn, family: str) -> dict[str, str]:
    mentions = [mention(number) for number in draw(numbers)]
    if family == "named-regions":
        listed = ", ".join(f"{one} ({draw(labels)})" for one in mentions)
    else:
        listed = phrasing.enumerated(mentions)
        if family != "pointing":  # as the faithful conversions list them
            listed = draw(st.sampled_from([listed, ",".join(mentions)]))
    slots = {"region": mentions[0], "regions": listed, "question": draw(nasty)}
    return {name: slots[name] for name in SLOTS[family]}


@pytest.mark.parametrize("family", SLOTS)
@given(data=st.data())
def test_what_was_filled_in_is_found_again(family: str, data: st.DataObject) -> None:
    slots = data.draw(slot_texts(family))
    for template in phrasing.wordings(family):
        assert phrasing.parse(family, phrasing.fill(template, **slots)) == slots, template


@given(data=st.data(), family=st.sampled_from(sorted(SLOTS)), seed=st.integers(0, 50))
def test_another_wording_says_the_same_of_the_same_regions(
    data: st.DataObject, family: str, seed: int
) -> None:
    slots = data.draw(slot_texts(family))
    turns = [
        Turn("user", phrasing.fill(template, **slots), phrasing=family)
        for template in phrasing.wordings(family)
    ]
    said = {phrasing.rephrase(turn, rng(seed, "k", 0, 0, "wording")) for turn in turns}
    assert len(said) == 1  # the draw alone decides, not the wording that was there
    assert said <= set(turns)
    assert Counter(mentioned(said.pop().text)) == Counter(mentioned(turns[0].text))


def test_all_wordings_are_drawn() -> None:
    turn = Turn("user", "What is <region2>? Answer in a word or two.", phrasing="category")
    said = {phrasing.rephrase(turn, rng(0, "k", 0, i, "wording")).text for i in range(300)}
    assert said == {t.format(region="<region2>") for t in phrasing.wordings("category")}


@pytest.mark.parametrize(
    "turn",
    [
        Turn("user", "What is <region2>? Answer in a word or two."),
        Turn("user", "What is <region2>? Answer in a word or two.", phrasing="poem"),
        Turn("user", "What is <<region2>? Answer in a word or two.", phrasing="category"),
        Turn("user", "What is region 2? Answer in a word or two.", phrasing="category"),
        Turn("user", "Was ist <region2>?", phrasing="category"),
        Turn("user", "What is <region2>? Answer in a word or two. ", phrasing="category"),
        Turn("user", "Consider this, <region1>. What is it?", phrasing="reasoning-all"),
        Turn("user", "Why? And <region1>?", phrasing="why"),
    ],
    ids=["no family", "unknown", "escaped", "by number", "changed", "more", "no list", "added"],
)
def test_what_no_wording_gives_stays(turn: Turn) -> None:
    assert all(phrasing.rephrase(turn, rng(0, "k", 0, i, "wording")) == turn for i in range(20))
