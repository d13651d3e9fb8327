"""The miniature world's scene graph: what objects there are, where, and which statements hold.

A scene is a pure function of (seed, index, role): the same arguments give the same objects on any
machine and with any number of workers. Nothing here draws pictures or writes files; words for
these objects are in `pipelines/miniature_language.py`.
"""

import functools
import math
import random
from collections.abc import Sequence
from typing import Literal

import msgspec

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "moon", "arrow")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
PATTERNS = ("plain", "striped", "dotted")
SIZES = ("small", "large")
BACKGROUNDS = ("plain", "shaded", "grainy", "tiled", "cloudy")

#: Colour-shape pairs that occur in evaluation splits only: each colour once, each shape once.
HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    (colour, SHAPES[(3 * i + 2) % 8]) for i, colour in enumerate(COLOURS)
)
SEEN_PAIRS = tuple((c, s) for c in COLOURS for s in SHAPES if (c, s) not in HELD_OUT_PAIRS)

#: Longest side of an object's box, in pixels. The gap between the two keeps the words meaningful.
EXTENT_PX = {"small": (22.0, 30.0), "large": (37.0, 46.0)}
#: The same in a close-up of one object; by the ranges above it is always large.
CLOSE_UP_EXTENT_PX = (37.0, 72.0)

#: How much of an evaluation scene's objects are of a held-out pair.
_HELD_OUT_SHARE = 0.25
_MARGIN_PX = 2.0
#: Boxes may run into each other by this much, so that outlines hardly ever touch.
_OVERLAP_PX = 2.0

Predicate = Literal["left of", "right of", "above", "below"]
PREDICATES: tuple[Predicate, ...] = ("left of", "right of", "above", "below")
#: Displacement on the stated axis against the other one: what is stated is clear to the eye.
_CLEAR_RATIO = 1.5


class Thing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One drawn object."""

    shape: str
    colour: str
    size: str
    pattern: str
    box_xyxy: tuple[float, float, float, float]  #: pixels, right and bottom edge exclusive
    angle: float  #: degrees, clockwise as seen
    is_held_out: bool  #: its colour-shape pair never occurs in a training split

    @property
    def centre_xy(self) -> tuple[float, float]:
        """Middle of the box, in pixels."""
        x0, y0, x1, y1 = self.box_xyxy
        return (x0 + x1) / 2, (y0 + y1) / 2

    @property
    def extent_px(self) -> float:
        """Longest side of the box."""
        x0, y0, x1, y1 = self.box_xyxy
        return max(x1 - x0, y1 - y0)


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a scene stands in one dataset's source tree."""

    split: str  #: train, val or test
    file: str  #: below the dataset's own folder (VCR: below `vcr1images`)
    image_id: str  #: as the dataset's annotations name the picture


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One text that the source trees hold about a scene, and what it speaks of."""

    dataset: str  #: coco, vg or vcr
    id: str  #: caption id, region id or annot_id
    kind: str  #: e.g. `attributes`, `relation`, `colour`
    text: str  #: the caption, the phrase, or the right answer with `[0]` for object 0
    about: tuple[int, ...]  #: indices into the scene's things


class Scene(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One picture: its objects in random order, and where it was written to."""

    index: int
    is_evaluation: bool
    is_close_up: bool
    width: int  #: pixels
    height: int  #: pixels
    background: str
    things: tuple[Thing, ...]
    places: dict[str, Place] = {}  #: by dataset
    statements: tuple[Statement, ...] = ()

    def has(self, dataset: str) -> bool:
        """Whether the picture stands in a dataset's tree."""
        return dataset in self.places


def build_scene(
    seed: int,
    index: int,
    *,
    is_evaluation: bool,
    is_close_up: bool,
    image_wh: tuple[int, int],
    num_things: tuple[int, int] = (2, 6),
) -> Scene:
    """Draw up one scene.

    Args:
        seed: of the whole world.
        index: of the scene in it.
        is_evaluation: held-out pairs may occur; in training scenes they never do.
        is_close_up: a single object that fills most of the picture.
        image_wh: pixels; at least 128 on each side.
        num_things: fewest and most objects of a scene that is no close-up.
    """
    rng = random.Random(f"miniature/{seed}/{index}")
    background = rng.choice(BACKGROUNDS)
    if is_close_up:
        things = [_close_up(rng, is_evaluation, image_wh)]
    else:
        count = rng.randint(*num_things)
        things = _place(rng, _draw_attributes(rng, count, is_evaluation), image_wh)
    return Scene(
        index=index,
        is_evaluation=is_evaluation,
        is_close_up=is_close_up,
        width=image_wh[0],
        height=image_wh[1],
        background=background,
        things=tuple(things),
    )


