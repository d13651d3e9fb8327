"""GPT4RoI's region encoder and RoIAlign written out from their definitions, to compare with.

Plain float64 and loops over regions, sharing nothing with what they check. Weights go by the
released names without `model.spi_module.`.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def roi_align_by_definition(
    map_CHW: Tensor, box_xyxy_pixels: Tensor, cells: int, weights: Tensor | None = None
) -> Tensor:
    """(C, cells, cells): 2 x 2 bilinear samples a cell, averaged; pixels' centres lie at halves.

    `weights` (2 * cells, 2 * cells) weigh the samples; a cell without any is 0.
    """
    x0, y0, x1, y1 = (float(each) - 0.5 for each in box_xyxy_pixels)
    out = torch.zeros(len(map_CHW), cells, cells, dtype=map_CHW.dtype)
    for i in range(cells):
        for j in range(cells):
            total = torch.zeros(len(map_CHW), dtype=map_CHW.dtype)
            mass = 0.0
            for a in range(2):
                for b in range(2):
                    y = y0 + (y1 - y0) * (2 * i + a + 0.5) / (2 * cells)
                    x = x0 + (x1 - x0) * (2 * j + b + 0.5) / (2 * cells)
                    weight = 1.0 if weights is None else float(weights[2 * i + a, 2 * j + b])
                    total += weight * _bilinear(map_CHW, y, x)
                    mass += weight
            if mass:
                out[:, i, j] = total / mass
    return out


def _bilinear(map_CHW: Tensor, y: float, x: float) -> Tensor:
    height, width = map_CHW.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros(len(map_CHW), dtype=map_CHW.dtype)
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = map_CHW[:, top, left] * (1 - (x - left)) + map_CHW[:, top, right] * (x - left)
    lower = map_CHW[:, bottom, left] * (1 - (x - left)) + map_CHW[:, bottom, right] * (x - left)
    return upper * (1 - (y - top)) + lower * (y - top)


def encode_by_definition(
    weights: Mapping[str, Tensor],
    levels: Sequence[Tensor],
    boxes: Sequence[Tensor],
    roi_size: int,
    masks: Tensor | None = None,
) -> Tensor:
    """(R, D) float64 of maps (B, C_l, H_l, W_l) and a list of B tensors of xyxy, 0 to 1.

    Each level is brought to the coarsest's size times 8, 4, 2, 1 (for four of them). `masks`
    (R, 2 * roi_size, 2 * roi_size) weigh the samples.
    """
    w = _Doubles(weights)
    height, width = min((level.shape[2:] for level in levels), key=lambda hw: hw[0] * hw[1])
    last = len(levels) - 1
    maps = []
    for i, level in enumerate(levels):
        scaled = _resize(level.double(), height * 2 ** (last - i), width * 2 ** (last - i))
        batch, _, rows, columns = scaled.shape
        x = torch.linspace(-1, 1, columns, dtype=torch.float64).expand(batch, 1, rows, columns)
        y = torch.linspace(-1, 1, rows, dtype=torch.float64)[:, None].expand_as(x)
        name = f"mlvl_fuse.input_conv.{i}"
        joined = torch.cat([scaled, x, y], dim=1)
        maps.append(F.conv2d(joined, w[f"{name}.weight"], w[f"{name}.bias"]))
    inner = maps[0].shape[1]
    for step in range(5):
        name = f"mlvl_fuse.fuse_convs.{step}"
        mixed = []
        for i, own in enumerate(maps):
            rows, columns = own.shape[2:]
            after = _resize(maps[min(i + 1, last)][:, 3 * inner // 4 :], rows, columns)
            before = maps[max(i - 1, 0)][:, inner // 2 : 3 * inner // 4]
            before = _resize(before, rows, columns)
            joined = torch.cat([own[:, : inner // 2], after, before], dim=1)
            summed = F.conv2d(joined, w[f"{name}.conv.weight"], padding=1)
            gain, bias = w[f"{name}.gn.weight"], w[f"{name}.gn.bias"]
            mixed.append(F.relu(F.group_norm(summed, math.gcd(64, inner), gain, bias)))
        maps = mixed
    vectors = []
    for picture, boxes_R4 in enumerate(boxes):
        for box in boxes_R4.double():
            mask = None if masks is None else masks[len(vectors)]
            total = torch.zeros(inner, roi_size, roi_size, dtype=torch.float64)
            for i, level in enumerate(maps):
                rows, columns = level.shape[2:]
                pixels = box * torch.tensor([columns, rows, columns, rows])
                cells = roi_align_by_definition(level[picture], pixels, roi_size, mask)
                name = f"roi_align.pconvs.{i}"
                conv = w[f"{name}.weight"], w[f"{name}.bias"]
                total = total + F.conv2d(cells[None], *conv, padding=1)[0]
            flat = F.relu(total).flatten()
            vector = _linear(w, "roi_align.flatten_linear", flat)
            if "roi_align.pos_embedd.0.weight" in w:
                vector = vector + _embed_box(w, box)
            vectors.append(_linear(w, "roi_align.updims", vector))
    return torch.stack(vectors)


class _Doubles(dict[str, Tensor]):
    """Weights that become float64 one at a time: at true size all of them take 2.4 GB."""

    def __getitem__(self, name: str) -> Tensor:
        return super().__getitem__(name).double()


def _embed_box(w: Mapping[str, Tensor], box: Tensor) -> Tensor:
    x = box
    for linear, norm in ((0, 2), (3, 5)):
        x = F.relu(_linear(w, f"roi_align.pos_embedd.{linear}", x))
        name = f"roi_align.pos_embedd.{norm}"
        x = (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-5)
        x = x * w[f"{name}.weight"] + w[f"{name}.bias"]
    return x


def _linear(w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return w[f"{name}.weight"] @ x + w[f"{name}.bias"]


def _resize(map_BCHW: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(map_BCHW, size=(height, width), mode="bilinear", align_corners=True)
