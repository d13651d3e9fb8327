"""A model of two layers and a few samples, small enough to train in a test."""

import io
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image as PilImage

from roikit.config import ModelRecipe
from roikit.sample import (
    Conversation,
    Example,
    Image,
    Provenance,
    Region,
    Sample,
    Source,
    Turn,
)

T = TypeVar("T")

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}
TINY = ModelRecipe(
    vision_width=32,
    language_width=32,
    language_layers=2,
    language_heads=2,
    vocabulary=400,
    image_size=32,
    image_grid=2,
    region_grid=2,
)
TEXTS = ["What is region1?", "red green blue square", "Describe the picture."] * 4


def make_picture(colours: list[str], side: int = 40) -> bytes:
    """A picture of equal columns, one a colour, as PNG bytes."""
    pixels = np.zeros((side, side, 3), dtype=np.uint8)
    width = side // len(colours)
    for i, colour in enumerate(colours):
        pixels[:, i * width : (i + 1) * width] = COLOURS[colour]
    file = io.BytesIO()
    PilImage.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def make_example(number: int) -> Example:
    """Two coloured columns, asked about one after the other."""
    names = list(COLOURS)
    colours = [names[number % 3], names[(number + 1 + number // 3 % 2) % 3]]
    turns: list[Turn] = []
    for i, colour in enumerate(colours):
        turns += [Turn("user", f"What is <region{i + 1}>?"), Turn("assistant", f"{colour} square")]
    conversation = Conversation(
        id="c",
        task="category",
        independent=True,
        source=Source(file="f", record=str(number)),
        turns=tuple(turns),
    )
    data = make_picture(colours)
    sample = Sample(
        schema=1,
        key=f"toy-train-{number:09d}",
        dataset="toy",
        split="train",
        image=Image(
            file=f"{number}.png", native_id=f"toy:{number}", width=40, height=40, sha256=""
        ),
        regions=tuple(Region(box_xyxy=(20.0 * i, 0.0, 20.0 * i + 20, 40.0)) for i in range(2)),
        conversations=(conversation,),
        provenance=Provenance(converter="toy@1", phrasing="", seed=0),
    )
    return Example(
        sample=sample,
        conversation=conversation,
        image_bytes=data,
        position=number,
        epoch=0,
        source="toy",
    )


class ToySource:
    """The steps of an endless stream over `count` examples, as training asks for them."""

    quarantined: Mapping[str, str] = {}

    def __init__(self, count: int = 12, batch_size: int = 2, micro_batch: int = 0) -> None:
        self.examples = [make_example(i) for i in range(count)]
        self.batch_size = batch_size
        self.micro_batch = micro_batch

    @property
    def epoch_length(self) -> int:
        return len(self.examples)

    def state(self, step: int) -> dict[str, Any]:
        return {"position": step * self.batch_size}

    def check(self, state: Mapping[str, Any]) -> None:
        assert state["position"] % self.batch_size == 0

    def micro_batches(self, step: int, *, rank: int, world_size: int) -> list[list[list[int]]]:
        share = -(-self.batch_size // world_size)
        count = -(-share // (self.micro_batch or share)) * world_size
        places = range(step * self.batch_size, (step + 1) * self.batch_size)
        return [[[p] for p in places[i::count]] for i in range(rank, count, world_size)]

    def read(self, place: int, use: Callable[[Example], T]) -> T:
        epoch, position = divmod(place, len(self.examples))
        order = np.random.default_rng(epoch).permutation(len(self.examples))
        return use(self.examples[order[position]])

    def held_out(self, limit: int) -> list[Example]:
        return [make_example(100 + i) for i in range(limit)]


@pytest.fixture(scope="session")
def built() -> Any:
    """A new tiny model and its processor; tests must not train it in place."""
    import torch

    from roikit.model.build import build_model

    torch.set_num_threads(1)
    return build_model(TINY, texts=TEXTS)
