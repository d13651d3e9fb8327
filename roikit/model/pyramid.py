"""The reference's pyramid: maps of a tower in, four maps from fine to coarse out, each mixed.

Source: GPT4RoI's released code (`mlvl_fuse`): each level is resized bilinearly (align_corners) and
gets two coordinate channels and a 1x1 convolution; then come five rounds of a 3x3 convolution over
half of its own channels, a quarter of the coarser level's and a quarter of the finer level's.

The same numbers are made here with about four fifths of the arithmetic. Resizing is linear and does
to each channel the same, so it commutes with what mixes channels: the 1x1 convolutions, coordinates
included, and the whole first round are computed on the tower's small maps. A 3x3 convolution of an
enlarged map is nine products on the map before it was enlarged, each then enlarged, shifted and
added; enlarging and shifting along an axis is one small matrix, and so is enlarging twice.

The later rounds are plain convolutions: only a quarter of their channels comes enlarged, by two,
and what nine products on it would save goes into spreading them.

Shape suffixes: B batch, C channels, H/W rows/columns.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roikit.model.winograd import Convolution

ROUNDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class _Small:
    """A map that stands for itself resized, which is never made."""

    map_BCHW: Tensor
    rows: tuple[int, ...]  #: those of the map, then of each size it is to be brought to in turn
    columns: tuple[int, ...]

    def channels(self, first: int, end: int) -> "_Small":
        return _Small(map_BCHW=self.map_BCHW[:, first:end], rows=self.rows, columns=self.columns)

    def at(self, height: int, width: int) -> "_Small":
        """The same, resized once more."""
        return _Small(
            map_BCHW=self.map_BCHW, rows=(*self.rows, height), columns=(*self.columns, width)
        )


class PyramidFusion(nn.Module):
    """Maps of a tower to maps whose sides double from level to level, mixed with their neighbours.

    Args:
        channels: C_l of each level, finest first.
        width: C, of all results; a multiple of 4.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.input_conv = nn.ModuleList(nn.Conv2d(each + 2, width, 1) for each in channels)
        self.fuse_convs = nn.ModuleList(FusionRound(width) for _ in range(ROUNDS))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Mix the levels.

        Args:
            maps: (B, C_l, H_l, W_l), finest first. The sizes of the results come from the coarsest:
                its own for the last level, twice that for the one before, and so on; each map is
                resized to its level's size, whatever its own.

        Returns:
            (B, C, H_i, W_i) of each level.
        """
        height, width = min((tuple(each.shape[-2:]) for each in maps), key=math.prod)
        smalls = []
        for i, (conv, map_BCHW) in enumerate(zip(self.input_conv, maps, strict=True)):
            small = conv(_with_coordinates(map_BCHW))
            own_height, own_width = small.shape[-2:]
            factor = 2 ** (len(maps) - 1 - i)
            itself = _Small(map_BCHW=small, rows=(own_height,), columns=(own_width,))
            smalls.append(itself.at(factor * height, factor * width))
        first, *others = self.fuse_convs
        levels: list[Tensor] = first(smalls)
        for fuse in others:
            levels = fuse(levels)
        return levels


class FusionRound(nn.Module):
    """One 3x3 convolution, shared by all levels, over a level and its neighbours.

    Args:
        width: C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.gn = nn.GroupNorm(math.gcd(64, width), width)

    def forward(self, levels: Sequence[Tensor] | Sequence[_Small]) -> list[Tensor]:
        """Mix each level with the one after it (coarser) and the one before it (finer).

        Args:
            levels: (B, C, H_i, W_i) each, or small maps that stand for such.
        """
        convolve = Convolution(self.conv.weight)
        return [self._mixed(levels, i, convolve) for i in range(len(levels))]

    def _mixed(
        self, levels: Sequence[Tensor] | Sequence[_Small], i: int, convolve: Convolution
    ) -> Tensor:
        width = self.conv.in_channels
        quarter = width // 4
        after, before = min(i + 1, len(levels) - 1), max(i - 1, 0)
        reads = [
            (i, 0, 2 * quarter),
            (after, 3 * quarter, width),
            (before, 2 * quarter, 3 * quarter),
        ]
        own = levels[i]
        if isinstance(own, _Small):
            parts = []
            for j, first, end in reads:
                other = levels[j]
                assert isinstance(other, _Small)
                part = other.channels(first, end)
                parts.append(part if j == i else part.at(own.rows[-1], own.columns[-1]))
            summed = _convolve_enlarged(parts, self.conv.weight)
            type_ = torch.promote_types(own.map_BCHW.dtype, self.conv.weight.dtype)
        else:
            joined = []
            for j, first, end in reads:
                other = levels[j]
                assert isinstance(other, Tensor)
                joined.append(_resized(other[:, first:end], own.shape[2], own.shape[3]))
            summed = convolve(torch.cat(joined, dim=1))
            type_ = torch.promote_types(own.dtype, self.conv.weight.dtype)
        normed: Tensor = F.relu(self.gn(summed.to(type_)), inplace=True)
        return normed


