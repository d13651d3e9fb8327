"""What a region encoder costs: parameters, operations, time, on its own.

Operations are those of matrix products and convolutions, two a multiply-add
(`torch.utils.flop_counter`). Not counted: RoIAlign and other sampling, norms, everything
elementwise, the vision tower, and what a region's tokens cost in the language model. Times hold all
that the encoder does.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from roikit.model.generate import LoadedModel
from roikit.model.regions import Regions

#: Regions of the picture that is timed.
NUM_REGIONS = 8
_REPEATS = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderCost:
    """Costs of one model's region encoder, on the device that it was measured on."""

    tokens: int  #: of a region
    encoder_parameters: int
    model_parameters: int  #: the encoder's among them
    flops_picture: int  #: what a picture with regions costs once, however many they are
    flops_region: int  #: of each region
    #: of a region of a picture with `NUM_REGIONS`, the picture's share included; median
    ms_region: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """A model's region encoder with maps to read, apart from the rest of the model."""

    encoder: nn.Module | None  #: None where regions are text
    project: Callable[[Tensor], Tensor]
    levels: list[Tensor]  #: of one picture
    tokens: int
    encoder_parameters: int
    model_parameters: int


@torch.no_grad()
def take_probe(loaded: LoadedModel) -> Probe:
    """Take from a model what its encoder's costs are measured on; the model may go then.

    The picture is random numbers: what an encoder costs does not depend on what it sees.
    """
    model = loaded.model
    side = model.config.image_size
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(1, 3, side, side, generator=generator).to(model.device)
    return Probe(
        encoder=None if model.config.region_encoder == "text" else model.region_encoder,
        project=model.projector,
        levels=model.feature_levels(picture),
        tokens=model.config.num_region_tokens,
        encoder_parameters=_count(model.region_encoder),
        model_parameters=_count(model),
    )


@torch.no_grad()
def measure_encoders(probes: Sequence[Probe]) -> list[EncoderCost]:
    """Measure encoders side by side: each repeat times all of them, one after the other."""
    seconds: list[list[float]] = [[] for _ in probes]
    for repeat in range(_REPEATS + 2):
        for probe, times in zip(probes, seconds, strict=True):
            took = _seconds(probe)
            if repeat >= 2:  # before that it warms up
                times.append(took)
    costs = []
    for probe, times in zip(probes, seconds, strict=True):
        one, all_of_them = _flops(probe, 1), _flops(probe, NUM_REGIONS)
        region = round((all_of_them - one) / (NUM_REGIONS - 1))
        costs.append(
            EncoderCost(
                tokens=probe.tokens,
                encoder_parameters=probe.encoder_parameters,
                model_parameters=probe.model_parameters,
                flops_picture=one - region,
                flops_region=region,
                ms_region=1e3 * statistics.median(times) / NUM_REGIONS,
            )
        )
    return costs


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _seconds(probe: Probe) -> float:
    if probe.encoder is None:
        return 0.0
    device = probe.levels[0].device
    began = time.perf_counter()
    _encode(probe, NUM_REGIONS)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _flops(probe: Probe, num_regions: int) -> int:
    if probe.encoder is None:
        return 0
    with FlopCounterMode(display=False) as counter:
        _encode(probe, num_regions)
    return int(counter.get_total_flops())


def _encode(probe: Probe, num_regions: int) -> None:
    assert probe.encoder is not None
    device = probe.levels[0].device
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(num_regions, 2, generator=generator) * 0.6
    sides = 0.1 + torch.rand(num_regions, 2, generator=generator) * 0.3
    regions = Regions(
        boxes_R4=torch.cat([corners, corners + sides], dim=1).to(device),
        image_index_R=torch.zeros(num_regions, dtype=torch.long, device=device),
    )
    probe.encoder(probe.levels, regions, probe.project)
