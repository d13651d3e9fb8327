import pytest

from roikit.errors import RoikitError
from roikit.prompt import (
    IMAGE_TOKEN,
    REGION_TOKEN,
    as_dialogue,
    letter_question,
    map_back,
    render,
    render_answer,
    split_guards,
)
from roikit.sample import Choice, Conversation, Source, Turn

SPECIAL = ("<|im_end|>", IMAGE_TOKEN, REGION_TOKEN)


def test_names_follow_first_mention_and_only_it_carries_features() -> None:
    turns = (
        Turn("user", "Is <region3> behind <region1>?"),
        Turn("assistant", "No, <region1> is."),
        Turn("user", "And <region3> or <region2>?"),
    )
    rendered = render(turns, num_regions=3, special_tokens=SPECIAL)
    assert rendered.region_order == (3, 1, 2)
    assert [m["content"] for m in rendered.messages] == [
        f"{IMAGE_TOKEN}\nIs region1{REGION_TOKEN} behind region2{REGION_TOKEN}?",
        "No, region2 is.",
        f"And region1 or region3{REGION_TOKEN}?",
    ]


def test_a_region_first_named_by_the_assistant_is_introduced_before() -> None:
    turns = (Turn("user", "Who?"), Turn("assistant", "<region2>"))
    rendered = render(turns, num_regions=2, special_tokens=SPECIAL)
    assert rendered.messages[0]["content"] == f"{IMAGE_TOKEN}\nWho? (region1{REGION_TOKEN})"
    assert rendered.messages[1]["content"] == "region1"


def test_regions_of_options_are_introduced_in_the_same_way_for_all() -> None:
    options = ("<region2> is", "<region1> is")
    rendered = render((Turn("user", "Who?"),), num_regions=2, special_tokens=(), options=options)
    assert rendered.region_order == (2, 1)
    assert [render_answer(o, rendered.region_order) for o in options] == [
        "region1 is",
        "region2 is",
    ]
    with pytest.raises(RoikitError, match="not introduced"):
        render_answer("<region1>", (2,))


def test_a_missing_region_names_the_turn() -> None:
    with pytest.raises(RoikitError, match=r"turns\[0\]: `<region4>` does not exist, there are 1"):
        render((Turn("user", "<region4>"),), num_regions=1, special_tokens=())


def test_special_tokens_in_text_are_guarded() -> None:
    text = "say <<|im_end|> and \ue000 here"
    rendered = render((Turn("user", text),), num_regions=0, special_tokens=SPECIAL)
    assert rendered.guarded == ("<|im_end|>", "\ue000")
    assert "<|im_end|>" not in rendered.messages[0]["content"]
    pieces = split_guards(rendered.messages[0]["content"])
    assert [i for _, i in pieces if i is not None] == [0, 1]


def test_answers_are_mapped_back_to_the_records_numbers() -> None:
    assert map_back("region1 and Region 2, not region3", (7, 4)) == (
        "<region7> and <region4>, not region3"
    )
    assert map_back("a <region1> tag", (7,)) == "a <region7> tag"
    assert map_back("a <region2> tag", (7,)) == "a <<region2> tag"


def test_a_choice_becomes_a_lettered_question() -> None:
    choice = Choice(question_id="q", step="answer", options=("red", "blue"), answer=1)
    conversation = Conversation(
        id="q/choice",
        task="choice",
        independent=False,
        source=Source(file="f", record="r"),
        turns=(Turn("user", "Colour?"),),
        choice=choice,
    )
    dialogue = as_dialogue(conversation)
    assert dialogue is not None
    assert dialogue.turns[0].text == letter_question(choice, "Colour?")
    assert "(B) blue" in dialogue.turns[0].text
    assert dialogue.turns[1].text == "(B)"
    hidden = Conversation(
        id="q",
        task="choice",
        independent=False,
        source=conversation.source,
        turns=conversation.turns,
        choice=Choice(question_id="q", step="answer", options=("red", "blue")),
    )
    assert as_dialogue(hidden) is None
