"""What a picture's regions cost: the reference's encoder, ours of the same numbers, and the others.

    python benchmarks/region_encoder.py --all

prints tables and writes `benchmarks/results/region_encoder.json` and the tables in
`benchmarks/README.md`; without `--all` it prints alone. `--json` prints one document.

The sizes are the reference's: four maps of 16 x 16 x 1024 (CLIP ViT-L/14 at 224 pixels, whose own
cost is not counted), vectors of 4096, fp32. Maps, boxes and weights are random. The contenders
alternate in one process, the two slow ones in the first turns alone, and a ratio is the median of
those within a turn; processor time stands beside the clock, since on a machine that others use it
is what can be compared. `gpt4roi` must give
what its transcription gives, or the run ends.
"""

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.region_encoder_transcribed import transcribed
from benchmarks.report import Table, keep, machine, show
from roikit import render
from roikit.model.box_only import BoxOnlyEncoder
from roikit.model.deformable import DeformableEncoder
from roikit.model.gpt4roi import Gpt4RoiEncoder
from roikit.model.pooled import PooledEncoder
from roikit.model.projector import Projector
from roikit.model.regions import Regions
from roikit.model.replay import ReplayEncoder

_PACKAGES = ("torch", "torchvision")
_REGIONS = (1, 8, 64)
_LEVELS, _SIDE, _CHANNELS, _WIDTH, _GRID = 4, 16, 1024, 4096, 3
_AGREES = 1e-4  # largest difference from the transcription, beside its largest value
_SLOW = ("transcription", "gpt4roi")  # ten seconds and more a call
_SLOW_TURNS = 2
#: Share of the transcription's time for `gpt4roi`, and how often cheaper `replay` must be.
_ALLOWED, _CHEAPER = 0.85, 50

#: Encodes the regions of one picture.
Contender = Callable[[list[Tensor], Regions], Tensor]


def contenders() -> dict[str, Contender]:
    """Make the encoders with random weights; the first two share theirs."""
    torch.manual_seed(0)
    with torch.device("meta"):  # torch's own start of 200 million weights would take a while
        pyramid = Gpt4RoiEncoder((_CHANNELS,) * _LEVELS, _WIDTH, inner_width=_CHANNELS)
    pyramid = pyramid.to_empty(device="cpu").eval()
    pyramid.reset_parameters()
    weights = pyramid.state_dict()
    made: dict[str, Contender] = {
        "transcription": lambda levels, regions: transcribed(weights, levels, [regions.boxes_R4]),
        "gpt4roi": lambda levels, regions: pyramid(levels, regions)[:, 0],
    }
    one = _CHANNELS
    made["replay"] = _projected(ReplayEncoder(one, _WIDTH, _GRID))
    made["replay, linear projector"] = _projected(ReplayEncoder(one, _WIDTH, _GRID), kind="linear")
    made["replay, four levels"] = _projected(
        ReplayEncoder(_LEVELS * one, _WIDTH, _GRID), num_levels=_LEVELS
    )
    made["deformable"] = _projected(DeformableEncoder((one,), _WIDTH, _GRID))
    made["pooled"] = _projected(PooledEncoder(one, _WIDTH))
    made["box"] = _projected(BoxOnlyEncoder(_WIDTH))
    return made


def _projected(encoder: nn.Module, *, num_levels: int = 1, kind: str = "mlp") -> Contender:
    """Give the encoder the image projector; the recipe `base` has the one of two layers."""
    encoder.eval()
    projector = Projector(num_levels * _CHANNELS, _WIDTH, kind=kind).eval()

    def encode(levels: list[Tensor], regions: Regions) -> Tensor:
        tokens: Tensor = encoder(levels[:num_levels], regions, projector)
        return tokens

    return encode


def measure(made: dict[str, Contender], num_regions: int, repeats: int) -> dict[str, Any]:
    """Alternate the contenders on one picture with so many regions."""
    torch.manual_seed(num_regions)
    levels = [torch.randn(1, _CHANNELS, _SIDE, _SIDE) for _ in range(_LEVELS)]
    corners = torch.rand(num_regions, 2, 2)
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    regions = Regions(boxes_R4=boxes, image_index_R=torch.zeros(num_regions, dtype=torch.long))
    rows: dict[str, dict[str, Any]] = {}
    outputs = {}
    for name, encode in made.items():
        with FlopCounterMode(display=False) as counter:
            outputs[name], peak_bytes = _peak(partial(encode, levels, regions))
        rows[name] = {"flops": counter.get_total_flops(), "peak_bytes": peak_bytes}
    wanted = outputs["transcription"]
    off = float((outputs["gpt4roi"] - wanted).abs().max() / wanted.abs().max())
    if off > _AGREES:
        raise SystemExit(f"{num_regions} regions: expected equal output, off by {off:.1e}")
    seconds: dict[str, list[float]] = {name: [] for name in made}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(repeats):
        for name, encode in made.items():
            if name in _SLOW and turn >= _SLOW_TURNS:
                continue
            started, cpu_started = time.perf_counter(), time.process_time()
            encode(levels, regions)
            seconds[name].append(time.perf_counter() - started)
            cpu_seconds[name].append(time.process_time() - cpu_started)
    for name, row in rows.items():
        row["seconds"] = seconds[name]
        row["cpu_seconds"] = cpu_seconds[name]

    def ratio(kind: dict[str, list[float]], one: str, other: str) -> float:
        # turns without the slow ones have nothing to compare
        return float(np.median([a / b for a, b in zip(kind[one], kind[other], strict=False)]))

    return {
        "regions": num_regions,
        "off_by": off,
        "of_transcription": ratio(seconds, "gpt4roi", "transcription"),
        "of_transcription_cpu": ratio(cpu_seconds, "gpt4roi", "transcription"),
        "replay_cheaper": ratio(seconds, "gpt4roi", "replay"),
        "replay_cheaper_cpu": ratio(cpu_seconds, "gpt4roi", "replay"),
        "contenders": rows,
    }


