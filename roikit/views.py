"""Pictures with their regions, as a model takes them: one, and a batch of them.

The processor makes a `View` of a picture and the regions that a prompt introduces; `gather` puts
views into a batch, whose `model_inputs` are keyword arguments of the model's `forward`.

Shape suffixes: M cells along a mask's side, N pictures, R regions, S input side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One picture with the regions that a prompt introduces, in the order of their tokens."""

    pixels_3SS: Tensor  #: uint8
    boxes_R4: Tensor  #: float32 xyxy, fractions of the input square
    #: (R, 28, 28) float32: the share of each cell of the box that lies in the region, 0 to 1;
    #: None where every region is its whole box
    masks_RMM: Tensor | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """The views of a batch."""

    pixels_N3SS: Tensor  #: uint8
    boxes_R4: Tensor  #: of all pictures, one after the other
    image_index_R: Tensor  #: into the N pictures
    masks_RMM: Tensor | None = None  #: None where no region has one

    def to(self, device: torch.device) -> "Views":
        """The same views on `device`."""
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if (value := getattr(self, f.name)) is not None
        }
        return replace(self, **moved)

    def model_inputs(self, normalise: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return the model's keyword arguments.

        Args:
            normalise: (N, 3, S, S) uint8 to what the tower takes.
        """
        inputs = {
            "pixel_values": normalise(self.pixels_N3SS),
            "region_boxes": self.boxes_R4,
            "region_image_index": self.image_index_R,
        }
        if self.masks_RMM is not None:
            inputs["region_masks"] = self.masks_RMM
        return inputs


def gather(views: Sequence[View]) -> Views:
    """Put views into a batch; a region without a mask gets one of its whole box beside others."""
    index = [i for i, view in enumerate(views) for _ in range(len(view.boxes_R4))]
    masks = None
    side = next((view.masks_RMM.shape[-1] for view in views if view.masks_RMM is not None), None)
    if side is not None:
        masks = torch.cat(
            [
                torch.ones(len(view.boxes_R4), side, side)
                if view.masks_RMM is None
                else view.masks_RMM
                for view in views
            ]
        )
    return Views(
        pixels_N3SS=torch.stack([view.pixels_3SS for view in views]),
        boxes_R4=torch.cat([view.boxes_R4 for view in views]),
        image_index_R=torch.tensor(index, dtype=torch.long),
        masks_RMM=masks,
    )
