"""Costs without weights, held against the same steps with them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from roikit.config import PARTS, REGION_ENCODERS, ModelRecipe, Recipe, StageRecipe, load_recipe
from roikit.model.build import build_model
from roikit.model.skeleton import build_skeleton
from roikit.train.estimate import (
    GIB,
    Conversations,
    MicroBatches,
    Sizes,
    advise,
    attach_adapters,
    measure_sizes,
    memory,
    micro_batches,
)
from roikit.train.feed import StepReader, feed
from roikit.train.footprint import Rows, measure_footprint
from roikit.train.lora import add_adapters
from roikit.train.parts import choose_parts
from roikit.train.trial import run_trial
from tests.roikit.conftest import TEXTS, TINY, ToySource

#: Deep and narrow, so that layers are most of it.
MODEL = replace(TINY, language_width=64, language_layers=4)
ROWS = Rows(pictures=3, rows=3, tokens=40, label_columns=12, regions=5)
STAGE1 = StageRecipe(train=("region_encoder",), batch_size=8, dtype="bf16")
STAGE2 = replace(STAGE1, train=("projector", "region_encoder", "language_model"))
ALL = replace(STAGE1, train=PARTS)
LENGTHS = Conversations(
    tokens=(20, 30, 40, 50) * 4,
    label_spans=(10, 12, 14, 16) * 4,
    regions=(1, 1, 2, 2) * 4,
    is_measured=True,
)


def real_step(model: Any, shape: Rows) -> tuple[float, int]:
    """Operations of a real step of this shape, and the bytes that autograd saves in it."""
    config = model.config
    ids = torch.zeros(shape.rows, shape.tokens, dtype=torch.long)
    ids[:, : config.num_image_tokens] = config.image_token_id
    pictures = (torch.arange(shape.regions) % shape.pictures).sort().values
    for row, count in enumerate(pictures.bincount(minlength=shape.rows).tolist()):
        start = config.num_image_tokens
        ids[row, start : start + count * config.num_region_tokens] = config.region_token_id
    held: dict[int, Any] = {id(s): s for s in (p.untyped_storage() for p in model.parameters())}
    saved = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved
        storage = tensor.untyped_storage()
        if id(storage) not in held:
            held[id(storage)] = storage
            saved += storage.nbytes()
        return tensor

    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.7]]).repeat(shape.regions, 1)
    with (
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        logits = model(
            input_ids=ids,
            pixel_values=torch.zeros(shape.pictures, 3, config.image_size, config.image_size),
            **tiles_of_the_first_picture(config, shape, boxes),
            region_boxes=boxes,
            region_image_index=pictures,
            logits_to_keep=shape.label_columns,
            use_cache=False,
        ).logits.flatten(0, 1)
        F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)).backward()
    return counter.get_total_flops(), saved


def tiles_of_the_first_picture(config: Any, shape: Rows, boxes: torch.Tensor) -> dict[str, Any]:
    """All tiles of the shape, in one row; the other pictures have none."""
    if not shape.tiles:
        return {}
    grids = torch.ones(shape.pictures, 2, dtype=torch.long)
    grids[0, 1] = shape.tiles
    places = torch.zeros(shape.tiles, 3, dtype=torch.long)
    places[:, 2] = torch.arange(shape.tiles)
    return {
        "tile_values": torch.zeros(shape.tiles, 3, config.image_size, config.image_size),
        "tile_places": places,
        "tile_grids": grids,
        "region_map_boxes": boxes,
    }


@pytest.mark.parametrize(
    ("run", "num_tiles", "encoder"),
    [
        (STAGE1, 0, "replay"),
        (STAGE1, 4, "replay"),
        (STAGE2, 0, "replay"),
        (STAGE2, 4, "replay"),
        (STAGE2, 0, "text"),
        (ALL, 0, "replay"),
        (ALL, 4, "replay"),
    ],
)
def test_a_footprint_is_that_of_the_real_step(
    run: StageRecipe, num_tiles: int, encoder: Any
) -> None:
    shape = replace(ROWS, tiles=num_tiles)
    recipe = replace(MODEL, region_encoder=encoder)
    model = build_model(recipe, texts=TEXTS).model
    words = model.get_input_embeddings().weight.shape[0]
    skeleton = build_skeleton(replace(recipe, vocabulary=words))
    for one in (model, skeleton):
        choose_parts(one, run.train)
    model.language_model.set_attn_implementation("sdpa")
    flops, saved = real_step(model, shape)
    found = measure_footprint(skeleton, shape, dtype=torch.float32)
    # scattering features into their places and the kernel's own notes are all that differ
    assert found.flops == pytest.approx(flops, rel=0.05)
    assert found.activation_bytes == pytest.approx(saved, rel=0.05)


def test_checkpointing_trades_memory_for_operations() -> None:
    skeleton = build_skeleton(MODEL)
    choose_parts(skeleton, STAGE2.train)
    found = measure_footprint(skeleton, ROWS, dtype=torch.bfloat16)
    assert found.kept_bytes(checkpointing=True) < found.kept_bytes(checkpointing=False)
    forward = found.total_flops(checkpointing=True) - found.total_flops(checkpointing=False)
    assert 0 < forward < found.flops / 2
    double = replace(ROWS, pictures=6, rows=6, regions=10)
    twice = measure_footprint(skeleton, double, dtype=torch.bfloat16)
    assert twice.activation_bytes == pytest.approx(2 * found.activation_bytes, rel=0.01)
    assert twice.flops == pytest.approx(2 * found.flops, rel=0.01)
    assert found.scaled(2).activation_bytes == pytest.approx(twice.activation_bytes, rel=0.01)


@pytest.mark.parametrize("encoder", REGION_ENCODERS)
def test_every_encoder_has_a_footprint(encoder: str) -> None:
    model = replace(MODEL, region_encoder=encoder, region_width=64)
    none, some = (
        measure_footprint(build_skeleton(model), replace(ROWS, regions=n), dtype=torch.bfloat16)
        for n in (0, 5)
    )
    assert (some.flops > none.flops) == (encoder != "text")


def test_tiles_cost_the_tower_as_much_as_pictures() -> None:
    tiled = replace(LENGTHS, tiles=(4, 0, 0, 0) * 4)
    run = replace(ALL, micro_batch=2)
    none, some = (micro_batches(lengths, run, 1) for lengths in (LENGTHS, tiled))
    assert (none.typical.tiles, none.fullest.tiles) == (0, 0)
    assert (some.typical.tiles, some.fullest.tiles) == (2, 4)
    first, second = (measure_sizes(MODEL, run, batches) for batches in (none, some))
    assert second.typical.flops > first.typical.flops
    assert memory(second, run, gpus=1).activations > memory(first, run, gpus=1).activations


def test_frozen_parts_cost_no_gradients_and_moments() -> None:
    batches = micro_batches(LENGTHS, STAGE1, 1)
    one, two = (measure_sizes(MODEL, run, batches) for run in (STAGE1, STAGE2))
    assert one.parameters == two.parameters
    assert one.learning < two.learning
    first, second = memory(one, STAGE1, gpus=1), memory(two, STAGE2, gpus=1)
    assert first.weights == second.weights == 4 * one.parameters
    assert first.gradients == 4 * one.learning
    assert (first.optimizer, second.optimizer) == (8 * one.learning, 8 * two.learning)
    assert first.total == pytest.approx(
        sum(getattr(first, name) for name in first.__slots__)  # nothing is forgotten
    )


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_the_references_size_and_operations_are_counted(stage: str) -> None:
    recipe = load_recipe("gpt4roi-7b", stage=stage)

    def sizes(regions: int) -> Sizes:
        rows = Rows(pictures=1, rows=1, tokens=300, label_columns=40, regions=regions)
        batches = MicroBatches(count=1, typical=rows, fullest=rows, padding=0.0)
        return measure_sizes(recipe.model, recipe.run, batches)

    none, one = sizes(0), sizes(1)
    parameters = {part.name: part.parameters for part in one.parts}
    assert round(parameters["region_encoder"] / 1e6, 1) == 299.1
    assert parameters["projector"] == 1024 * 4096 + 4096
    assert one.learning == none.learning < one.parameters
    # the language model passes gradient on to regions even where it rests: four operations a weight
    # and token, six where it learns
    weights = 300 * 6.6e9
    assert none.typical.flops > (2 if stage == "stage1" else 6) * weights
    assert one.typical.flops > (4 if stage == "stage1" else 6) * weights
    # the fusion's four 3 x 3 rounds after the first, both ways: at least each level's own half of
    # the channels at its full size, 128, 64, 32 and 16 cells a side
    cells = 128**2 + 64**2 + 32**2 + 16**2
    pyramid = one.typical.flops - none.typical.flops
    assert pyramid > 3 * 2 * 4 * cells * 9 * 512 * 1024


def test_muon_keeps_one_moment_of_its_matrices() -> None:
    batches = micro_batches(LENGTHS, STAGE2, 1)
    adamw = measure_sizes(MODEL, STAGE2, batches)
    muon = measure_sizes(MODEL, replace(STAGE2, optimizer="muon"), batches)
    assert 4 * muon.learning < muon.optimizer_bytes < adamw.optimizer_bytes


def test_gpus_share_states_with_fsdp_and_copy_them_with_ddp() -> None:
    batches = micro_batches(LENGTHS, STAGE2, 4)
    sizes = measure_sizes(MODEL, STAGE2, batches)
    alone = memory(sizes, STAGE2, gpus=1)
    shared = memory(sizes, STAGE2, gpus=4)  # `auto`: the language model's weights learn
    copied = memory(sizes, replace(STAGE2, parallel="ddp"), gpus=4)
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(shared, name) == getattr(alone, name) / 4
        assert getattr(copied, name) == getattr(alone, name)


def test_layouts_differ_in_padding_alone() -> None:
    by_layout = {
        layout: micro_batches(LENGTHS, replace(STAGE1, layout=layout, micro_batch=4), 1)
        for layout in ("plain", "grouped", "packed")
    }
    assert by_layout["plain"].fullest.tokens == 50
    assert by_layout["plain"].padding == pytest.approx(1 - 35 / 50)
    assert by_layout["grouped"].padding < by_layout["plain"].padding
    assert by_layout["packed"].padding == 0 and by_layout["packed"].typical.tokens == 35
    assert all(found.count == 2 for found in by_layout.values())
    three = micro_batches(LENGTHS, STAGE1, 3)
    assert (three.count, three.fullest.pictures) == (1, 3)  # the largest share of 8


@pytest.mark.parametrize("targets", [("all-linear",), ("q_proj", "v_proj")])
def test_adapters_cost_what_pefts_do(targets: tuple[str, ...]) -> None:
    pytest.importorskip("peft")
    run = replace(STAGE2, lora_rank=4, lora_targets=targets, dtype="fp32")
    model = build_model(MODEL, texts=TEXTS).model
    words = model.get_input_embeddings().weight.shape[0]
    skeleton = build_skeleton(replace(MODEL, vocabulary=words))
    for one in (model, skeleton):
        choose_parts(one, run.train)
    skeleton.language_model.requires_grad_(False)
    frozen = measure_footprint(skeleton, ROWS, dtype=torch.float32)
    add_adapters(model.language_model, run, stage="stage2")
    learned = [p for n, p in model.language_model.named_parameters() if "lora_" in n]
    assert attach_adapters(skeleton, run) == sum(p.numel() for p in learned) > 0
    model.language_model.set_attn_implementation("sdpa")
    flops, saved = real_step(model, ROWS)
    found = measure_footprint(skeleton, ROWS, dtype=torch.float32)
    assert found.flops == pytest.approx(flops, rel=0.05)
    assert found.activation_bytes == pytest.approx(saved, rel=0.05)
    assert found.activation_bytes > 1.05 * frozen.activation_bytes


def test_advice_fits_and_changes_no_more_than_it_must() -> None:
    model = ModelRecipe(language_width=512, language_layers=8, language_heads=8)
    lengths = replace(LENGTHS, tokens=(400,) * 8, label_spans=(100,) * 8, regions=(2,) * 8)
    run = replace(STAGE2, batch_size=64)

    batches = micro_batches(lengths, run, 1)
    sizes = measure_sizes(model, run, batches)

    def needed(changed: StageRecipe, size: int = 64) -> float:
        fewer = replace(sizes, fullest=sizes.fullest.scaled(size / 64))
        return memory(fewer, changed, gpus=1).total

    def settings(gpu_bytes: float) -> list[str]:
        found = advise(model, run, sizes, batches, stage="stage2", gpus=1, gpu_bytes=gpu_bytes)
        assert all(one.bytes <= gpu_bytes for one in found)
        return [one.settings for one in found]

    checkpointing = replace(run, gradient_checkpointing=True)
    whole, checkpointed = needed(run), needed(checkpointing)
    assert checkpointed < whole
    first = "--set stage2.gradient_checkpointing=true"
    assert settings((whole + checkpointed) / 2) == [first]
    (smaller,) = settings(needed(checkpointing, 32) * 1.01)
    assert smaller == f"{first} --set stage2.micro_batch=32"
    more, lora = settings(needed(checkpointing, 1) * 0.95)
    assert more == f"--gpus 2 {first} --set stage2.micro_batch=1"
    assert lora == f"{first} --set stage2.micro_batch=1 --set stage2.lora_rank=16"
    assert settings(0.1 * GIB) == []


def test_a_trial_times_steps_and_writes_nothing(
    built: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    model = build_model(TINY, texts=TEXTS)
    run = replace(STAGE2, batch_size=2, dtype="fp32", gradient_checkpointing=True)
    reader = StepReader(ToySource(batch_size=2), model.processor, run, seed=0)
    recipe = Recipe(name="toy", stage="stage2", model=TINY, run=run)
    found = run_trial(
        model.model,
        model.processor,
        feed(reader, first=0, steps=3),
        recipe,
        steps=3,
        device=torch.device("cpu"),
    )
    assert found is not None
    assert (found.steps, found.conversations, found.peak_bytes) == (2, 2, None)
    assert 0 < found.data_wait < found.seconds
    assert found.tokens > 0 and 0 <= found.padding < 1
    assert not list(tmp_path.iterdir())
    one = feed(reader, first=0, steps=1)
    device = torch.device("cpu")
    assert run_trial(model.model, model.processor, one, recipe, steps=1, device=device) is None
