"""The reference's pyramid: maps of a tower in, four maps from fine to coarse out, each mixed.

Source: GPT4RoI's released code (`mlvl_fuse`): each level is resized bilinearly (align_corners) and
gets two coordinate channels and a 1x1 convolution; then come five rounds of a 3x3 convolution over
half of its own channels, a quarter of the coarser level's and a quarter of the finer level's.

The same numbers are made here with about two thirds of the arithmetic. Resizing is linear and does
to each channel the same, so it commutes with what mixes channels:

- the 1x1 convolutions, coordinates included, are done on the tower's small maps;
- a 3x3 convolution of an enlarged map is nine products on the map before it was enlarged, each then
  enlarged, shifted and added. So is the whole first round, and later the coarser level's quarter.

Enlarging and shifting along an axis is one small matrix; so is enlarging twice.
Maps are channels-last in memory: products, sums and RoIAlign then read whole pixels.

Shape suffixes: B batch, C channels, H/W rows/columns.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROUNDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class _Level:
    """A map that stands for itself resized, which is done as late as possible."""

    map_BHWC: Tensor
    rows: tuple[int, ...]  #: those of the map, then of each size it is to be brought to in turn
    columns: tuple[int, ...]

    def channels(self, first: int, end: int) -> "_Level":
        return _Level(map_BHWC=self.map_BHWC[..., first:end], rows=self.rows, columns=self.columns)

    def at(self, height: int, width: int) -> "_Level":
        """The same, resized once more; to its own size nothing changes."""
        rows = self.rows if self.rows[-1] == height else (*self.rows, height)
        columns = self.columns if self.columns[-1] == width else (*self.columns, width)
        return _Level(map_BHWC=self.map_BHWC, rows=rows, columns=columns)

    @property
    def height(self) -> int:
        return self.rows[-1]

    @property
    def width(self) -> int:
        return self.columns[-1]

    @property
    def is_enlarged(self) -> bool:
        return self.rows[0] * self.columns[0] < self.height * self.width


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
            (B, C, H_i, W_i) of each level, channels-last.
        """
        height, width = min((tuple(each.shape[-2:]) for each in maps), key=math.prod)
        levels = []
        for i, (conv, map_BCHW) in enumerate(zip(self.input_conv, maps, strict=True)):
            small = conv(_with_coordinates(map_BCHW))
            own_height, own_width = small.shape[-2:]
            level = _Level(
                map_BHWC=small.permute(0, 2, 3, 1).contiguous(),
                rows=(own_height,),
                columns=(own_width,),
            )
            factor = 2 ** (len(maps) - 1 - i)
            levels.append(level.at(factor * height, factor * width))
        for fuse in self.fuse_convs:
            levels = fuse(levels)
        return [level.map_BHWC.permute(0, 3, 1, 2) for level in levels]


class FusionRound(nn.Module):
    """One 3x3 convolution, shared by all levels, over a level and its neighbours.

    Args:
        width: C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.gn = nn.GroupNorm(math.gcd(64, width), width)

    def forward(self, levels: Sequence[_Level]) -> list[_Level]:
        """Mix each level with the one after it (coarser) and the one before it (finer)."""
        width = self.conv.in_channels
        quarter = width // 4
        mixed = []
        for i, level in enumerate(levels):
            after = levels[min(i + 1, len(levels) - 1)].channels(3 * quarter, width)
            before = levels[max(i - 1, 0)].channels(2 * quarter, 3 * quarter)
            parts = [level.channels(0, 2 * quarter), after, before]
            summed = _convolve(
                [part.at(level.height, level.width) for part in parts], self.conv.weight
            )
            normed = F.relu(self.gn(summed.permute(0, 3, 1, 2)), inplace=True)
            mixed.append(
                _Level(
                    map_BHWC=normed.permute(0, 2, 3, 1),
                    rows=(level.height,),
                    columns=(level.width,),
                )
            )
        return mixed


def _convolve(parts: Sequence[_Level], weight: Tensor) -> Tensor:
    """3x3 convolution (B, H, W, C) of the parts' channels side by side, padded with zeros."""
    pieces = weight.split([part.map_BHWC.shape[3] for part in parts], dim=1)
    direct = [(part, piece) for part, piece in zip(parts, pieces, strict=True)]
    enlarged = [(part, piece) for part, piece in direct if part.is_enlarged]
    direct = [(part, piece) for part, piece in direct if not part.is_enlarged]
    total = None
    if direct:
        together = torch.cat([_resized(part) for part, _ in direct], dim=3).permute(0, 3, 1, 2)
        kernel = torch.cat([piece for _, piece in direct], dim=1)
        total = F.conv2d(together, kernel, padding=1).permute(0, 2, 3, 1).contiguous()
    for part, piece in enlarged:
        total = _add_convolved_when_small(total, part, piece)
    assert total is not None
    return total.to(torch.promote_types(parts[0].map_BHWC.dtype, weight.dtype))


