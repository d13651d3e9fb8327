"""The cost card of a stage: what `roikit train --estimate` shows, from shards and a short trial.

In: a resolved recipe, the shards' folder, a number of GPUs. Out: figures, each with how it is
known, and the settings under which the stage fits where it does not. Writes nothing.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.stages import open_stream, training_texts
from roikit.config import Recipe
from roikit.errors import UsageError
from roikit.mentions import mentioned, plain
from roikit.prompt import as_dialogue
from roikit.sample import Example
from shards.steps import Steps
from shards.stream import Draw, Stream

if TYPE_CHECKING:  # torch, which conversion must not import
    from roikit.model.build import Built
    from roikit.train.estimate import Advice, Conversations, MicroBatches, Sizes
    from roikit.train.trial import Trial

#: Conversations that are drawn for their lengths.
_DRAWN = 256
#: Steps of the trial, the first of which is not timed.
_TRIAL_STEPS = 5
#: Where there is no tokenizer: tokens a word or mark of English, and of a turn's frame.
_TOKENS_A_WORD, _FRAME_TOKENS = 1.3, 6
_WORD = re.compile(r"\w+|[^\w\s]")
_GIB = 2**30
#: Parts that come from packages or from scratch.
_PRESETS = ("plain", "efficientnet-lite0", "scratch", "smollm2-135m")


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
    known: str  #: `counted`, `measured`, `sampled`, `computed` or `assumed`


@dataclass(frozen=True, kw_only=True, slots=True)
class CostCard:
    """What a stage costs, and how that is known."""

    recipe: str
    stage: str
    hardware: Hardware
    figures: list[Figure]
    fits: bool  #: into the memory of each GPU
    advice: "list[Advice]" = field(default_factory=list)  #: where it does not
    assumptions: list[str] = field(default_factory=list)
    trial: "Trial | None" = None  #: None where the model cannot be run here


def estimate_stage(
    recipe: Recipe,
    *,
    shards: Path,
    hardware: Hardware,
    start: Path | None = None,
    device: str = "auto",
) -> CostCard:
    """Work out what a stage costs.

    Args:
        recipe: the stage's, resolved.
        shards: root of the shards that the recipe's mixture names.
        hardware: what it is to run on.
        start: the run or model to start from; None builds a new model for the trial.
        device: where the trial runs.

    Raises:
        UsageError: the mixture names what is not converted, or the model's size is not known.
    """
    from roikit.model.device import choose_device
    from roikit.model.regions import check_encoder
    from roikit.train.estimate import advise, is_sharded, measure_sizes, memory, micro_batches

    check_encoder(recipe.model.region_encoder)
    _check(hardware)
    run = recipe.run
    stream, kept = open_stream(recipe, shards)
    texts = training_texts(shards, frozenset(kept.identities))
    built, why_not = _build(recipe, start, lambda: list(texts), choose_device(device))
    lengths = _lengths(stream, recipe, built)
    batches = micro_batches(lengths, run, hardware.gpus)
    sizes = measure_sizes(recipe.model, run, batches)
    needed = memory(sizes, run, gpus=hardware.gpus)
    trial = _trial(stream, recipe, built, lengths, hardware, choose_device(device))
    fits = needed.total <= hardware.memory_gib * _GIB
    card = CostCard(
        recipe=recipe.name,
        stage=recipe.stage,
        hardware=hardware,
        figures=[
            *_model_figures(sizes),
            *_data_figures(stream, recipe, lengths, batches),
            *(
                Figure(
                    group="memory a GPU",
                    name=name,
                    value=round(value / _GIB, 3),
                    unit="GiB",
                    known="assumed" if name == "reserve" else "computed",
                )
                for name, value in (
                    *((n, getattr(needed, n)) for n in needed.__slots__),
                    ("all of it", needed.total),
                )
            ),
            *_time_figures(stream, recipe, sizes, batches, trial, hardware),
        ],
        fits=fits,
        advice=[]
        if fits
        else advise(
            recipe.model,
            run,
            sizes,
            batches,
            stage=recipe.stage,
            gpus=hardware.gpus,
            gpu_bytes=hardware.memory_gib * _GIB,
        ),
        trial=trial,
        assumptions=_assumptions(
            recipe, lengths, batches, hardware, trial, why_not, sharded=is_sharded(run)
        ),
    )
    return card


def _check(hardware: Hardware) -> None:
    if hardware.gpus < 1:
        raise UsageError(f"--gpus: expected 1 or more, got {hardware.gpus}")
    for option, value in (
        ("--gpu-memory", hardware.memory_gib),
        ("--gpu-tflops", hardware.peak_tflops),
    ):
        if not 0 < value < math.inf:
            raise UsageError(f"{option}: expected a number above 0, got {value}")
    if not 0 < hardware.mfu <= 1:
        raise UsageError(f"--mfu: expected a share above 0 and up to 1, got {hardware.mfu}")


def _build(
    recipe: Recipe, start: Path | None, texts: Callable[[], list[str]], device: str
) -> "tuple[Built | None, str]":
    """Build the model for the trial, or say why not; nothing is fetched for it."""
    from roikit.model.build import Built, build_model
    from roikit.model.generate import load_model
    from roikit.model.skeleton import build_skeleton

    if start is not None:
        loaded = load_model(start, device="cpu", dtype="fp32")
        return Built(model=loaded.model, processor=loaded.processor, from_scratch=()), ""
    for name in (recipe.model.vision, recipe.model.language):
        if not _is_at_hand(name):
            return None, f"`{name}` is not on this machine"
    skeleton = build_skeleton(recipe.model)
    # weights, gradients and AdamW's moments of all: an upper bound without activations
    needed = 16 * sum(p.numel() for p in skeleton.parameters())
    there = _free_bytes(device)
    if there is not None and needed > there:
        return None, (
            f"{needed / _GIB:.0f} GiB of weights, gradients and moments do not fit into the "
            f"{there / _GIB:.0f} GiB that are free here"
        )
    words = texts() if recipe.model.language == "scratch" else ()
    return build_model(recipe.model, texts=words), ""


def _is_at_hand(name: str) -> bool:
    if name in _PRESETS or Path(name).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "config.json")
    except ValueError:  # not of the form of a hub name
        return False
    return isinstance(found, str)


def _free_bytes(device: str) -> int | None:
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    try:
        told = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:  # not Linux
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", told, re.M)
    return int(found[1]) * 1024 if found else None


def _lengths(stream: Stream, recipe: Recipe, built: "Built | None") -> "Conversations":
    """Draw the first conversations of the stream and take their lengths."""
    from roikit.train.estimate import Conversations

    run, model = recipe.run, recipe.model
    drawn = min(_DRAWN, stream.epoch_length)
    examples = [stream.read(place, _as_it_is) for place in range(drawn)]
    exchanges = tuple(_num_exchanges(example, run.max_exchanges) for example in examples)
    if built is not None:
        tokens, spans, regions = _encoded_lengths(stream, recipe, built, drawn)
        return Conversations(
            tokens=tokens,
            label_spans=spans,
            regions=regions,
            exchanges=exchanges,
            is_measured=True,
        )
    estimated = [_words(example, recipe) for example in examples]
    picture = model.image_grid**2
    return Conversations(
        tokens=tuple(min(run.max_tokens, picture + n) for n, _ in estimated),
        label_spans=tuple(min(run.max_tokens - picture, n) for n, _ in estimated),
        regions=tuple(regions for _, regions in estimated),
        exchanges=exchanges,
        is_measured=False,
    )


def _as_it_is(example: Example) -> Example:
    return example


def _num_exchanges(example: Example, limit: int) -> int:
    conversation = example.conversation
    number = len(conversation.turns) // 2
    return min(number, limit) if limit and conversation.independent else number


def _words(example: Example, recipe: Recipe) -> tuple[int, int]:
    """Return about how many tokens a conversation's text and regions take, and its regions."""
    dialogue = as_dialogue(example.conversation)
    if dialogue is None:
        return _FRAME_TOKENS, 0
    turns = dialogue.turns[: 2 * _num_exchanges(example, recipe.run.max_exchanges)]
    pieces = sum(len(_WORD.findall(plain(turn.text))) for turn in turns)
    regions = len({number for turn in turns for number in mentioned(turn.text)})
    text = round(_TOKENS_A_WORD * pieces) + _FRAME_TOKENS * len(turns)
    return text + regions * recipe.model.region_grid**2, regions


