"""The region-aware vision-language model, as a Hugging Face model.

Image and region placeholders in `input_ids` are replaced by features; the rest is the language
model's. Shape suffixes: B batch, C channels, D width, K tokens a region, R regions of the batch, T
tokens.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from roikit.errors import RoikitError, UsageError
from roikit.model.checks import check_pictures, check_places, check_regions
from roikit.model.configuration import RoikitConfig
from roikit.model.encoders import build_encoder
from roikit.model.projector import Projector
from roikit.model.regions import Regions
from roikit.model.repeated import repeat_inputs
from roikit.model.tiling import encode_regions, tile_inputs
from roikit.model.vision import build_tower

T = TypeVar("T")

_FIRST_STEP_ONLY = (
    "pixel_values",
    "region_boxes",
    "region_image_index",
    "region_masks",
    "tile_values",
    "tile_places",
    "tile_grids",
    "region_map_boxes",
)


class RoikitForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Vision tower, image projector, region encoder and language model."""

    config_class = RoikitConfig
    base_model_prefix = "language_model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _skip_keys_device_placement = ("past_key_values",)

    def __init__(self, config: RoikitConfig) -> None:
        super().__init__(config)
        tower = build_tower(config.vision)
        self.vision_tower = tower
        channels = tuple(_chosen(tower.channels, config.levels, "levels"))
        self.projector = Projector(
            sum(_chosen(channels, config.image_levels, "image_levels")),
            config.text_config.hidden_size,
            kind=config.projector,
            image_embedding=config.image_embedding,
        )
        self.region_encoder = build_encoder(config, channels)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self._tied_weights_keys = _tied_keys(self.language_model)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # Only what a checkpoint lacks comes here; submodules bring their own initialisation. A
        # module without weights of its own never does, as most encoders are: so each of their parts
        # stands for the whole. What was read from the checkpoint, transformers keeps as it is.
        parts = list(self.region_encoder.modules())
        reset = getattr(self.region_encoder, "reset_parameters", None)
        if reset is not None and any(module is part for part in parts):
            reset()
            for part in parts:
                part._is_hf_initialized = True  # type: ignore[assignment]  # transformers' mark

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        embeddings: nn.Module = self.language_model.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Set the language model's."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's."""
        head: nn.Module = self.language_model.get_output_embeddings()
        return head

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Set the language model's."""
        self.language_model.set_output_embeddings(value)

    def feature_levels(self, pixel_values: Tensor) -> list[Tensor]:
        """Maps (B, C_l, H_l, W_l) of pictures (B, 3, S, S): those that the configuration uses."""
        tower_type = next(self.vision_tower.parameters()).dtype
        levels = self.vision_tower(pixel_values.to(tower_type))
        return _chosen(levels, self.config.levels, "levels")

    def image_features(self, levels: list[Tensor]) -> Tensor:
        """Image tokens (B, grid * grid, D), row by row: every level averaged onto one grid."""
        grid = self.config.image_grid
        levels = _chosen(levels, self.config.image_levels, "image_levels")
        maps = [level if level.shape[-1] == grid else _resize(level, grid) for level in levels]
        cells_BGC = torch.cat(maps, dim=1).flatten(2).transpose(1, 2)
        return self.projector.image_tokens(cells_BGC)

    def embed(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None,
        region_boxes: Tensor | None = None,
        region_image_index: Tensor | None = None,
        region_masks: Tensor | None = None,
        tile_values: Tensor | None = None,
        tile_places: Tensor | None = None,
        tile_grids: Tensor | None = None,
        region_map_boxes: Tensor | None = None,
    ) -> Tensor:
        """Token embeddings (B, T, D) with image and region features in their places.

        The arguments are those of `forward`.

        Raises:
            RoikitError: placeholders and features differ in number, regions cannot be, or tiles
                come without places.
        """
        embeds_BTD: Tensor = self.get_input_embeddings()(input_ids)
        if pixel_values is None:
            if region_boxes is not None:
                raise RoikitError(
                    "forward: expected `pixel_values` beside `region_boxes`, got none"
                )
            return embeds_BTD
        check_pictures(pixel_values, tile_values)
        check_regions(pixel_values, region_boxes, region_image_index, region_masks)
        num_pictures = len(pixel_values)
        tiles = tile_inputs(
            tile_values,
            tile_places,
            tile_grids,
            region_map_boxes,
            num_pictures=num_pictures,
            num_regions=0 if region_boxes is None else len(region_boxes),
        )
        if tiles is not None:
            pixel_values = torch.cat([pixel_values, tiles.values_T3SS])
        maps = self.feature_levels(pixel_values)
        levels = maps if tiles is None else [level[:num_pictures] for level in maps]
        image_tokens = self.image_features(levels)
        pictures = torch.arange(num_pictures, device=image_tokens.device)
        embeds_BTD = _scatter(
            embeds_BTD,
            input_ids == self.config.image_token_id,
            image_tokens,
            pictures,
            num_pictures=num_pictures,
            what="image",
        )
        if self.config.region_encoder == "text":
            return embeds_BTD
        if region_boxes is None or region_image_index is None:
            region_boxes = pixel_values.new_zeros((0, 4))
            region_image_index = torch.zeros(0, dtype=torch.long, device=pixel_values.device)
        regions = Regions(
            boxes_R4=region_boxes,
            image_index_R=region_image_index,
            masks_RMM=region_masks,
            map_boxes_R4=region_map_boxes,
        )
        # called without regions too: what learns must take part in every process's every step
        if tiles is None:
            region_tokens = self.region_encoder(levels, regions, self.projector)
        else:
            tile_levels = [level[num_pictures:] for level in maps]
            region_tokens = encode_regions(
                self.region_encoder, levels, regions, self.projector, tile_levels, tiles
            )
        return _scatter(
            embeds_BTD,
            input_ids == self.config.region_token_id,
            region_tokens,
            region_image_index,
            num_pictures=num_pictures,
            what="region",
        )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        region_boxes: Tensor | None = None,
        region_image_index: Tensor | None = None,
        region_masks: Tensor | None = None,
        tile_values: Tensor | None = None,
        tile_places: Tensor | None = None,
        tile_grids: Tensor | None = None,
        region_map_boxes: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | float | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Run the model.

        Args:
            input_ids: (B, T) with placeholders.
            attention_mask: (B, T), 0 on padding.
            pixel_values: (B, 3, S, S) normalised; None once the picture is in the cache.
            region_boxes: (R, 4) xyxy, fractions of the input square, in order of their tokens.
            region_image_index: (R,) index into the batch, not decreasing.
            region_masks: (R, 28, 28) share of each cell of the box that lies in the region; None
                where every region is its whole box.
            tile_values: (T, 3, S, S) normalised tiles of large pictures, from which their regions
                are read; None where no picture has any.
            tile_places: (T, 3) picture, row and column of each tile.
            tile_grids: (B, 2) rows and columns of each picture's canvas, 1 and 1 without tiles.
            region_map_boxes: (R, 4) xyxy, fractions of the canvas.
            labels: (B, T), -100 where nothing is learned; aligned with `input_ids`.
            inputs_embeds: (B, T, D) instead of `input_ids`.
            logits_to_keep: as in transformers.
            num_items_in_batch: what to divide the summed loss by, where a step's batches are
                computed one by one; by default the number of labels here.
            **kwargs: handed to the language model.

        Returns:
            Loss (with labels) and logits; with labels, logits only of the columns in which some row
            has a label, since a large vocabulary makes the rest the costliest part of a step.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise RoikitError("forward: expected `input_ids` or `inputs_embeds`, got neither")
            inputs_embeds = self.embed(
                input_ids,
                pixel_values,
                region_boxes,
                region_image_index,
                region_masks,
                tile_values,
                tile_places,
                tile_grids,
                region_map_boxes,
            )
        targets = None
        if labels is not None:
            targets = F.pad(labels[:, 1:], (0, 1), value=-100)
            logits_to_keep = (targets != -100).any(dim=0).nonzero().squeeze(1)
            targets = targets[:, logits_to_keep]
        output = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        loss = None
        if targets is not None:
            total = F.cross_entropy(
                output.logits.flatten(0, 1).float(),
                targets.flatten(),
                ignore_index=-100,
                reduction="sum",
            )
            count = (targets != -100).sum() if num_items_in_batch is None else num_items_in_batch
            loss = total / count
        return CausalLMOutputWithPast(
            loss=loss,
            logits=output.logits,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, **kwargs: Any
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """Repeat prompts for beams or several answers: a picture's regions go with it."""
        seen = {name: kwargs.pop(name) for name in _FIRST_STEP_ONLY if kwargs.get(name) is not None}
        input_ids, expanded = super()._expand_inputs_for_generation(
            expand_size=expand_size, **kwargs
        )
        return input_ids, expanded | (repeat_inputs(seen, expand_size) if seen else {})

    def prepare_inputs_for_generation(
        self, *args: Any, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Hand picture and boxes to the first step only: later ones have them in the cache."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            *args, is_first_iteration=is_first_iteration, **kwargs
        )
        if not is_first_iteration and kwargs.get("use_cache", True):
            for name in _FIRST_STEP_ONLY:
                inputs[name] = None
        return inputs


def _chosen(levels: Sequence[T], indices: Sequence[int], key: str) -> list[T]:
    """Those of the levels that a configuration names; all where it names none.

    Raises:
        UsageError: there is no such level.
    """
    if any(not -len(levels) <= i < len(levels) for i in indices):
        raise UsageError(
            f"model.{key}: expected some of 0 to {len(levels) - 1}, got {list(indices)}"
        )
    return [levels[i] for i in indices] if indices else list(levels)


def _tied_keys(language_model: PreTrainedModel) -> Any:
    """The language model's tied weights under this model's names."""
    keys = getattr(language_model, "_tied_weights_keys", None) or {}
    return {f"language_model.{k}": f"language_model.{v}" for k, v in dict(keys).items()}


def _resize(level: Tensor, grid: int) -> Tensor:
    """Average onto a coarser grid, interpolate onto a finer one."""
    if level.shape[-1] > grid:
        return F.adaptive_avg_pool2d(level, grid)
    return F.interpolate(level.float(), size=grid, mode="bilinear").to(level.dtype)


def _scatter(
    embeds_BTD: Tensor,
    mask_BT: Tensor,
    features_FKD: Tensor,
    picture_index_F: Tensor,
    *,
    num_pictures: int,
    what: str,
) -> Tensor:
    """Put features (of pictures or of regions, K tokens each), in order, where the mask is set."""
    check_places(
        mask_BT,
        picture_index_F,
        num_pictures=num_pictures,
        tokens_each=features_FKD.shape[1],
        what=what,
    )
    flat = features_FKD.flatten(0, 1).to(embeds_BTD.dtype)
    if not len(flat):
        # the sum is 0; it ties what made no feature to the loss, with gradients of 0
        return embeds_BTD + flat.sum() if flat.requires_grad else embeds_BTD
    return embeds_BTD.masked_scatter(mask_BT[:, :, None].expand_as(embeds_BTD), flat)
