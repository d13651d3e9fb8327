"""Expressions that tell one object of a miniature scene from the others, and the way back.

Three registers, as RefCOCO, RefCOCO+ and RefCOCOg have them: short with places, short without any,
whole noun phrases with a relation. Every expression fits one object of its scene alone, by
`referents`, which reads any of them and is what makes them safe to use.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from pipelines.miniature_language import (
    PLACES,
    describe,
    read_description,
    read_relation,
    with_article,
)
from pipelines.miniature_scene import PREDICATES, SHAPES, Scene, Thing, holds, place_of, relation
from pipelines.miniature_statements import SUPERLATIVES

#: As players of a game wrote: `star top left`.
SHORT_PLACES: dict[tuple[int, int], str] = {
    (0, 0): "top left",
    (0, 1): "at top",
    (0, 2): "top right",
    (1, 0): "on left",
    (1, 1): "in middle",
    (1, 2): "on right",
    (2, 0): "bottom left",
    (2, 1): "at bottom",
    (2, 2): "bottom right",
}
#: Before a noun, and what it compares.
SHORT_SUPERLATIVES = {
    "leftmost": "furthest left",
    "rightmost": "furthest right",
    "highest": "highest",
    "lowest": "lowest",
}
NOUNS = (*SHAPES, "shape", "one")

_ATTRIBUTES = ("size", "colour", "pattern")
_PICTURE = re.compile(r" (?:of|in) the picture$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Expression:
    """What is said about one object."""

    kind: str  #: attributes, place, superlative, relation or only
    text: str
    #: characters [begin, end) of the noun phrase that names the object, and of those that do not
    root: tuple[int, int]
    others: tuple[tuple[int, int], ...] = ()


def short_with_place(scene: Scene, index: int, rng: random.Random, count: int) -> list[Expression]:
    """Up to `count` expressions as RefCOCO has them: `red circle top left`, `leftmost star`."""
    thing = scene.things[index]
    found = [
        ("superlative", f"{word} {noun}") for word in SHORT_SUPERLATIVES for noun in _nouns(thing)
    ]
    place = SHORT_PLACES[place_of(scene, thing)]
    found += [("place", f"{named} {place}") for named in _named(thing)]
    # a bare attribute is what players write where it is enough, so it comes first now and then
    found += [("attributes", named) for named in _named(thing)]
    return _choose(scene, index, found, rng, count)


def short_without_place(
    scene: Scene, index: int, rng: random.Random, count: int
) -> list[Expression]:
    """Up to `count` expressions as RefCOCO+ has them: looks alone, `striped star`."""
    found = [("attributes", named) for named in _named(scene.things[index])]
    return _choose(scene, index, found, rng, count)


def long_phrases(scene: Scene, index: int, rng: random.Random, count: int) -> list[Expression]:
    """Up to `count` expressions as RefCOCOg has them, what they name described in full."""
    thing = scene.things[index]
    full = with_article(describe(thing))
    found = [("place", f"{full} {PLACES[place_of(scene, thing)]} of the picture")]
    for word in ("shape", "colour", "pattern"):
        value = getattr(thing, word)
        noun = value if word == "shape" else f"{value} shape"
        found.append(("only", f"the only {noun} in the picture"))
    for other in scene.things:
        predicate = relation(thing, other) if other is not thing else None
        if predicate is not None:
            found.append(("relation", f"{full} {predicate} the {describe(other)}"))
    return _choose(scene, index, found, rng, count)


def referents(scene: Scene, text: str) -> list[int]:
    """Return the objects that an expression fits, by their indices; of what it does not say, all.

    Reads any text and never raises. A superlative fits the one object that it is true of.
    """
    text = _PICTURE.sub("", text.lower().strip(" ."))
    stated = read_relation(text)
    if stated is not None:
        return [
            i
            for i, a in enumerate(scene.things)
            if stated.subject.fits(a)
            and any(
                stated.other.fits(b) and holds(a, stated.predicate, b)
                for b in scene.things
                if b is not a
            )
        ]
    place: str | None = None
    for names in (PLACES, SHORT_PLACES):
        endings = [words for words in names.values() if text.endswith(f" {words}")]
        if endings:
            place = max(endings, key=len)
            cell = next(cell for cell, words in names.items() if words == place)
            text = text.removesuffix(place).strip()
            break
    said = read_description(text)
    is_bare = said.size is said.colour is said.pattern is said.shape is None
    fitting = [
        i
        for i, thing in enumerate(scene.things)
        if (is_bare or said.fits(thing)) and (place is None or place_of(scene, thing) == cell)
    ]
    first = text.split(" ")[0]
    if first in SHORT_SUPERLATIVES and fitting:
        measure = SUPERLATIVES[SHORT_SUPERLATIVES[first]]
        return [max(fitting, key=lambda i: measure(scene.things[i]))]
    return fitting


def _nouns(thing: Thing) -> tuple[str, str]:
    return thing.shape, "shape"


def _named(thing: Thing) -> Iterator[str]:
    """Every way to name a thing by its looks, the shortest first."""
    for count in range(len(_ATTRIBUTES) + 1):
        for words in combinations(_ATTRIBUTES, count):
            yield describe(thing, words)
            if words:
                yield " ".join([*(getattr(thing, word) for word in words), "one"])


def _choose(
    scene: Scene,
    index: int,
    candidates: list[tuple[str, str]],
    rng: random.Random,
    count: int,
) -> list[Expression]:
    """Draw among the expressions that fit this object alone, of different kinds while there are."""
    fitting = [(kind, text) for kind, text in candidates if referents(scene, text) == [index]]
    chosen: list[tuple[str, str]] = []
    while fitting and len(chosen) < count:
        kinds = {kind for kind, _ in chosen}
        fresh = sorted({kind for kind, _ in fitting} - kinds) or sorted({k for k, _ in fitting})
        kind = rng.choice(fresh)
        of_kind = [entry for entry in fitting if entry[0] == kind]
        # the shortest few: nobody says four words where two will do
        entry = rng.choice(of_kind[:4])
        chosen.append(entry)
        fitting.remove(entry)
    return [_spanned(kind, text) for kind, text in chosen]


def _spanned(kind: str, text: str) -> Expression:
    """Find the noun phrases: the first names the object."""
    ends = [match.end() for match in re.finditer(rf"\b(?:{'|'.join(NOUNS)})\b", text)]
    root = (0, ends[0])
    others: tuple[tuple[int, int], ...] = ()
    if kind == "relation":
        predicate = next(p for p in PREDICATES if f" {p} the " in text)
        others = ((text.index(f" {predicate} ") + len(predicate) + 2, ends[-1]),)
    return Expression(kind=kind, text=text, root=root, others=others)
