"""Regions read from the tiles of large pictures, put together to one map a picture.

The tower sees pictures and tiles in one call, so that every process calls it equally often, however
many tiles its pictures have. Which tiles there are, and where, the processor says.

Shape suffixes: B tiled pictures of one grid, C channels, D width, H/W rows/columns of a map, K
tokens a region, N pictures, R regions, S input side, T tiles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from roikit.errors import RoikitError
from roikit.model.checks import check_tiles
from roikit.model.regions import Regions


@dataclass(frozen=True, kw_only=True, slots=True)
class TileInputs:
    """The tiles of a batch, as `forward` takes them."""

    values_T3SS: Tensor  #: normalised
    places_T3: Tensor  #: long; picture, row and column of each
    grids_N2: Tensor  #: long; rows and columns of each picture's canvas, 1 and 1 without tiles


def tile_inputs(
    values: Tensor | None,
    places: Tensor | None,
    grids: Tensor | None,
    map_boxes: Tensor | None,
    *,
    num_pictures: int,
    num_regions: int,
) -> TileInputs | None:
    """Gather arguments of `forward`; None where no picture has tiles.

    Raises:
        RoikitError: some of them are missing, or not as many as the others.
    """
    if values is None and places is None and grids is None and map_boxes is None:
        return None
    if values is None or places is None or grids is None or map_boxes is None:
        raise RoikitError(
            "forward: expected `tile_values`, `tile_places`, `tile_grids` and `region_map_boxes` "
            "together, got some of them"
        )
    check_tiles(
        values, places, grids, map_boxes, num_pictures=num_pictures, num_regions=num_regions
    )
    return TileInputs(values_T3SS=values, places_T3=places, grids_N2=grids)


def encode_regions(
    encoder: nn.Module,
    levels: Sequence[Tensor],
    regions: Regions,
    project: Callable[[Tensor], Tensor],
    tile_levels: Sequence[Tensor],
    tiles: TileInputs,
) -> Tensor:
    """Encode regions, those of a tiled picture from its tiles.

    Args:
        encoder: a `RegionEncoder` that reads regions' surroundings alone.
        levels: maps (N, C_l, H_l, W_l) of the whole pictures.
        regions: of all the pictures; `on_maps` are places on the canvas where there is one.
        project: the image projector.
        tile_levels: maps (T, C_l, H_l, W_l).
        tiles: where those lie.

    Returns:
        (R, K, D) in the regions' order.
    """
    pictures = regions.image_index_R.tolist()
    if not pictures:
        nothing: Tensor = encoder(levels, regions, project)
        return nothing
    grids = [(rows, columns) for rows, columns in tiles.grids_N2.tolist()]
    places = tiles.places_T3.tolist()
    encoded: list[Tensor] = []
    order: list[int] = []
    # maps of one shape go through the encoder together
    for grid in sorted({grids[picture] for picture in pictures}):
        chosen = [i for i, picture in enumerate(pictures) if grids[picture] == grid]
        order += chosen
        if grid == (1, 1):
            encoded.append(encoder(levels, _some(regions, chosen), project))
            continue
        slots = {picture: i for i, picture in enumerate(sorted({pictures[i] for i in chosen}))}
        maps = [stitch(level, places, grid, slots) for level in tile_levels]
        index = [slots[pictures[i]] for i in chosen]
        encoded.append(encoder(maps, _some(regions, chosen, index), project))
    if len(encoded) == 1:
        return encoded[0]
    back = torch.tensor(order, device=regions.image_index_R.device).argsort()
    return torch.cat(encoded).index_select(0, back)


def stitch(
    tiles_TCHW: Tensor,
    places: Sequence[Sequence[int]],
    grid: tuple[int, int],
    slots: dict[int, int],
) -> Tensor:
    """Put tiles' maps together to (B, C, rows * H, columns * W), zeros where a tile is missing.

    Args:
        tiles_TCHW: maps of the batch's tiles.
        places: picture, row and column of each.
        grid: rows and columns.
        slots: the pictures that are wanted, all of that grid, and where each comes to lie.
    """
    rows, columns = grid
    device = tiles_TCHW.device
    wanted = [t for t, place in enumerate(places) if place[0] in slots]
    cells = [
        (slots[picture] * rows + row) * columns + column
        for picture, row, column in (places[t] for t in wanted)
    ]
    channels, height, width = tiles_TCHW.shape[1:]
    canvas = tiles_TCHW.new_zeros((len(slots) * rows * columns, channels, height, width))
    canvas = canvas.index_copy(
        0,
        torch.tensor(cells, dtype=torch.long, device=device),
        tiles_TCHW[torch.tensor(wanted, dtype=torch.long, device=device)],
    )
    laid_BCrHcW: Tensor = canvas.unflatten(0, (len(slots), rows, columns)).permute(0, 3, 1, 4, 2, 5)
    return laid_BCrHcW.reshape(len(slots), channels, rows * height, columns * width)


def _some(regions: Regions, chosen: list[int], pictures: list[int] | None = None) -> Regions:
    """Return some of the regions, perhaps of pictures with other numbers."""
    device = regions.image_index_R.device
    at = torch.tensor(chosen, device=device)
    index = regions.image_index_R[at] if pictures is None else torch.tensor(pictures, device=device)
    return Regions(
        boxes_R4=regions.boxes_R4[at],
        image_index_R=index,
        masks_RMM=None if regions.masks_RMM is None else regions.masks_RMM[at],
        map_boxes_R4=regions.on_maps[at],
    )
