"""Beams and several answers a prompt: each copy of a prompt keeps its own picture and regions."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from roikit.model.build import build_model
from roikit.model.repeated import repeat_inputs
from roikit.prompt import Prompt
from roikit.sample import Region, Turn
from tests.roikit.conftest import TEXTS, TINY


def make_prompt(num_regions: int, image_wh: tuple[int, int], seed: int) -> Prompt:
    width, height = image_wh
    names = " ".join(f"<region{i + 1}>" for i in range(num_regions)) or "the picture"
    image = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    boxes = [(2.0 + 9 * i, 3.0, 14.0 + 9 * i, 20.0 + i) for i in range(num_regions)]
    return Prompt(
        image=image,
        regions=tuple(Region(box_xyxy=box) for box in boxes),
        turns=(Turn("user", f"What is {names}?"),),
    )


#: One without regions, one with tiles.
PROMPTS = [
    make_prompt(2, (40, 30), 1),
    make_prompt(0, (30, 40), 2),
    make_prompt(3, (90, 60), 3),
]


def make_model() -> Any:
    built = build_model(replace(TINY, max_tiles=4), texts=TEXTS)
    torch.manual_seed(1)
    with torch.no_grad():  # so that prompts are answered differently
        for parameter in built.model.parameters():
            parameter *= 3
    built.model.eval()
    return built


def test_copies_have_the_embeddings_of_their_prompt() -> None:
    built = make_model()
    inputs = built.processor(PROMPTS)
    seen = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
    assert "tile_values" in seen
    ids = inputs["input_ids"]
    with torch.no_grad():
        once = built.model.embed(ids, **seen)
        thrice = built.model.embed(ids.repeat_interleave(3, dim=0), **repeat_inputs(seen, 3))
    assert torch.allclose(thrice, once.repeat_interleave(3, dim=0), atol=1e-5)


@torch.no_grad()
def test_beams_and_several_answers_are_those_of_each_prompt_alone() -> None:
    built = make_model()
    how: dict[str, Any] = {"max_new_tokens": 5, "num_beams": 3, "num_return_sequences": 2}
    inputs = built.processor(PROMPTS)
    together = built.model.generate(**inputs, **how)[:, inputs["input_ids"].shape[1] :]
    alone = []
    for prompt in PROMPTS:
        one = built.processor([prompt])
        alone += list(built.model.generate(**one, **how)[:, one["input_ids"].shape[1] :])
    texts = built.processor.tokenizer.batch_decode(together, skip_special_tokens=True)
    assert texts == built.processor.tokenizer.batch_decode(alone, skip_special_tokens=True)
    assert len(texts) == 6 and len(set(texts)) > 3
