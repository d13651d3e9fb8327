"""What the cost card knows of conversations without a model at hand."""

from dataclasses import replace

import pytest

from pipelines.estimate import _seen, _tile_rule
from roikit.batch import encode_example
from roikit.config import REGION_ENCODERS, Recipe, StageRecipe
from roikit.model.build import build_model
from tests.roikit.conftest import TEXTS, TINY, make_example


@pytest.mark.parametrize("encoder", REGION_ENCODERS)
def test_regions_are_counted_alike_from_records_and_from_batches(encoder: str) -> None:
    model = replace(TINY, region_encoder=encoder)
    processor = build_model(model, texts=TEXTS).processor
    recipe = Recipe(name="toy", stage="align", model=model)
    for number in range(3):
        row = encode_example(make_example(number), processor, max_tokens=500)
        assert row is not None
        assert _seen(make_example(number), recipe, _tile_rule(recipe))[0] == 2
        assert len(row.view.boxes_R4) == 2


@pytest.mark.parametrize("mode", ["pad", "squash"])
def test_tiles_are_counted_as_the_processor_cuts_them(mode: str) -> None:
    model = replace(TINY, image_mode=mode, max_tiles=4, image_size=16)
    processor = build_model(model, texts=TEXTS).processor
    recipe = Recipe(name="toy", stage="align", model=model, run=StageRecipe(max_exchanges=1))
    rule = _tile_rule(recipe)
    assert rule == processor.tile_rule
    for number in range(6):
        example = make_example(number)
        row = encode_example(example, processor, max_tokens=500, max_exchanges=1)
        assert row is not None and row.view.tiles is not None
        expected = len(row.view.boxes_R4), len(row.view.tiles.places_T2)
        assert _seen(example, recipe, rule) == expected
