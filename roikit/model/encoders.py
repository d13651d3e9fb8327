"""Region encoders by name; what they share is in `regions.py`."""

from torch import nn

from roikit.config import REGION_ENCODERS
from roikit.errors import UsageError
from roikit.model.box_only import BoxOnlyEncoder
from roikit.model.configuration import RoikitConfig
from roikit.model.deformable import DeformableEncoder
from roikit.model.gpt4roi import Gpt4RoiEncoder
from roikit.model.pooled import PooledEncoder
from roikit.model.replay import ReplayEncoder

#: Encoders that hand a region's cells, with the channels of all levels, to the image projector.
_SEEN_BY_THE_PROJECTOR = ("replay", "pooled", "deformable")


def build_encoder(config: RoikitConfig, channels: tuple[int, ...]) -> nn.Module:
    """Build the region encoder of a configuration.

    Args:
        config: the model's.
        channels: of each feature level.

    Raises:
        UsageError: an unknown name, or one whose cells the image projector could not read.
    """
    name, width = config.region_encoder, config.text_config.hidden_size
    if name in _SEEN_BY_THE_PROJECTOR and (
        config.image_levels and list(config.image_levels) != list(range(len(channels)))
    ):
        raise UsageError(
            f"model.image_levels: expected all {len(channels)} levels in their order, since "
            f"`{name}` reads regions through the image projector, got {list(config.image_levels)}",
            hint="leave it empty, and choose with `model.levels` what both are made from",
        )
    shared = {"box_embedding": config.box_embedding}
    if name == "replay":
        return ReplayEncoder(
            sum(channels), width, config.region_grid, roi_size=config.roi_size, **shared
        )
    if name == "pooled":
        return PooledEncoder(sum(channels), width, roi_size=config.roi_size, **shared)
    if name == "deformable":
        return DeformableEncoder(channels, width, config.region_grid, **shared)
    if name == "gpt4roi":
        return Gpt4RoiEncoder(
            channels,
            width,
            inner_width=config.region_width or channels[-1],
            roi_size=config.roi_size or 14,
            **shared,
        )
    if name == "box":
        return BoxOnlyEncoder(width)
    if name == "text":
        return nn.Identity()
    raise UsageError(
        f"model.region_encoder: expected one of {', '.join(REGION_ENCODERS)}, got `{name}`"
    )
