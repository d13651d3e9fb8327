"""Statements about a scene in VCR's token form: how they are put together, and whether they hold.

The reader is written against the language, not against the code that asks the questions, so that it
can check that exactly one option of a question is true. It takes any tokens and never raises.
"""

import math
from collections.abc import Callable, Sequence

from pipelines.miniature_language import NUMBERS, PLACES, read_description
from pipelines.miniature_scene import PREDICATES, Scene, Thing, holds, place_of

#: Words and groups of 0-based object indices.
Tokens = tuple[str | tuple[int, ...], ...]

#: What each superlative compares; the largest value wins.
SUPERLATIVES: dict[str, Callable[[Thing], float]] = {
    "furthest left": lambda thing: -thing.centre_xy[0],
    "furthest right": lambda thing: thing.centre_xy[0],
    "highest": lambda thing: -thing.centre_xy[1],
    "lowest": lambda thing: thing.centre_xy[1],
    "largest": lambda thing: thing.extent_px,
    "smallest": lambda thing: -thing.extent_px,
}


def say(*parts: str | tuple[int, ...]) -> Tokens:
    """Put tokens together from texts, split at spaces, and groups of indices."""
    tokens: list[str | tuple[int, ...]] = []
    for part in parts:
        tokens += part.split() if isinstance(part, str) else [part]
    return tuple(tokens)


def original_text(tokens: Sequence[str | Sequence[int]]) -> str:
    """Return plain text as VCR's `*_orig` fields have it: objects by numbers from 1."""
    return _tidy([t if isinstance(t, str) else _numbers(t) for t in tokens])


def bracketed(tokens: Sequence[str | Sequence[int]]) -> str:
    """Return plain text with objects as the token lists have them: `[0] is left of [2]`."""
    return _tidy([t if isinstance(t, str) else f"[{','.join(map(str, t))}]" for t in tokens])


def distance_px(a: Thing, b: Thing) -> float:
    """Distance between the middles of two things."""
    return math.dist(a.centre_xy, b.centre_xy)


def statement_is_true(scene: Scene, tokens: Sequence[str | Sequence[int]]) -> bool:
    """Whether an answer or rationale holds in the scene; what cannot be read does not."""
    parts = [part if isinstance(part, str) else tuple(part) for part in tokens if part != "."]
    mentioned = [i for part in parts if not isinstance(part, str) for i in part]
    if not parts or not all(0 <= i < len(scene.things) for i in mentioned):
        return False
    if isinstance(parts[0], str):
        return _count_is_true(scene, [part for part in parts if isinstance(part, str)])
    # `[0] is … and [1] is …`: a clause begins at each group that follows an `and`
    starts = [0] + [
        k + 1
        for k in range(len(parts) - 1)
        if parts[k] == "and" and not isinstance(parts[k + 1], str)
    ]
    ends = [start - 1 for start in starts[1:]] + [len(parts)]
    return all(_clause_is_true(scene, parts[a:b]) for a, b in zip(starts, ends, strict=True))


def _numbers(group: Sequence[int]) -> str:
    numbers = [str(i + 1) for i in group]
    return numbers[0] if len(numbers) == 1 else f"{', '.join(numbers[:-1])} and {numbers[-1]}"


def _tidy(words: Sequence[str]) -> str:
    text = " ".join(words)
    for mark in ".,?":
        text = text.replace(f" {mark}", mark)
    return text


def _count_is_true(scene: Scene, words: list[str]) -> bool:
    """`Two shapes are red`."""
    number = words[0].lower()
    said = read_description(" ".join(words[1:]))
    return number in NUMBERS and NUMBERS.index(number) == sum(map(said.fits, scene.things))


def _clause_is_true(scene: Scene, clause: list[str | tuple[int, ...]]) -> bool:
    """`[0] is …`, with at most one more group of things in it."""
    groups = [k for k, part in enumerate(clause) if not isinstance(part, str)]
    subjects = [scene.things[i] for part in clause[:1] if not isinstance(part, str) for i in part]
    if len(groups) == 1:
        words = [part for part in clause[1:] if isinstance(part, str)]
        return words[:1] in (["is"], ["are"]) and _property_is_true(scene, subjects, words[1:])
    if len(groups) != 2 or len(subjects) != 1:
        return False
    middle = " ".join(str(part) for part in clause[1 : groups[1]])
    after = " ".join(str(part) for part in clause[groups[1] + 1 :])
    others = clause[groups[1]]
    if isinstance(others, str) or len(others) != 1:
        return False
    return _relation_is_true(scene, subjects[0], middle, scene.things[others[0]], after)


def _property_is_true(scene: Scene, subjects: list[Thing], words: list[str]) -> bool:
    text = " ".join(words)
    if text in SUPERLATIVES:
        best = max(scene.things, key=SUPERLATIVES[text])
        return subjects == [best]
    if words[:2] == ["the", "only"]:
        said = read_description(text)
        return [t for t in scene.things if said.fits(t)] == [
            t for t in scene.things if t in subjects
        ]
    for place in sorted(PLACES.values(), key=len, reverse=True):
        if text.endswith(place):
            if any(PLACES[place_of(scene, thing)] != place for thing in subjects):
                return False
            text = text.removesuffix(place).strip()
            break
    said = read_description(text)
    return not text or all(said.fits(thing) for thing in subjects)


def _relation_is_true(scene: Scene, a: Thing, middle: str, b: Thing, after: str) -> bool:
    predicate = middle.removeprefix("is ")
    if predicate in PREDICATES:
        return not after and holds(a, predicate, b)
    if predicate == "closest to":
        others = [thing for thing in scene.things if thing is not b]
        return not after and min(others, key=lambda thing: distance_px(thing, b)) is a
    if predicate not in ("larger than", "smaller than"):
        return False
    if (a.extent_px > b.extent_px) != (predicate == "larger than"):
        return False
    sides = {"and further left": -1, "and further right": 1}
    offset = a.centre_xy[0] - b.centre_xy[0]
    return not after or sides.get(after, 0) * offset > 0
