from collections import Counter

import msgspec

from roikit.evaluate.benchmarks import get
from roikit.evaluate.items import questions, read_items, region_items, regions_of


def test_a_region_is_one_item_and_its_further_captions_are_references(world):
    conversations = [
        world.region_conversation(
            "caption", [("Describe <region2>.", "a dog"), ("And <region1>?", "a cat")]
        ),
        world.region_conversation("caption", [("What is in <region2>?", "a brown  dog")]),
        world.region_conversation("category", [("What is <region1>?", "cat")]),
    ]
    sample, _ = world.sample(0, ["cat", "dog"], conversations, dataset="vg")
    dog, cat = region_items(sample, "caption", Counter())
    assert (dog.id, dog.native_id, dog.region) == ("vg-val-000000000#2", "01", 2)
    assert dog.references == ("a dog", "a brown dog")
    assert [turn.text for turn in dog.turns] == ["Describe <region2>."]
    assert cat.references == ("a cat",)


def test_what_gives_no_item_is_counted_by_reason(world):
    conversation = world.region_conversation(
        "caption",
        [
            ("Describe the picture.", "a cat"),
            ("<region1> and <region2>?", "pets"),
            ("<region1>?", "."),
        ],
    )
    sample, _ = world.sample(0, ["cat", "dog"], [conversation], dataset="vg")
    skipped: Counter[str] = Counter()
    assert region_items(sample, "caption", skipped) == []
    assert skipped == {"the question is not about one region": 2, "the reference is empty": 1}


def test_a_question_joins_its_two_steps(world):
    sample, _ = world.sample(
        0, ["cat", "dog"], world.choice_conversations(5, "cat", 2), dataset="vcr"
    )
    (question,) = questions(sample, Counter())
    assert question.id == "q5"
    assert [(step.step, step.answer) for step in question.steps] == [
        ("answer", 2),
        ("rationale", 2),
    ]
    assert regions_of(question) == (1, 2)


def test_steps_without_a_published_answer_are_counted(world):
    conversations = [
        msgspec.structs.replace(c, choice=msgspec.structs.replace(c.choice, answer=None))
        for c in world.choice_conversations(0, "cat", 0)
    ]
    sample, _ = world.sample(0, ["cat", "dog"], conversations, dataset="vcr")
    skipped: Counter[str] = Counter()
    assert questions(sample, skipped) == []
    assert skipped == {"the answer is not published": 2}


def test_a_limit_stops_the_reading_of_samples(category_samples):
    read = []

    def samples():
        for sample in category_samples:
            read.append(sample)
            yield sample

    items = list(read_items(get("coco-category"), samples(), limit=4, skipped=Counter()))
    assert [item.id[-3:] for item, _, _ in items] == ["0#1", "0#2", "0#3", "1#1"]
    assert len(read) == 2
    # the picture's other regions are known though the limit cuts them away
    assert [other.region for other in items[-1][1]] == [1, 2]
