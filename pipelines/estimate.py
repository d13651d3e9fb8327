"""The cost card of a stage: what `roikit train --estimate` shows, from shards and a short trial.

In: a resolved recipe, the shards' folder, a number of GPUs. Out: figures, each with how it is
known, and the settings under which the stage fits where it does not. Keeps the lengths that it
measures, as training would, and writes nothing else.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.cost_figures import (
    Figure,
    Hardware,
    assumptions,
    data_figures,
    memory_figures,
    model_figures,
    time_figures,
)
from pipelines.lengths import draw_lengths
from pipelines.mixture import estimated_from_words, find_counter, mixture_totals
from pipelines.stages import open_steps, open_stream, training_texts
from pipelines.token_counts import TokenCounter, TokenizerCounter, WordCounter
from roikit.config import Recipe, region_reach
from roikit.errors import RoikitError, UsageError
from roikit.exchanges import draw_exchanges
from roikit.mentions import mentioned
from roikit.prompt import as_dialogue
from roikit.sample import Example
from roikit.tiles import TileRule, plan_tiles
from shards.steps import Steps
from shards.stream import Stream

if TYPE_CHECKING:  # torch, which conversion must not import
    from roikit.model.build import Built
    from roikit.train.estimate import Advice, Conversations
    from roikit.train.trial import Trial

#: Conversations that are drawn for their lengths.
_DRAWN = 256
#: Steps of the trial, the first of which is not timed.
_TRIAL_STEPS = 5
_GIB = 2**30
#: Parts that come from packages or from scratch.
_PRESETS = ("plain", "efficientnet-lite0", "scratch", "smollm2-135m")


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
    progress: Callable[[int, int], None] | None = None,
) -> CostCard:
    """Work out what a stage costs.

    Args:
        recipe: the stage's, resolved.
        shards: root of the shards that the recipe's mixture names.
        hardware: what it is to run on.
        start: the run or model to start from; None builds a new model for the trial.
        device: where the trial runs.
        progress: called with (shards measured, shards) of each split that is measured.

    Raises:
        UsageError: the mixture names what is not converted, or the model's size is not known.
    """
    from roikit.model.device import choose_device
    from roikit.train.estimate import advise, is_sharded, measure_sizes, memory, micro_batches

    _check(hardware)
    run = recipe.run
    stream, kept = open_stream(recipe, shards)
    texts = training_texts(shards, frozenset(kept.identities))
    built, why_not = _build(recipe, start, lambda: list(texts), choose_device(device))
    counter, counted_with = _counter(recipe, built)
    totals = mixture_totals(recipe, stream, counter, progress=progress)
    lengths = _lengths(stream, recipe, built, counter)
    batches = micro_batches(lengths, run, hardware.gpus)
    sizes = measure_sizes(recipe.model, run, batches)
    needed = memory(sizes, run, gpus=hardware.gpus)
    trial: Trial | None = None
    if built is not None:
        try:
            trial = _trial(stream, recipe, built, counter, hardware, choose_device(device))
        except RoikitError as error:  # what fails here may do on the stated GPUs
            why_not = f"it failed: {error}"
    gpu_bytes = hardware.memory_gib * _GIB
    fits = needed.total <= gpu_bytes
    advice: list[Advice] = []
    if not fits:
        advice = advise(
            recipe.model,
            run,
            sizes,
            batches,
            stage=recipe.stage,
            gpus=hardware.gpus,
            gpu_bytes=gpu_bytes,
        )
    return CostCard(
        recipe=recipe.name,
        stage=recipe.stage,
        hardware=hardware,
        figures=[
            *model_figures(sizes),
            *data_figures(recipe, totals, lengths, batches),
            *memory_figures(needed),
            *time_figures(recipe, stream.epoch_length, sizes, batches, trial, hardware),
        ],
        fits=fits,
        advice=advice,
        trial=trial,
        assumptions=assumptions(
            recipe,
            lengths,
            batches,
            hardware,
            trial,
            why_not,
            sharded=is_sharded(run),
            counted_with=counted_with,
        ),
    )


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


def _counter(recipe: Recipe, built: "Built | None") -> tuple[TokenCounter, str]:
    """Return what counts tokens, and in words what that is; nothing is fetched for it."""
    if built is not None:
        return TokenizerCounter(built.processor.tokenizer), "tokens of the model's own tokenizer"
    language = recipe.model.language
    if language == "scratch" or _is_at_hand(language):
        return find_counter(recipe)
    return WordCounter(), estimated_from_words(f"`{language}` is not on this machine")


def _lengths(
    stream: Stream, recipe: Recipe, built: "Built | None", counter: TokenCounter
) -> "Conversations":
    """Draw the first conversations of the stream and take their lengths."""
    from roikit.train.estimate import Conversations

    number = min(_DRAWN, stream.epoch_length)
    if built is not None:
        return _encoded_lengths(stream, recipe, built, number)
    planned = draw_lengths(recipe, stream, counter)
    drawn = [(place, planned(stream.draw(place))) for place in range(number)]
    drawn = [(place, length) for place, length in drawn if length]
    if not drawn:
        raise _nothing_to_learn(recipe, number)
    tokens = tuple(length for _, length in drawn)
    rule = _tile_rule(recipe)
    seen = [stream.read(place, lambda example: _seen(example, recipe, rule)) for place, _ in drawn]
    return Conversations(
        tokens=tokens,
        # where the first label stands only encoding can tell: at most right behind the picture
        label_spans=tuple(max(1, length - recipe.model.num_image_tokens) for length in tokens),
        regions=tuple(regions for regions, _ in seen),
        tiles=tuple(tiles for _, tiles in seen),
        is_measured=not counter.is_estimate,
    )


def _tile_rule(recipe: Recipe) -> TileRule:
    """How the recipe's processor will cut large pictures."""
    model = recipe.model
    if model.max_tiles == 1:
        return TileRule(side=model.image_size)
    from roikit.model.skeleton import build_skeleton

    return TileRule(
        side=model.image_size,
        most=model.max_tiles,
        mode=model.image_mode,
        margin_px=build_skeleton(model).vision_tower.stride,
        reach=region_reach(model.region_encoder),
    )


