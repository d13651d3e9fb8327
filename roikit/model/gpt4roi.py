"""The reference's region encoder: one token a region, from a pyramid of a tower's levels.

Numerically GPT4RoI's, under the names of its released weights without `model.spi_module.`
(`released.py` loads them). What its pyramid is, and how it is computed, is in `pyramid.py`.

Shape suffixes: B batch, C channels, D language model's width, R regions of the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional as F

from roikit.model.pyramid import PyramidFusion
from roikit.model.regions import Regions, hang_on
from roikit.model.roi_align import pool_regions
from roikit.model.winograd import Convolution

LEVELS = 4  #: of the reference
_STD = 0.01  # of new convolutions, as the reference starts them


class Gpt4RoiEncoder(nn.Module):
    """Pyramid, RoIAlign on each of its levels, and one large layer over all cells of a region.

    Source: GPT4RoI's released code (`spi_module`).

    Args:
        channels: of the tower's levels, finest first. A single level is read four times, each time
            through a 1x1 convolution of its own.
        width: D, the language model's.
        inner_width: C, of the pyramid; a multiple of 4.
        roi_size: cells along each side that RoIAlign samples.
        box_embedding: add an embedding of the box.
        box_width: inner width of that embedding.
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int,
        *,
        inner_width: int,
        roi_size: int = 14,
        box_embedding: bool = True,
        box_width: int = 256,
    ) -> None:
        super().__init__()
        self.times = LEVELS if len(channels) == 1 else 1
        self.channels = tuple(channels) * self.times
        self.mlvl_fuse = PyramidFusion(self.channels, inner_width)
        self.roi_align = RegionHead(
            num_levels=len(self.channels),
            inner_width=inner_width,
            width=width,
            roi_size=roi_size,
            box_width=box_width if box_embedding else 0,
        )

    def reset_parameters(self) -> None:
        """Start as the reference does: convolutions from N(0, 0.01), all biases at 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=_STD)
            elif isinstance(module, nn.Linear | nn.GroupNorm | nn.LayerNorm):
                module.reset_parameters()
            else:
                continue
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(
        self,
        levels: Sequence[Tensor],
        regions: Regions,
        project: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Encode regions; pictures without any are not computed.

        Args:
            levels: maps (B, C_l, H_l, W_l), finest first.
            regions: their boxes and masks.
            project: not used: the pyramid goes to the language model's width itself.

        Returns:
            (R, 1, D).
        """
        if not len(regions.image_index_R):
            return hang_on(levels[0].new_zeros(0, 1, self.roi_align.updims.out_features), self)
        if not regions.image_index_R.is_meta:  # shapes alone cannot say which pictures are used
            used, index_R = regions.image_index_R.unique(return_inverse=True)
            if len(used) < len(levels[0]):
                levels = [level[used] for level in levels]
                regions = replace(regions, image_index_R=index_R)
        tokens_RD: Tensor = self.roi_align(self.mlvl_fuse([*levels] * self.times), regions)
        return tokens_RD[:, None]


class RegionHead(nn.Module):
    """Cells of a region on every level to one vector.

    Args:
        num_levels: of the pyramid.
        inner_width: C, its channels.
        width: D.
        roi_size: cells along each side.
        box_width: inner width of the box embedding; 0: none.
    """

    def __init__(
        self, *, num_levels: int, inner_width: int, width: int, roi_size: int, box_width: int
    ) -> None:
        super().__init__()
        self.roi_size = roi_size
        self.pconvs = nn.ModuleList(
            nn.Conv2d(inner_width, inner_width, 3, padding=1) for _ in range(num_levels)
        )
        self.pos_embedd = (
            nn.Sequential(
                nn.Linear(4, box_width),
                nn.ReLU(),
                nn.LayerNorm(box_width),
                nn.Linear(box_width, inner_width),
                nn.ReLU(),
                nn.LayerNorm(inner_width),
            )
            if box_width
            else None
        )
        self.flatten_linear = nn.Linear(inner_width * roi_size**2, inner_width)
        self.updims = nn.Linear(inner_width, width)

    def forward(self, levels: Sequence[Tensor], regions: Regions) -> Tensor:
        """Pool the regions of all pictures together; (R, D)."""
        total = None
        for level, conv in zip(levels, self.pconvs, strict=True):
            cells_RKC = pool_regions([level], regions, self.roi_size)
            cells_RCKK = cells_RKC.transpose(1, 2).unflatten(2, (self.roi_size, self.roi_size))
            assert isinstance(conv, nn.Conv2d)
            summed = Convolution(conv.weight, conv.bias)(cells_RCKK)
            total = summed if total is None else total.add_(summed)
        assert total is not None
        vector_RC = self.flatten_linear(F.relu(total, inplace=True).flatten(1))
        if self.pos_embedd is not None:
            boxes_R4 = regions.boxes_R4.to(self.flatten_linear.weight.dtype)
            vector_RC = vector_RC + self.pos_embedd(boxes_R4)
        tokens_RD: Tensor = self.updims(vector_RC)
        return tokens_RD
