"""GPT4RoI's released region encoder, by itself: its weights in, a module to call out.

For comparisons and for users of the released weights who want no more than region vectors; the
command that imports a whole release is another matter.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from roikit.errors import RoikitError, few
from roikit.model.gpt4roi import LEVELS, Gpt4RoiEncoder
from roikit.model.regions import Regions

PREFIX = "model.spi_module."


class ReleasedRegionEncoder(nn.Module):
    """The reference's encoder as the reference calls it: hidden states and a list of boxes.

    Args:
        encoder: with the released weights.
    """

    def __init__(self, encoder: Gpt4RoiEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, levels: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Encode the regions of a batch.

        Args:
            levels: four hidden states (B, H * W, C) without the class token, finest first (14, 17,
                20 and 23 of CLIP ViT-L/14), H = W.
            boxes: of each of the B pictures, xyxy (R_i, 4), 0 to 1; R_i may be 0.

        Returns:
            (R_1 + ... + R_B, D), picture by picture, in the module's type.

        Raises:
            RoikitError: shapes that do not fit.
        """
        maps = self._maps(levels)
        if len(boxes) != len(maps[0]):
            raise RoikitError(
                f"boxes: expected one tensor for each of {len(maps[0])} pictures, got {len(boxes)}"
            )
        for i, one in enumerate(boxes):
            if one.ndim != 2 or one.shape[1] != 4:
                raise RoikitError(f"boxes[{i}]: expected shape (R, 4), got {tuple(one.shape)}")
        device = maps[0].device
        counts = torch.tensor([len(one) for one in boxes], device=device)
        boxes_R4 = torch.cat([one.to(device, torch.float32) for one in boxes])
        index_R = torch.arange(len(boxes), device=device).repeat_interleave(counts)
        tokens_R1D: Tensor = self.encoder(maps, Regions(boxes_R4=boxes_R4, image_index_R=index_R))
        return tokens_R1D[:, 0]

    def _maps(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Hidden states as maps (B, C, H, W), in the module's type."""
        weight = self.encoder.roi_align.updims.weight
        if len(levels) != LEVELS:
            raise RoikitError(f"levels: expected {LEVELS} hidden states, got {len(levels)}")
        maps = []
        for i, (level, channels) in enumerate(zip(levels, self.encoder.channels, strict=True)):
            if level.ndim != 3 or level.shape[2] != channels or not level.shape[1]:
                raise RoikitError(
                    f"levels[{i}]: expected shape (B, positions, {channels}), "
                    f"got {tuple(level.shape)}"
                )
            side = math.isqrt(level.shape[1])
            if side * side != level.shape[1]:
                raise RoikitError(
                    f"levels[{i}]: expected a square number of positions, got {level.shape[1]}",
                    hint="leave the class token out",
                )
            if level.shape[:2] != levels[0].shape[:2]:
                raise RoikitError(
                    f"levels[{i}]: expected pictures and positions as in levels[0], "
                    f"{tuple(levels[0].shape[:2])}, got {tuple(level.shape[:2])}"
                )
            maps.append(level.to(weight.dtype).transpose(1, 2).unflatten(2, (side, side)))
        return maps


def load_region_encoder(
    state_dict: Mapping[str, Tensor], *, dtype: torch.dtype = torch.float32
) -> ReleasedRegionEncoder:
    """Build the reference's region encoder around its released weights.

    Sizes are read off the tensors, so the reference's own and smaller ones load alike.

    Args:
        state_dict: the tensors of `spi_module` and no others, with the prefix `model.spi_module.`
            or without it. They are copied.
        dtype: of the module's weights.

    Returns:
        A module in evaluation mode, on the CPU; see `ReleasedRegionEncoder.forward`.

    Raises:
        RoikitError: tensors that are missing, unexpected or of shapes that do not fit.
    """
    state = {name.removeprefix(PREFIX): value for name, value in state_dict.items()}
    if len(state) != len(state_dict):
        twice = [name for name in state_dict if PREFIX + name in state_dict]
        raise RoikitError(
            f"region encoder: expected each tensor once, got {_named(twice)} with and without "
            f"`{PREFIX}`"
        )
    with torch.device("meta"):
        encoder = _skeleton(state)
    wanted = encoder.state_dict()
    missing = [name for name in wanted if name not in state]
    if missing:
        raise RoikitError(f"region encoder: missing {_named(missing)}")
    unexpected = [name for name in state if name not in wanted]
    if unexpected:
        raise RoikitError(
            f"region encoder: unexpected {_named(unexpected)}",
            hint=f"hand over the tensors whose names start with `{PREFIX}` alone",
        )
    wrong = [
        f"{name} {tuple(state[name].shape)} for {tuple(value.shape)}"
        for name, value in wanted.items()
        if state[name].shape != value.shape
    ]
    if wrong:
        raise RoikitError(f"region encoder: misshapen {_named(wrong)}")
    encoder = encoder.to(dtype).to_empty(device="cpu")
    encoder.load_state_dict(state)
    return ReleasedRegionEncoder(encoder).eval()


def _skeleton(state: Mapping[str, Tensor]) -> Gpt4RoiEncoder:
    """The module that tensors of these shapes belong to, without weights."""
    weights = {
        name: state.get(f"{name}.weight")
        for name in (
            *(f"mlvl_fuse.input_conv.{i}" for i in range(LEVELS)),
            "roi_align.pos_embedd.0",
            "roi_align.flatten_linear",
            "roi_align.updims",
        )
    }
    missing = [f"{name}.weight" for name, weight in weights.items() if weight is None]
    if missing:
        raise RoikitError(f"region encoder: missing {_named(missing)}")
    shapes = {name: tuple(weight.shape) for name, weight in weights.items() if weight is not None}
    *inputs, box, flatten, out = shapes.values()
    flat = [f"{name}.weight {shape}" for name, shape in shapes.items() if len(shape) < 2]
    if flat:
        raise RoikitError(f"region encoder: misshapen {_named(flat)}")
    inner_width, roi_size = flatten[0], math.isqrt(flatten[1] // max(1, flatten[0]))
    if (
        inner_width < 4
        or inner_width % 4
        or inner_width * roi_size**2 != flatten[1]
        or not roi_size
    ):
        raise RoikitError(
            f"region encoder: misshapen roi_align.flatten_linear.weight {flatten}: expected "
            "(C, C * cells * cells) with C a multiple of 4"
        )
    return Gpt4RoiEncoder(
        [max(1, shape[1] - 2) for shape in inputs],
        out[0],
        inner_width=inner_width,
        roi_size=roi_size,
        box_width=max(1, box[0]),
    )


def _named(names: Sequence[str]) -> str:
    return few([f"`{name}`" for name in names])
