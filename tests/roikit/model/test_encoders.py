"""What every region encoder keeps to, on random maps and random weights."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig

from roikit.config import REGION_ENCODERS, TILED_ENCODERS, ModelRecipe
from roikit.errors import UsageError
from roikit.model.build import build_model
from roikit.model.configuration import RoikitConfig
from roikit.model.encoders import build_encoder
from roikit.model.generate import LoadedModel, generate
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.projector import Projector
from roikit.model.regions import MASK_SIZE, Regions
from roikit.model.replay import ReplayEncoder
from roikit.model.roi_align import pool_regions
from roikit.prompt import Prompt
from roikit.sample import Region, Turn
from tests.roikit.conftest import TEXTS, TINY

ENCODERS = tuple(name for name in REGION_ENCODERS if name != "text")
#: Those that look at the picture.
SEEING = tuple(name for name in ENCODERS if name != "box")
WIDTH = 32
#: (channels, rows, columns) of each level: neither square nor alike.
LEVELS = ((24, 8, 12), (40, 5, 7))
BOXES = torch.tensor(
    [
        [0.1, 0.2, 0.5, 0.9],
        [0.0, 0.0, 1.0, 1.0],  # the whole picture
        [0.93, 0.9, 1.0, 1.0],  # in the corner
        [0.5, 0.5, 0.501, 0.502],  # far smaller than a cell of any map
        [0.0, 0.4, 0.02, 1.0],  # along the edge
    ]
)
INDEX = torch.tensor([0, 0, 2, 2, 2])  # picture 1 has none

Encode = Callable[..., Tensor]


def make_levels(pictures: int = 3, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(pictures, *shape, generator=generator) for shape in LEVELS]


def make_regions(**kwargs: Any) -> Regions:
    return Regions(**{"boxes_R4": BOXES, "image_index_R": INDEX, **kwargs})


def make_encoder(
    name: str, *, is_trained: bool = True, **kwargs: Any
) -> tuple[nn.Module, nn.Module]:
    """An encoder and a projector; a trained one has left its zeros."""
    torch.manual_seed(0)
    recipe = ModelRecipe(region_encoder=name, region_grid=2, **kwargs)  # type: ignore[arg-type]
    text = LlamaConfig(hidden_size=WIDTH)
    channels = tuple(shape[0] for shape in LEVELS)
    encoder = build_encoder(RoikitConfig.from_recipe(recipe, text_config=text), channels)
    if is_trained:
        train(encoder)
    return encoder, Projector(sum(channels), WIDTH)


def train(module: nn.Module) -> None:
    """Move all weights off their start, as training would."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn_like(parameter)


