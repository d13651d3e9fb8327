"""A box's place and size as a vector: sines and cosines, then one layer that starts at zero.

Knows nothing of pictures. Shape suffixes: D width, F features, R regions.
"""

import torch
from torch import Tensor, nn

#: Sines and cosines a coordinate: wavelengths from 2 to 1/16 of the square's side.
_FREQUENCIES = 6
#: F: four coordinates, each as it is and by its sines and cosines.
NUM_BOX_FEATURES = 4 * (1 + 2 * _FREQUENCIES)


def box_features(boxes_R4: Tensor) -> Tensor:
    """Centre and size of boxes, each with sines and cosines.

    Args:
        boxes_R4: xyxy, fractions of the input square, 0 to 1.

    Returns:
        (R, F) float32: at bfloat16 the finest waves would be noise.
    """
    boxes = boxes_R4.float()
    centre_size = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
    powers = torch.arange(_FREQUENCIES, device=boxes.device, dtype=torch.float32)
    angles = (centre_size[:, :, None] * torch.pi * 2.0**powers).flatten(1)
    return torch.cat([centre_size, angles.sin(), angles.cos()], dim=1)


class BoxEmbedding(nn.Module):
    """What a region's tokens are told of its box beside its features; nothing before training.

    Args:
        width: D, the language model's.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(NUM_BOX_FEATURES, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start at zero."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, boxes_R4: Tensor) -> Tensor:
        """Embed boxes (R, 4), xyxy in fractions of the input square, as (R, D)."""
        embedded: Tensor = self.linear(box_features(boxes_R4).to(self.linear.weight.dtype))
        return embedded
