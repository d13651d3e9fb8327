"""What a saved model is made of."""

from typing import Any

from transformers import AutoConfig, PretrainedConfig


class RoikitConfig(PretrainedConfig):
    """Configuration of `RoikitForConditionalGeneration`.

    Args:
        vision: the tower: `{"kind": "vit" | "efficientnet-lite0" | "plain", ...}`, see `vision.py`.
        text_config: configuration of any Hugging Face causal language model.
        region_encoder: name in `regions.ENCODERS`.
        region_grid: k; a region has k*k cells and as many tokens.
        box_embedding: whether the box itself is embedded beside its features.
        image_embedding: whether a learned vector tells image tokens from region tokens.
        image_size: side of the square input, pixels.
        image_grid: the picture becomes image_grid * image_grid tokens.
        image_token_id: id of the placeholder of one image token.
        region_token_id: id of the placeholder of one region token.
    """

    model_type = "roikit"
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012 (the base class's form)

    def __init__(
        self,
        vision: dict[str, Any] | None = None,
        text_config: dict[str, Any] | PretrainedConfig | None = None,
        region_encoder: str = "replay",
        region_grid: int = 3,
        box_embedding: bool = True,
        image_embedding: bool = False,
        image_size: int = 224,
        image_grid: int = 14,
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
        self.region_encoder = region_encoder
        self.region_grid = region_grid
        self.box_embedding = box_embedding
        self.image_embedding = image_embedding
        self.image_size = image_size
        self.image_grid = image_grid
        self.image_token_id = image_token_id
        self.region_token_id = region_token_id
        kwargs.setdefault("tie_word_embeddings", self.text_config.tie_word_embeddings)
        super().__init__(**kwargs)

    @property
    def num_region_tokens(self) -> int:
        """Tokens a region takes in the prompt."""
        return self.region_grid * self.region_grid

    @property
    def num_image_tokens(self) -> int:
        """Tokens the picture takes in the prompt."""
        return self.image_grid * self.image_grid
