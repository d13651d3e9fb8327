"""Region encoders: feature levels and boxes in, a fixed number of vectors a region out.

Shape suffixes: B batch, C channels, D language model's width, K cells a region, R regions of the
batch.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from roikit.errors import UsageError


class RegionEncoder(Protocol):
    """What the model asks of a region encoder (an `nn.Module`)."""

    def __call__(
        self,
        levels: Sequence[Tensor],
        boxes_R4: Tensor,
        image_index_R: Tensor,
        project: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Region tokens (R, K, D); see `ReplayEncoder.forward`."""
        ...


def pool_regions(
    levels: Sequence[Tensor], boxes_R4: Tensor, image_index_R: Tensor, grid: int
) -> Tensor:
    """RoIAlign every level to grid x grid cells and put their channels side by side.

    Args:
        levels: maps (B, C_l, H_l, W_l) over the same input square.
        boxes_R4: xyxy, fractions of the input square.
        image_index_R: which picture of the batch a box belongs to.
        grid: cells along each side.

    Returns:
        (R, grid * grid, sum of C_l), cells row by row, in the levels' type.
    """
    pooled = []
    for level in levels:
        height, width = level.shape[-2:]
        scale = torch.tensor(
            [width, height, width, height], dtype=torch.float32, device=boxes_R4.device
        )
        rois = torch.cat([image_index_R[:, None].float(), boxes_R4.float() * scale], dim=1)
        # float32: box edges at bfloat16 would move by whole pixels
        cells = roi_align(level.float(), rois, grid, sampling_ratio=2, aligned=True)
        pooled.append(cells.flatten(2).transpose(1, 2))
    return torch.cat(pooled, dim=2).to(levels[0].dtype)


class ReplayEncoder(nn.Module):
    """The image projector's view of each cell of the region, corrected by a small network.

    Everything trained here starts at zero: before training, a region's tokens are what the image
    projector makes of its cells.
    Source: RoI-aligned feature replay as in GAR; the zero start and the embeddings are ours.

    Args:
        in_channels: channels of all levels together.
        width: D, the language model's.
        grid: k; a region has k*k tokens.
        box_embedding: add an embedding of the box's place and size.
    """

    _FREQUENCIES = (
        6  # of sine and cosine features a coordinate: wavelengths from 2 to 1/16 of the side
    )

    def __init__(self, in_channels: int, width: int, grid: int, box_embedding: bool = True) -> None:
        super().__init__()
        self.grid = grid
        self.norm = nn.LayerNorm(in_channels)
        self.fc_in = nn.Linear(in_channels, width)
        self.fc_out = nn.Linear(width, width)
        self.cell_embedding = nn.Parameter(torch.zeros(grid * grid, width))
        self.box_embedding = (
            nn.Linear(4 * (1 + 2 * self._FREQUENCIES), width) if box_embedding else None
        )

    def reset_parameters(self) -> None:
        """Start at zero, so that a region begins as the projector's view."""
        nn.init.zeros_(self.fc_out.weight)
        nn.init.zeros_(self.fc_out.bias)
        nn.init.zeros_(self.cell_embedding)
        if self.box_embedding is not None:
            nn.init.zeros_(self.box_embedding.weight)
            nn.init.zeros_(self.box_embedding.bias)

    def forward(
        self,
        levels: Sequence[Tensor],
        boxes_R4: Tensor,
        image_index_R: Tensor,
        project: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Encode regions.

        Args:
            levels: maps (B, C_l, H_l, W_l).
            boxes_R4: xyxy, fractions of the input square, 0 to 1.
            image_index_R: index into the batch.
            project: the image projector, (..., C) to (..., D).

        Returns:
            (R, k*k, D), cells row by row.
        """
        cells_RKC = pool_regions(levels, boxes_R4, image_index_R, self.grid)
        correction = self.fc_out(F.gelu(self.fc_in(self.norm(cells_RKC))))
        tokens_RKD: Tensor = project(cells_RKC) + correction + self.cell_embedding
        if self.box_embedding is not None:
            features = self._box_features(boxes_R4).to(self.box_embedding.weight.dtype)
            tokens_RKD = tokens_RKD + self.box_embedding(features)[:, None]
        return tokens_RKD

    def _box_features(self, boxes_R4: Tensor) -> Tensor:
        """Centre and size, each with sines and cosines."""
        boxes = boxes_R4.float()
        centre_size = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
        powers = torch.arange(self._FREQUENCIES, device=boxes.device, dtype=torch.float32)
        angles = (centre_size[:, :, None] * torch.pi * 2.0**powers).flatten(1)
        return torch.cat([centre_size, angles.sin(), angles.cos()], dim=1)


ENCODERS = {"replay": ReplayEncoder}


def check_encoder(name: str) -> None:
    """Refuse an encoder that cannot be built; nothing is read or fetched for it.

    Raises:
        UsageError: an unknown name, or the reference's, which is not built yet.
    """
    if name == "gpt4roi":
        raise UsageError(
            "model.region_encoder: `gpt4roi`, the reference's pyramid, is not built yet, so this "
            "recipe cannot start",
            hint="`--recipe base` trains with the encoder `replay`",
        )
    if name not in ENCODERS:
        raise UsageError(
            f"model.region_encoder: expected one of {', '.join(ENCODERS)}, got `{name}`"
        )


def build_encoder(
    name: str, *, in_channels: int, width: int, grid: int, box_embedding: bool
) -> ReplayEncoder:
    """Build a region encoder by name.

    Raises:
        UsageError: an unknown name.
    """
    check_encoder(name)
    return ENCODERS[name](in_channels, width, grid, box_embedding)
