"""GPT4RoI's region encoder step by step as its authors compute it, to measure ours against.

Maps are enlarged first and convolved at full size, every level pooled by torchvision; weights go by
the released names. Source: gpt4roi's `mlvl_fuse` and `roi_align` modules.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

ROI_SIZE = 14


def transcribed(
    weights: Mapping[str, Tensor], levels: Sequence[Tensor], boxes: Sequence[Tensor]
) -> Tensor:
    """Encode regions, (R, D), from four maps (B, C, H, W) and a list of B tensors (R_i, 4)."""
    maps = []
    for i, level in enumerate(levels):
        height, width = (side * 2 ** (len(levels) - 1 - i) for side in level.shape[2:])
        scaled = _resize(level, height, width)
        x = torch.linspace(-1, 1, width).expand(len(level), 1, height, width)
        y = torch.linspace(-1, 1, height)[:, None].expand_as(x)
        joined = torch.cat([scaled, x, y], dim=1)
        maps.append(_convolve(weights, f"mlvl_fuse.input_conv.{i}", joined))
    quarter = maps[0].shape[1] // 4
    for step in range(5):
        name = f"mlvl_fuse.fuse_convs.{step}"
        gain, bias = weights[f"{name}.gn.weight"], weights[f"{name}.gn.bias"]
        mixed = []
        for i, own in enumerate(maps):
            after = maps[min(i + 1, len(maps) - 1)][:, 3 * quarter :]
            before = maps[max(i - 1, 0)][:, 2 * quarter : 3 * quarter]
            others = [_resize(other, *own.shape[2:]) for other in (after, before)]
            joined = torch.cat([own[:, : 2 * quarter], *others], dim=1)
            summed = F.conv2d(joined, weights[f"{name}.conv.weight"], padding=1)
            groups = math.gcd(64, 4 * quarter)
            mixed.append(F.relu(F.group_norm(summed, groups, gain, bias)))
        maps = mixed
    pooled = []
    for i, level in enumerate(maps):
        height, width = level.shape[2:]
        pixels = [each * torch.tensor([width, height, width, height]) for each in boxes]
        cells = roi_align(level, pixels, ROI_SIZE, sampling_ratio=2, aligned=True)
        pooled.append(_convolve(weights, f"roi_align.pconvs.{i}", cells, padding=1))
    flat = F.relu(torch.stack(pooled).sum(0)).flatten(1)
    vectors = _linear(weights, "roi_align.flatten_linear", flat)
    embedded = torch.cat(list(boxes))
    for linear, norm in ((0, 2), (3, 5)):
        embedded = F.relu(_linear(weights, f"roi_align.pos_embedd.{linear}", embedded))
        name = f"roi_align.pos_embedd.{norm}"
        scale = weights[f"{name}.weight"], weights[f"{name}.bias"]
        embedded = F.layer_norm(embedded, embedded.shape[1:], *scale)
    return _linear(weights, "roi_align.updims", vectors + embedded)


def _convolve(weights: Mapping[str, Tensor], name: str, x: Tensor, padding: int = 0) -> Tensor:
    return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)


def _linear(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _resize(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=True)
