"""The region encoder `deformable`: k*k tokens a region, read at points that are learned.

Where RoIAlign reads each cell of the box at fixed points, here a small network moves the points and
weighs them, after a first look at the cells. The sampling itself is transformers' operator.

Shape suffixes: B batch, C channels of all levels (C_l of one), D language model's width, H heads,
K cells a region, M cells along a mask's side, P points, Q padded cells of a picture, R regions.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.deformable_detr.modeling_deformable_detr import (
    MultiScaleDeformableAttention,
)

from roikit.model.box_embedding import BoxEmbedding
from roikit.model.cell_tokens import CellTokens
from roikit.model.regions import Regions
from roikit.model.roi_align import pool_regions

#: Heads, where they divide a level's channels: each moves its points for its share of them.
_HEADS = 8
#: Points along a side of a cell: RoIAlign's samples, so that both start the same.
_POINTS_A_SIDE = 2
_POINTS = _POINTS_A_SIDE**2
#: How far a point may move, in sides of the region's box: half of it, so around the box too.
_REACH = 0.5
#: Widest layer that looks at a cell before the points are moved.
_QUERY_WIDTH = 256
#: Of a point off the mask, so that its logarithm is finite where all points are.
_NO_SHARE = torch.finfo(torch.float32).tiny


class DeformableEncoder(nn.Module):
    """Deformable attention from the cells of a region to the levels, then the projector's view.

    Offsets and weights come from the cell's own pooled features, their mean over the region, the
    cell's place in it and the box. Both start at zero: before training the points are RoIAlign's,
    weighted alike, and a region begins as the projector's view, as with `replay`.
    Source: multi-scale deformable attention, Deformable DETR (arXiv 2010.04159), section 4.1, with
    transformers' operator. It departs in that there is no value or output layer, and levels lie
    side by side instead of being added up, since the image projector reads them so; offsets are
    bounded; points start on RoIAlign's grid instead of on rays; points off the picture read its
    edge, as RoIAlign does, instead of zeros.

    Args:
        channels: C_l of each level.
        width: D, the language model's.
        grid: k; a region has k*k tokens.
        box_embedding: embed the box's place and size, in the tokens and for the points.
    """

    def __init__(
        self, channels: Sequence[int], width: int, grid: int, *, box_embedding: bool = True
    ) -> None:
        super().__init__()
        self.grid = grid
        self.heads = tuple(math.gcd(_HEADS, count) for count in channels)
        in_channels, num_cells = sum(channels), grid * grid
        query_width = min(in_channels, _QUERY_WIDTH)
        self.query_norm = nn.LayerNorm(in_channels)
        self.query_in = nn.Linear(in_channels, query_width)
        self.query_cell = nn.Parameter(torch.zeros(num_cells, query_width))
        self.query_box = BoxEmbedding(query_width) if box_embedding else None
        self.offsets = nn.ModuleList(
            nn.Linear(query_width, heads * _POINTS * 2) for heads in self.heads
        )
        self.weights = nn.ModuleList(
            nn.Linear(query_width, heads * _POINTS) for heads in self.heads
        )
        self.sample = MultiScaleDeformableAttention()
        self.tokens = CellTokens(in_channels, width, num_cells, box_embedding=box_embedding)
        self._start_on_the_grid()

    def _start_on_the_grid(self) -> None:
        for layer in (*self.offsets, *self.weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.query_cell)

    def reset_parameters(self) -> None:
        """Start as the projector's view of RoIAlign's cells."""
        self.query_norm.reset_parameters()
        self.query_in.reset_parameters()
        if self.query_box is not None:
            self.query_box.reset_parameters()
        self._start_on_the_grid()
        self.tokens.reset_parameters()

    def forward(
        self,
        levels: Sequence[Tensor],
        regions: Regions,
        project: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Encode regions as (R, k*k, D), cells row by row; see `regions.RegionEncoder`."""
        query_RKQ = self._queries(pool_regions(levels, regions, self.grid), regions.boxes_R4)
        places = _Places(regions.image_index_R, len(levels[0]))
        starts_K1P2 = _grid_points(self.grid, query_RKQ.device)[:, None]
        cells = []
        for level, heads, offsets, weights in zip(
            levels, self.heads, self.offsets, self.weights, strict=True
        ):
            # float32: at bfloat16 points would move by whole pixels
            moves_RKHP2 = offsets(query_RKQ).float().unflatten(2, (heads, _POINTS, 2)).tanh()
            points_RKHP2 = starts_K1P2 + _REACH * moves_RKHP2
            scores_RKHP = weights(query_RKQ).float().unflatten(2, (heads, _POINTS))
            weights_RKHP = _weights(scores_RKHP, points_RKHP2, regions.masks_RMM)
            cells.append(self._read(level, regions.on_maps, places, points_RKHP2, weights_RKHP))
        cells_RKC = torch.cat(cells, dim=2).to(levels[0].dtype)
        tokens: Tensor = self.tokens(cells_RKC, regions.boxes_R4, project)
        return tokens

    def _queries(self, cells_RKC: Tensor, boxes_R4: Tensor) -> Tensor:
        """What each cell knows when it places its points."""
        seen_RKQ = self.query_in(self.query_norm(cells_RKC))
        query_RKQ = seen_RKQ + seen_RKQ.mean(dim=1, keepdim=True) + self.query_cell
        if self.query_box is not None:
            query_RKQ = query_RKQ + self.query_box(boxes_R4)[:, None]
        return F.gelu(query_RKQ)

    def _read(
        self,
        level: Tensor,
        boxes_R4: Tensor,
        places: "_Places",
        points_RKHP2: Tensor,
        weights_RKHP: Tensor,
    ) -> Tensor:
        """Weighted means (R, K, C_l) of a level (B, C_l, rows, columns) at points of the boxes."""
        num_regions, num_cells, heads = weights_RKHP.shape[:3]
        if not num_regions:  # the operator refuses it; the sums tie what made no point to the loss
            nothing = points_RKHP2.sum() + weights_RKHP.sum()
            return level.new_zeros((0, num_cells, level.shape[1])) + nothing
        rows, columns = level.shape[-2:]
        boxes_R114 = boxes_R4.float()[:, None, None, None]
        on_map = boxes_R114[..., :2] + points_RKHP2 * (boxes_R114[..., 2:] - boxes_R114[..., :2])
        # beyond the outermost pixels' centres the operator fades to 0, where RoIAlign repeats them
        half_pixel = on_map.new_tensor([0.5 / columns, 0.5 / rows])
        on_map = on_map.clamp(half_pixel, 1 - half_pixel)
        sampled_BQC = self.sample(
            level.float().flatten(2).transpose(1, 2).unflatten(2, (heads, -1)),
            torch.tensor([[rows, columns]], device=level.device),
            [(rows, columns)],
            torch.zeros(1, dtype=torch.long, device=level.device),
            places.pad(on_map)[:, :, :, None],
            places.pad(weights_RKHP)[:, :, :, None],
            len(level),
        )
        return places.unpad(sampled_BQC, num_cells)