@pytest.fixture(params=ENCODERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_tokens_are_as_many_as_the_configuration_says(name: str) -> None:
    encoder, projector = make_encoder(name)
    tokens = encoder(make_levels(), make_regions(), projector)
    expected = ModelRecipe(region_encoder=name, region_grid=2).num_region_tokens  # type: ignore[arg-type]
    assert tokens.shape == (len(BOXES), expected, WIDTH)
    assert tokens.isfinite().all()


def test_without_regions_all_parts_still_take_part(name: str) -> None:
    encoder, projector = make_encoder(name)
    none = Regions(boxes_R4=torch.zeros(0, 4), image_index_R=torch.zeros(0, dtype=torch.long))
    masked = replace(none, masks_RMM=torch.zeros(0, MASK_SIZE, MASK_SIZE))
    for regions in (none, masked):
        encoder.zero_grad()
        tokens = encoder(make_levels(), regions, projector)
        assert len(tokens) == 0 and tokens.shape[2] == WIDTH
        tokens.sum().backward()
        for key, parameter in encoder.named_parameters():
            assert parameter.grad is not None, key
            assert not parameter.grad.any(), key


def test_tokens_follow_the_order_of_the_regions(name: str) -> None:
    encoder, projector = make_encoder(name)
    order = torch.tensor([1, 0, 4, 2, 3])  # within their pictures
    tokens = encoder(make_levels(), make_regions(), projector)
    turned = encoder(make_levels(), make_regions(boxes_R4=BOXES[order]), projector)
    assert torch.allclose(turned, tokens[order], atol=1e-6)
    assert not torch.allclose(turned, tokens, atol=1e-3)


def test_a_region_does_not_depend_on_its_company(name: str) -> None:
    encoder, projector = make_encoder(name)
    masks = make_masks()
    for given in (None, masks):
        together = encoder(make_levels(), make_regions(masks_RMM=given), projector)
        for i, picture in enumerate(INDEX.tolist()):
            alone = Regions(
                boxes_R4=BOXES[i : i + 1],
                image_index_R=torch.zeros(1, dtype=torch.long),
                masks_RMM=None if given is None else given[i : i + 1],
            )
            levels = [level[picture : picture + 1] for level in make_levels()]
            apart = (encoder(levels, alone, projector)[0] - together[i]).abs().max()
            # products of other sizes round differently, to the last bits of float32
            assert apart < 3e-6 * together.abs().max()


def test_boxes_keep_their_precision_beside_bfloat16(name: str) -> None:
    encoder, projector = make_encoder(name)
    exact = encoder(make_levels(), make_regions(), projector)
    levels = [level.bfloat16() for level in make_levels()]
    for wrapped in (False, True):
        if wrapped:
            with torch.autocast("cpu", torch.bfloat16):
                tokens = encoder(make_levels(), make_regions(), projector)
        else:
            tokens = encoder.bfloat16()(levels, make_regions(), projector.bfloat16())
        encoder.float(), projector.float()
        # eight bits of a number, through some layers
        assert (tokens.float() - exact).abs().mean() < 0.02 * exact.abs().mean()
    # 1/256 of the square and less: lost where boxes or points are held in bfloat16
    near = BOXES + torch.tensor([0.0, 0.0, -0.0005, -0.0005])
    moved = encoder(make_levels(), make_regions(boxes_R4=near), projector)
    assert not torch.equal(moved[0], exact[0])


def test_every_weight_learns_after_the_first_step(name: str) -> None:
    encoder, projector = make_encoder(name, is_trained=False)
    target = torch.randn(
        encoder(make_levels(), make_regions(), projector).shape,
        generator=torch.Generator().manual_seed(1),
    )
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        tokens = encoder(make_levels(), make_regions(), projector)
        (tokens - target).square().mean().backward()
        optimizer.step()
    for key, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), key


def test_the_tower_learns_through_regions(name: str) -> None:
    encoder, projector = make_encoder(name)
    levels = [level.requires_grad_() for level in make_levels()]
    encoder(levels, make_regions(), projector).square().sum().backward()
    if name == "box":
        assert all(level.grad is None for level in levels)
        return
    for level in levels:
        assert level.grad is not None
        assert level.grad[0].any() and not level.grad[1].any() and level.grad[2].any()


