"""The model that a stage begins with: loaded or built, its learning parts chosen."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import torch

from roikit.config import ENCODER_KEYS, Recipe, load_recipe
from roikit.errors import RoikitError, UsageError
from roikit.model.build import build_model, make_processor
from roikit.model.encoders import build_encoder
from roikit.model.generate import LoadedModel, load_model
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.processing import RoikitProcessor
from roikit.runs import is_main_process
from roikit.train.parts import prepare
from roikit.train.world import World

log = logging.getLogger(__name__)


def first_model(
    recipe: Recipe,
    world: World,
    start: Path | None,
    texts: Callable[[], Iterable[str]] | None,
    saved_processor: Path,
    claim: Callable[[RoikitForConditionalGeneration, RoikitProcessor], None] | None,
) -> tuple[RoikitForConditionalGeneration, RoikitProcessor]:
    """Return the model before the first step, the same in every process, and its processor.

    Args:
        recipe: the stage's.
        world: this process and the others.
        start: the run or model to start from.
        texts: for a tokenizer that has to be learned.
        saved_processor: where a run keeps it, once claimed.
        claim: takes the folder of a new run, once all that can be refused has been; None for a
            run that goes on.

    Raises:
        UsageError: the start was built from another recipe, or a part cannot be found.
        RoikitError: a part would stay at random weights.
    """

    def build(processor: Path | None) -> tuple[RoikitForConditionalGeneration, RoikitProcessor]:
        model, loaded = _start(recipe, start, texts, processor)
        torch.manual_seed(recipe.seed)
        prepare(model, recipe)
        return model, loaded

    if claim is None:
        return build(saved_processor)
    first: list[tuple[RoikitForConditionalGeneration, RoikitProcessor]] = []

    def begin() -> None:
        first.append(build(None))
        claim(*first[0])

    world.on_main(begin)
    return first.pop() if first else build(saved_processor)


def _start(
    recipe: Recipe,
    start: Path | None,
    texts: Callable[[], Iterable[str]] | None,
    processor: Path | None,
) -> tuple[RoikitForConditionalGeneration, RoikitProcessor]:
    """The model before the first step; `processor` is the saved one of a run that goes on."""
    if start is not None:
        is_new = has_new_encoder(recipe, start)
        loaded = load_model(start, device="cpu", dtype="fp32")
        if not is_new:
            return loaded.model, loaded.processor
        # a warning: an encoder that was trained may be left behind by mistake
        if is_main_process():
            log.warning("%s: the region encoder is new, all else is from %s", recipe.stage, start)
        return _with_new_encoder(loaded, recipe)
    words = texts() if texts is not None and processor is None else ()
    built = build_model(recipe.model, texts=words, tokenizer_folder=processor)
    idle = [p for p in built.from_scratch if p not in recipe.run.train and p != "region_encoder"]
    if idle:
        raise RoikitError(
            f"{recipe.stage}: {', '.join(idle)} would stay at random weights, and nothing learns "
            "behind that",
            hint="start from a trained run with --from, or run `roikit train align` first",
        )
    log.info("%s: from scratch: %s", recipe.stage, ", ".join(built.from_scratch))
    return built.model, built.processor


def has_new_encoder(recipe: Recipe, start: Path | None) -> bool:
    """Whether a stage begins with another region encoder than its start has.

    It may, where the stage trains the encoder or there is nothing in it to train (`text`): all
    other parts are the start's.

    Args:
        recipe: the stage's.
        start: the run or model to start from; None, or a bare model, which says itself what it
            is, has no other encoder.

    Raises:
        UsageError: the start was built from another `[model]` table in what the stage cannot make
            anew.
    """
    file = None if start is None else start / "recipe.toml"
    if file is None or not file.is_file():
        return False
    built = load_recipe(str(file), stage=None).model
    can_be_new = "region_encoder" in recipe.run.train or recipe.model.region_encoder == "text"
    is_new = False
    for key, value in asdict(recipe.model).items():
        if key == "seed" or value == getattr(built, key):
            continue
        if key in ENCODER_KEYS and can_be_new:
            is_new = True
            continue
        hint = "use the recipe it was built with, or start from another run with --from"
        if key in ENCODER_KEYS:
            hint += (
                f"; with `region_encoder` in {recipe.stage}.train, the stage begins with a new one"
            )
        raise UsageError(
            f"model.{key}: {start} was built with `{getattr(built, key)}`, "
            f"this recipe says `{value}`",
            hint=hint,
        )
    return is_new


def _with_new_encoder(
    loaded: LoadedModel, recipe: Recipe
) -> tuple[RoikitForConditionalGeneration, RoikitProcessor]:
    """Give a loaded model the recipe's region encoder, with weights drawn by the model's seed."""
    model, processor = loaded.model, loaded.processor
    # in place: a new configuration would reset what loading chose for the language model's
    for key in ENCODER_KEYS:
        if hasattr(model.config, key):  # some concern the processor alone
            setattr(model.config, key, getattr(recipe.model, key))
    levels = recipe.model.levels or range(len(model.vision_tower.channels))
    channels = tuple(model.vision_tower.channels[level] for level in levels)
    torch.manual_seed(recipe.model.seed)
    encoder = build_encoder(model.config, channels)
    reset = getattr(encoder, "reset_parameters", None)
    if reset is not None:  # as in a new model; `text` has no weights
        reset()
    model.region_encoder = encoder
    fresh = make_processor(
        processor.tokenizer,
        recipe.model,
        mean=processor.image_mean,
        std=processor.image_std,
        stride=model.vision_tower.stride,
        image_token=processor.image_token,
        region_token=processor.region_token,
    )
    return model, fresh
