"""From the tower's channels to the language model's width, for image and region cells alike."""

import torch
from torch import Tensor, nn

#: Near the spread of what a new projector puts out, so that it is neither lost nor drowns the cell.
_IMAGE_EMBEDDING_STD = 0.3


class Projector(nn.Module):
    """One or two layers over each cell's channels.

    A region's tokens start as what this makes of its cells, so a language model that knows nothing
    yet cannot tell them from the picture's own: in trials from scratch it read texture off the
    region several times later for that. `image_embedding`, a vector added to image tokens alone,
    tells the two apart from the first step.

    Args:
        channels: C, of all levels together.
        width: D, the language model's.
        kind: `mlp`, two layers behind a norm, or `linear`, the single layer of LLaVA's first
            version and GPT4RoI.
        image_embedding: add the vector; it starts random.
    """

    def __init__(
        self, channels: int, width: int, *, kind: str = "mlp", image_embedding: bool = False
    ) -> None:
        super().__init__()
        self.layers: nn.Module = nn.Linear(channels, width)
        if kind == "mlp":
            self.layers = nn.Sequential(
                nn.LayerNorm(channels), self.layers, nn.GELU(), nn.Linear(width, width)
            )
        self.image_embedding = (
            nn.Parameter(torch.randn(width) * _IMAGE_EMBEDDING_STD) if image_embedding else None
        )

    def forward(self, cells: Tensor) -> Tensor:
        """Project cells (..., C) to (..., D)."""
        projected: Tensor = self.layers(cells)
        return projected

    def image_tokens(self, cells: Tensor) -> Tensor:
        """Project the picture's own cells (..., C) to its tokens (..., D)."""
        tokens: Tensor = self.layers(cells)
        return tokens if self.image_embedding is None else tokens + self.image_embedding