def _add_convolved_when_small(total: Tensor | None, part: _Level, kernel: Tensor) -> Tensor:
    """Add the 3x3 convolution of an enlarged map, of which only the small map is ever made.

    Out[y, x] = sum over dy, dx of W[dy, dx] In[y + dy - 1, x + dx - 1], and In = E_y Map E_x', so
    W is applied to the map, and E, shifted by dy or dx, to what comes out. A row of the kernel at a
    time: nine products at once would take more memory than the result.

    Args:
        total: (B, H, W, C) that is added to, in place; None: zeros.
        part: the map and the sizes it is enlarged to.
        kernel: (C, the part's channels, 3, 3).

    Returns:
        (B, H, W, C), float32 or more.
    """
    map_BHWC = part.map_BHWC.contiguous()
    batch, height, width, _ = map_BHWC.shape
    num_out = kernel.shape[0]
    type_ = torch.promote_types(map_BHWC.dtype, torch.float32)
    down_3YH = _shifted(_resizing(part.rows, map_BHWC.device).to(type_))
    across_3XW = _shifted(_resizing(part.columns, map_BHWC.device).to(type_))
    across = across_3XW.permute(1, 2, 0).flatten(1)  # (X, W * 3), beside the products' (W * 3, C)
    for dy in range(3):
        kernel_row = kernel[:, :, dy].permute(2, 0, 1).flatten(0, 1)
        products = F.linear(map_BHWC, kernel_row).to(type_)
        with torch.autocast("cpu" if map_BHWC.is_meta else map_BHWC.device.type, enabled=False):
            wide = torch.bmm(
                across.expand(batch * height, -1, -1),
                products.view(batch * height, width * 3, num_out),
            ).view(batch, height, part.width * num_out)
            down = down_3YH[dy].expand(batch, -1, -1)
            if total is None:
                total = torch.bmm(down, wide).view(batch, part.height, part.width, num_out)
            else:
                total = total.to(type_)
                total.view(batch, part.height, part.width * num_out).baddbmm_(down, wide)
    assert total is not None
    return total


def _resized(part: _Level) -> Tensor:
    """The map (B, H, W, C) at the size it stands for, in its own type."""
    if len(part.rows) == 1 and len(part.columns) == 1:
        return part.map_BHWC
    map_BHWC = part.map_BHWC.to(torch.promote_types(part.map_BHWC.dtype, torch.float32))
    batch, height, width, channels = map_BHWC.shape
    across = _resizing(part.columns, map_BHWC.device).to(map_BHWC.dtype)
    down = _resizing(part.rows, map_BHWC.device).to(map_BHWC.dtype)
    with torch.autocast("cpu" if map_BHWC.is_meta else map_BHWC.device.type, enabled=False):
        wide = torch.bmm(
            across.expand(batch * height, -1, -1),
            map_BHWC.reshape(batch * height, width, channels),
        ).view(batch, height, part.width * channels)
        resized = torch.bmm(down.expand(batch, -1, -1), wide)
    return resized.view(batch, part.height, part.width, channels).to(part.map_BHWC.dtype)


def _resizing(lengths: Sequence[int], device: torch.device) -> Tensor:
    """What brings a line of the first length to each next one in turn: (last, first), float32."""
    matrix = torch.eye(lengths[0], device=device)
    for length in lengths[1:]:
        matrix = F.interpolate(matrix[None], size=length, mode="linear", align_corners=True)[0]
    return matrix.T


def _shifted(matrix_YH: Tensor) -> Tensor:
    """Three matrices that resize and then shift by +1, 0, -1; what comes from outside is 0."""
    padded = F.pad(matrix_YH, (0, 0, 1, 1))
    return torch.stack([padded[d : d + len(matrix_YH)] for d in range(3)])


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
