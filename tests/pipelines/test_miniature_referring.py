"""Referring expressions on a scene that a person can check."""

import random
from collections.abc import Callable

import pytest

from pipelines.miniature_referring import (
    Expression,
    long_phrases,
    referents,
    short_with_place,
    short_without_place,
)
from pipelines.miniature_scene import Scene, Thing


def thing(words: str, x: float, y: float) -> Thing:
    size, colour, pattern, shape = words.split()
    return Thing(
        shape=shape,
        colour=colour,
        size=size,
        pattern=pattern,
        box_xyxy=(x - 12, y - 12, x + 12, y + 12),
        angle=0,
        is_held_out=False,
    )


#: Two circles above, a star and a circle below.
SCENE = Scene(
    index=0,
    is_evaluation=False,
    is_close_up=False,
    width=120,
    height=120,
    background="plain",
    things=(
        thing("large red striped circle", 20, 20),
        thing("small red plain circle", 100, 22),
        thing("small blue dotted star", 20, 100),
        thing("small green plain circle", 100, 104),
    ),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("circle", [0, 1, 3]),
        ("red circle", [0, 1]),
        ("small red one", [1]),
        ("red circle top left", [0]),
        ("circle bottom left", []),
        ("one at top", []),
        ("leftmost circle", [0]),
        ("highest shape", [0]),
        ("lowest circle", [3]),
        ("rightmost star", [2]),
        ("the only star in the picture", [2]),
        ("the only red shape in the picture", [0, 1]),
        ("a small blue dotted star at the bottom left of the picture", [2]),
        ("a small blue dotted star at the bottom right of the picture", []),
        ("a small red plain circle right of the large red striped circle", [1]),
        ("a circle above the small blue dotted star", [0]),
        ("a circle below the small blue dotted star", []),
        ("heart", []),
        ("", [0, 1, 2, 3]),
    ],
)
def test_an_expression_fits_what_it_says(text: str, expected: list[int]) -> None:
    assert referents(SCENE, text) == expected


Say = Callable[[Scene, int, random.Random, int], list[Expression]]


@pytest.mark.parametrize("say", [short_with_place, short_without_place, long_phrases])
def test_expressions_fit_their_object_alone(say: Say) -> None:
    for index in range(len(SCENE.things)):
        for draw in range(20):
            said = say(SCENE, index, random.Random(draw), 3)
            assert said  # every object can be told from the others
            for expression in said:
                assert referents(SCENE, expression.text) == [index]
                begin, end = expression.root
                noun = expression.text[begin:end].split()[-1]
                assert noun in (SCENE.things[index].shape, "shape", "one")


def test_only_the_first_register_speaks_of_places() -> None:
    texts = {
        expression.text
        for index in range(4)
        for draw in range(40)
        for expression in short_without_place(SCENE, index, random.Random(draw), 3)
    }
    assert {"striped circle", "small red one", "star", "green one"} <= texts
    words = {word for text in texts for word in text.split()}
    looks = {"large", "small", "red", "blue", "green", "striped", "plain", "dotted"}
    assert words <= looks | {"circle", "star", "one"}
