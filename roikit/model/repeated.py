"""A batch's pictures and regions, repeated: for beams, or several answers to a prompt."""

from collections.abc import Mapping

import torch
from torch import Tensor

#: Arguments of `forward` with a row a picture, and with a row a region.
_OF_PICTURES = ("pixel_values", "tile_grids")
_OF_REGIONS = ("region_boxes", "region_masks", "region_map_boxes")


def repeat_inputs(inputs: Mapping[str, Tensor], times: int) -> dict[str, Tensor]:
    """Repeat each picture with its regions and tiles, the copies of one behind each other.

    Args:
        inputs: arguments of `forward` that speak of pictures.
        times: copies of each.

    Returns:
        The same arguments for `times` as many pictures.
    """
    repeated = {
        name: inputs[name].repeat_interleave(times, dim=0)
        for name in _OF_PICTURES
        if name in inputs
    }
    num_pictures = len(inputs["pixel_values"])
    if "region_image_index" in inputs:
        rows, index = _copies(inputs["region_image_index"], num_pictures, times)
        repeated["region_image_index"] = index
        repeated |= {name: inputs[name][rows] for name in _OF_REGIONS if name in inputs}
    if "tile_places" in inputs:
        places = inputs["tile_places"]
        rows, index = _copies(places[:, 0], num_pictures, times)
        repeated["tile_places"] = torch.cat([index[:, None], places[rows, 1:]], dim=1)
        repeated["tile_values"] = inputs["tile_values"][rows]
    return repeated


def _copies(picture: Tensor, num_pictures: int, times: int) -> tuple[Tensor, Tensor]:
    """For rows that belong to pictures: which row each copy is of, and its new picture."""
    old = torch.arange(num_pictures, device=picture.device).repeat_interleave(times)
    new, rows = (old[:, None] == picture[None]).nonzero(as_tuple=True)
    return rows, new
