"""RoIAlign against torchvision's and against its definition; masks."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import roi_align

from roikit.model.regions import MASK_SIZE, Regions
from roikit.model.roi_align import pool_regions
from tests.roikit.model.gpt4roi_by_definition import roi_align_by_definition

#: Beyond the picture, at its borders, and so near each other that boxes get tiny or empty.
EDGES = st.sampled_from([-0.3, -0.01, 0.0, 1e-4, 0.25, 0.5, 0.7501, 1.0, 1.02, 1.4]) | st.floats(
    -0.25, 1.25, allow_subnormal=False
)
BOXES = st.lists(st.tuples(EDGES, EDGES, EDGES, EDGES), min_size=1, max_size=6).map(
    lambda boxes: torch.tensor(
        [[*map(min, b[:2], b[2:]), *map(max, b[:2], b[2:])] for b in boxes], dtype=torch.float32
    )
)


def make_regions(boxes_R4: Tensor, masks_RMM: Tensor | None = None, images: int = 1) -> Regions:
    index = torch.arange(len(boxes_R4)) * images // max(1, len(boxes_R4))
    return Regions(boxes_R4=boxes_R4, image_index_R=index, masks_RMM=masks_RMM)


def with_torchvision(level: Tensor, regions: Regions, grid: int) -> Tensor:
    height, width = level.shape[-2:]
    pixels = regions.boxes_R4 * torch.tensor([width, height, width, height])
    rois = torch.cat([regions.image_index_R[:, None].float(), pixels], dim=1)
    cells = roi_align(level, rois, grid, sampling_ratio=2, aligned=True)
    return cells.flatten(2).transpose(1, 2)


def any_sample_where_reading_ends(boxes: Tensor, grid: int, map_hw: Sequence[int]) -> bool:
    """Whether rounding alone decides if a sample is read at the border or is 0."""
    steps = (torch.arange(2 * grid) + 0.5) / (2 * grid)
    for axis, length in enumerate(reversed(map_hw)):
        start, end = boxes[:, [axis]] * length - 0.5, boxes[:, [axis + 2]] * length - 0.5
        at = start + (end - start) * steps
        if bool(((at + 1).abs() < 1e-4).any() or ((at - length).abs() < 1e-4).any()):
            return True
    return False


def some_boxes(count: int, seed: int = 0) -> Tensor:
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed))
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


@settings(max_examples=100, deadline=None)
@given(boxes=BOXES, grid=st.integers(1, 4), seed=st.integers(0, 99))
def test_pooling_and_its_gradient_are_torchvisions(boxes: Tensor, grid: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ours = torch.randn(2, 3, 5, 8, generator=generator, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    regions = make_regions(boxes, images=2)
    assume(not any_sample_where_reading_ends(boxes, grid, ours.shape[-2:]))
    pooled, wanted = pool_regions([ours], regions, grid), with_torchvision(theirs, regions, grid)
    upstream = torch.randn(pooled.shape, generator=generator)
    (pooled * upstream).sum().backward()
    (wanted * upstream).sum().backward()
    torch.testing.assert_close(pooled, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=2e-4)


def test_levels_lie_side_by_side_whatever_their_sizes_and_memory() -> None:
    levels = [torch.randn(2, 3, 6, 9), torch.randn(2, 5, 4, 3)]
    regions = make_regions(some_boxes(4), images=2)
    wanted = torch.cat([with_torchvision(level, regions, 3) for level in levels], dim=2)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        laid_out = [level.contiguous(memory_format=memory_format) for level in levels]
        torch.testing.assert_close(pool_regions(laid_out, regions, 3), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("roi_size", "grid"), [(6, 2), (14, 3), (14, 1)])
def test_finer_sampling_is_averaged_to_the_grid(roi_size: int, grid: int) -> None:
    level = torch.randn(1, 4, 7, 7)
    regions = make_regions(some_boxes(3))
    fine = pool_regions([level], regions, roi_size).transpose(1, 2)
    fine = fine.unflatten(2, (roi_size, roi_size))
    wanted = torch.nn.functional.adaptive_avg_pool2d(fine, grid).flatten(2).transpose(1, 2)
    pooled = pool_regions([level], regions, grid, roi_size=roi_size)
    torch.testing.assert_close(pooled, wanted)


def test_no_regions_give_an_empty_result_with_a_gradient() -> None:
    level = torch.randn(1, 4, 5, 5, requires_grad=True)
    masks = torch.ones(0, MASK_SIZE, MASK_SIZE)
    for regions in (make_regions(torch.zeros(0, 4)), make_regions(torch.zeros(0, 4), masks)):
        pooled = pool_regions([level, level], regions, 3)
        assert pooled.shape == (0, 9, 8)
        pooled.sum().backward()
    assert level.grad is not None and not level.grad.any()


def test_half_precision_maps_keep_their_type_and_boxes_their_places() -> None:
    level = torch.randn(1, 4, 32, 32)
    regions = make_regions(some_boxes(4))
    pooled = pool_regions([level.bfloat16()], regions, 3)
    assert pooled.dtype == torch.bfloat16
    wanted = pool_regions([level.bfloat16().float()], regions, 3).bfloat16()
    assert torch.equal(pooled, wanted)


def test_boxes_on_the_maps_are_the_ones_pooled() -> None:
    level, boxes = torch.randn(1, 4, 6, 6), some_boxes(3)
    index = torch.zeros(3, dtype=torch.long)
    moved = Regions(boxes_R4=boxes / 2, image_index_R=index, map_boxes_R4=boxes)
    wanted = pool_regions([level], make_regions(boxes), 2)
    assert torch.equal(pool_regions([level], moved, 2), wanted)


# --- masks ---


@pytest.mark.parametrize(("roi_size", "grid"), [(0, 14), (0, 3), (14, 1), (14, 3)])
def test_a_mask_of_ones_changes_nothing(roi_size: int, grid: int) -> None:
    level, boxes = torch.randn(2, 4, 9, 9), some_boxes(5)
    masks = torch.ones(5, MASK_SIZE, MASK_SIZE)
    plain = pool_regions([level], make_regions(boxes, images=2), grid, roi_size=roi_size)
    masked = pool_regions([level], make_regions(boxes, masks, images=2), grid, roi_size=roi_size)
    assert torch.equal(plain, masked)


def test_masks_weight_the_samples_of_each_cell() -> None:
    level, boxes = torch.randn(1, 3, 9, 12, dtype=torch.float64), some_boxes(3)
    masks = torch.rand(3, MASK_SIZE, MASK_SIZE)
    masks[:, 4:12, 10:] = 0  # whole cells of it
    pooled = pool_regions([level], make_regions(boxes, masks), 14)
    for i, box in enumerate(boxes.double()):
        pixels = box * torch.tensor([12, 9, 12, 9])
        wanted = roi_align_by_definition(level[0], pixels, 14, masks[i])
        found = pooled[i].T.unflatten(1, (14, 14))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        assert not found[:, 2:6, 5:].any() and found[:, :2].all()


def test_what_lies_outside_a_mask_is_not_read() -> None:
    level = torch.zeros(1, 1, 28, 28)
    level[..., :, 14:] = 1000.0
    mask = torch.zeros(1, MASK_SIZE, MASK_SIZE)
    mask[..., :12] = 1.0  # of a box over the whole map: two cells away from the large values
    level[..., :, :14] = 2.0
    regions = make_regions(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), mask)
    one = pool_regions([level], regions, 1, roi_size=14)
    assert one.item() == pytest.approx(2.0)
    two = pool_regions([level], regions, 2, roi_size=14)
    assert two.flatten().tolist() == pytest.approx([2.0, 0.0, 2.0, 0.0])
