"""GPT4RoI's VCR text. The expected texts were worked out by hand from its released code."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.draft import SourceOptions
from pipelines.run import convert
from pipelines.vcr_faithful import Originals, View, all_view, own_view

NAMES = ["person", "trafficlight", "dog", *["chair"] * 8]
NUMBERS = list(range(1, 12))


def originals(question: str, answer: str, rationale: str = "It is late.") -> Originals:
    return Originals(question=question, answer=answer, rationale=rationale)


def test_a_region_bears_the_next_objects_class() -> None:
    view = all_view(originals("Why is 1 near 2?", "1 waits.", "2 is red."), NAMES, NUMBERS)
    assert isinstance(view, View)
    assert view.question == "Why is trafficlight at <region1> near dog at <region2>?"
    assert view.answer == "trafficlight at <region1> waits."
    assert view.rationale == "dog at <region2> is red."


def test_ordinary_numbers_become_regions() -> None:
    view = all_view(originals("Are 0 or 2 people here?", "No."), NAMES, NUMBERS)
    assert isinstance(view, View)
    assert view.question == "Are person at region0 or dog at <region2> people here?"


@pytest.mark.parametrize(
    ("texts", "lost"),
    [
        (originals("Who is 11?", "Nobody."), 11),
        (originals("Who is 1?", "It costs 20 dollars."), 20),
        (originals("Who is 1?", "Nobody.", "In 1920."), 1920),
    ],
)
def test_the_last_object_and_larger_numbers_lose_the_question(texts: Originals, lost: int) -> None:
    assert all_view(texts, NAMES, NUMBERS) == lost


def test_digits_inside_words_count_for_the_single_view() -> None:
    view = own_view(originals("Is 2 red?", "Yes, the 2nd is.", "2 is."), NAMES, NUMBERS)
    assert view == View(
        name="single",
        question="Is <region2> red?",
        answer="Yes, the trafficlight at <region2>nd is.",
        rationale="trafficlight at <region2> is.",
    )


def test_the_multi_view_keeps_the_right_class_and_needs_numbers_that_stand_alone() -> None:
    view = own_view(originals("Why do 3 and 10 rest?", "3 is tired.", "1 is."), NAMES, NUMBERS)
    assert view == View(
        name="multi",
        question="Why do <region3> and <region10> rest?",
        answer="dog at <region3> is tired.",
        rationale=None,
    )
    assert own_view(originals("Is 3 the 2nd?", "3 is."), NAMES, NUMBERS) is None


@pytest.mark.parametrize(
    ("question", "answer"),
    [("Who?", "1 is."), ("Is 1 wet?", "Yes."), ("Is 12 wet?", "12 is."), ("Is 1 wet?", "2 is.")],
)
def test_questions_without_a_view_of_their_own(question: str, answer: str) -> None:
    assert own_view(originals(question, answer), NAMES, NUMBERS) is None


def test_tags_in_the_source_stay_text() -> None:
    view = own_view(originals("Is 1 a <region2>?", "1 is <image>."), NAMES, NUMBERS)
    assert view is None  # the 2 inside the tag is a number, too, and stands in a word
    view = own_view(originals("Is 1 an <image>?", "1 is."), NAMES, NUMBERS)
    assert view is not None
    assert view.question == "Is <region1> an <<image>?"


def test_conversion_brings_the_defects_back(tree: Any, shards: Any, find: Any) -> None:
    source = _source(tree, "Why is 1 near 2?", "1 waits.", "2 is red.")
    convert("vcr", source, shards.root, options=SourceOptions(faithful=True))
    (sample,) = shards.samples("vcr", "train").values()
    turns = [turn.text for turn in find(sample, "train-0/all").turns]
    assert "<region1>,<region2>,<region3>" in turns[0]
    assert turns[0].endswith("Why is trafficlight at <region1> near person at <region2>?")
    assert turns[1] == "trafficlight at <region1> waits."
    multi = find(sample, "train-0/multi")
    assert multi.turns[1].text == "person at <region1> waits."
    assert find(sample, "train-0/choice-answer").choice.options[0] == "<region1> waits."
    assert [region.label for region in sample.regions] == ["person", "traffic light", "person"]


def test_a_lost_view_is_noted_and_costs_nothing_else(tree: Any, shards: Any, find: Any) -> None:
    source = _source(tree, "Is 3 wet?", "3 is.", "No.")
    (report,) = convert("vcr", source, shards.root, options=SourceOptions(faithful=True))
    assert shards.codes("vcr", "train") == {"train-0": "E_NUMBER_LOST"}
    assert (report.records_converted, report.faults) == (1, 0)
    (sample,) = shards.samples("vcr", "train").values()
    ids = {conversation.id for conversation in sample.conversations}
    assert "train-0/single" in ids and "train-0/all" not in ids


def test_a_question_without_its_original_text_is_rejected(tree: Any, shards: Any) -> None:
    source = _source(tree, "Is 1 wet?", "1 is.", None)
    convert("vcr", source, shards.root, options=SourceOptions(faithful=True), max_rejects=1)
    (rejection,) = shards.rejections("vcr", "train")
    assert (rejection.code, "rationale_orig" in rejection.message) == ("E_FIELD_MISSING", True)


def _source(tree: Any, question: str, answer: str, rationale: str | None) -> Path:
    tree.picture("vcr1images/m/a@1.jpg", 64, 48)
    boxes = [[1, 2, 30, 40, 0.9], [40, 1, 50, 20, 0.9], [20, 5, 60, 48, 0.8]]
    tree.json("vcr1images/m/a@1.json", {"boxes": boxes, "width": 64, "height": 48})
    record: dict[str, Any] = {
        "objects": ["person", "trafficlight", "person"],
        "img_fn": "m/a@1.jpg",
        "metadata_fn": "m/a@1.json",
        "annot_id": "train-0",
        "question": ["Why", "is", [0], "near", [1], "?"],
        "answer_choices": [[[0], "waits", "."], ["a"], ["b"], ["c"]],
        "rationale_choices": [["a"], [[1], "is", "red", "."], ["b"], ["c"]],
        "answer_label": 0,
        "rationale_label": 1,
        "question_orig": question,
        "answer_orig": answer,
    }
    if rationale is not None:
        record["rationale_orig"] = rationale
    tree.lines("train.jsonl", [record])
    return Path(tree.root)
