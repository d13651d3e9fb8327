"""VCR-like questions about a scene, with answers and rationales that follow from it.

Four options each, of one type, exactly one true. Nothing but the picture tells which: the options
of a question are either values that are right equally often (colours, shapes, numbers, relations),
or the four combinations of two values of two attributes, or objects in random order; a `Tally`
keeps the right answers of a kind of question evenly spread. Training questions never put a
held-out colour and shape together, not even in a wrong option.
"""

import functools
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeVar

import msgspec

from pipelines.miniature_language import NUMBERS, PLACES, plural, with_article
from pipelines.miniature_scene import (
    COLOURS,
    HELD_OUT_PAIRS,
    PATTERNS,
    PREDICATES,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    build_scene,
    place_of,
    relation,
)
from pipelines.miniature_statements import SUPERLATIVES, Tokens, distance_px, say

T = TypeVar("T")

_VALUES: dict[str, tuple[str, ...]] = {
    "size": SIZES,
    "colour": COLOURS,
    "pattern": PATTERNS,
    "shape": SHAPES,
}
_SPOKEN = ("size", "colour", "pattern")  #: attributes in the order in which they are spoken
_COUNTED = NUMBERS[1:5]
_COMPARISONS = tuple(f"{a}, {b}" for a in ("larger", "smaller") for b in ("left", "right"))
#: Right answers that each kind of question spreads evenly over.
KINDS: dict[str, tuple[str, ...]] = {
    "colour": COLOURS,
    "shape": SHAPES,
    "look": ("size colour", "size pattern", "colour pattern"),
    "where": PREDICATES,
    "which": tuple(SUPERLATIVES),
    "closest": ("",),
    "compare": _COMPARISONS,
    "common": ("size", "colour", "pattern", "shape"),
    "only": ("size", "colour", "pattern", "shape"),
    # by attribute: with 2 sizes more share one than with 8 colours
    "count": tuple(f"{kind}, {n}" for kind in _SPOKEN for n in _COUNTED),
}
#: Kinds that the boxes alone answer, asked half as often as those that take a look at the picture.
BOX_KINDS = frozenset({"where", "which", "closest", "compare"})
#: What is asked about must be clear to the eye: differences of less are not asked about.
_CLEAR_EXTENT_PX = 5.0
_CLEAR_OFFSET_PX = 8.0
_CLEAR_DISTANCE_RATIO = 1.3


class Question(msgspec.Struct, frozen=True):
    """A question with its options, in VCR's token form (indices from 0)."""

    kind: str
    value: str  #: what its right answer counts as in the tally
    about: tuple[int, ...]  #: things that question and right answer speak of
    question: Tokens
    answers: tuple[Tokens, ...]
    answer_label: int
    rationales: tuple[Tokens, ...]
    rationale_label: int


class Tally:
    """How often each kind of question, and each right answer of it, was asked so far."""

    def __init__(self) -> None:
        self._values: Counter[tuple[str, str]] = Counter()
        self._kinds: Counter[str] = Counter()  #: questions of `BOX_KINDS` count twice

    def choose(self, candidates: Sequence[Question]) -> Question | None:
        """Take the candidate of the rarest kind, and of that the rarest right answer."""
        if not candidates:
            return None
        chosen = min(candidates, key=lambda c: (self._kinds[c.kind], self._values[c.kind, c.value]))
        self._values[chosen.kind, chosen.value] += 1
        self._kinds[chosen.kind] += 2 if chosen.kind in BOX_KINDS else 1
        return chosen

    def is_open(self, kind: str, value: str) -> bool:
        """Whether this right answer is not ahead of the others that its kind of question has."""
        return self._values[kind, value] <= min(self._values[kind, other] for other in KINDS[kind])


def ask(scene: Scene, rng: random.Random, tally: Tally, count: int) -> list[Question]:
    """Ask up to `count` questions of different kinds about `scene`."""
    candidates = _Writer(scene, rng, tally.is_open).candidates()
    asked: list[Question] = []
    while len(asked) < count:
        kinds = {question.kind for question in asked}
        chosen = tally.choose([c for c in candidates if c.kind not in kinds])
        if chosen is None:
            break
        asked.append(chosen)
    return asked