class _Places:
    """Where regions lie once those of each picture are lined up and filled up to the most.

    The operator takes as many cells of every picture; its maps are never repeated a region.
    """

    def __init__(self, image_index_R: Tensor, num_pictures: int) -> None:
        pictures_B = torch.arange(num_pictures, device=image_index_R.device)
        of_picture_RB = (image_index_R[:, None] == pictures_B).long()
        before_R = of_picture_RB.cumsum(0).gather(1, image_index_R[:, None]).squeeze(1) - 1
        if image_index_R.is_meta:  # where costs are counted: as if spread evenly
            self.most = -(-len(image_index_R) // num_pictures)
        else:  # the one number that the shapes need from the device
            self.most = int(of_picture_RB.sum(0).max()) if len(image_index_R) else 0
        self.slot_R = image_index_R * self.most + before_R
        self.num_pictures = num_pictures

    def pad(self, values: Tensor) -> Tensor:
        """(R, K, ...) to (B, most * K, ...), 0 where a picture has fewer regions."""
        padded = values.new_zeros((self.num_pictures * self.most, *values.shape[1:]))
        padded = padded.index_copy(0, self.slot_R, values)
        return padded.view(self.num_pictures, self.most * values.shape[1], *values.shape[2:])

    def unpad(self, padded: Tensor, num_cells: int) -> Tensor:
        """(B, most * K, C) back to (R, K, C)."""
        return padded.reshape(-1, num_cells, padded.shape[-1]).index_select(0, self.slot_R)


def _grid_points(grid: int, device: torch.device) -> Tensor:
    """Points (K, P, 2) of the cells of a box, x and y in fractions of it, cells row by row."""
    side = grid * _POINTS_A_SIDE
    line = (torch.arange(side, device=device, dtype=torch.float32) + 0.5) / side
    y, x = torch.meshgrid(line, line, indexing="ij")
    points: Tensor = torch.stack([x, y], dim=-1)
    points = points.view(grid, _POINTS_A_SIDE, grid, _POINTS_A_SIDE, 2).transpose(1, 2)
    return points.reshape(grid * grid, _POINTS, 2)


def _weights(scores_RKHP: Tensor, points_RKHP2: Tensor, masks_RMM: Tensor | None) -> Tensor:
    """Weights (R, K, H, P) of points: 1 a cell and head, or 0 where no point lies in the mask.

    Around the box the mask goes on as at its edge, so that one of all ones is the same as none.
    """
    if masks_RMM is None or not len(masks_RMM):
        return scores_RKHP.softmax(dim=-1)
    shares_RKHP = F.grid_sample(
        masks_RMM[:, None].float(),
        # the mask weighs points; it does not draw them
        2 * points_RKHP2.detach().flatten(2, 3).flatten(1, 2)[:, None] - 1,
        padding_mode="border",
        align_corners=False,
    ).view_as(scores_RKHP)
    log_shares = shares_RKHP.clamp_min(_NO_SHARE).log()
    weights_RKHP: Tensor = (scores_RKHP + log_shares).softmax(dim=-1) * (shares_RKHP > 0)
    return weights_RKHP
