"""Models without weights: their true sizes, and what cannot be built."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import SiglipConfig, SiglipModel

from roikit.config import load_recipe
from roikit.errors import UsageError
from roikit.model.build import build_model
from roikit.model.regions import Regions
from roikit.model.skeleton import PUBLISHED, build_skeleton
from tests.roikit.conftest import TEXTS, TINY


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# As published: CLIP ViT-L/14's vision part 303 M, SigLIP So400m's 428 M, DINOv2-L 304 M, Qwen3-1.7B
# 1.7 B of which 1.4 B outside the embeddings, LLaMA-7B 6.74 B.
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("openai/clip-vit-large-patch14", 303.2),
        ("google/siglip2-so400m-patch16-384", 428.3),
        ("facebook/dinov2-with-registers-large", 304.4),
        ("vicuna-7b-v0", 6738.4),
        ("Qwen/Qwen3-1.7B", 1720.6),
    ],
)
def test_published_models_have_their_published_size(name: str, millions: float) -> None:
    is_language = "vocab_size" in PUBLISHED[name]
    recipe = replace(TINY, image_size=224, **{"language" if is_language else "vision": name})
    model = build_skeleton(recipe)
    part = model.language_model if is_language else model.vision_tower
    assert count(part) / 1e6 == pytest.approx(millions, rel=1e-3)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_base_has_the_shapes_that_its_recipe_promises() -> None:
    recipe = load_recipe("base", stage="align").model
    model = build_skeleton(recipe)
    side = recipe.image_size
    (level,) = model.vision_tower(torch.empty(2, 3, side, side, device="meta"))
    assert level.shape == (2, 1152, 24, 24)
    tokens = model.image_features([level])
    assert tokens.shape == (2, 144, 2048)
    regions = Regions(
        boxes_R4=torch.empty(3, 4, device="meta"),
        image_index_R=torch.zeros(3, dtype=torch.long, device="meta"),
    )
    tokens = model.region_encoder([level], regions, model.projector)
    assert tokens.shape == (3, 9, 2048)
    assert count(model) / 1e9 == pytest.approx(2.159, rel=1e-3)


def test_a_skeleton_has_the_built_models_shapes() -> None:
    built = build_model(TINY, texts=TEXTS).model
    words = built.get_input_embeddings().weight.shape[0]
    skeleton = build_skeleton(replace(TINY, vocabulary=words))
    shapes = {name: p.shape for name, p in built.named_parameters()}
    assert {name: p.shape for name, p in skeleton.named_parameters()} == shapes


@pytest.mark.parametrize("part", ["vision", "language"])
def test_a_model_that_cannot_be_fetched_is_one_clear_line(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    recipe = replace(TINY, **{part: "some/model"})
    for build in (build_skeleton, lambda r: build_model(r, texts=TEXTS)):
        with pytest.raises(UsageError, match=rf"model\.{part}: `some/model` is neither") as caught:
            build(recipe)
        assert "\n" not in str(caught.value) and caught.value.hint


def test_a_siglip_folder_gives_its_vision_part(tmp_path: Path) -> None:
    small = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    config = SiglipConfig(
        vision_config={**small, "image_size": 32, "patch_size": 8},
        text_config={**small, "vocab_size": 50},
    )
    torch.manual_seed(3)
    whole = SiglipModel(config)
    whole.save_pretrained(tmp_path / "siglip")
    recipe = replace(TINY, vision=str(tmp_path / "siglip"))
    built = build_model(recipe, texts=TEXTS)
    assert "vision_tower" not in built.from_scratch
    ours = dict(built.model.vision_tower.named_parameters())
    for name, value in whole.vision_model.named_parameters():
        (found,) = (p for key, p in ours.items() if key.endswith(name))
        assert torch.equal(found, value), name