def _encoded_lengths(
    stream: Stream, recipe: Recipe, built: "Built", drawn: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return tokens, tokens from the first label on, and regions, as training encodes them."""
    from roikit.train.feed import StepReader

    reader = StepReader(
        Steps(stream, batch_size=drawn),
        built.processor,
        replace(recipe.run, batch_size=drawn),
        seed=recipe.seed,
    )
    (batch,) = reader[0].batches
    if batch is None or batch.attention_mask is None:
        raise UsageError(
            f"{recipe.stage}: none of the first {drawn} conversations gives anything to learn",
            hint="raise max_tokens, or look at the mixture with `roikit mix explain`",
        )
    tokens = batch.attention_mask.sum(dim=1)
    first = (batch.labels != -100).int().argmax(dim=1)
    regions = batch.region_image_index.bincount(minlength=len(tokens))
    return (
        tuple(tokens.tolist()),
        tuple((tokens - first).tolist()),
        tuple(regions.tolist()),
    )


def _trial(
    stream: Stream,
    recipe: Recipe,
    built: "Built | None",
    lengths: "Conversations",
    hardware: Hardware,
    device: str,
) -> "Trial | None":
    """Take a few steps of one GPU's share here."""
    if built is None:
        return None
    import torch

    from roikit.train.feed import StepReader, feed
    from roikit.train.trial import run_trial

    share = -(-recipe.run.batch_size // hardware.gpus)
    run = replace(recipe.run, batch_size=share)
    mean = round(sum(lengths.tokens) / len(lengths.tokens))

    def tokens(draw: Draw) -> int:
        return lengths.tokens[draw.place] if draw.place < len(lengths.tokens) else mean

    steps = Steps(
        stream,
        batch_size=share,
        micro_batch=run.micro_batch,
        layout=run.layout,
        lengths=tokens,
        max_tokens=run.max_tokens,
    )
    reader = StepReader(steps, built.processor, run, seed=recipe.seed)
    feedings = feed(reader, first=0, steps=_TRIAL_STEPS, ahead=0 if device == "cpu" else 2)
    try:
        return run_trial(
            built.model,
            built.processor,
            feedings,
            replace(recipe, run=run),
            device=torch.device(device),
        )
    finally:
        feedings.close()


def num_steps(recipe: Recipe, epoch_length: int) -> int:
    """Return the optimiser steps of the stage."""
    run = recipe.run
    return run.steps or math.ceil(run.epochs * epoch_length / run.batch_size)


def _model_figures(sizes: "Sizes") -> list[Figure]:
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


def _data_figures(
    stream: Stream, recipe: Recipe, lengths: "Conversations", batches: "MicroBatches"
) -> list[Figure]:
    epoch = stream.epoch_length
    drawn = len(lengths.tokens)
    known = "sampled" if lengths.is_measured else "estimated"
    steps = num_steps(recipe, epoch)
    rows = (
        ("conversations an epoch", epoch, "", "counted"),
        (
            "exchanges an epoch",
            round(epoch * sum(lengths.exchanges) / len(lengths.exchanges)),
            "",
            "sampled",
        ),
        ("tokens an epoch", round(epoch * sum(lengths.tokens) / drawn), "", known),
        ("tokens a conversation", round(sum(lengths.tokens) / drawn, 1), "", known),
        ("the longest drawn", max(lengths.tokens), "tokens", known),
        ("regions a conversation", round(sum(lengths.regions) / drawn, 2), "", known),
        ("padding", round(100 * batches.padding, 1), "%", known),
        ("steps", steps, "", "counted"),
        ("epochs", round(steps * recipe.run.batch_size / epoch, 3), "", "counted"),
        ("conversations at once on a GPU", batches.fullest.pictures, "", "counted"),
    )
    return [
        Figure(group="data", name=name, value=value, unit=unit, known=how)
        for name, value, unit, how in rows
    ]


def _time_figures(
    stream: Stream,
    recipe: Recipe,
    sizes: "Sizes",
    batches: "MicroBatches",
    trial: "Trial | None",
    hardware: Hardware,
) -> list[Figure]:
    steps = num_steps(recipe, stream.epoch_length)
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


def _assumptions(
    recipe: Recipe,
    lengths: "Conversations",
    batches: "MicroBatches",
    hardware: Hardware,
    trial: "Trial | None",
    why_not: str,
    *,
    sharded: bool,
) -> list[str]:
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
        f"lengths: the first {len(lengths.tokens)} conversations of the stream"
        + (
            ", as training encodes them"
            if lengths.is_measured
            else f", {_TOKENS_A_WORD} tokens a word or mark and {_FRAME_TOKENS} a turn, since the "
            "tokenizer is not at hand"
        ),
    ]
    if run.gradient_checkpointing:
        said.append("gradient checkpointing: every layer of the language model forward once more")
    if run.lora_rank:
        said.append("LoRA: the adapters' own activations and operations are left out")
    if trial is not None:
        said.append(
            f"the trial: {trial.steps} steps after a first, {trial.conversations:g} conversations "
            "each, from the real shards; nothing of it is kept"
        )
    else:
        said.append(f"no trial: {why_not or 'too few steps fitted into its time'}")
    return said
