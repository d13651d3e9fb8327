"""The figures of a cost card, each with how it is known, and what they assume.

In: what `pipelines/estimate.py` found out. Out: rows to print. Measures and computes nothing itself
beyond sums.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.mixture import SourceTotals
from roikit.config import Recipe

if TYPE_CHECKING:  # torch, which conversion must not import
    from roikit.train.estimate import Conversations, Memory, MicroBatches, Sizes
    from roikit.train.trial import Trial

_GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """The GPUs that a stage is to run on."""

    gpus: int = 1
    memory_gib: float = 80.0  #: of each
    peak_tflops: float = 989.0  #: of each, dense bf16; an H100 SXM's
    mfu: float = 0.35  #: share of the peak that training reaches, 0 to 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One line of the card."""

    group: str  #: model, data, memory a GPU, time
    name: str
    value: float | int
    unit: str
    known: str  #: `counted`, `sampled`, `estimated`, `computed`, `measured` or `assumed`


def num_steps(recipe: Recipe, epoch_length: int) -> int:
    """Return the optimiser steps of the stage."""
    run = recipe.run
    return run.steps or math.ceil(run.epochs * epoch_length / run.batch_size)


def model_figures(sizes: "Sizes") -> list[Figure]:
    """Say how many parameters there are, and which learn."""
    figures = []
    for part in sizes.parts:
        said = "learns" if part.learning else "rests"
        figures.append(_parameters(f"{part.name} ({said})", part.parameters))
    if sizes.adapters:
        figures.append(_parameters("LoRA adapters (learn)", sizes.adapters))
    figures.append(_parameters("all of it", sizes.parameters))
    figures.append(_parameters("of those, learning", sizes.learning))
    return figures


def _parameters(name: str, value: int) -> Figure:
    return Figure(group="model", name=name, value=value, unit="parameters", known="counted")


def data_figures(
    recipe: Recipe,
    totals: Sequence[SourceTotals],
    lengths: "Conversations",
    batches: "MicroBatches",
) -> list[Figure]:
    """Say what an epoch holds, as `mix explain` says it, and what a step does."""
    epoch = sum(one.positions for one in totals)
    drawn = len(lengths.tokens)
    known = "sampled" if lengths.is_measured else "estimated"
    steps = num_steps(recipe, epoch)
    padding_known = "assumed" if recipe.run.layout == "packed" else known  # rows as if full
    rows = (
        ("conversations an epoch", epoch, "", "counted"),
        ("exchanges an epoch", sum(one.exchanges for one in totals), "", "counted"),
        ("tokens an epoch", sum(one.tokens for one in totals), "", known),
        ("tokens a conversation", round(sum(lengths.tokens) / drawn, 1), "", known),
        ("the longest drawn", max(lengths.tokens), "tokens", known),
        ("regions a conversation", round(sum(lengths.regions) / drawn, 2), "", "sampled"),
        *_tile_rows(recipe, lengths),
        ("padding", round(100 * batches.padding, 1), "%", padding_known),
        ("steps", steps, "", "counted"),
        ("epochs", round(steps * recipe.run.batch_size / epoch, 3), "", "counted"),
        ("conversations at once on a GPU", batches.fullest.pictures, "", "counted"),
    )
    return [
        Figure(group="data", name=name, value=value, unit=unit, known=how)
        for name, value, unit, how in rows
    ]


def _tile_rows(recipe: Recipe, lengths: "Conversations") -> list[tuple[str, float, str, str]]:
    if recipe.model.max_tiles == 1:
        return []
    mean = sum(lengths.tiles) / len(lengths.tokens)
    return [("tiles a picture, beside itself", round(mean, 2), "", "sampled")]


def memory_figures(needed: "Memory") -> list[Figure]:
    """Say what a GPU holds at the fullest moment of a step."""
    rows = [(name, getattr(needed, name)) for name in needed.__slots__]
    return [
        Figure(
            group="memory a GPU",
            name=name,
            value=round(value / _GIB, 3),
            unit="GiB",
            known="assumed" if name == "reserve" else "computed",
        )
        for name, value in (*rows, ("all of it", needed.total))
    ]


