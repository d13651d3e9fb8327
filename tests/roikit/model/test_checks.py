"""What the model and its processor refuse, in one line each."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from roikit.errors import RoikitError, UsageError
from roikit.model.build import build_model
from roikit.model.checks import check_places
from roikit.model.generate import load_model
from roikit.prompt import Prompt
from roikit.sample import Region, Turn
from tests.roikit.conftest import TEXTS, TINY

REGIONS = (Region(box_xyxy=(1, 2, 20, 25)), Region(box_xyxy=(10, 5, 40, 30)))


def make_prompt(text: str) -> Prompt:
    image = np.zeros((30, 40, 3), dtype=np.uint8)
    return Prompt(image=image, regions=REGIONS, turns=(Turn("user", text),))


@pytest.fixture
def inputs(built: Any) -> dict[str, Any]:
    """Two rows with two regions and one; a region takes 4 tokens."""
    built.model.eval()
    return dict(
        built.processor([make_prompt("<region1> beside <region2>"), make_prompt("<region2>")])
    )


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ([0, 2], "row 0 of the batch has 8 places, enough for 2 boxes of 4 tokens, and got 1"),
        ([0, 1], "row 1 of the batch has 4 places, enough for 1 boxes of 4 tokens, and got 0"),
        ([0, 1, 2, 2], "row 1 of the batch has 4 places, enough for 1 boxes .* and got 2"),
        ([], "row 0 of the batch has 8 places, enough for 2 boxes of 4 tokens, and got 0"),
    ],
)
def test_too_many_and_too_few_boxes_name_the_row(
    built: Any, inputs: dict[str, Any], kept: list[int], message: str
) -> None:
    for name in ("region_boxes", "region_image_index"):
        inputs[name] = inputs[name][kept]
    with pytest.raises(RoikitError, match=f"^region tokens: {message}$") as caught:
        built.model(**inputs)
    assert caught.value.hint


def test_as_many_in_all_but_not_in_each_row_is_refused(built: Any, inputs: dict[str, Any]) -> None:
    inputs["region_image_index"] = torch.tensor([0, 1, 1])
    with pytest.raises(RoikitError, match=r"row 0 of the batch has 8 places.* and got 1"):
        built.model(**inputs)


def test_picture_and_places_must_agree(built: Any, inputs: dict[str, Any]) -> None:
    ids = inputs["input_ids"]
    ids[1, (ids[1] == built.processor.image_token_id).nonzero()[0]] = 5
    with pytest.raises(RoikitError, match=r"image tokens: row 1 .* 3 places, enough for 0\.75"):
        built.model(**inputs)


def test_rows_that_conversations_share_are_counted_together() -> None:
    mask = torch.tensor([[True, True, True, True, False, False]])
    index = torch.tensor([0, 1])
    check_places(mask, index, num_pictures=3, tokens_each=2, what="region")
    with pytest.raises(RoikitError, match=r"the batch has 4 places, enough for 2 boxes .* got 1"):
        check_places(mask, index[:1], num_pictures=3, tokens_each=2, what="region")


BOX = [0.1, 0.1, 0.5, 0.5]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"region_boxes": torch.zeros(3, 5)}, r"region_boxes: expected shape \(R, 4\), .*\(3, 5\)"),
        ({"region_boxes": torch.zeros(4)}, r"region_boxes: expected shape \(R, 4\), .* \(4,\)"),
        ({"region_image_index": torch.zeros(2).long()}, r"region_image_index: expected shape \(3,"),
        ({"region_image_index": torch.zeros(3)}, "expected whole numbers, got torch.float32"),
        ({"region_image_index": torch.tensor([0, 0, 2])}, "expected 0 to 1, .* 2 pictures, got 2"),
        ({"region_image_index": torch.tensor([0, 1, 0])}, r"region_image_index\[2\]: .* 0 after 1"),
        ({"region_image_index": None}, "together, got `region_boxes` alone"),
        ({"region_boxes": None}, "together, got `region_image_index` alone"),
        ({"region_masks": torch.ones(2, 28, 28)}, r"region_masks: expected shape \(3, M, M\)"),
        ({"region_masks": torch.ones(3, 28)}, r"region_masks: expected shape .*, got \(3, 28\)"),
        (
            {"pixel_values": torch.zeros(3, 32, 32)},
            r"pixel_values: .*\(N, 3, S, S\).*\(3, 32, 32\)",
        ),
        ({"pixel_values": torch.zeros(2, 3, 32, 40)}, r"pixel_values: .*, got \(2, 3, 32, 40\)"),
        ({"pixel_values": None}, "expected `pixel_values` beside `region_boxes`, got none"),
        (
            {"region_boxes": torch.tensor([BOX, [0.2, 0.1, 1.2, 0.5], BOX])},
            r"region_boxes\[1\]: expected fractions .*, got \[0\.2, 0\.1, 1\.2, 0\.5\]",
        ),
        (
            {"region_boxes": torch.tensor([BOX, BOX, [0.5, 0.1, 0.5, 0.5]])},
            r"region_boxes\[2\]: expected x0 < x1 and y0 < y1",
        ),
        (
            {"region_boxes": torch.tensor([[float("nan"), 0.1, 0.5, 0.5], BOX, BOX])},
            r"region_boxes\[0\]: expected finite numbers",
        ),
    ],
)
def test_regions_that_cannot_be_are_refused(
    built: Any, inputs: dict[str, Any], changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(RoikitError, match=message) as caught:
        built.model(**{**inputs, **changed})
    assert "\n" not in str(caught.value.args[0])


@pytest.mark.parametrize(
    "box", [(50, 0, 60, 10), (-9, -9, -1, -1), (20, 5, 10, 9), (5, 5, 5, 9), (np.nan, 0, 9, 9)]
)
def test_a_box_outside_the_picture_is_refused_before_the_model(built: Any, box: Any) -> None:
    prompt = make_prompt("<region2> <region1>")
    prompt = replace(prompt, regions=(Region(box_xyxy=box), REGIONS[1]))
    with pytest.raises(RoikitError, match=r"box 2 of 2: expected some area in the picture, .*40 x"):
        built.processor([prompt])


def test_a_box_that_reaches_over_the_edge_is_cut_off(built: Any) -> None:
    prompt = replace(make_prompt("<region1>"), regions=(Region(box_xyxy=(-5, -5, 60, 20)),))
    boxes = built.processor([prompt])["region_boxes"]
    assert boxes.min() >= 0 and boxes.max() <= 1


def test_a_mention_without_a_box_names_the_turn(built: Any) -> None:
    turns = (Turn("user", "<region1>?"), Turn("assistant", "red"), Turn("user", "<region3>?"))
    with pytest.raises(RoikitError, match=r"turns\[2\]: `<region3>` does not exist, there are 2"):
        built.processor([replace(make_prompt("x"), turns=turns)])


def test_a_processor_of_another_model_is_refused(built: Any, tmp_path: Path) -> None:
    built.model.save_pretrained(tmp_path)
    build_model(replace(TINY, region_grid=3), texts=TEXTS).processor.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"tokens a region: expected 4, .* processor with 9$"):
        load_model(tmp_path, device="cpu")
