"""The region encoder `box`: one token that knows where the region is and nothing of what is there.

A baseline. Whatever a model with it answers about a region comes from the image tokens and from
the place alone. Shape suffixes: B batch, C channels, D language model's width, R regions.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from roikit.model.box_embedding import NUM_BOX_FEATURES, box_features
from roikit.model.regions import Regions


class BoxOnlyEncoder(nn.Module):
    """Two layers over the box's place and size.

    Random at the start, unlike the embedding of a box beside features: a token of zeros would tell
    the language model nothing, and its own layers nothing of what they should become.

    Args:
        width: D, the language model's.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc_in = nn.Linear(NUM_BOX_FEATURES, width)
        self.fc_out = nn.Linear(width, width)

    def reset_parameters(self) -> None:
        """Draw both layers anew."""
        self.fc_in.reset_parameters()
        self.fc_out.reset_parameters()

    def forward(
        self,
        levels: Sequence[Tensor],
        regions: Regions,
        project: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Encode regions as (R, 1, D), from their boxes; levels and masks are not looked at."""
        features = box_features(regions.boxes_R4).to(self.fc_in.weight.dtype)
        tokens_RD: Tensor = self.fc_out(F.gelu(self.fc_in(features)))
        return tokens_RD[:, None]
