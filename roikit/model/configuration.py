"""What a saved model is made of."""

from typing import Any, Self

from transformers import AutoConfig, PretrainedConfig

from roikit.config import ModelRecipe, region_tokens

#: Keys that a recipe's model table and a model's configuration share.
_SHARED = (
    "projector",
    "levels",
    "image_levels",
    "region_encoder",
    "region_grid",
    "roi_size",
    "region_width",
    "box_embedding",
    "image_embedding",
    "image_size",
    "image_grid",
)
_DEFAULTS = ModelRecipe()


class RoikitConfig(PretrainedConfig):
    """Configuration of `RoikitForConditionalGeneration`.

    Args:
        vision: the tower: `{"kind": "vit" | "efficientnet-lite0" | "plain", ...}`, see `vision.py`.
        text_config: configuration of any Hugging Face causal language model.
        image_token_id: id of the placeholder of one image token.
        region_token_id: id of the placeholder of one region token.
        **kwargs: keys of `roikit.config.ModelRecipe` (`region_encoder`, `image_grid`, ...), with
            its defaults, and what `PretrainedConfig` takes.
    """

    model_type = "roikit"
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012 (the base class's form)

    projector: str
    levels: tuple[int, ...]
    image_levels: tuple[int, ...]
    region_encoder: str
    region_grid: int
    roi_size: int
    region_width: int
    box_embedding: bool
    image_embedding: bool
    image_size: int
    image_grid: int

    def __init__(
        self,
        vision: dict[str, Any] | None = None,
        text_config: dict[str, Any] | PretrainedConfig | None = None,
        image_token_id: int = 0,
        region_token_id: int = 0,
        **kwargs: Any,
    ) -> None:
        if text_config is None:
            text_config = {"model_type": "llama"}
        self.vision = vision or {"kind": "plain"}
        self.text_config: Any = (
            AutoConfig.for_model(**text_config) if isinstance(text_config, dict) else text_config
        )
        self.image_token_id = image_token_id
        self.region_token_id = region_token_id
        for name in _SHARED:
            default = getattr(_DEFAULTS, name)
            value = kwargs.pop(name, default)
            # JSON has no tuples
            setattr(self, name, tuple(value) if isinstance(default, tuple) else value)
        kwargs.setdefault("tie_word_embeddings", self.text_config.tie_word_embeddings)
        super().__init__(**kwargs)

    @classmethod
    def from_recipe(cls, recipe: ModelRecipe, **kwargs: Any) -> Self:
        """Make the configuration of a recipe's model from its parts' own, given as `__init__`'s."""
        return cls(**{name: getattr(recipe, name) for name in _SHARED}, **kwargs)

    @property
    def num_region_tokens(self) -> int:
        """Tokens a region takes in the prompt."""
        return region_tokens(self.region_encoder, self.region_grid)

    @property
    def num_image_tokens(self) -> int:
        """Tokens the picture takes in the prompt."""
        return self.image_grid * self.image_grid
