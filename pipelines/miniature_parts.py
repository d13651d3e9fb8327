"""The parts that the miniature world's shapes have, cut out of their outlines.

A part is a polygon through some of the outline's points, so it lies where it was drawn, turned as
the object is. Shapes without parts of their own, such as a circle, have an upper and a lower half.
"""

from pipelines.miniature_scene import Thing, outline

#: Places along the outline, in the order of `outline`; 0.5 lies midway between points 0 and 1.
PARTS: dict[str, dict[str, tuple[float, ...]]] = {
    "circle": {
        "upper_half": tuple(k % 32 for k in range(16, 33)),
        "lower_half": tuple(range(17)),
    },
    "square": {"upper_half": (3.5, 0, 1, 1.5), "lower_half": (1.5, 2, 3, 3.5)},
    "triangle": {"tip": (2.5, 0, 0.5), "base": (0.5, 1, 2, 2.5)},
    "star": {"top_ray": (9, 0, 1), "right_ray": (1, 2, 3), "left_ray": (7, 8, 9)},
    "cross": {"upright": (0, 1, 6, 7), "crossbar": (3, 4, 9, 10)},
    "heart": {
        "right_lobe": tuple(range(9)),
        "left_lobe": tuple(k % 32 for k in range(24, 33)),
        "tip": tuple(range(12, 21)),
    },
    "moon": {
        "upper_horn": (20, 21, 22, 23, 24, 25, 26, 27, 28),
        "lower_horn": (38, 39, 40, 41, 0, 1, 2, 3, 4),
    },
    "arrow": {"head": (2, 3, 4), "shaft": (0, 1, 5, 6)},
}

Point = tuple[float, float]


def part_outlines(thing: Thing) -> dict[str, list[Point]]:
    """Return the polygon of each of a thing's parts, in pixels of the picture."""
    points = outline(thing)
    return {name: [_at(points, k) for k in places] for name, places in PARTS[thing.shape].items()}


def _at(points: list[Point], place: float) -> Point:
    i = int(place)
    (x0, y0), (x1, y1) = points[i], points[(i + 1) % len(points)]
    share = place - i
    return x0 + share * (x1 - x0), y0 + share * (y1 - y0)