def make_masks() -> Tensor:
    """The left half of each box."""
    masks = torch.zeros(len(BOXES), MASK_SIZE, MASK_SIZE)
    masks[:, :, : MASK_SIZE // 2] = 1
    return masks


def test_a_mask_of_the_whole_box_is_none(name: str) -> None:
    encoder, projector = make_encoder(name)
    ones = torch.ones(len(BOXES), MASK_SIZE, MASK_SIZE)
    masked = encoder(make_levels(), make_regions(masks_RMM=ones), projector)
    assert torch.allclose(masked, encoder(make_levels(), make_regions(), projector), atol=1e-6)


# not `gpt4roi`, whose convolutions mix a region's cells with what lies around it
@pytest.mark.parametrize("seeing", TILED_ENCODERS)
def test_a_mask_leaves_out_what_is_beside_it(seeing: str) -> None:
    encoder, projector = make_encoder(seeing)
    regions = make_regions(masks_RMM=make_masks())
    tokens = encoder(make_levels(), regions, projector)
    whole = encoder(make_levels(), make_regions(), projector)
    assert not torch.allclose(tokens[0], whole[0], atol=1e-2)
    changed = make_levels()
    for level in changed:
        # the first box's middle, 0.3, and the pixel that a sample just left of it still reads
        level[0, :, :, int(0.3 * level.shape[-1] - 0.5) + 2 :] += 5
    assert not torch.allclose(encoder(changed, make_regions(), projector)[0], whole[0], atol=0.1)
    assert torch.allclose(encoder(changed, regions, projector)[0], tokens[0], atol=1e-5)


def test_an_empty_mask_is_finite_and_sees_nothing(name: str) -> None:
    encoder, projector = make_encoder(name)
    regions = make_regions(masks_RMM=torch.zeros(len(BOXES), MASK_SIZE, MASK_SIZE))
    levels = [level.requires_grad_() for level in make_levels()]
    tokens = encoder(levels, regions, projector)
    assert tokens.isfinite().all()
    assert torch.allclose(tokens, encoder(make_levels(seed=1), regions, projector), atol=1e-6)
    tokens.square().sum().backward()
    for parameter in encoder.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


@pytest.mark.parametrize("seeing", SEEING)
def test_features_are_read_at_the_maps_boxes_and_the_place_is_the_pictures(seeing: str) -> None:
    elsewhere = torch.tensor([[0.3, 0.1, 0.6, 0.4]]).expand(len(BOXES), 4)
    for box_embedding in (False, True):
        encoder, projector = make_encoder(seeing, box_embedding=box_embedding)
        both = encoder(make_levels(), make_regions(map_boxes_R4=elsewhere), projector)
        there = encoder(make_levels(), make_regions(boxes_R4=elsewhere), projector)
        here = encoder(make_levels(), make_regions(), projector)
        assert not torch.allclose(both, here, atol=1e-3)
        assert torch.allclose(both, there, atol=1e-6) is not box_embedding


def test_the_box_alone_sees_no_picture() -> None:
    encoder, projector = make_encoder("box")
    tokens = encoder(make_levels(seed=0), make_regions(), projector)
    assert torch.equal(tokens, encoder(make_levels(seed=1), make_regions(), projector))
    assert not torch.allclose(tokens[0], tokens[1], atol=1e-2)


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_deformable_starts_as_replay_and_leaves_it(grid: int) -> None:
    torch.manual_seed(0)
    levels, regions = make_levels(), make_regions()
    projector = Projector(64, WIDTH)
    recipe = ModelRecipe(region_encoder="deformable", region_grid=grid)
    config = RoikitConfig.from_recipe(recipe, text_config=LlamaConfig(hidden_size=WIDTH))
    encoder = build_encoder(config, (24, 40))
    replay = ReplayEncoder(64, WIDTH, grid)(levels, regions, projector)
    assert torch.allclose(encoder(levels, regions, projector), replay, atol=1e-5)
    optimizer = torch.optim.SGD(
        [p for key, p in encoder.named_parameters() if key.startswith(("offsets", "weights"))], lr=1
    )
    encoder(levels, regions, projector).square().sum().backward()
    optimizer.step()
    assert not torch.allclose(encoder(levels, regions, projector), replay, atol=1e-2)


def test_pooled_starts_as_the_view_of_the_mean_and_learns_where_to_look() -> None:
    encoder, projector = make_encoder("pooled", is_trained=False)
    levels, regions = make_levels(), make_regions()
    mean = pool_regions(levels, regions, 14).mean(dim=1, keepdim=True)
    assert torch.allclose(encoder(levels, regions, projector), projector(mean), atol=1e-5)
    with torch.no_grad():
        encoder.score.weight.normal_()
    assert not torch.allclose(encoder(levels, regions, projector), projector(mean), atol=1e-2)


@pytest.mark.parametrize("sampled", ["replay", "pooled"])
def test_the_roi_size_changes_what_is_read(sampled: str) -> None:
    outputs = []
    for roi_size in (0, 4, 7):
        encoder, projector = make_encoder(sampled, is_trained=False, roi_size=roi_size)
        outputs.append(encoder(make_levels(), make_regions(), projector))
    assert outputs[0].shape == outputs[1].shape == outputs[2].shape
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-4)
    assert not torch.allclose(outputs[1], outputs[2], atol=1e-4)


