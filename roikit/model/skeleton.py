"""A model's shape without its weights: every tensor on the meta device, nothing read or fetched.

For cost cards and for whatever asks how large a recipe's model is. A model on the hub that recipes
name is built from the sizes written down here, so that its cost can be told before it is fetched;
any other name is asked for its configuration alone.
"""

import copy
from typing import Any

import torch

from roikit.config import ModelRecipe, check_model
from roikit.errors import UsageError
from roikit.model.build import package_config, plain_vision, scratch_config
from roikit.model.configuration import RoikitConfig
from roikit.model.modeling import RoikitForConditionalGeneration

#: Configurations of published models. Source: their `config.json`; a test counts the parameters.
PUBLISHED: dict[str, dict[str, Any]] = {
    "openai/clip-vit-large-patch14": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "image_size": 224,
        "patch_size": 14,
        "projection_dim": 768,
    },
    "google/siglip2-so400m-patch16-384": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "intermediate_size": 4304,
        "image_size": 384,
        "patch_size": 16,
    },
    "facebook/dinov2-with-registers-large": {
        "model_type": "dinov2_with_registers",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "mlp_ratio": 4,
        "num_register_tokens": 4,
        "image_size": 518,
        "patch_size": 14,
    },
    "vicuna-7b-v0": {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    },
    "Qwen/Qwen3-1.7B": {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 2048,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 6144,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
    },
}


def build_skeleton(recipe: ModelRecipe) -> RoikitForConditionalGeneration:
    """Build the recipe's model on the meta device.

    Sizes are those of training but for the vocabulary: that of `scratch` is the largest it may
    become, and the two placeholders may add a row to any other.

    Raises:
        UsageError: a part that is not known here and cannot be fetched, or a value that cannot be.
    """
    check_model(recipe)
    config = RoikitConfig.from_recipe(
        recipe, vision=_vision(recipe), text_config=_text_config(recipe)
    )
    with torch.device("meta"):
        return RoikitForConditionalGeneration(config)


def _vision(recipe: ModelRecipe) -> dict[str, Any]:
    if recipe.vision == "plain":
        return plain_vision(recipe)
    if recipe.vision == "efficientnet-lite0":
        return {"kind": "efficientnet-lite0"}
    config = _config(recipe.vision, "model.vision")
    config = getattr(config, "vision_config", config)
    return {
        "kind": "vit",
        "config": config.to_dict(),
        "layers": list(recipe.vision_layers),
        "interpolate": recipe.image_size != config.image_size,
    }


def _text_config(recipe: ModelRecipe) -> Any:
    if recipe.language == "scratch":
        return scratch_config(recipe, vocabulary=recipe.vocabulary)
    if recipe.language == "smollm2-135m":
        return package_config()
    return _config(recipe.language, "model.language")


def _config(name: str, key: str) -> Any:
    from transformers import AutoConfig

    if name in PUBLISHED:
        return AutoConfig.for_model(**copy.deepcopy(PUBLISHED[name]))
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{key}: `{name}` is neither a folder nor a model that can be fetched, so its size is "
            "not known",
            hint=f"sizes known without fetching: {', '.join(PUBLISHED)}",
        ) from error