def _convolve_enlarged(parts: Sequence[_Small], weight: Tensor) -> Tensor:
    """3x3 convolution of the parts' channels side by side, padded with zeros, all enlarged.

    Out[y, x] = sum over dy, dx of W[dy, dx] In[y + dy - 1, x + dx - 1], and In = E_y Map E_x', so
    W is applied to the map, and E, shifted by dy or dx, to what comes out. All shifts of all parts
    lie side by side, so that an axis is one product, and the last one writes the result once.

    Args:
        parts: maps that come to the same size.
        weight: (C, all the parts' channels, 3, 3).

    Returns:
        (B, C, H, W), float32 or more.
    """
    first = parts[0].map_BCHW
    device = first.device
    type_ = torch.promote_types(first.dtype, torch.float32)
    height, width = parts[0].rows[-1], parts[0].columns[-1]
    wide, across = [], []
    for part, kernel in zip(
        parts, weight.split([part.map_BCHW.shape[1] for part in parts], dim=1), strict=True
    ):
        batch, _, rows, columns = part.map_BCHW.shape
        num_out = len(kernel)
        # nine 1x1 convolutions in one; as (B * C, dy * H, dx * W) its results are matrices
        kernels = kernel.permute(2, 3, 0, 1).flatten(0, 2)[:, :, None, None]
        products = F.conv2d(part.map_BCHW, kernels).view(batch, 3, 3, num_out, rows, columns)
        matrices = products.permute(0, 3, 1, 4, 2, 5).reshape(batch, num_out, 3 * rows, 3 * columns)
        down = _shifted(_resizing(part.rows, device)).to(type_)
        with torch.autocast("cpu" if device.type == "meta" else device.type, enabled=False):
            wide.append(down @ matrices.to(type_))
        across.append(_shifted(_resizing(part.columns, device)).to(type_))
    with torch.autocast("cpu" if device.type == "meta" else device.type, enabled=False):
        summed = torch.cat(wide, dim=3) @ torch.cat(across, dim=1).T
    assert summed.shape[2:] == (height, width)
    return summed


def _resized(map_BCHW: Tensor, height: int, width: int) -> Tensor:
    """The map at another size, computed in float32 or more; in its own type."""
    if map_BCHW.shape[2:] == (height, width):
        return map_BCHW
    type_ = torch.promote_types(map_BCHW.dtype, torch.float32)
    resized = F.interpolate(
        map_BCHW.to(type_), size=(height, width), mode="bilinear", align_corners=True
    )
    return resized.to(map_BCHW.dtype)


def _resizing(lengths: Sequence[int], device: torch.device) -> Tensor:
    """What brings a line of the first length to each next one in turn: (last, first), float32."""
    matrix = torch.eye(lengths[0], device=device)
    for length in lengths[1:]:
        matrix = F.interpolate(matrix[None], size=length, mode="linear", align_corners=True)[0]
    return matrix.T


def _shifted(matrix_YH: Tensor) -> Tensor:
    """(Y, 3 * H): resizes and shifts by +1, 0, -1, side by side; what comes from outside is 0."""
    padded = F.pad(matrix_YH, (0, 0, 1, 1))
    return torch.cat([padded[d : d + len(matrix_YH)] for d in range(3)], dim=1)


def _with_coordinates(map_BCHW: Tensor) -> Tensor:
    """The map with two channels more: x, then y, each from -1 to 1."""
    # a side of one cell has no two ends; as two equal cells it resizes to the same
    for side in (2, 3):
        if map_BCHW.shape[side] == 1:
            map_BCHW = torch.cat([map_BCHW, map_BCHW], dim=side)
    batch, _, height, width = map_BCHW.shape
    x = torch.linspace(-1, 1, width, device=map_BCHW.device, dtype=map_BCHW.dtype)
    y = torch.linspace(-1, 1, height, device=map_BCHW.device, dtype=map_BCHW.dtype)
    both = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
    return torch.cat([map_BCHW, both.expand(batch, -1, -1, -1)], dim=1)
