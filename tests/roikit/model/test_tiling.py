"""Regions read from tiles, on random weights of a few thousand parameters."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from roikit.batch import Row, collate, encode_example
from roikit.config import TILED_ENCODERS
from roikit.errors import RoikitError
from roikit.masks import encode_mask
from roikit.model.build import build_model
from roikit.model.generate import LoadedModel, generate, load_model, score_options
from roikit.model.processing import RoikitProcessor
from roikit.model.regions import Regions
from roikit.model.tiling import TileInputs, encode_regions, stitch
from roikit.prompt import Prompt
from roikit.sample import Region, Turn
from roikit.views import View, Views, gather
from tests.roikit.conftest import TEXTS, TINY, make_example

SIDE = TINY.image_size
STRIDE = 8  #: of the tower `plain`


def build(encoder: str) -> LoadedModel:
    """A model with up to 9 tiles, whose region encoder has learned something."""
    torch.set_num_threads(1)
    built = build_model(replace(TINY, max_tiles=9, region_encoder=encoder), texts=TEXTS)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in built.model.region_encoder.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return LoadedModel(model=built.model.eval(), processor=built.processor)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return build("replay")


def picture(width: int, height: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def prompt(
    width: int, height: int, *boxes: tuple[float, float, float, float], seed: int = 0
) -> Prompt:
    text = " ".join(f"<region{i + 1}>" for i in range(len(boxes)))
    return Prompt(
        image=picture(width, height, seed),
        regions=tuple(Region(box_xyxy=box) for box in boxes),
        turns=(Turn("user", f"What is {text}?" if boxes else "Describe the picture."),),
    )


#: Of one tile, of several grids, and without a region.
MIXED = [
    prompt(90, 60, (2, 2, 20, 20), (70, 40, 88, 58), (5, 3, 85, 57)),
    prompt(30, 20, (1, 2, 20, 15), seed=1),
    prompt(96, 96, seed=2),
    prompt(40, 95, (10, 60, 30, 90), seed=3),
    prompt(93, 62, (33, 20, 50, 40), seed=4),
]


def rows_of(processor: RoikitProcessor, prompts: list[Prompt]) -> Views:
    return gather([processor.view(p.image, [r.box_xyxy for r in p.regions]) for p in prompts])


@torch.no_grad()
def region_tokens(loaded: LoadedModel, views: Views) -> Tensor:
    """What `embed` puts into the places of the regions."""
    model, processor = loaded.model, loaded.processor
    count = processor.num_region_tokens * len(views.boxes_R4)
    images = processor.num_image_tokens * len(views.pixels_N3SS)
    ids = [processor.image_token_id] * images + [processor.region_token_id] * count
    embeds = model.embed(torch.tensor([ids]), **views.model_inputs(processor.normalise))
    return embeds[0, images:].unflatten(0, (-1, processor.num_region_tokens))


@settings(deadline=None, max_examples=50)
@given(
    st.tuples(st.integers(20, 300), st.integers(20, 300)),
    st.sampled_from(["pad", "squash"]),
    st.integers(2, 9),
    st.data(),
)
def test_a_rectangle_is_found_again_in_the_tiles_where_its_box_says(
    loaded: LoadedModel, image_wh: tuple[int, int], mode: str, most: int, data: st.DataObject
) -> None:
    processor = RoikitProcessor(
        loaded.processor.tokenizer,
        image_size=SIDE,
        image_mode=mode,
        image_mean=(0, 0, 0),
        max_tiles=most,
    )
    width, height = image_wh
    x0, y0 = data.draw(st.integers(0, width - 12)), data.draw(st.integers(0, height - 12))
    x1 = data.draw(st.integers(x0 + 12, width))
    y1 = data.draw(st.integers(y0 + 12, height))
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[y0:y1, x0:x1] = (255, 0, 0)
    tiles = processor.view(image, [[x0, y0, x1, y1]]).tiles
    if tiles is None:
        assert max(image_wh) <= SIDE or (mode == "pad" and most == 2) or most < 4
        return
    rows, columns = tiles.grid
    assert 1 < rows * columns <= most
    canvas = torch.zeros(3, rows * SIDE, columns * SIDE)
    for (row, column), pixels in zip(tiles.places_T2.tolist(), tiles.pixels_T3SS, strict=True):
        canvas[:, row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = pixels
    y, x = np.nonzero(canvas[0].numpy() > 127)
    seen = [x.min(), y.min(), x.max() + 1, y.max() + 1]
    canvas_wh = np.array([columns, rows, columns, rows]) * SIDE
    assert (tiles.boxes_R4[0].numpy() * canvas_wh).tolist() == pytest.approx(seen, abs=1.01)


def test_one_tile_is_as_if_there_were_none(built: Any, loaded: LoadedModel) -> None:
    plain = built.processor
    assert plain.max_tiles == 1
    for one in MIXED:
        assert plain.view(one.image, [r.box_xyxy for r in one.regions]).tiles is None
    small = rows_of(loaded.processor, [MIXED[1]])
    assert small.tiles is None
    inputs = small.model_inputs(loaded.processor.normalise)
    assert set(inputs) == {"pixel_values", "region_boxes", "region_image_index"}
    # a picture that is cut has the same square as one that is not
    cut, whole = (rows_of(p, MIXED) for p in (loaded.processor, plain))
    assert torch.equal(cut.pixels_N3SS, whole.pixels_N3SS)
    assert torch.equal(cut.boxes_R4, whole.boxes_R4)


@pytest.mark.parametrize("encoder", TILED_ENCODERS)
def test_a_region_from_tiles_is_one_read_from_all_of_them_put_together(encoder: str) -> None:
    loaded = build(encoder)
    model, processor = loaded.model, loaded.processor
    assert processor.tile_margin == STRIDE
    # within a tile, but for the margin and what `deformable` reaches, and across a border
    boxes = [[44.0, 44, 52, 52], [78.0, 78, 90, 90], [24.0, 4, 40, 12]]
    view = processor.view(picture(96, 96), boxes)
    assert view.tiles is not None and view.tiles.grid == (3, 3)
    assert view.tiles.places_T2.tolist() == [[0, 0], [0, 1], [1, 1], [2, 2]]
    found = region_tokens(loaded, gather([view]))
    # independently: every tile computed, its map put in its place by hand
    whole = torch.from_numpy(picture(96, 96)).permute(2, 0, 1)
    with torch.no_grad():
        maps = [
            model.vision_tower(processor.normalise(tile[None]))[0]
            for row in whole.split(SIDE, dim=1)
            for tile in row.split(SIDE, dim=2)
        ]
        level = torch.cat([torch.cat(maps[3 * r : 3 * r + 3], dim=3) for r in range(3)], dim=2)
        regions = Regions(
            boxes_R4=torch.tensor(boxes) / 96, image_index_R=torch.zeros(3, dtype=torch.long)
        )
        expected = model.region_encoder([level], regions, model.projector)
    assert torch.allclose(found, expected, atol=1e-5)


def test_tiled_and_untiled_pictures_of_a_batch_do_not_change_each_other(
    loaded: LoadedModel,
) -> None:
    processor = loaded.processor
    together = rows_of(processor, MIXED)
    assert together.tiles is not None
    assert together.tiles.grids_N2.tolist() == [[2, 3], [1, 1], [1, 1], [3, 2], [2, 3]]
    alone = torch.cat([region_tokens(loaded, rows_of(processor, [one])) for one in MIXED])
    assert torch.allclose(region_tokens(loaded, together), alone, atol=1e-5)
    assert generate(loaded, MIXED, max_new_tokens=6) == [
        generate(loaded, [one], max_new_tokens=6)[0] for one in MIXED
    ]
    options = [["red", "green square"]] * len(MIXED)
    scores = score_options(loaded, MIXED, options)
    for one, found in zip(MIXED, scores, strict=True):
        expected = score_options(loaded, [one], options[:1])[0]
        assert [s.log_prob for s in found] == pytest.approx(
            [s.log_prob for s in expected], abs=1e-4
        )


def test_tiles_show_what_is_lost_in_the_thumbnail(loaded: LoadedModel) -> None:
    # 6 pixels of the thumbnail: stripes across and along are one grey there
    def textured(*, across: bool) -> np.ndarray[Any, Any]:
        image = picture(SIDE, SIDE).repeat(4, axis=0).repeat(4, axis=1)
        stripes = np.indices((24, 24))[int(across)] % 2 * 255
        image[36:60, 36:60] = stripes[..., None]
        return image

    def difference(largest: int) -> float:
        processor = RoikitProcessor(
            loaded.processor.tokenizer,
            image_size=SIDE,
            num_image_tokens=loaded.processor.num_image_tokens,
            num_region_tokens=loaded.processor.num_region_tokens,
            max_tiles=largest,
            tile_margin=STRIDE,
        )
        with_one = LoadedModel(model=loaded.model, processor=processor)
        first, second = (
            region_tokens(
                with_one, gather([processor.view(textured(across=a), [[36, 36, 60, 60]])])
            )
            for a in (False, True)
        )
        return float((first - second).norm() / first.norm())

    assert difference(16) > 5 * difference(1)


def test_tiles_put_together_lie_where_their_places_say() -> None:
    tiles = torch.arange(4.0)[:, None, None, None].expand(4, 1, 2, 2)
    places = [[3, 0, 1], [5, 0, 0], [5, 1, 1], [4, 0, 0]]  # the last one's grid is another
    maps = stitch(tiles, places, (2, 2), {3: 0, 5: 1})
    blocks = F.avg_pool2d(maps, 2)[:, 0]
    assert blocks.tolist() == [[[0, 0], [0, 0]], [[1, 0], [0, 2]]]
    assert maps.shape == (2, 1, 4, 4)


class Telling(torch.nn.Module):
    """Stands for an encoder: its tokens say what it was given of each region."""

    def forward(self, levels: list[Tensor], regions: Regions, project: Any) -> Tensor:
        assert regions.masks_RMM is not None
        assert regions.image_index_R.tolist() == sorted(regions.image_index_R.tolist())
        boxes, masks = regions.boxes_R4[:, :1], regions.masks_RMM.flatten(1)[:, :1]
        pictures = levels[0][regions.image_index_R].flatten(1).amax(1, keepdim=True)
        return torch.cat([boxes, regions.on_maps[:, :1], masks, pictures], dim=1)[:, None]


def test_regions_keep_their_order_masks_and_pictures() -> None:
    # pictures 0 and 3 have two tiles, 1 none, 2 one below the other; each tile's map says whose
    index = torch.tensor([0, 1, 1, 2, 3, 3])
    places = torch.tensor([[0, 0, 0], [0, 0, 1], [2, 1, 0], [3, 0, 1]])
    tiles = TileInputs(
        values_T3SS=torch.zeros(4, 3, 2, 2),
        places_T3=places,
        grids_N2=torch.tensor([[1, 2], [1, 1], [2, 1], [1, 2]]),
    )
    numbers = torch.arange(6.0)
    regions = Regions(
        boxes_R4=numbers[:, None].expand(6, 4),
        image_index_R=index,
        masks_RMM=numbers[:, None, None].expand(6, 28, 28) + 20,
        map_boxes_R4=numbers[:, None].expand(6, 4) + 10,
    )
    whole = [torch.arange(4.0)[:, None, None, None].expand(4, 1, 2, 2)]
    of_tiles = [100 + places[:, 0].float()[:, None, None, None].expand(4, 1, 2, 2)]
    told = encode_regions(Telling(), whole, regions, torch.nn.Identity(), of_tiles, tiles)[:, 0]
    assert torch.equal(told[:, 0], numbers)
    assert torch.equal(told[:, 1], numbers + 10)
    assert torch.equal(told[:, 2], numbers + 20)
    assert told[:, 3].tolist() == [100, 1, 1, 102, 103, 103]


@torch.no_grad()
def test_conversations_that_share_a_row_read_their_own_tiles_and_masks(loaded: LoadedModel) -> None:
    processor = loaded.processor
    rows = []
    for one in MIXED:
        left = np.zeros(one.image.shape[:2], dtype=np.bool_)
        left[:, : left.shape[1] // 2] = True
        mask = encode_mask(left, (left.shape[1], left.shape[0]))
        masked = replace(
            one, regions=tuple(msgspec.structs.replace(r, mask_rle=mask) for r in one.regions)
        )
        ids = processor.encode_prompt(masked).input_ids
        boxes = [region.box_xyxy for region in masked.regions]
        masks = processor.region_masks(masked.regions, (left.shape[1], left.shape[0]))
        view = processor.view(masked.image, boxes, masks)
        rows.append(Row(input_ids=ids, labels=ids, view=view, key="made"))

    def loss(layout: list[list[Row]]) -> float:
        batch = collate(layout, pad_token_id=processor.pad_token_id)
        output = loaded.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            **batch.views.model_inputs(processor.normalise),
            labels=batch.labels,
            num_items_in_batch=1.0,
            use_cache=False,
        )
        return float(output.loss)

    alone = sum(loss([[row]]) for row in rows)
    assert loss([rows[:2], rows[2:]]) == pytest.approx(alone, rel=1e-5)
    assert loss([[row] for row in reversed(rows)]) == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("learns", [True, False], ids=["tower learns", "tower rests"])
def test_gradients_reach_the_tower_through_tiles(loaded: LoadedModel, learns: bool) -> None:
    model, processor = loaded.model, loaded.processor
    inputs = processor(MIXED, left_pad=False)
    calls = []
    hook = model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    model.vision_tower.requires_grad_(learns)
    inputs["tile_values"].requires_grad_()
    try:
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        gradients = [p.grad for p in model.vision_tower.parameters()]
    finally:
        hook.remove()
        model.vision_tower.requires_grad_(True)
        model.zero_grad(set_to_none=True)
    assert calls == [1]
    assert all((g is not None) == learns for g in gradients)
    used = inputs["tile_values"].grad
    # the margin is generous: two tiles are computed of which no sample reads
    assert used is not None and (used.flatten(1).abs().sum(1) > 0).sum() == len(used) - 2


def test_saved_with_the_processor_and_used_in_training(loaded: LoadedModel, tmp_path: Path) -> None:
    loaded.model.save_pretrained(tmp_path)
    loaded.processor.save_pretrained(tmp_path)
    again = load_model(tmp_path, device="cpu")
    assert again.processor.tile_rule == loaded.processor.tile_rule
    assert generate(again, MIXED, max_new_tokens=4) == generate(loaded, MIXED, max_new_tokens=4)
    row = encode_example(make_example(0), again.processor, max_tokens=200)
    assert row is not None and row.view.tiles is not None
    assert row.view.tiles.grid == (2, 2)  # 40 pixels a side


def test_tiles_without_their_places_are_refused(loaded: LoadedModel) -> None:
    inputs = loaded.processor(MIXED)
    del inputs["tile_grids"]
    with pytest.raises(RoikitError, match="`tile_grids` and `region_map_boxes` together"):
        loaded.model(**inputs)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("tile_values", (3, 3, 32, 16)),
        ("tile_places", (3, 2)),
        ("tile_grids", (1, 2)),
        ("region_map_boxes", (4, 4)),
    ],
)
def test_tiles_of_other_shapes_are_refused(
    loaded: LoadedModel, name: str, found: tuple[int, ...]
) -> None:
    inputs = loaded.processor(MIXED)
    inputs[name] = torch.zeros(found, dtype=inputs[name].dtype)
    with pytest.raises(
        RoikitError, match=f"^{name}: expected shape .*, got {re.escape(str(found))}$"
    ):
        loaded.model(**inputs)


def test_views_move_with_their_tiles(loaded: LoadedModel) -> None:
    moved = rows_of(loaded.processor, MIXED).to(torch.device("meta"))
    assert moved.tiles is not None
    assert {moved.tiles.pixels_T3SS.device.type, moved.boxes_R4.device.type} == {"meta"}
    view = View(pixels_3SS=torch.zeros(3, 2, 2), boxes_R4=torch.zeros(0, 4))
    assert gather([view]).tiles is None
