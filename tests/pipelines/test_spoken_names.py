import pytest

from pipelines.class_names import ObjectClass, named_classes
from pipelines.spoken_names import Lexicon, Utterance, plurals, with_mentions

CLASSES = named_classes(
    ["dog", "person", "traffic_light", "scissors", "sheep", "orange_(fruit)", "mouse_(rodent)",
     "hot_dog", "bus_(vehicle)"],
    [["dog", "puppy"], ["man", "woman", "person"], ["stoplight"], [], [], ["orange"], [], [],
     ["bus"]],
)  # fmt: skip
#: Of the first seven the picture holds one each; the last two are only known of.
REGIONS: dict[int, ObjectClass] = {i + 1: cls for i, cls in enumerate(CLASSES[:7])}


def spoken(*turns: str, first_is_answer: bool = True) -> list[str]:
    dialogue = [
        Utterance(text=text, is_answer=(i % 2 == 0) == first_is_answer)
        for i, text in enumerate(turns)
    ]
    return with_mentions(dialogue, Lexicon(REGIONS))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The dog is old.", "The dog (<region1>) is old."),
        ("Near the small black dog, he", "Near the small black dog (<region1>), he"),
        ("his traffic light", "his traffic light (<region3>)"),
        ("The scissors are open", "The scissors (<region4>) are open"),
        ("a man. The man and the dog.", "a man. The man (<region2>) and the dog (<region1>)."),
        ("In the photo, a dog sits.", "In the photo, a dog (<region1>) sits."),
        ("There is a dog on a mat.", "There is a dog (<region1>) on a mat."),
        ("Use <dog> or the dog.", "Use <<dog> or the dog (<region1>)."),
        ("the dog (brown)", "the dog (<region1>) (brown)"),
    ],
)
def test_a_name_that_leaves_no_doubt_is_followed_by_its_mention(text: str, expected: str) -> None:
    assert spoken(text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "A dog is a good friend.",  # dogs at large
        "dog", "Dog is here.", "that big-hearted dog is",  # no determiner, or none we are sure of
        "The dog food is gone.", "The dog's tail.", "The dog-friendly park", "the doghouse is",
        "The hot dog is gone.",  # another class's longer name
        "the hotdog is",
        "the dog is beside two dogs", "the dog and another dog", "each dog", "the dogs are",
        "The man sees the woman.",  # one class by two names: two people, perhaps
        "The person is a woman.",
        "The traffic, light and slow", "The traffic\u2014light is",
        "The sheep is here.",  # or are they many?
        "The orange is round.", "the orange and white cat",  # a colour
        "The mouse is here and the mice are",
        "There is no dog in the image.", "There isn't a dog in the image.",
        "If there is a dog in the picture",
        "the bus is", "the \n", "",
    ],
)  # fmt: skip
def test_what_leaves_doubt_is_left_alone(text: str) -> None:
    assert spoken(text) == [text]


def test_a_question_may_not_give_the_answer_away() -> None:
    asked = spoken("Is there a dog in the image?", "The dog is.", first_is_answer=False)
    assert asked == ["Is there a dog in the image?", "The dog (<region1>) is."]
    asked = spoken("What is the dog doing?", "It sleeps.", first_is_answer=False)
    assert asked == ["What is the dog (<region1>) doing?", "It sleeps."]


def test_each_turn_carries_a_mention_once_and_any_turn_may_forbid_it() -> None:
    assert spoken("The dog is where the dog was.", "The dog is.") == [
        "The dog (<region1>) is where the dog was.",
        "The dog (<region1>) is.",
    ]
    assert spoken("The dog is.", "The man is.", "Two dogs.") == [
        "The dog is.",
        "The man (<region2>) is.",
        "Two dogs.",
    ]


def test_long_texts_take_no_long_time() -> None:
    assert len(spoken("a dog " * 50_000)) == 1


def test_plurals() -> None:
    assert plurals("dog") == ("dogs",)
    assert plurals("traffic light") == ("traffic lights",)
    assert plurals("bus") == ("buses", "buss")
    assert plurals("baby") == ("babies",)
    assert plurals("knife") == ("knives",)
    assert plurals("person") == ("people", "persons")
    assert plurals("scissors") == ()


def test_a_word_of_two_classes_means_neither() -> None:
    bats = named_classes(
        ["bat_(animal)", "baseball_bat", "Band_Aid"], [["bat"], ["bat", "baseball_bat"], []]
    )
    assert [cls.label for cls in bats] == ["bat", "baseball bat", "Band Aid"]
    assert [cls.words for cls in bats] == [(), ("baseball bat",), ("band aid",)]
    assert with_mentions(
        [Utterance(text="The bat is. The baseball bat is.", is_answer=True)],
        Lexicon(dict(enumerate(bats, 1))),
    ) == ["The bat is. The baseball bat (<region2>) is."]