def _seen(example: Example, recipe: Recipe, rule: TileRule) -> tuple[int, int]:
    """Return how many regions a conversation introduces, and the tiles that they are read from."""
    dialogue = as_dialogue(example.conversation)
    if dialogue is None:
        return 0, 0
    drawn = draw_exchanges(
        dialogue,
        limit=recipe.run.max_exchanges,
        seed=recipe.seed,
        key=example.sample.key,
        ordinal=example.ordinal,
        passes=example.passes,
    )
    numbers = {number for turn in drawn.turns for number in mentioned(turn.text)}
    image, regions = example.sample.image, example.sample.regions
    boxes = [regions[number - 1].box_xyxy for number in numbers]
    plan = plan_tiles((image.width, image.height), boxes, rule)
    return len(numbers), 0 if plan is None else len(plan.places_T2)


def _nothing_to_learn(recipe: Recipe, number: int) -> UsageError:
    return UsageError(
        f"{recipe.stage}: none of the first {number} conversations gives anything to learn",
        hint="raise max_tokens, or look at the mixture with `roikit mix explain`",
    )


def _encoded_lengths(stream: Stream, recipe: Recipe, built: "Built", drawn: int) -> "Conversations":
    """Return lengths, regions and tiles as training encodes them."""
    from roikit.train.estimate import Conversations
    from roikit.train.feed import StepReader

    reader = StepReader(
        Steps(stream, batch_size=drawn),
        built.processor,
        replace(recipe.run, batch_size=drawn),
        seed=recipe.seed,
    )
    (batch,) = reader[0].batches
    if batch is None or batch.attention_mask is None:
        raise _nothing_to_learn(recipe, drawn)
    tokens = batch.attention_mask.sum(dim=1)
    first = (batch.labels != -100).int().argmax(dim=1)
    regions = batch.views.image_index_R.bincount(minlength=len(tokens))
    tiles = batch.views.tiles
    return Conversations(
        tokens=tuple(tokens.tolist()),
        label_spans=tuple((tokens - first).tolist()),
        regions=tuple(regions.tolist()),
        tiles=()
        if tiles is None
        else tuple(tiles.places_T3[:, 0].bincount(minlength=len(tokens)).tolist()),
        is_measured=True,
    )


def _trial(
    stream: Stream,
    recipe: Recipe,
    built: "Built",
    counter: TokenCounter,
    hardware: Hardware,
    device: str,
) -> "Trial | None":
    """Take a few steps of one GPU's share here."""
    import torch

    from roikit.train.feed import StepReader, feed
    from roikit.train.trial import run_trial

    share = -(-recipe.run.batch_size // hardware.gpus)
    recipe = replace(recipe, run=replace(recipe.run, batch_size=share))
    steps = open_steps(recipe, stream)
    if recipe.run.layout != "plain":
        steps.lengths = draw_lengths(recipe, stream, counter)
    reader = StepReader(steps, built.processor, recipe.run, seed=recipe.seed)
    feedings = feed(reader, first=0, steps=_TRIAL_STEPS, ahead=0 if device == "cpu" else 2)
    try:
        return run_trial(
            built.model,
            built.processor,
            feedings,
            recipe,
            steps=_TRIAL_STEPS,
            device=torch.device(device),
        )
    finally:
        feedings.close()
