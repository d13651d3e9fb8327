"""Pictures with their regions, as a model takes them: one, and a batch of them.

The processor makes a `View` of a picture and the regions that a prompt introduces; `gather` puts
views into a batch, whose `model_inputs` are keyword arguments of the model's `forward`.

Shape suffixes: M cells along a mask's side, N pictures, R regions, S input side, T tiles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

Held = TypeVar("Held", "Views", "BatchTiles")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiles:
    """A large picture on its canvas of tiles: those that its regions are read from."""

    grid: tuple[int, int]  #: rows and columns of the canvas
    pixels_T3SS: Tensor  #: uint8
    places_T2: Tensor  #: long; row and column of each tile
    boxes_R4: Tensor  #: float32 xyxy, fractions of the canvas


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One picture with the regions that a prompt introduces, in the order of their tokens."""

    pixels_3SS: Tensor  #: uint8
    boxes_R4: Tensor  #: float32 xyxy, fractions of the input square
    #: (R, 28, 28) float32: the share of each cell of the box that lies in the region, 0 to 1;
    #: None where every region is its whole box
    masks_RMM: Tensor | None = None
    tiles: Tiles | None = None  #: None where regions are read from the whole picture


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchTiles:
    """The tiles of a batch of which at least one picture has some."""

    pixels_T3SS: Tensor  #: uint8
    places_T3: Tensor  #: long; picture, row and column of each tile
    grids_N2: Tensor  #: long; rows and columns of each picture's canvas, 1 and 1 without tiles
    boxes_R4: Tensor  #: xyxy, fractions of the canvas, or of the square without tiles


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """The views of a batch."""

    pixels_N3SS: Tensor  #: uint8
    boxes_R4: Tensor  #: of all pictures, one after the other
    image_index_R: Tensor  #: into the N pictures
    masks_RMM: Tensor | None = None  #: None where no region has one
    tiles: BatchTiles | None = None  #: None where no picture has any

    def to(self, device: torch.device) -> "Views":
        """The same views on `device`."""
        tiles = None if self.tiles is None else _moved(self.tiles, device)
        return replace(_moved(self, device), tiles=tiles)

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
        if self.tiles is not None:
            inputs |= {
                "tile_values": normalise(self.tiles.pixels_T3SS),
                "tile_places": self.tiles.places_T3,
                "tile_grids": self.tiles.grids_N2,
                "region_map_boxes": self.tiles.boxes_R4,
            }
        return inputs


def _moved(tensors: Held, device: torch.device) -> Held:
    moved: dict[str, Any] = {
        f.name: value.to(device, non_blocking=True)
        for f in fields(tensors)
        if isinstance(value := getattr(tensors, f.name), Tensor)
    }
    return replace(tensors, **moved)


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
        tiles=_gather_tiles(views),
    )


def _gather_tiles(views: Sequence[View]) -> BatchTiles | None:
    tiled = [(i, view.tiles) for i, view in enumerate(views) if view.tiles is not None]
    if not tiled:
        return None
    grids = [(1, 1) if view.tiles is None else view.tiles.grid for view in views]
    boxes = [view.boxes_R4 if view.tiles is None else view.tiles.boxes_R4 for view in views]
    places = [F.pad(tiles.places_T2, (1, 0), value=i) for i, tiles in tiled]
    return BatchTiles(
        pixels_T3SS=torch.cat([tiles.pixels_T3SS for _, tiles in tiled]),
        places_T3=torch.cat(places),
        grids_N2=torch.tensor(grids, dtype=torch.long),
        boxes_R4=torch.cat(boxes),
    )