def time_figures(
    recipe: Recipe,
    epoch_length: int,
    sizes: "Sizes",
    batches: "MicroBatches",
    trial: "Trial | None",
    hardware: Hardware,
) -> list[Figure]:
    """Say how long a step and the stage take, by operations and by the trial."""
    steps = num_steps(recipe, epoch_length)
    checkpointing = recipe.run.gradient_checkpointing
    # of one GPU's share of a step
    flops = batches.count * sizes.typical.total_flops(checkpointing=checkpointing)
    assumed = flops / (hardware.peak_tflops * 1e12 * hardware.mfu)
    rows: list[tuple[str, float, str, str]] = [
        ("a step on each GPU", flops / 1e12, "TFLOP", "computed"),
        ("a step on the stated GPUs", assumed, "s", "assumed"),
        ("the stage on the stated GPUs", steps * assumed / 3600, "h", "assumed"),
        ("GPU-hours", steps * assumed * hardware.gpus / 3600, "h", "assumed"),
    ]
    if trial is not None:
        rows += [
            (f"a step of a GPU's share on {trial.device}", trial.seconds, "s", "measured"),
            ("of that, waiting for data", trial.data_wait, "s", "measured"),
            ("tokens a second there", trial.tokens / trial.seconds, "", "measured"),
            ("operations a second there", flops / trial.seconds / 1e12, "TFLOP/s", "measured"),
            ("the stage on such devices", steps * trial.seconds / 3600, "h", "measured"),
            (
                "their hours together",
                steps * trial.seconds * hardware.gpus / 3600,
                "h",
                "measured",
            ),
        ]
        if trial.peak_bytes is not None:
            rows.append(("most memory in the trial", trial.peak_bytes / _GIB, "GiB", "measured"))
    return [
        Figure(group="time", name=name, value=float(f"{value:.4g}"), unit=unit, known=known)
        for name, value, unit, known in rows
    ]


def assumptions(
    recipe: Recipe,
    lengths: "Conversations",
    batches: "MicroBatches",
    hardware: Hardware,
    trial: "Trial | None",
    why_not: str,
    *,
    sharded: bool,
    counted_with: str,
) -> list[str]:
    """Say what the figures rest on.

    Args:
        recipe: the stage's.
        lengths: of the conversations drawn.
        batches: of a step.
        hardware: that was stated.
        trial: None where none was made.
        why_not: the reason for that.
        sharded: whether GPUs share the states.
        counted_with: what counted the tokens.
    """
    run = recipe.run
    how = (
        "that share weights, gradients and moments (fsdp)" if sharded else "with a copy each (ddp)"
    )
    which = f"{hardware.gpus} GPUs {how}" if hardware.gpus > 1 else "one GPU"
    said = [
        f"{which}, {hardware.memory_gib:g} GiB each; float32 weights",
        f"{hardware.peak_tflops:g} TFLOP/s a GPU at its peak, of which training reaches "
        f"{hardware.mfu:.0%} (--gpu-tflops, --mfu): not measured",
        "hours grow with the steps alone: nothing lost between GPUs, to evaluation or to saving",
        "activations and operations: the model's shapes run through without weights, at "
        f"{batches.fullest.rows} rows of {batches.fullest.tokens} tokens for memory and of "
        f"{batches.typical.tokens} for operations; attention as a fused kernel, in full",
        "memory: the fullest micro-batch of the draw, 1 GiB for CUDA, a tenth for fragments",
        f"an epoch's exchanges and tokens: those of `roikit mix explain`; {counted_with}",
        f"lengths and regions of a conversation: the first {len(lengths.tokens)} of the stream"
        + (", as training encodes them" if lengths.is_measured else ""),
    ]
    if recipe.model.max_tiles > 1:
        said.append(
            f"tiles: those that the drawn regions touch, up to {batches.fullest.tiles} at once; "
            "each costs the tower as much as a picture"
        )
    if run.gradient_checkpointing:
        said.append("gradient checkpointing: every layer of the language model forward once more")
    if trial is not None:
        said.append(
            f"the trial: {trial.steps} steps after a first, {trial.conversations:g} conversations "
            "each, from the real shards; nothing of it is kept"
        )
    else:
        said.append(f"no trial: {why_not or 'too few steps fitted into its time'}")
    return said
