"""The reference's region encoder against a float64 evaluation of its definition."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roikit.model.gpt4roi import Gpt4RoiEncoder
from roikit.model.regions import MASK_SIZE, Regions
from tests.roikit.model.gpt4roi_by_definition import encode_by_definition

#: Two pictures of four have regions, one of them a single one.
COUNTS = (0, 3, 0, 1)


def make_encoder(channels: tuple[int, ...] = (6, 6, 6, 6), **sizes: Any) -> Gpt4RoiEncoder:
    torch.manual_seed(0)
    sizes = {"width": 10, "inner_width": 16, "roi_size": 3, "box_width": 8, **sizes}
    encoder = Gpt4RoiEncoder(channels, **sizes)
    for parameter in encoder.parameters():  # at the reference's start all biases would be 0
        nn.init.normal_(parameter, std=0.3)
    return encoder


def make_regions(counts: tuple[int, ...] = COUNTS, **others: Any) -> Regions:
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(sum(counts), 2, 2, generator=generator)
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    index = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return Regions(boxes_R4=boxes, image_index_R=index, **others)


def defined(encoder: Gpt4RoiEncoder, levels: list[Tensor], regions: Regions) -> Tensor:
    counts = [int((regions.image_index_R == i).sum()) for i in range(len(levels[0]))]
    return encode_by_definition(
        encoder.state_dict(),
        levels,
        regions.boxes_R4.split(counts),
        encoder.roi_align.roi_size,
        regions.masks_RMM,
    )


def far(found: Tensor, wanted: Tensor) -> float:
    """Largest difference beside the largest value."""
    found, wanted = found.detach().double(), wanted.detach()
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize(
    ("map_hw", "sizes"),
    [
        ((4, 4), {}),
        ((3, 5), {"inner_width": 24, "roi_size": 4}),
        ((2, 2), {"inner_width": 128, "box_embedding": False}),
        ((1, 2), {}),
        ((1, 1), {}),
    ],
)
def test_regions_come_out_as_defined(map_hw: tuple[int, int], sizes: dict[str, Any]) -> None:
    encoder = make_encoder(**sizes)
    levels = [torch.randn(4, 6, *map_hw) for _ in range(4)]
    regions = make_regions()
    found = encoder(levels, regions)
    assert found.shape == (4, 1, 10) and found.dtype == torch.float32
    assert far(found[:, 0], defined(encoder, levels, regions)) < 1e-4


@pytest.mark.parametrize(
    "sizes_hw",
    [
        ((12, 16), (6, 8), (3, 4)),  # as large as their levels
        ((9, 16), (5, 8), (3, 4)),  # strides that round
        ((20, 20), (2, 3), (3, 4)),  # larger and smaller than their levels
    ],
)
def test_levels_of_several_sizes_and_channels_are_brought_to_the_coarsest_ones(
    sizes_hw: tuple[tuple[int, int], ...],
) -> None:
    channels = (3, 5, 7)
    encoder = make_encoder(channels)
    levels = [torch.randn(2, c, *hw) for c, hw in zip(channels, sizes_hw, strict=True)]
    regions = make_regions((1, 2))
    assert far(encoder(levels, regions)[:, 0], defined(encoder, levels, regions)) < 1e-4


def test_one_level_is_read_four_times() -> None:
    encoder = make_encoder((6,))
    level = torch.randn(2, 6, 4, 4)
    regions = make_regions((2, 1))
    assert len(encoder.mlvl_fuse.input_conv) == 4
    assert far(encoder([level], regions)[:, 0], defined(encoder, [level] * 4, regions)) < 1e-4


def test_masks_weight_what_is_pooled() -> None:
    encoder = make_encoder(roi_size=MASK_SIZE // 2, inner_width=8)
    levels = [torch.randn(2, 6, 2, 2) for _ in range(4)]
    masks = torch.rand(2, MASK_SIZE, MASK_SIZE)
    masks[:, :9] = 0
    regions = make_regions((1, 1), masks_RMM=masks)
    found = encoder(levels, regions)[:, 0]
    assert far(found, defined(encoder, levels, regions)) < 1e-4
    assert far(found, encoder(levels, make_regions((1, 1)))[:, 0].double()) > 1e-2


def test_gradients_are_those_of_the_definition() -> None:
    encoder = make_encoder()
    levels = [torch.randn(2, 6, 3, 4, requires_grad=True) for _ in range(4)]
    regions = make_regions((2, 1))
    upstream = torch.randn(3, 10)
    (encoder(levels, regions)[:, 0] * upstream).sum().backward()

    weights = {k: v.double().requires_grad_() for k, v in encoder.state_dict().items()}
    copies = [level.detach().double().requires_grad_() for level in levels]
    boxes = regions.boxes_R4.split([2, 1])
    (encode_by_definition(weights, copies, boxes, 3) * upstream).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None
        wanted = weights[name].grad
        assert wanted is not None and far(parameter.grad, wanted) < 1e-3, name
    for level, copy in zip(levels, copies, strict=True):
        assert level.grad is not None and copy.grad is not None
        assert far(level.grad, copy.grad) < 1e-3


def test_a_pictures_regions_do_not_depend_on_the_batch() -> None:
    encoder = make_encoder()
    levels = [torch.randn(4, 6, 4, 4) for _ in range(4)]
    regions = make_regions()
    together = encoder(levels, regions)
    for picture in (1, 3):
        is_here = regions.image_index_R == picture
        alone = Regions(
            boxes_R4=regions.boxes_R4[is_here],
            image_index_R=torch.zeros(int(is_here.sum()), dtype=torch.long),
        )
        one = encoder([level[[picture]] for level in levels], alone)
        torch.testing.assert_close(one, together[is_here])


def test_pictures_without_regions_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make_encoder()
    seen: list[int] = []
    encoder.mlvl_fuse.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0][0])))
    levels = [torch.randn(4, 6, 2, 2) for _ in range(4)]
    encoder(levels, make_regions())
    encoder(levels, make_regions((0, 0, 0, 0)))
    assert seen == [2]


def test_without_regions_every_parameter_gets_a_gradient_of_zero() -> None:
    encoder = make_encoder()
    levels = [torch.randn(2, 6, 2, 2) for _ in range(4)]
    empty = encoder(levels, make_regions((0, 0)))
    assert empty.shape == (0, 1, 10)
    empty.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in encoder.parameters())


@pytest.mark.parametrize("autocast", [False, True])
def test_in_bfloat16_resizing_and_pooling_stay_exact(autocast: bool) -> None:
    encoder = make_encoder()
    levels = [torch.randn(2, 6, 4, 4) for _ in range(4)]
    regions = make_regions((2, 2))
    wanted = defined(encoder, levels, regions)
    if autocast:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = encoder(levels, regions)
    else:
        found = encoder.bfloat16()([level.bfloat16() for level in levels], regions)
    assert found.dtype == torch.bfloat16
    assert far(found[:, 0], wanted) < 0.05
    found.sum().backward()


def test_new_weights_are_the_references() -> None:
    encoder = make_encoder(inner_width=64)
    encoder.reset_parameters()
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            assert float(module.weight.detach().std()) == pytest.approx(0.01, rel=0.2)
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            assert bool((module.weight == 1).all())
        bias = getattr(module, "bias", None)
        assert bias is None or not bias.any()


def test_the_parameters_are_as_many_as_the_references() -> None:
    with torch.device("meta"):
        encoder = Gpt4RoiEncoder((1024,) * 4, 4096, inner_width=1024)
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6, 1) == 299.1
    assert round(encoder.roi_align.flatten_linear.weight.numel() / 1e6, 1) == 205.5


@pytest.mark.slow
def test_at_true_size_regions_come_out_as_defined() -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        encoder = Gpt4RoiEncoder((1024,) * 4, 4096, inner_width=1024)
    encoder = encoder.to_empty(device="cpu")
    encoder.reset_parameters()
    levels = [torch.randn(1, 1024, 16, 16) for _ in range(4)]
    regions = make_regions((2,))
    with torch.no_grad():
        found = encoder(levels, regions)[:, 0]
        wanted = defined(encoder, levels, regions)
    assert found.shape == (2, 4096)
    off_by = far(found, wanted)
    print(f"off by {off_by:.1e}")  # `pytest -s` shows it
    assert off_by < 1e-4