def make_prompts() -> list[Prompt]:
    """Prompts of different lengths with no, one and three regions."""
    regions = tuple(
        Region(box_xyxy=box) for box in ((1, 2, 20, 25), (10, 5, 40, 30), (0, 0, 40, 30))
    )
    texts = (
        "Describe the picture.",
        "What is <region2>?",
        "red <region3> and <region1> green blue square beside <region2>?",
    )
    prompts = []
    for seed, text in enumerate(texts):
        image = np.random.default_rng(seed).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        prompts.append(Prompt(image=image, regions=regions, turns=(Turn("user", text),)))
    return prompts


@pytest.fixture(scope="module")
def models() -> dict[str, LoadedModel]:
    """A model of each encoder whose answers depend on what the encoder says."""
    made = {}
    for name in ENCODERS:
        recipe = replace(TINY, region_encoder=name)
        built = build_model(recipe, texts=TEXTS)
        torch.manual_seed(1)
        train(built.model.region_encoder)
        train(built.model.language_model)
        made[name] = LoadedModel(model=built.model.eval(), processor=built.processor)
    return made


def test_batched_answers_equal_single_ones(models: dict[str, LoadedModel], name: str) -> None:
    prompts = make_prompts()
    together = generate(models[name], prompts, max_new_tokens=8)
    assert together == [generate(models[name], [p], max_new_tokens=8)[0] for p in prompts]
    assert len(set(together)) > 1


_FRESH = """
import json, sys
from pathlib import Path
import torch
import roikit.model
from transformers import AutoModelForImageTextToText
found = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    inputs = torch.load(folder / "inputs.pt", weights_only=True)
    found[folder.name] = model.generate(**inputs, max_new_tokens=8, do_sample=False).tolist()
print(json.dumps(found))
"""


def test_a_saved_model_says_the_same_in_a_fresh_process(
    models: dict[str, LoadedModel], tmp_path: Path
) -> None:
    expected = {}
    for name, loaded in models.items():
        folder = tmp_path / name
        loaded.model.save_pretrained(folder)
        loaded.processor.save_pretrained(folder)
        inputs = loaded.processor(make_prompts())
        torch.save(inputs, folder / "inputs.pt")
        with torch.inference_mode():
            output = loaded.model.generate(**inputs, max_new_tokens=8, do_sample=False)
        expected[name] = output.tolist()
    done = subprocess.run(
        [sys.executable, "-c", _FRESH, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == expected


def test_weights_a_checkpoint_lacks_start_as_a_new_encoders(
    models: dict[str, LoadedModel], tmp_path: Path, name: str
) -> None:
    from safetensors.torch import load_file, save_file

    models[name].model.save_pretrained(tmp_path)
    models[name].processor.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    kept = {k: v for k, v in load_file(file).items() if not k.startswith("region_encoder.")}
    save_file(kept, file, metadata={"format": "pt"})
    loaded = RoikitForConditionalGeneration.from_pretrained(tmp_path)  # ours would refuse
    encoder = loaded.region_encoder
    fresh = build_model(replace(TINY, region_encoder=name), texts=TEXTS).model.region_encoder
    for (key, value), other in zip(encoder.named_parameters(), fresh.parameters(), strict=True):
        assert value.isfinite().all(), key
        assert bool(value.any()) == bool(other.any()), key
        assert value.std().item() == pytest.approx(other.std().item(), rel=0.5, abs=1e-6), key


def test_an_unknown_encoder_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="region_encoder: expected one of replay, pooled"):
        build_encoder(RoikitConfig(region_encoder="magic"), (8,))


@pytest.mark.parametrize("seeing", ["replay", "pooled", "deformable"])
def test_levels_that_the_projector_does_not_read_are_refused(seeing: str) -> None:
    config = RoikitConfig(region_encoder=seeing, image_levels=[1])
    with pytest.raises(UsageError, match=r"image_levels: expected all 2 levels .*got \[1\]"):
        build_encoder(config, (8, 8))
