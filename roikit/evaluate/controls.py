"""Controls: the same questions with the boxes swapped, or with nothing to see.

A model that answers from its regions falls to chance when the boxes are swapped between regions of
the same picture, and its answers follow the box. A model that answers from the text alone scores
the same on a blank picture.
"""

import random
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from roikit.sample import Region

CONTROLS: tuple[str, ...] = ("swapped", "blank")

#: Mid-grey: near the mean of photographs, so that the normalised input is near zero.
BLANK_LEVEL = 127


def derange(numbers: Sequence[int], key: str, *, seed: int = 0) -> dict[int, int]:
    """Map each number to another one of the list, each used once: no number keeps its place.

    One random cycle through all of them (Sattolo's algorithm): each other number is equally likely.

    Args:
        numbers: distinct; fewer than two give an empty mapping.
        key: what the order is drawn from, together with the seed; nothing else is.
        seed: of the run.
    """
    if len(numbers) < 2:
        return {}
    generator = random.Random(f"{seed}:{key}")
    cycle = list(numbers)
    for i in range(len(cycle) - 1, 0, -1):
        # only random() is promised to stay the same across Python's versions
        j = int(generator.random() * i)
        cycle[i], cycle[j] = cycle[j], cycle[i]
    return dict(zip(numbers, cycle, strict=True))


def swap_places(regions: Sequence[Region], given: dict[int, int]) -> tuple[Region, ...]:
    """Return the regions with each one's box, mask and point taken from the region it is given.

    Args:
        regions: a sample's; not changed.
        given: 1-based number of a region to the number of the region whose place it takes.
    """
    places = {number - 1: regions[other - 1] for number, other in given.items()}
    return tuple(
        region
        if i not in places
        else msgspec.structs.replace(
            region,
            box_xyxy=places[i].box_xyxy,
            mask_rle=places[i].mask_rle,
            point_xy=places[i].point_xy,
        )
        for i, region in enumerate(regions)
    )


def same_place(one: Region, other: Region) -> bool:
    """Whether swapping the two would change nothing that a model sees."""
    return one.box_xyxy == other.box_xyxy and one.mask_rle == other.mask_rle


def blank(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a grey picture of the same size."""
    return np.full_like(image, BLANK_LEVEL)
