"""The default region encoder: a region's own cells, as the image projector sees them.

Shape suffixes: C channels, D language model's width, K cells a region, R regions of the batch.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roikit.model.roi_align import pool_regions

if TYPE_CHECKING:
    from roikit.model.regions import Regions


class ReplayEncoder(nn.Module):
    """The image projector's view of each cell of the region, corrected by a small network.

    Everything trained here starts at zero: before training, a region's tokens are what the image
    projector makes of its cells.
    Source: RoI-aligned feature replay as in GAR; the zero start and the embeddings are ours.

    Args:
        in_channels: channels of all levels together.
        width: D, the language model's.
        grid: k; a region has k*k tokens.
        roi_size: cells along a side that are sampled, and averaged to k; 0: k.
        box_embedding: add an embedding of the box's place and size.
    """

    _FREQUENCIES = (
        6  # of sine and cosine features a coordinate: wavelengths from 2 to 1/16 of the side
    )

    def __init__(
        self,
        in_channels: int,
        width: int,
        grid: int,
        *,
        roi_size: int = 0,
        box_embedding: bool = True,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.roi_size = roi_size
        self.norm = nn.LayerNorm(in_channels)
        self.fc_in = nn.Linear(in_channels, width)
        self.fc_out = nn.Linear(width, width)
        self.cell_embedding = nn.Parameter(torch.zeros(grid * grid, width))
        self.box_embedding = (
            nn.Linear(4 * (1 + 2 * self._FREQUENCIES), width) if box_embedding else None
        )
        self._start_at_zero()

    def reset_parameters(self) -> None:
        """Start anew."""
        self.norm.reset_parameters()
        self.fc_in.reset_parameters()
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        """Let a region begin as the projector's view."""
        nn.init.zeros_(self.fc_out.weight)
        nn.init.zeros_(self.fc_out.bias)
        nn.init.zeros_(self.cell_embedding)
        if self.box_embedding is not None:
            nn.init.zeros_(self.box_embedding.weight)
            nn.init.zeros_(self.box_embedding.bias)

    def forward(
        self,
        levels: Sequence[Tensor],
        regions: "Regions",
        project: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Return (R, k*k, D), cells row by row; see `regions.RegionEncoder`."""
        cells_RKC = pool_regions(levels, regions, self.grid, roi_size=self.roi_size)
        correction = self.fc_out(F.gelu(self.fc_in(self.norm(cells_RKC))))
        tokens_RKD: Tensor = project(cells_RKC) + correction + self.cell_embedding
        if self.box_embedding is not None:
            features = self._box_features(regions.boxes_R4).to(self.box_embedding.weight.dtype)
            tokens_RKD = tokens_RKD + self.box_embedding(features)[:, None]
        return tokens_RKD

    def _box_features(self, boxes_R4: Tensor) -> Tensor:
        """Centre and size, each with sines and cosines."""
        boxes = boxes_R4.float()
        centre_size = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
        powers = torch.arange(self._FREQUENCIES, device=boxes.device, dtype=torch.float32)
        angles = (centre_size[:, :, None] * torch.pi * 2.0**powers).flatten(1)
        return torch.cat([centre_size, angles.sin(), angles.cos()], dim=1)
