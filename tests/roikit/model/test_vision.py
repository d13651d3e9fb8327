"""Vision towers on random weights: input sizes, positions, and what cannot be read."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, CLIPVisionConfig, CLIPVisionModel

from roikit.config import ModelRecipe
from roikit.errors import UsageError
from roikit.model.build import build_model
from roikit.model.regions import Regions
from roikit.model.roi_align import pool_regions
from roikit.model.vision import VitTower, build_tower, describe_vit
from tests.roikit.conftest import TEXTS

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
#: With a class token, with none, with registers beside it, and plain.
VITS = ("clip_vision_model", "siglip_vision_model", "dinov2_with_registers", "vit")


def make_tower(kind: str, *, image_size: int, layers: tuple[int, ...] = (-2, -1)) -> VitTower:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES)
    tower = build_tower(describe_vit(config, layers=layers, image_size=image_size))
    assert isinstance(tower, VitTower)
    return tower.eval()


@pytest.mark.parametrize("size", [24, 32, 48, 72])
@pytest.mark.parametrize("kind", VITS)
@torch.no_grad()
def test_other_input_sizes_give_as_many_cells_as_patches(kind: str, size: int) -> None:
    tower = make_tower(kind, image_size=size)
    levels = tower(torch.rand(2, 3, size, size))
    assert [tuple(level.shape) for level in levels] == [(2, 32, size // 8, size // 8)] * 2
    assert tower.interpolate is (size != 32)


@pytest.mark.parametrize("size", [32, 72])
@pytest.mark.parametrize("kind", VITS)
@torch.no_grad()
def test_a_box_reads_the_cells_its_pixels_went_to(kind: str, size: int) -> None:
    # hidden state 0 comes before any attention: what changes in a cell changed in its pixels
    tower = make_tower(kind, image_size=size, layers=(0,))
    dark = torch.zeros(1, 3, size, size)
    bright = dark.clone()
    bright[:, :, 8:16, 16:32] = 1
    change = (tower(bright)[0] - tower(dark)[0]).abs().sum(dim=1, keepdim=True)
    assert change[0, 0].nonzero().tolist() == [[1, 2], [1, 3]]
    boxes = torch.tensor([[16, 8, 32, 16], [16, 16, 32, 32], [0, 8, 16, 16]]) / size
    regions = Regions(boxes_R4=boxes, image_index_R=torch.zeros(3, dtype=torch.long))
    inside, below, left = pool_regions([change], regions, 1).flatten().tolist()
    assert inside > 0 and below == left == 0


@pytest.mark.parametrize("kind", VITS)
@torch.no_grad()
def test_interpolated_positions_keep_their_place_in_the_picture(kind: str) -> None:
    tower = make_tower(kind, image_size=64, layers=(0,))
    for parent in list(tower.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.LayerNorm):  # CLIP's before its first layer
                setattr(parent, name, nn.Identity())
            elif isinstance(child, nn.Conv2d):  # no picture: positions alone
                child.weight.zero_()
                assert child.bias is None or not child.bias.zero_().any()
    _ramp(next(v for k, v in tower.named_parameters() if "position_embedding" in k))
    column, row = tower(torch.zeros(1, 3, 64, 64))[0][0, :2]
    middle = slice(1, -1)  # at the edges the ramp of four is held
    assert torch.allclose(column[:, middle].diff(dim=1), torch.tensor(0.5), atol=0.15)
    assert torch.allclose(column, column[:1].expand_as(column), atol=1e-4)
    assert torch.allclose(row, column.T, atol=1e-4)


def _ramp(position_embedding: Tensor) -> None:
    """Write each cell's column and row into its first two channels."""
    embedding = position_embedding.view(-1, 32)
    side = math.isqrt(len(embedding))
    cells = torch.arange(side * side)
    embedding.zero_()
    embedding[-side * side :, 0] = (cells % side).float()
    embedding[-side * side :, 1] = (cells // side).float()


@pytest.mark.parametrize("kind", VITS)
def test_a_side_that_patches_do_not_fill_is_refused(kind: str) -> None:
    config = AutoConfig.for_model(kind, **SIZES)
    with pytest.raises(
        UsageError, match=r"multiple of the tower's patches of 8 pixels, got 52"
    ) as e:
        describe_vit(config, layers=(-2,), image_size=52)
    assert "48 or 56" in str(e.value.hint)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("resnet", "expected a ViT with square patches, found `resnet`"),
        ("siglip2_vision_model", "a `siglip2_vision_model` cannot be read as a ViT"),
        ("swin", "a `swin` cannot be read as a ViT"),
    ],
)
def test_a_tower_that_is_no_plain_vit_is_refused(kind: str, expected: str) -> None:
    config = AutoConfig.for_model(kind, **(SIZES if kind.startswith("siglip") else {}))
    with pytest.raises(UsageError, match=rf"model\.vision: {expected}") as caught:
        describe_vit(config, layers=(-2,), image_size=32)
    assert "\n" not in str(caught.value.args[0])


@pytest.mark.parametrize("layers", [(5,), (-2, -6), ()])
def test_hidden_states_the_tower_has_not_are_refused(layers: tuple[int, ...]) -> None:
    config = AutoConfig.for_model("vit", **SIZES)
    with pytest.raises(UsageError, match=r"model\.vision_layers: expected hidden states from -4"):
        describe_vit(config, layers=layers, image_size=32)


@pytest.mark.parametrize("vision", [{"kind": "resnet"}, {"width": 8}])
def test_an_unknown_kind_of_tower_is_refused(vision: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"vision\.kind: expected `vit`, `efficientnet-lite0` or"):
        build_tower(vision)


def test_a_recipe_is_refused_before_the_tower_is_read(tmp_path: Any) -> None:
    CLIPVisionModel(CLIPVisionConfig(**SIZES)).save_pretrained(tmp_path)
    recipe = ModelRecipe(vision=str(tmp_path), image_size=50, image_grid=4, vocabulary=400)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"model\.image_size: expected a multiple of"):
        build_model(recipe, texts=TEXTS)