def relation(subject: Thing, other: Thing) -> Predicate | None:
    """Return the one predicate that clearly holds from `subject` to `other`, if there is one."""
    dx, dy = _displacement(subject, other)
    if abs(dx) >= _CLEAR_RATIO * abs(dy):
        return "left of" if dx > 0 else "right of"
    if abs(dy) >= _CLEAR_RATIO * abs(dx):
        return "above" if dy > 0 else "below"
    return None


def holds(subject: Thing, predicate: str, other: Thing) -> bool:
    """Whether a stated predicate is true: by the larger displacement, however small its lead.

    Stricter than speech (an object up and left of another is only one of the two), more lenient
    than `relation`, which leaves out what is not clear.
    """
    dx, dy = _displacement(subject, other)
    if abs(dx) >= abs(dy) and dx != 0:
        return predicate == ("left of" if dx > 0 else "right of")
    return predicate == ("above" if dy > 0 else "below")


def place_of(scene: Scene, thing: Thing) -> tuple[int, int]:
    """Row and column of the thing's centre in a 3 × 3 grid over the picture, 0 to 2 each."""
    x, y = thing.centre_xy
    return min(2, int(3 * y / scene.height)), min(2, int(3 * x / scene.width))


def union_box(things: Sequence[Thing]) -> tuple[float, float, float, float]:
    """Smallest box around all of `things`."""
    boxes = [thing.box_xyxy for thing in things]
    return (
        min(b[0] for b in boxes),
        min(b[1] for b in boxes),
        max(b[2] for b in boxes),
        max(b[3] for b in boxes),
    )


def clear_pairs(scene: Scene) -> list[tuple[int, int, Predicate]]:
    """Pairs that a box around both shows alone, with their clear relation.

    The subject is the left or the upper one, so that each pair has one description. A pair is left
    out when another object's centre lies in the box around both.
    """
    pairs: list[tuple[int, int, Predicate]] = []
    for i, subject in enumerate(scene.things):
        for j, other in enumerate(scene.things):
            predicate = relation(subject, other)
            if i == j or predicate not in ("left of", "above"):
                continue
            x0, y0, x1, y1 = union_box((subject, other))
            centres = [t.centre_xy for k, t in enumerate(scene.things) if k not in (i, j)]
            if not any(x0 <= x < x1 and y0 <= y < y1 for x, y in centres):
                pairs.append((i, j, predicate))
    return pairs


def outline(thing: Thing) -> list[tuple[float, float]]:
    """Return the polygon of the thing in picture pixels; its bounds are the thing's box."""
    points = _turned(thing.shape, thing.angle)
    x0, y0, x1, y1 = thing.box_xyxy
    return [(x0 + x * (x1 - x0), y0 + y * (y1 - y0)) for x, y in points]


def polygon_area(points: Sequence[tuple[float, float]]) -> float:
    """Area inside a simple polygon, in square pixels."""
    following = [*points[1:], points[0]]
    twice = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(points, following, strict=True))
    return abs(twice) / 2


def _displacement(subject: Thing, other: Thing) -> tuple[float, float]:
    (x0, y0), (x1, y1) = subject.centre_xy, other.centre_xy
    return x1 - x0, y1 - y0


Attributes = tuple[str, str, str, str]  # shape, colour, size, pattern


def _draw_attributes(rng: random.Random, count: int, is_evaluation: bool) -> list[Attributes]:
    """Attributes of `count` objects, no two alike; in half of the scenes some share one of them."""
    theme: dict[str, str] = {}
    shared = 0
    if rng.random() < 0.5:
        kind, values = rng.choice((("colour", COLOURS), ("pattern", PATTERNS), ("size", SIZES)))
        theme, shared = {kind: rng.choice(values)}, rng.randint(2, 4)
    found: list[Attributes] = []
    while len(found) < count:
        fixed = theme if len(found) < shared else {}
        colour, shape = _draw_pair(rng, fixed.get("colour"), is_evaluation)
        size = fixed.get("size") or rng.choice(SIZES)
        pattern = fixed.get("pattern") or rng.choice(PATTERNS)
        if (shape, colour, size, pattern) not in found:
            found.append((shape, colour, size, pattern))
    return found


def _draw_pair(rng: random.Random, colour: str | None, is_evaluation: bool) -> tuple[str, str]:
    pairs = SEEN_PAIRS
    if is_evaluation and rng.random() < _HELD_OUT_SHARE:
        pairs = tuple(sorted(HELD_OUT_PAIRS))
    return rng.choice([pair for pair in pairs if colour is None or pair[0] == colour])


