"""Released weights by their names: what loads, what is refused, how the module is called."""

import re

import pytest
import torch
from torch import Tensor

from roikit.errors import RoikitError
from roikit.model.gpt4roi import Gpt4RoiEncoder
from roikit.model.released import PREFIX, load_region_encoder
from tests.roikit.model.gpt4roi_by_definition import encode_by_definition

CHANNELS, INNER, WIDTH, BOX, ROI = 6, 16, 10, 8, 3


def released_shapes(
    channels: int, inner: int, width: int, box: int, roi: int
) -> dict[str, tuple[int, ...]]:
    """Names and shapes as in gpt4roi's `spi_module`, written out from its listing."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(4):
        shapes[f"mlvl_fuse.input_conv.{i}.weight"] = (inner, channels + 2, 1, 1)
        shapes[f"mlvl_fuse.input_conv.{i}.bias"] = (inner,)
        shapes[f"roi_align.pconvs.{i}.weight"] = (inner, inner, 3, 3)
        shapes[f"roi_align.pconvs.{i}.bias"] = (inner,)
    for i in range(5):
        shapes[f"mlvl_fuse.fuse_convs.{i}.conv.weight"] = (inner, inner, 3, 3)
        shapes[f"mlvl_fuse.fuse_convs.{i}.gn.weight"] = (inner,)
        shapes[f"mlvl_fuse.fuse_convs.{i}.gn.bias"] = (inner,)
    for name, shape in {
        "pos_embedd.0": (box, 4),
        "pos_embedd.3": (inner, box),
        "flatten_linear": (inner, inner * roi * roi),
        "updims": (width, inner),
    }.items():
        shapes[f"roi_align.{name}.weight"] = shape
        shapes[f"roi_align.{name}.bias"] = shape[:1]
    for name, size in {"pos_embedd.2": box, "pos_embedd.5": inner}.items():
        shapes[f"roi_align.{name}.weight"] = (size,)
        shapes[f"roi_align.{name}.bias"] = (size,)
    return shapes


@pytest.fixture
def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = released_shapes(CHANNELS, INNER, WIDTH, BOX, ROI)
    return {k: 0.3 * torch.randn(shape, generator=generator) for k, shape in shapes.items()}


def make_levels(batch: int, positions: int = 16) -> list[Tensor]:
    return [torch.randn(batch, positions, CHANNELS) for _ in range(4)]


def make_boxes(*counts: int) -> list[Tensor]:
    corners = [torch.rand(count, 2, 2) for count in counts]
    return [
        torch.cat([c.amin(1), c.amax(1)], dim=1) if len(c) else torch.zeros(0, 4) for c in corners
    ]


def test_names_and_shapes_at_true_size_are_the_released_ones() -> None:
    with torch.device("meta"):
        encoder = Gpt4RoiEncoder((1024,) * 4, 4096, inner_width=1024)
    found = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    assert found == released_shapes(1024, 1024, 4096, 256, 14)


@pytest.mark.parametrize(("prefix", "dtype"), [("", torch.float32), (PREFIX, torch.float16)])
def test_regions_come_out_as_defined_picture_by_picture(
    state: dict[str, Tensor], prefix: str, dtype: torch.dtype
) -> None:
    state = {name: value.to(dtype) for name, value in state.items()}
    encoder = load_region_encoder({prefix + name: value for name, value in state.items()})
    assert not encoder.training
    levels, boxes = make_levels(4), make_boxes(2, 0, 3, 0)
    found = encoder(levels, boxes)
    maps = [level.transpose(1, 2).unflatten(2, (4, 4)) for level in levels]
    wanted = encode_by_definition(state, maps, boxes, ROI)
    assert found.shape == (5, WIDTH) and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


def test_no_regions_at_all_give_an_empty_result(state: dict[str, Tensor]) -> None:
    encoder = load_region_encoder(state)
    with torch.no_grad():
        found = encoder(make_levels(2), make_boxes(0, 0))
    assert found.shape == (0, WIDTH) and found.dtype == torch.float32


def test_weights_are_copied_and_take_the_type_asked_for(state: dict[str, Tensor]) -> None:
    encoder = load_region_encoder(state, dtype=torch.bfloat16)
    assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16}
    assert encoder(make_levels(1), make_boxes(2)).dtype == torch.bfloat16
    full = load_region_encoder(state)
    levels, boxes = make_levels(1), make_boxes(1)
    before = full(levels, boxes)
    for value in state.values():
        value.zero_()
    assert torch.equal(full(levels, boxes), before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"roi_align.updims.bias": None, "mlvl_fuse.fuse_convs.4.gn.bias": None},
            "missing `mlvl_fuse.fuse_convs.4.gn.bias`, `roi_align.updims.bias`",
        ),
        ({"roi_align.flatten_linear.weight": None}, "missing `roi_align.flatten_linear.weight`"),
        ({"mm_projector.bias": torch.zeros(2)}, "unexpected `mm_projector.bias`"),
        (
            {"roi_align.pconvs.2.bias": torch.zeros(3)},
            "misshapen `roi_align.pconvs.2.bias (3,) for (16,)`",
        ),
        (
            {"roi_align.flatten_linear.weight": torch.zeros(16, 100)},
            "misshapen roi_align.flatten_linear.weight (16, 100)",
        ),
        (
            {"roi_align.updims.weight": torch.zeros(16)},
            "misshapen `roi_align.updims.weight (16,)`",
        ),
        ({PREFIX + "roi_align.updims.bias": torch.zeros(10)}, "with and without"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    state: dict[str, Tensor], changes: dict[str, Tensor | None], message: str
) -> None:
    changed = {k: v for k, v in {**state, **changes}.items() if v is not None}
    with pytest.raises(RoikitError, match=re.escape(message)) as refused:
        load_region_encoder(changed)
    assert "\n" not in str(refused.value)


def test_nothing_to_load_names_a_few_and_counts_the_rest() -> None:
    with pytest.raises(RoikitError, match=r"missing `mlvl_fuse.*` and 4 more$"):
        load_region_encoder({})


@pytest.mark.parametrize(
    ("levels", "boxes", "message"),
    [
        (make_levels(1)[:3], make_boxes(1), "levels: expected 4 hidden states, got 3"),
        (make_levels(1, 17), make_boxes(1), "expected a square number of positions, got 17"),
        (
            [level[..., :5] for level in make_levels(1)],
            make_boxes(1),
            "levels[0]: expected shape (B, positions, 6), got (1, 16, 5)",
        ),
        (
            [*make_levels(2)[:3], make_levels(1)[0]],
            make_boxes(1, 1),
            "levels[3]: expected pictures and positions as in levels[0], (2, 16), got (1, 16)",
        ),
        (make_levels(2), make_boxes(1), "one tensor for each of 2 pictures, got 1"),
        (make_levels(1), [torch.zeros(4)], "boxes[0]: expected shape (R, 4), got (4,)"),
        (make_levels(1), [torch.zeros(2, 5)], "boxes[0]: expected shape (R, 4), got (2, 5)"),
    ],
)
def test_calls_that_do_not_fit_are_refused(
    state: dict[str, Tensor], levels: list[Tensor], boxes: list[Tensor], message: str
) -> None:
    with pytest.raises(RoikitError, match=re.escape(message)):
        load_region_encoder(state)(levels, boxes)