def _peak(work: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """What `work` returns, and the most memory the process had during it, beyond that before."""
    page = os.sysconf("SC_PAGE_SIZE")
    most = before = _resident_pages()
    is_done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not is_done.wait(0.002):
            most = max(most, _resident_pages())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return work(), (most - before) * page
    finally:
        is_done.set()
        watcher.join()


def _resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])


def tables(results: dict[str, Any]) -> list[Table]:
    """Return titles, columns, rows and remarks."""
    costs: list[tuple[Any, ...]] = []
    ratios: list[tuple[Any, ...]] = []
    for case in results["cases"]:
        for name, row in case["contenders"].items():
            costs.append(
                (
                    case["regions"],
                    name,
                    f"{np.median(row['seconds']):,.3f}",
                    f"{np.median(row['cpu_seconds']):,.3f}",
                    f"{1000 * np.median(row['seconds']) / case['regions']:,.1f}",
                    f"{row['flops'] / 1e9:,.1f}",
                    f"{row['peak_bytes'] / 2**20:,.0f}",
                )
            )
        ratios.append(
            (
                case["regions"],
                f"{case['of_transcription']:.2f}",
                f"{case['of_transcription_cpu']:.2f}",
                f"{_ALLOWED}",
                f"{case['replay_cheaper']:.0f}",
                f"{case['replay_cheaper_cpu']:.0f}",
                f"{_CHEAPER}",
                f"{case['off_by']:.0e}",
            )
        )
    return [
        (
            "Encoding the regions of one picture",
            (
                "regions",
                "encoder",
                "seconds",
                "CPU seconds",
                "ms a region",
                "GFLOP",
                "peak MiB",
            ),
            costs,
            [
                f"{results['threads']} threads, fp32, random weights, maps and boxes; the load of "
                f"the machine was {results['load_before']:.1f} before and "
                f"{results['load_after']:.1f} after.",
                "A multiply-add is two FLOP; RoIAlign, norms and resizing other than by products "
                "are not counted.",
                "*peak* is the memory a call takes beyond weights and maps.",
                f"*replay* and *deformable* make {_GRID} x {_GRID} tokens a region, others one; "
                "these two and *pooled* read the one map that image tokens are made of, and hold "
                "the image projector of two layers, where nothing else is said.",
                f"*transcription* and *gpt4roi* took part in {_SLOW_TURNS} turns at most.",
            ],
        ),
        (
            "Ratios",
            (
                "regions",
                "gpt4roi : transcription",
                "in CPU s",
                "allowed",
                "gpt4roi : replay",
                "in CPU s",
                "at least",
                "output off by",
            ),
            ratios,
            [],
        ),
    ]


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="keep the results")
    parser.add_argument("--regions", type=int, nargs="+", default=list(_REGIONS))
    parser.add_argument("--repeats", type=int, default=5, help="turns of all contenders")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--remark", help="kept with the results, such as `preliminary`")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    if min(arguments.repeats, arguments.threads, *arguments.regions) < 1:
        parser.error("expected 1 or more repeats, threads and regions")
    torch.set_num_threads(arguments.threads)
    results: dict[str, Any] = {
        "machine": machine(_PACKAGES),
        "repeats": arguments.repeats,
        "threads": arguments.threads,
        "load_before": os.getloadavg()[0],
    }
    if arguments.remark:
        results["remark"] = arguments.remark
    results["cases"] = []
    with torch.inference_mode():
        made = contenders()
        for num_regions in arguments.regions:
            render.note(f"measuring: {num_regions} regions")
            results["cases"].append(measure(made, num_regions, arguments.repeats))
    results["load_after"] = os.getloadavg()[0]
    show(results, tables(results), as_json=arguments.json)
    if arguments.all:
        command = "python benchmarks/region_encoder.py --all"
        keep("region_encoder", command, results, tables(results))


if __name__ == "__main__":
    main()
