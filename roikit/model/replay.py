"""The default region encoder: a region's own cells, as the image projector sees them.

Shape suffixes: C channels, D language model's width, K cells a region, R regions of the batch.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from roikit.model.cell_tokens import CellTokens
from roikit.model.regions import Regions
from roikit.model.roi_align import pool_regions


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
        self.tokens = CellTokens(in_channels, width, grid * grid, box_embedding=box_embedding)

    def reset_parameters(self) -> None:
        """Start anew, as the projector's view."""
        self.tokens.reset_parameters()

    def forward(
        self,
        levels: Sequence[Tensor],
        regions: Regions,
        project: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Return (R, k*k, D), cells row by row; see `regions.RegionEncoder`."""
        cells_RKC = pool_regions(levels, regions, self.grid, roi_size=self.roi_size)
        tokens: Tensor = self.tokens(cells_RKC, regions.boxes_R4, project)
        return tokens
