"""RoIAlign over feature levels: each box becomes a grid of cells with all levels' channels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

if TYPE_CHECKING:
    from roikit.model.regions import Regions


def pool_regions(
    levels: Sequence[Tensor], regions: "Regions", grid: int, *, roi_size: int = 0
) -> Tensor:
    """RoIAlign every level to grid x grid cells and put their channels side by side.

    Args:
        levels: maps (B, C_l, H_l, W_l) over the same input square.
        regions: of the batch.
        grid: cells along each side.
        roi_size: cells along a side that are sampled and then averaged to `grid`; 0: `grid`.

    Returns:
        (R, grid * grid, sum of C_l), cells row by row, in the levels' type.
    """
    boxes_R4, image_index_R = regions.on_maps, regions.image_index_R
    pooled = []
    for level in levels:
        height, width = level.shape[-2:]
        scale = torch.tensor(
            [width, height, width, height], dtype=torch.float32, device=boxes_R4.device
        )
        rois = torch.cat([image_index_R[:, None].float(), boxes_R4.float() * scale], dim=1)
        # float32: box edges at bfloat16 would move by whole pixels
        cells = roi_align(level.float(), rois, roi_size or grid, sampling_ratio=2, aligned=True)
        if roi_size not in (0, grid):
            cells = F.adaptive_avg_pool2d(cells, grid)
        pooled.append(cells.flatten(2).transpose(1, 2))
    return torch.cat(pooled, dim=2).to(levels[0].dtype)
