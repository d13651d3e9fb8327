"""Winograd's convolution against torch's, and when it is left alone."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from roikit.model import winograd
from roikit.model.winograd import Convolution


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small enough for a test, and blocks that do not fit the maps."""
    monkeypatch.setattr(winograd, "_MIN_CHANNELS", 8)
    monkeypatch.setattr(winograd, "_MIN_TILES", 4)
    monkeypatch.setattr(winograd, "_BLOCK", 24)


def tensors(number: int, height: int, width: int, **kwargs: Any) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(number, 12, height, width, generator=generator, **kwargs)
    return maps, torch.randn(10, 12, 3, 3, generator=generator, **kwargs)


@torch.no_grad()
@pytest.mark.parametrize(
    ("number", "height", "width"), [(1, 14, 14), (2, 40, 10), (5, 6, 4), (7, 2, 8), (1, 2, 60)]
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_results_are_those_of_a_convolution(
    number: int, height: int, width: int, layout: torch.memory_format
) -> None:
    maps, weight = tensors(number, height, width)
    maps = maps.contiguous(memory_format=layout)
    assert winograd._pays(maps, weight)
    bias = torch.randn(len(weight))
    convolve = Convolution(weight, bias)
    for one in (maps, maps.flip(3)):  # the kernel is used again
        expected = F.conv2d(one.double(), weight.double(), bias.double(), padding=1)
        error = (convolve(one).double() - expected).abs().max() / expected.abs().max()
        assert error < 2e-6


def test_what_learns_or_does_not_fit_is_left_to_torch() -> None:
    maps, weight = tensors(2, 8, 8)
    assert winograd._pays(maps, weight)
    odd, _ = tensors(2, 7, 8)
    cases = {
        "a kernel that learns": (maps, weight.clone().requires_grad_()),
        "maps that learn": (maps.clone().requires_grad_(), weight),
        "an odd side": (odd, weight),
        "another type": (maps.bfloat16(), weight.bfloat16()),
        "too few tiles": (maps[:1, :, :2, :2], weight),
        "shapes alone": (maps.to("meta"), weight.to("meta")),
    }
    for what, (case, kernel) in cases.items():
        assert not winograd._pays(case, kernel), what
        expected = F.conv2d(case, kernel, padding=1)
        found = Convolution(kernel)(case)
        assert found.shape == expected.shape and found.requires_grad == expected.requires_grad
        if not case.is_meta:
            assert torch.equal(found, expected), what
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not winograd._pays(maps, weight)
    with torch.no_grad():
        assert winograd._pays(maps, weight.clone().requires_grad_())
