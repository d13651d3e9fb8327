"""Words for the miniature world's scenes, and the way back: which statements in a text are true.

The language is small and regular (size, colour, pattern, shape, in that order; nine places; four
relations), so that a small model can learn it and every caption can be checked against the scene.
The readers take any text, a model's answers too, and never raise.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.miniature_scene import (
    COLOURS,
    PATTERNS,
    PREDICATES,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    clear_pairs,
    holds,
    place_of,
)

#: Words for row and column of `place_of`.
PLACES: dict[tuple[int, int], str] = {
    (0, 0): "at the top left",
    (0, 1): "at the top",
    (0, 2): "at the top right",
    (1, 0): "on the left",
    (1, 1): "in the middle",
    (1, 2): "on the right",
    (2, 0): "at the bottom left",
    (2, 1): "at the bottom",
    (2, 2): "at the bottom right",
}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")

_PLURALS = {shape: shape + ("es" if shape.endswith("s") else "s") for shape in SHAPES}


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What a phrase says about one object; None where it says nothing, or contradicts itself."""

    size: str | None = None
    colour: str | None = None
    pattern: str | None = None
    shape: str | None = None

    def fits(self, thing: Thing) -> bool:
        """Whether everything said is true of `thing`, and something is said."""
        said = self._said()
        return bool(said) and all(getattr(thing, name) == value for name, value in said)

    def is_full(self) -> bool:
        """Whether all four attributes are named."""
        return len(self._said()) == 4

    def _said(self) -> list[tuple[str, str]]:
        pairs = [
            ("size", self.size),
            ("colour", self.colour),
            ("pattern", self.pattern),
            ("shape", self.shape),
        ]
        return [(name, value) for name, value in pairs if value is not None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Relation:
    """A stated relation between two described objects."""

    subject: Description
    predicate: str
    other: Description


def describe(thing: Thing, words: Sequence[str] = ("size", "colour", "pattern")) -> str:
    """Return the named attributes and the shape: `large red striped circle`."""
    return " ".join([*(getattr(thing, word) for word in words), thing.shape])


def with_article(phrase: str) -> str:
    """Put `a` or `an` before a phrase."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def relation_phrase(subject: Thing, predicate: str, other: Thing) -> str:
    """Return e.g. `small blue plain star left of the large red striped circle`."""
    return f"{describe(subject)} {predicate} the {describe(other)}"


def scene_captions(scene: Scene, rng: random.Random) -> list[tuple[str, str, tuple[int, ...]]]:
    """Five captions of a whole scene, as COCO has five a picture.

    Returns:
        (kind, text, indices of the things spoken of) each.
    """
    order = sorted(range(len(scene.things)), key=lambda i: (place_of(scene, scene.things[i]), i))
    things = [scene.things[i] for i in order]
    placed = [f"{with_article(describe(t))} {PLACES[place_of(scene, t)]}" for t in things]
    short = [
        f"{with_article(describe(t, ('colour',)))} {PLACES[place_of(scene, t)]}" for t in things
    ]
    one = rng.choice(order)
    thing = scene.things[one]
    single = f"{with_article(describe(thing))} {PLACES[place_of(scene, thing)]}"
    count = f"{NUMBERS[len(things)]} shapes on a {scene.background} background"
    captions = [
        ("list", join(placed), tuple(order)),
        ("list", join(short), tuple(order)),
        ("single", single, (one,)),
        ("count", count, tuple(order)),
    ]
    pairs = clear_pairs(scene)
    if pairs:
        i, j, predicate = rng.choice(pairs)
        subject, other = scene.things[i], scene.things[j]
        text = f"{with_article(describe(subject))} {predicate} {with_article(describe(other))}"
        captions.append(("relation", text, (i, j)))
    else:
        bare = [with_article(describe(t, ("colour",))) for t in things]
        captions.append(("list", join(bare), tuple(order)))
    return captions


def close_up_captions(scene: Scene) -> list[tuple[str, str, tuple[int, ...]]]:
    """Five captions of a close-up, from a bare name to all attributes, as one would label it."""
    thing = scene.things[0]
    wordings = ((), ("colour",), ("pattern",), ("colour", "pattern"), ("size", "colour", "pattern"))
    return [("close-up", describe(thing, words), (0,)) for words in wordings]


def join(parts: Sequence[str]) -> str:
    """Join phrases by commas and a last `and`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def caption_attributes(text: str) -> Description:
    """Read the first object that a caption describes.

    Everything up to the first shape word counts. A kind of attribute named twice with different
    values says nothing, so that a caption cannot be right by naming everything.
    """
    return _describe(_first_object(_words(text)))


def read_description(text: str) -> Description:
    """Read all attribute words of a text as one object's (or one group's)."""
    return _describe(_words(text))


def is_caption_right(text: str, thing: Thing) -> bool:
    """Whether the caption names all four attributes of `thing`, each rightly."""
    said = caption_attributes(text)
    return said.is_full() and said.fits(thing)


def read_relation(text: str) -> Relation | None:
    """Read `<object> left of the <object>`; None where the text states no relation."""
    words = _words(text)
    for position in range(1, len(words)):
        for predicate in PREDICATES:
            parts = predicate.split()
            if words[position : position + len(parts)] == parts:
                return Relation(
                    subject=_describe(words[:position]),
                    predicate=predicate,
                    other=_describe(_first_object(words[position + len(parts) :])),
                )
    return None


def relation_is_true(scene: Scene, text: str) -> bool | None:
    """Whether some two different objects of the scene fit the stated relation.

    Returns:
        None where the text states no relation.
    """
    stated = read_relation(text)
    if stated is None:
        return None
    return any(
        stated.subject.fits(a) and stated.other.fits(b) and holds(a, stated.predicate, b)
        for a in scene.things
        for b in scene.things
        if a is not b
    )


def caption_is_true(scene: Scene, text: str) -> bool:
    """Whether everything that a whole-picture caption states holds in the scene.

    A caption is a relation, a count of shapes with a background, or a list of objects with or
    without places; what is none of these is not true. A list may leave objects out, but names none
    twice.
    """
    relation_holds = relation_is_true(scene, text)
    if relation_holds is not None:
        return relation_holds
    count = re.fullmatch(r"(\w+) shapes on a (\w+) background", text.strip(" .").lower())
    if count is not None:
        number = NUMBERS.index(count[1]) if count[1] in NUMBERS else -1
        return number == len(scene.things) and count[2] == scene.background
    left = list(scene.things)
    for part in re.split(r", | and ", text.strip(" .").lower()):
        said = _describe(_first_object(_words(part)))
        place = next((words for words in _LONGEST_PLACES if words in part), None)
        fitting = [
            thing
            for thing in left
            if said.fits(thing) and place in (None, PLACES[place_of(scene, thing)])
        ]
        if not fitting:
            return False
        left.remove(fitting[0])
    return True


#: `at the top left` before `at the top`, which it begins with.
_LONGEST_PLACES = sorted(PLACES.values(), key=len, reverse=True)
_SINGULARS = {plural: shape for shape, plural in _PLURALS.items()}
_KINDS: dict[str, tuple[str, ...]] = {
    "size": SIZES,
    "colour": COLOURS,
    "pattern": PATTERNS,
    "shape": SHAPES,
}


def plural(shape: str) -> str:
    """Return the plural of a shape's name."""
    return _PLURALS[shape]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _first_object(words: list[str]) -> list[str]:
    for position, word in enumerate(words):
        if word in SHAPES or word in _SINGULARS:
            return words[: position + 1]
    return words


def _describe(words: list[str]) -> Description:
    found: dict[str, str | None] = {}
    for word in words:
        word = _SINGULARS.get(word, word)
        for kind, values in _KINDS.items():
            if word in values:
                found[kind] = None if found.get(kind, word) != word else word
    return Description(**found)
