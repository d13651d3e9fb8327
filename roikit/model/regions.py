"""Regions of a batch, and what the model asks of an encoder that turns them into tokens.

The encoders have a module each; `encoders.py` builds them by name. `text` has none: the processor
writes a region's box into the prompt.

Shape suffixes: B batch, C channels, D language model's width, K tokens a region, M cells along a
mask's side, R regions of the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from roikit.masks import MASK_SIZE as MASK_SIZE


@dataclass(frozen=True, kw_only=True, slots=True)
class Regions:
    """The regions of a batch, in the order of their tokens."""

    boxes_R4: Tensor  #: float32 xyxy, fractions of the input square
    image_index_R: Tensor  #: long; which picture of the batch, not decreasing
    #: (R, 28, 28) float32: the share of each cell of the box that lies in the region, 0 to 1;
    #: None where every region is its whole box
    masks_RMM: Tensor | None = None
    #: boxes as fractions of the feature maps, where those are tiles put together; None: the same
    map_boxes_R4: Tensor | None = None

    @property
    def on_maps(self) -> Tensor:
        """Boxes (R, 4) as fractions of the feature maps."""
        return self.boxes_R4 if self.map_boxes_R4 is None else self.map_boxes_R4


class RegionEncoder(Protocol):
    """What the model asks of a region encoder (an `nn.Module`)."""

    def __call__(
        self,
        levels: Sequence[Tensor],
        regions: Regions,
        project: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Encode regions.

        Args:
            levels: maps (B, C_l, H_l, W_l) of the same pictures.
            regions: of all the pictures.
            project: the image projector, (..., C) to (..., D).

        Returns:
            (R, K, D). Without regions it is empty and hangs on all that learns, with gradients of
            0: every process takes part in every step.
        """
        ...

    def reset_parameters(self) -> None:
        """Give all weights new values."""
        ...


def hang_on(empty: Tensor, module: nn.Module) -> Tensor:
    """Return an empty tensor that hangs on all of a module's parameters, with gradients of 0.

    Args:
        empty: without elements.
        module: whose parameters every process must use in every step.
    """
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        # no element of it is read, so that this costs nothing
        empty = empty + parameter.flatten()[:0].sum().to(empty.dtype)
    return empty