def _close_up(rng: random.Random, is_evaluation: bool, image_wh: tuple[int, int]) -> Thing:
    colour, shape = _draw_pair(rng, None, is_evaluation)
    pattern = rng.choice(PATTERNS)
    limit = min(image_wh) - 2 * _MARGIN_PX
    low, high = CLOSE_UP_EXTENT_PX
    extent = min(limit, rng.uniform(low, high))
    box, angle = _draw_box(rng, shape, extent, image_wh)
    return _thing((shape, colour, "large", pattern), box, angle)


def _place(rng: random.Random, wanted: list[Attributes], image_wh: tuple[int, int]) -> list[Thing]:
    """Give each object a box; where they do not fit after many tries, leave the last one out."""
    while True:
        for _ in range(12):
            placed = _try_to_place(rng, wanted, image_wh)
            if placed is not None:
                rng.shuffle(placed)
                return placed
        wanted = wanted[:-1]


def _try_to_place(
    rng: random.Random, wanted: list[Attributes], image_wh: tuple[int, int]
) -> list[Thing] | None:
    placed: list[Thing] = []
    for attributes in sorted(wanted, key=lambda a: SIZES.index(a[2]), reverse=True):
        for _ in range(40):
            extent = rng.uniform(*EXTENT_PX[attributes[2]])
            box, angle = _draw_box(rng, attributes[0], extent, image_wh)
            if not any(_collide(box, thing.box_xyxy) for thing in placed):
                placed.append(_thing(attributes, box, angle))
                break
        else:
            return None
    return placed


Box = tuple[float, float, float, float]


def _draw_box(
    rng: random.Random, shape: str, extent: float, image_wh: tuple[int, int]
) -> tuple[Box, float]:
    angle = round(rng.uniform(-10, 10), 1)
    aspect = _aspect(shape, angle)
    width, height = (extent, extent / aspect) if aspect >= 1 else (extent * aspect, extent)
    x0 = rng.uniform(_MARGIN_PX, image_wh[0] - _MARGIN_PX - width)
    y0 = rng.uniform(_MARGIN_PX, image_wh[1] - _MARGIN_PX - height)
    return (round(x0, 2), round(y0, 2), round(x0 + width, 2), round(y0 + height, 2)), angle


def _collide(a: Box, b: Box) -> bool:
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    return across > _OVERLAP_PX and down > _OVERLAP_PX


def _thing(attributes: Attributes, box_xyxy: Box, angle: float) -> Thing:
    shape, colour, size, pattern = attributes
    return Thing(
        shape=shape,
        colour=colour,
        size=size,
        pattern=pattern,
        box_xyxy=box_xyxy,
        angle=angle,
        is_held_out=(colour, shape) in HELD_OUT_PAIRS,
    )


@functools.cache
def _turned(shape: str, angle: float) -> tuple[tuple[float, float], ...]:
    """The shape's outline turned by `angle`, its bounds brought to the unit square."""
    points = _rotate(shape, angle)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    return tuple(((x - min(xs)) / width, (y - min(ys)) / height) for x, y in points)


@functools.cache
def _aspect(shape: str, angle: float) -> float:
    points = _rotate(shape, angle)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return (max(xs) - min(xs)) / (max(ys) - min(ys))


def _rotate(shape: str, angle: float) -> list[tuple[float, float]]:
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in _OUTLINES[shape]]


def _arc(
    centre: tuple[float, float], radius: float, start: float, stop: float, steps: int
) -> list[tuple[float, float]]:
    """Points on a circle from `start` to `stop` degrees, both included."""
    angles = [math.radians(start + (stop - start) * i / steps) for i in range(steps + 1)]
    return [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles]


def _star() -> list[tuple[float, float]]:
    points = []
    for i in range(10):
        radius, angle = (1.0 if i % 2 == 0 else 0.5), math.radians(-90 + 36 * i)
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
    return points


def _heart() -> list[tuple[float, float]]:
    points = []
    for i in range(32):
        t = 2 * math.pi * i / 32
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 16, -y / 16))
    return points


_ARM = 0.4
_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "circle": _arc((0, 0), 1, 0, 360, 32)[:-1],
    "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "triangle": [(0, -0.95), (1.05, 0.9), (-1.05, 0.9)],
    "star": _star(),
    "cross": [
        *((-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM)),
        *((_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM)),
    ],
    "heart": _heart(),
    # a disc with a smaller disc, moved to the right, bitten out of it
    "moon": [*_arc((0, 0), 1, 51, 309, 24), *_arc((0.6, 0), 0.78, 272, 88, 16)],
    "arrow": [
        *((-1, -0.42), (0.05, -0.42), (0.05, -0.95), (1, 0)),
        *((0.05, 0.95), (0.05, 0.42), (-1, 0.42)),
    ],
}