class _Writer:
    """Writes questions about one scene; each kind's method yields in random order."""

    def __init__(
        self, scene: Scene, rng: random.Random, is_open: Callable[[str, str], bool]
    ) -> None:
        self._scene = scene
        self._things = scene.things
        self._rng = rng
        self._is_open = is_open
        self._written: set[tuple[str, str]] = set()

    def candidates(self) -> list[Question]:
        """At most one question for each kind and right answer that is open, in random order."""
        kinds = (
            *(self.colour, self.shape, self.look, self.where, self.which),
            *(self.closest, self.compare, self.common, self.only, self.count),
        )
        return self._shuffled([question for kind in kinds for question in kind()])

    def colour(self) -> Iterator[Question]:
        for i in self._shuffled(range(len(self._things))):
            thing = self._things[i]
            if not self._wants("colour", thing.colour):
                continue
            wrong = self._others("colour", i)[:3]
            yield self._question(
                ("colour", thing.colour, (i,)),
                say("What colour is", (i,), "?"),
                [say((i,), f"is {colour} .") for colour in (thing.colour, *wrong)],
                self._described(i, fixed="colour"),
            )

    def shape(self) -> Iterator[Question]:
        for i in self._shuffled(range(len(self._things))):
            if not self._wants("shape", self._things[i].shape):
                continue
            shapes = (self._things[i].shape, *self._others("shape", i)[:3])
            yield self._question(
                ("shape", shapes[0], (i,)),
                say("What is", (i,), "?"),
                [say((i,), f"is {with_article(shape)} .") for shape in shapes],
                self._described(i, fixed="shape"),
            )

    def look(self) -> Iterator[Question]:
        for i in self._shuffled(range(len(self._things))):
            first, second = sorted(self._rng.sample(_SPOKEN, 2), key=_SPOKEN.index)
            if not self._wants("look", f"{first} {second}"):
                continue
            options = [say((i,), f"is {a} and {b} .") for a, b in self._square(i, first, i, second)]
            yield self._question(
                ("look", f"{first} {second}", (i,)),
                say("What does", (i,), "look like ?"),
                options,
                self._described(i, fixed=f"{first} {second}"),
            )

    def where(self) -> Iterator[Question]:
        for i, j in self._pairs():
            right = relation(self._things[i], self._things[j])
            if right is None or not self._wants("where", right):
                continue
            wrong = [predicate for predicate in PREDICATES if predicate != right]
            places = self._placed_pairs(i, j, right)
            yield self._question(
                ("where", right, (i, j)),
                say("Where is", (i,), "from", (j,), "?"),
                [say((i,), f"is {predicate}", (j,), ".") for predicate in (right, *wrong)],
                [say((i,), f"is {a} and", (j,), f"is {b} .") for a, b in places],
            )

    def which(self) -> Iterator[Question]:
        if len(self._things) < 4:
            return
        for words in self._shuffled(SUPERLATIVES):
            measure = SUPERLATIVES[words]
            order = sorted(range(len(self._things)), key=lambda i: measure(self._things[i]))
            best, second = order[-1], order[-2]
            lead = measure(self._things[best]) - measure(self._things[second])
            clear = _CLEAR_EXTENT_PX if words in ("largest", "smallest") else _CLEAR_OFFSET_PX
            if lead < clear or not self._wants("which", words):
                continue
            wrong = self._rng.sample(order[:-1], 3)
            yield self._question(
                ("which", words, (best,)),
                say(f"Which one is {words} ?"),
                [say((i,), f"is {words} .") for i in (best, *wrong)],
                self._described(best, fixed="size place"),
            )

    def closest(self) -> Iterator[Question]:
        if len(self._things) < 5:
            return
        for i in self._shuffled(range(len(self._things))):
            thing = self._things[i]
            others = [j for j in range(len(self._things)) if j != i]
            others.sort(key=lambda j: distance_px(thing, self._things[j]))
            near, second = (distance_px(thing, self._things[j]) for j in others[:2])
            if second < _CLEAR_DISTANCE_RATIO * near or not self._wants("closest", ""):
                continue
            wrong = self._rng.sample(others[1:], 3)
            yield self._question(
                ("closest", "", (i, others[0])),
                say("Which one is closest to", (i,), "?"),
                [say((j,), "is closest to", (i,), ".") for j in (others[0], *wrong)],
                self._described(others[0], fixed="place"),
            )

    def compare(self) -> Iterator[Question]:
        for i, j in self._pairs():
            a, b = self._things[i], self._things[j]
            longer, offset = a.extent_px - b.extent_px, a.centre_xy[0] - b.centre_xy[0]
            if abs(longer) < _CLEAR_EXTENT_PX or abs(offset) < _CLEAR_OFFSET_PX:
                continue
            sizes = ("larger", "smaller")[:: 1 if longer > 0 else -1]
            sides = ("left", "right")[:: 1 if offset < 0 else -1]
            if not self._wants("compare", f"{sizes[0]}, {sides[0]}"):
                continue
            yield self._question(
                ("compare", f"{sizes[0]}, {sides[0]}", (i, j)),
                say("How does", (i,), "compare to", (j,), "?"),
                [
                    say((i,), f"is {size} than", (j,), f"and further {side} .")
                    for size in sizes
                    for side in sides
                ],
                self._described_both(i, j, ["colour", "pattern"]),
            )

    def common(self) -> Iterator[Question]:
        for i, j in self._pairs():
            a, b = self._things[i], self._things[j]
            shared = [kind for kind in _VALUES if getattr(a, kind) == getattr(b, kind)]
            if len(shared) != 1 or not self._wants("common", shared[0]):
                continue
            kinds = [*shared, *(kind for kind in _VALUES if kind not in shared)]
            values = [getattr(self._rng.choice((a, b)), kind) for kind in kinds]
            words = [plural(value) if value in SHAPES else value for value in values]
            yield self._question(
                ("common", shared[0], (i, j)),
                say("What do", (i, j), "have in common ?"),
                [say((i, j), f"are both {word} .") for word in words],
                self._described_both(i, j, [kind for kind in _SPOKEN if kind not in shared]),
            )

    def only(self) -> Iterator[Question]:
        if len(self._things) < 3:
            return
        for i in self._shuffled(range(len(self._things))):
            thing = self._things[i]
            alone = [
                kind
                for kind in _VALUES
                if sum(getattr(t, kind) == getattr(thing, kind) for t in self._things) == 1
            ]
            if len(alone) != 1 or not self._wants("only", alone[0]):
                continue
            kinds = [*alone, *(kind for kind in _VALUES if kind not in alone)]
            values = [getattr(thing, kind) for kind in kinds]
            words = [value if value in SHAPES else f"{value} shape" for value in values]
            yield self._question(
                ("only", alone[0], (i,)),
                say("How is", (i,), "different from the others ?"),
                [say((i,), f"is the only {word} .") for word in words],
                self._described(i, fixed=alone[0]),
            )

    def count(self) -> Iterator[Question]:
        everything = range(len(self._things))
        if len(self._things) < 5:
            return
        asked = [(kind, value) for kind in _SPOKEN for value in _VALUES[kind]]
        for kind, value in self._shuffled(asked):
            fitting = tuple(i for i in everything if getattr(self._things[i], kind) == value)
            right = NUMBERS[len(fitting)]
            if right not in _COUNTED or not self._wants("count", f"{kind}, {right}"):
                continue
            groups = [fitting]
            while len(groups) < 4:
                group = tuple(sorted(self._rng.sample(everything, len(fitting))))
                if group not in groups:
                    groups.append(group)
            yield self._question(
                ("count", f"{kind}, {right}", fitting),
                say(f"How many shapes are {value} ?"),
                [
                    say(f"{n.title()} {'shape is' if n == 'one' else 'shapes are'} {value} .")
                    for n in (right, *(n for n in _COUNTED if n != right))
                ],
                [
                    say(
                        group,
                        f"{'is' if len(group) == 1 else 'are'} the only {value} "
                        f"{'shape' if len(group) == 1 else 'shapes'} .",
                    )
                    for group in groups
                ],
            )

    def _wants(self, kind: str, value: str) -> bool:
        """Whether to write this question: its right answer is open, and none has it yet."""
        if (kind, value) in self._written or not self._is_open(kind, value):
            return False
        self._written.add((kind, value))
        return True

    def _question(
        self,
        what: tuple[str, str, tuple[int, ...]],
        question: Tokens,
        answers: Sequence[Tokens],
        rationales: Sequence[Tokens],
    ) -> Question:
        """Shuffle the options, whose first one is right."""
        answer_order, rationale_order = self._shuffled(range(4)), self._shuffled(range(4))
        return Question(
            kind=what[0],
            value=what[1],
            about=what[2],
            question=question,
            answers=tuple(answers[i] for i in answer_order),
            answer_label=answer_order.index(0),
            rationales=tuple(rationales[i] for i in rationale_order),
            rationale_label=rationale_order.index(0),
        )

    def _described(self, i: int, *, fixed: str) -> list[Tokens]:
        """Four descriptions of a thing that agree in what the answer says; the first is right."""
        thing = self._things[i]
        kinds = [kind for kind in (*_SPOKEN, "place") if kind not in fixed.split()]
        first, second = sorted(self._rng.sample(kinds, 2), key=kinds.index)
        options = []
        for a, b in self._square(i, first, i, second):
            said = {kind: getattr(thing, kind) for kind in _SPOKEN} | {first: a, second: b}
            phrase = " ".join([*(said[kind] for kind in _SPOKEN), thing.shape])
            place = f" {said['place']}" if "place" in said else ""
            options.append(say((i,), f"is {with_article(phrase)}{place} ."))
        return options

    def _described_both(self, i: int, j: int, kinds: list[str]) -> list[Tokens]:
        """Four descriptions of two things, one attribute of each; first is right."""
        first, second = self._rng.sample(kinds, 2)
        options = []
        for a, b in self._square(i, first, j, second):
            one = with_article(f"{a} {self._things[i].shape}")
            two = with_article(f"{b} {self._things[j].shape}")
            options.append(say((i,), f"is {one} and", (j,), f"is {two} ."))
        return options

    def _square(self, i: int, first: str, j: int, second: str) -> list[tuple[str, str]]:
        """Right and wrong of two attributes, combined: each of four is as likely to be right."""
        a, b = self._value(first, i), self._value(second, j)
        other_a, other_b = self._others(first, i)[0], self._others(second, j)[0]
        return [(a, b), (a, other_b), (other_a, b), (other_a, other_b)]

    def _value(self, kind: str, i: int) -> str:
        thing = self._things[i]
        if kind == "place":
            return PLACES[place_of(self._scene, thing)]
        return str(getattr(thing, kind))

    def _others(self, kind: str, i: int) -> list[str]:
        """Values that are wrong of a thing, in random order, those of its neighbours first."""
        right = self._value(kind, i)
        values = PLACES.values() if kind == "place" else _VALUES[kind]
        thing = self._things[i]
        wrong = [v for v in values if v != right and self._may_say(kind, v, thing)]
        self._rng.shuffle(wrong)
        around = {self._value(kind, k) for k in range(len(self._things)) if k != i}
        return sorted(wrong, key=lambda value: value not in around)

    def _may_say(self, kind: str, value: str, thing: Thing) -> bool:
        pair = {"colour": (value, thing.shape), "shape": (thing.colour, value)}.get(kind)
        return self._scene.is_evaluation or pair not in HELD_OUT_PAIRS

    def _placed_pairs(self, i: int, j: int, predicate: str) -> list[tuple[str, str]]:
        """The places of two things, and three pairs that are as usual for this relation."""
        pairs = [(self._value("place", i), self._value("place", j))]
        while len(pairs) < 4:
            pair = self._rng.choice(_usual_places(predicate))
            if pair not in pairs:
                pairs.append(pair)
        return pairs

    def _pairs(self) -> list[tuple[int, int]]:
        everything = range(len(self._things))
        return self._shuffled([(i, j) for i in everything for j in everything if i != j])

    def _shuffled(self, values: Collection[T]) -> list[T]:
        return self._rng.sample(list(values), len(values))


@functools.cache
def _usual_places(predicate: str) -> tuple[tuple[str, str], ...]:
    """Places of pairs so related in other scenes, as often as they occur there."""
    found = []
    for index in range(300):
        scene = build_scene(-1, index, is_evaluation=False, is_close_up=False, image_wh=(128, 128))
        for a in scene.things:
            for b in scene.things:
                if a is not b and relation(a, b) == predicate:
                    places = PLACES[place_of(scene, a)], PLACES[place_of(scene, b)]
                    found.append(places)
    return tuple(found)
