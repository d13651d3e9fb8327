"""From a region's cells to its tokens: the image projector's view of each, and a correction of it.

What `replay`, `pooled` and `deformable` have in common; they differ in how they read the cells.
Shape suffixes: C channels of all levels, D language model's width, K cells a region, R regions.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roikit.model.box_embedding import BoxEmbedding


class CellTokens(nn.Module):
    """The projector's view of a region's cells, corrected by a small network.

    The correction and the embeddings start at zero: before training, a region's tokens are what
    the image projector makes of its cells, which a language model that knows pictures can read.

    Args:
        in_channels: C.
        width: D.
        num_cells: K; each has an embedding of its own.
        box_embedding: add an embedding of the box's place and size.
    """

    def __init__(
        self, in_channels: int, width: int, num_cells: int, *, box_embedding: bool
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_channels)
        # no wider than the features: a correction as large as the projector's doubles the cost
        hidden = min(in_channels, width)
        self.fc_in = nn.Linear(in_channels, hidden)
        self.fc_out = nn.Linear(hidden, width)
        self.cell_embedding = nn.Parameter(torch.zeros(num_cells, width))
        self.box_embedding = BoxEmbedding(width) if box_embedding else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the network's first layer anew; what is added to the view starts at zero."""
        self.norm.reset_parameters()
        self.fc_in.reset_parameters()
        nn.init.zeros_(self.fc_out.weight)
        nn.init.zeros_(self.fc_out.bias)
        nn.init.zeros_(self.cell_embedding)
        if self.box_embedding is not None:
            self.box_embedding.reset_parameters()

    def forward(
        self, cells_RKC: Tensor, boxes_R4: Tensor, project: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Make tokens of cells.

        Args:
            cells_RKC: features; R may be 0.
            boxes_R4: xyxy, fractions of the input square, float32.
            project: the image projector, (..., C) to (..., D).

        Returns:
            (R, K, D), in the order of the cells.
        """
        correction = self.fc_out(F.gelu(self.fc_in(self.norm(cells_RKC))))
        tokens_RKD: Tensor = project(cells_RKC) + correction + self.cell_embedding
        if self.box_embedding is not None:
            tokens_RKD = tokens_RKD + self.box_embedding(boxes_R4)[:, None]
        return tokens_RKD
