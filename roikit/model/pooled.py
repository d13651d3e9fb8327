"""The region encoder `pooled`: one token a region, a weighted mean of many cells.

Shape suffixes: B batch, C channels of all levels, D language model's width, P cells of a
region, R regions.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roikit.model.cell_tokens import CellTokens
from roikit.model.regions import Regions
from roikit.model.roi_align import pool_regions

#: Cells along a side where the recipe does not say: the reference's.
_ROI_SIZE = 14
#: Of a cell outside of the mask, so that its logarithm is finite where all cells are.
_NO_SHARE = torch.finfo(torch.float32).tiny


class PooledEncoder(nn.Module):
    """Attention over the region's cells with one learned query, then the projector's view.

    The scores start at zero, so that a region begins as the mean of its cells; a mask weights each
    cell by the share of it that the mask covers.
    Source: attention pooling with one query, as in CLIP's ResNet and in SigLIP's head; one token a
    region as in GPT4RoI (section 3.1), whose pyramid and flattening layer it does without.

    Args:
        in_channels: C.
        width: D, the language model's.
        roi_size: cells along a side, P of them in all; 0 takes 14.
        box_embedding: add an embedding of the box's place and size.
    """

    def __init__(
        self, in_channels: int, width: int, *, roi_size: int = 0, box_embedding: bool = True
    ) -> None:
        super().__init__()
        self.roi_size = roi_size or _ROI_SIZE
        self.score_norm = nn.LayerNorm(in_channels)
        # no bias: all cells' scores would move alike, and the weights not at all
        self.score = nn.Linear(in_channels, 1, bias=False)
        self.tokens = CellTokens(in_channels, width, 1, box_embedding=box_embedding)
        nn.init.zeros_(self.score.weight)

    def reset_parameters(self) -> None:
        """Start as the projector's view of the mean."""
        self.score_norm.reset_parameters()
        nn.init.zeros_(self.score.weight)
        self.tokens.reset_parameters()

    def forward(
        self,
        levels: Sequence[Tensor],
        regions: Regions,
        project: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Encode regions as (R, 1, D); see `regions.RegionEncoder`."""
        cells_RPC = pool_regions(levels, regions, self.roi_size)
        scores_RP = self.score(self.score_norm(cells_RPC)).squeeze(2).float()
        if regions.masks_RMM is not None:
            share_R1PP = F.adaptive_avg_pool2d(regions.masks_RMM[:, None].float(), self.roi_size)
            scores_RP = scores_RP + share_R1PP.flatten(1).clamp_min(_NO_SHARE).log()
        weights_RP = scores_RP.softmax(dim=1).to(cells_RPC.dtype)
        pooled_R1C = weights_RP[:, None] @ cells_RPC
        tokens: Tensor = self.tokens(pooled_R1C, regions.boxes_R4, project)
        return tokens
