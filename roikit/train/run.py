"""One stage from start to saved model: build or load, resume, train, export.

Every process of a run does this alike; the first one alone writes the run's own files.

OUT/recipe.toml         the recipe, resolved
OUT/run.json            what the run started from and which data it reads
OUT/excluded.txt        the pictures it leaves out, one identity a line
OUT/metrics.jsonl       one line a step
OUT/quarantined.jsonl   samples that could not be read, with others in their place
OUT/checkpoints/        see checkpoint_files.py
OUT/model/              the result, for `from_pretrained`; there only once the run is finished
OUT/loss.png
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roikit.batch import Batch, Rephrase, to_device
from roikit.config import Recipe, load_recipe
from roikit.errors import RoikitError, UsageError
from roikit.model.build import build_model
from roikit.model.generate import load_model
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.processing import RoikitProcessor
from roikit.runs import said_once_a_machine
from roikit.train.checkpoint import Checkpoints
from roikit.train.checkpoint_space import check_room
from roikit.train.export import export
from roikit.train.feed import StepReader, StepSource, feed
from roikit.train.held_out import HeldOut, first_row
from roikit.train.loop import (
    Interrupted,
    Progress,
    autocast,
    batch_loss,
    hold_signals,
    train_steps,
    uses_bf16,
)
from roikit.train.memory import advice_when_full
from roikit.train.metrics import METRICS_NAME, HeldOutReport, StepReport, read_metrics
from roikit.train.optim import build_optimizers
from roikit.train.parallel import choose_parallel, spread
from roikit.train.parts import prepare
from roikit.train.quarantine import Quarantine
from roikit.train.run_folder import check_folder, held_folder, identity_of, make_folder
from roikit.train.trackers import check_trackers
from roikit.train.watch import Watch
from roikit.train.world import World, join_world

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """A finished stage."""

    out: Path
    model: Path  #: the `from_pretrained` folder
    steps: int
    resumed_from: int  #: steps a checkpoint had already taken; 0 for a fresh run
    last_loss: float | None  #: None where the run was finished before


def train_stage(
    recipe: Recipe,
    *,
    source: StepSource,
    out: Path,
    start: Path | None = None,
    texts: Callable[[], Iterable[str]] | None = None,
    rephrase: Rephrase | None = None,
    plan: Callable[[RoikitProcessor], None] | None = None,
    data: Mapping[str, Any] | None = None,
    excluded: Sequence[str] = (),
    device: str = "auto",
    workers: int = 0,
    max_bad: int = 100,
    overwrite: bool = False,
    track: Sequence[str] = (),
    on_step: Callable[[StepReport], None] | None = None,
    on_start: Callable[[int, int], None] | None = None,
    on_held_out: Callable[[HeldOutReport], None] | None = None,
) -> TrainResult:
    """Train one stage; run again after a stop, it goes on where the last checkpoint stood.

    Under `torchrun` every process calls this; how many there are may differ from stop to stop.

    Args:
        recipe: the stage's, resolved.
        source: the training data.
        out: the run's folder.
        start: the run or model to start from; None builds a new model.
        texts: training text, for a tokenizer that has to be learned with a new model.
        rephrase: says questions in other words, at every pass anew; None keeps the stored ones.
        plan: told the processor before the first step is asked of `source`, which may measure its
            texts with it; in the main process first, so that the others find what it has kept.
        data: what identifies the training data (roots, mixture), saved with the run.
        excluded: the pictures that `source` leaves out, saved beside it; `data` holds their hash.
        device: `auto` or a torch device.
        workers: processes that read ahead; 0 reads in this one.
        max_bad: samples that `source` may put others in the place of, in the whole run.
        overwrite: throw an earlier run in `out` away.
        track: `tensorboard`, `wandb`.
        on_step: called after each step, in the main process.
        on_start: called once with (steps taken before, steps of the whole run), likewise.
        on_held_out: called after each evaluation on the pictures held out, likewise.

    Raises:
        UsageError: `out` holds a run of another recipe, start or data, or another process works on
            it.
        Interrupted: SIGINT or SIGTERM; a checkpoint of the last step is saved.
    """
    with said_once_a_machine():
        steps = recipe.run.steps or math.ceil(
            recipe.run.epochs * source.epoch_length / recipe.run.batch_size
        )
        if steps < 1:
            raise UsageError(f"{recipe.stage}.steps: expected 1 or more, got {steps}")
        check_trackers(track)
    model_folder = out / "model"
    with join_world(device) as world, held_folder(out, world):
        identity = world.on_main(lambda: identity_of(recipe, start, data or {}))
        has_run = world.on_main(lambda: check_folder(out, identity, start, overwrite=overwrite))
        if has_run and world.on_main((model_folder / "config.json").is_file):
            return TrainResult(
                out=out, model=model_folder, steps=steps, resumed_from=steps, last_loss=None
            )

        def check(model: RoikitForConditionalGeneration) -> None:
            every = recipe.run.save_every
            if recipe.run.keep_best:  # each evaluation is followed by a save
                every = min(every, recipe.run.eval_every)
            check_room(
                out,
                model=model,
                optimizers=build_optimizers(model, recipe.run),
                saves=-(-steps // every),
                kept=1 + recipe.run.keep + recipe.run.keep_best,
            )

        def claim(model: RoikitForConditionalGeneration, processor: RoikitProcessor) -> None:
            check(model)
            if recipe.run.eval_every:
                examples = source.held_out(recipe.run.eval_size)
                first_row(examples, processor, recipe.run, seed=recipe.seed)
            make_folder(out, identity, recipe, processor, excluded)

        model, processor = _prepared(
            recipe, world, start, texts, out / "processor", None if has_run else claim
        )
        if has_run:
            world.on_main(lambda: check(model))
        if plan is not None:
            world.on_main(lambda: plan(processor))
            if not world.is_main:
                plan(processor)
        bf16 = uses_bf16(recipe.run.dtype, world.device)
        with advice_when_full(model, recipe, world):
            spread_model = spread(model, recipe.run, world, bf16=bf16)
        optimizers = build_optimizers(model, recipe.run)
        checkpoints = Checkpoints(
            out / "checkpoints",
            model=model,
            optimizers=optimizers,
            keep=recipe.run.keep,
            keep_best=recipe.run.keep_best,
        )
        progress = _resumed(checkpoints, source)
        resumed_from = progress.step
        measure = _held_out(recipe, world, source, processor, spread_model, bf16=bf16)
        log.info(
            "%s: step %d of %d, %d processes (%s)",
            out,
            resumed_from,
            steps,
            world.world_size,
            choose_parallel(recipe.run, world),
        )
        losses: list[float] = []

        def save(*, score: float | None = None, wait: bool = False) -> None:
            if progress.stream_state is not None:
                state = {"stream": progress.stream_state, "recipe": recipe.to_toml()}
                checkpoints.save(step=progress.step, state=state, score=score, wait=wait)

        def note(report: StepReport, keys: tuple[str, ...]) -> None:
            watch.step(report, keys)
            losses.append(report.loss)
            if on_step is not None and world.is_main:
                on_step(report)
            checkpoints.check()

        def after_step(report: StepReport, keys: tuple[str, ...]) -> None:
            is_last = report.step == steps
            score = None
            if measure is None or not (is_last or report.step % recipe.run.eval_every == 0):
                note(report, keys)
            else:  # all processes evaluate, or none: who failed before would be waited for
                world.together(lambda: note(report, keys))
                found = measure(report.step)
                watch.held_out(found)
                if on_held_out is not None and world.is_main:
                    on_held_out(found)
                score = found.held_out
            is_scored = recipe.run.keep_best > 0 and score is not None
            if is_last or is_scored or report.step % recipe.run.save_every == 0:
                save(score=score)

        if on_start is not None and world.is_main:
            on_start(resumed_from, steps)
        reader = StepReader(
            source,
            processor,
            recipe.run,
            seed=recipe.seed,
            rephrase=rephrase,
            rank=world.rank,
            world_size=world.world_size,
        )
        feedings = feed(
            reader,
            first=progress.step,
            steps=steps,
            workers=workers,
            ahead=0 if world.device.type == "cpu" else 4,
        )
        watch = Watch(
            out,
            recipe,
            steps=steps,
            after_step=resumed_from,
            device=str(world.device),
            track=track,
            world_size=world.world_size,
            is_main=world.is_main,
            gather=world.gather,
        )
        with watch, hold_signals() as stopped_by, closing(checkpoints), closing(feedings):
            try:
                train_steps(
                    spread_model,
                    processor,
                    optimizers,
                    feedings,
                    recipe,
                    progress,
                    steps=steps,
                    world=world,
                    bf16=bf16,
                    stopped_by=stopped_by,
                    quarantine=Quarantine(out, max_bad=max_bad, writes=world.is_main),
                    on_step=after_step,
                )
                checkpoints.finish()
            except Interrupted:
                save(wait=True)
                raise
        export(model, processor, recipe, out)
        world.sum([0])  # nobody leaves before it is written
        if not losses:  # stopped between the last step and the export
            losses = [line["loss"] for line in read_metrics(out / METRICS_NAME)]
        return TrainResult(
            out=out,
            model=model_folder,
            steps=steps,
            resumed_from=resumed_from,
            last_loss=losses[-1] if losses else None,
        )


def _held_out(
    recipe: Recipe,
    world: World,
    source: StepSource,
    processor: RoikitProcessor,
    model: nn.Module,
    *,
    bf16: bool,
) -> Callable[[int], HeldOutReport] | None:
    """What measures the loss on the pictures held out after a step; None where nothing asks."""
    if not recipe.run.eval_every:
        return None
    evaluation = HeldOut(
        source.held_out(recipe.run.eval_size),
        processor,
        recipe.run,
        seed=recipe.seed,
        rank=world.rank,
        world_size=world.world_size,
    )

    def summed_loss(batch: Batch) -> Tensor:
        with autocast(world.device, bf16=bf16):
            return batch_loss(model, processor, to_device(batch, world.device), 1)

    return lambda step: evaluation.measure(model, summed_loss, step=step, add_up=world.sum)


def _prepared(
    recipe: Recipe,
    world: World,
    start: Path | None,
    texts: Callable[[], Iterable[str]] | None,
    saved_processor: Path,
    claim: Callable[[RoikitForConditionalGeneration, RoikitProcessor], None] | None,
) -> tuple[RoikitForConditionalGeneration, RoikitProcessor]:
    """The model before the first step, its parts chosen, the same in every process.

    Args:
        recipe: the stage's.
        world: this process and the others.
        start: the run or model to start from.
        texts: for a tokenizer that has to be learned.
        saved_processor: where a run keeps it, once claimed.
        claim: takes the folder of a new run, once all that can be refused has been; None for a
            run that goes on.
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


def _resumed(checkpoints: Checkpoints, source: StepSource) -> Progress:
    """Bring everything to where the newest sound checkpoint stands, if there is one."""
    state = checkpoints.load_latest()
    if state is None:
        return Progress(step=0, stream_state=None)
    source.check(state["stream"])
    return Progress(step=state["step"], stream_state=state["stream"])


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
