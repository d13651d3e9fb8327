"""The model that a stage begins with: loaded or built, its learning parts chosen."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import torch

from roikit.config import Recipe, load_recipe
from roikit.errors import RoikitError, UsageError
from roikit.model.build import build_model
from roikit.model.generate import load_model
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.processing import RoikitProcessor
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
        _check_same_model(recipe, start)
        loaded = load_model(start, device="cpu", dtype="fp32")
        return loaded.model, loaded.processor
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


def _check_same_model(recipe: Recipe, start: Path) -> None:
    """Refuse a `[model]` table that differs from the one the start was built from."""
    file = start / "recipe.toml"
    if not file.is_file():
        return  # a bare model folder: it says itself what it is
    built = load_recipe(str(file), stage=None).model
    for key, value in asdict(recipe.model).items():
        if key != "seed" and value != getattr(built, key):
            raise UsageError(
                f"model.{key}: {start} was built with `{getattr(built, key)}`, "
                f"this recipe says `{value}`",
                hint="use the recipe it was built with, or start from another run with --from",
            )
