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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roikit.batch import Rephrase
from roikit.config import Recipe, check_learns
from roikit.errors import UsageError
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.processing import RoikitProcessor
from roikit.runs import said_once_a_machine
from roikit.train.after_step import AfterStep, held_out_measure
from roikit.train.checkpoint import Checkpoints
from roikit.train.checkpoint_space import check_room
from roikit.train.export import export
from roikit.train.feed import StepReader, StepSource, feed
from roikit.train.held_out import first_row
from roikit.train.loop import Interrupted, Progress, hold_signals, train_steps, uses_bf16
from roikit.train.memory import advice_when_full
from roikit.train.metrics import METRICS_NAME, HeldOutReport, StepReport, read_metrics
from roikit.train.optim import build_optimizers
from roikit.train.parallel import choose_parallel, spread
from roikit.train.quarantine import Quarantine
from roikit.train.run_folder import check_folder, held_folder, identity_of, make_folder
from roikit.train.start import first_model, has_new_encoder
from roikit.train.trackers import check_trackers
from roikit.train.watch import Watch
from roikit.train.world import join_world

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
    on_signal: Callable[[int], None] | None = None,
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
        on_signal: called with a SIGINT or SIGTERM that arrives while steps are taken. It ends the
            run after its step, unless that was the last one or something fails before.

    Raises:
        UsageError: `out` holds a run of another recipe, start or data, or another process works on
            it.
        Interrupted: SIGINT or SIGTERM; a checkpoint of the last step is saved.
    """
    check_learns(recipe)
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

        def claim(model: RoikitForConditionalGeneration, processor: RoikitProcessor) -> None:
            _check_room(out, recipe, model, steps)
            if recipe.run.eval_every:
                examples = source.held_out(recipe.run.eval_size)
                first_row(examples, processor, recipe.run, seed=recipe.seed)
            new = ["region_encoder"] if has_new_encoder(recipe, start) else []
            make_folder(out, {**identity, "new_parts": new}, recipe, processor, excluded)

        model, processor = first_model(
            recipe, world, start, texts, out / "processor", None if has_run else claim
        )
        if has_run:
            world.on_main(lambda: _check_room(out, recipe, model, steps))
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
        measure = held_out_measure(recipe, world, source, processor, spread_model, bf16=bf16)
        log.info(
            "%s: step %d of %d, %d processes (%s)",
            out,
            resumed_from,
            steps,
            world.world_size,
            choose_parallel(recipe.run, world),
        )
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
        ahead = 0 if world.device.type == "cpu" else 4
        feedings = feed(reader, first=resumed_from, steps=steps, workers=workers, ahead=ahead)
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
        after_step = AfterStep(
            recipe=recipe,
            world=world,
            progress=progress,
            checkpoints=checkpoints,
            watch=watch,
            measure=measure,
            on_step=on_step,
            on_held_out=on_held_out,
        )
        with watch, hold_signals(on_signal) as stopped_by, closing(checkpoints), closing(feedings):
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
                after_step.save(wait=True)
                raise
        export(model, processor, recipe, out)
        world.sum([0])  # nobody leaves before it is written
        losses = after_step.losses
        if not losses:  # stopped between the last step and the export
            losses = [line["loss"] for line in read_metrics(out / METRICS_NAME)]
        return TrainResult(
            out=out,
            model=model_folder,
            steps=steps,
            resumed_from=resumed_from,
            last_loss=losses[-1] if losses else None,
        )


def _check_room(
    out: Path, recipe: Recipe, model: RoikitForConditionalGeneration, steps: int
) -> None:
    """Refuse a disk that will not hold the run's checkpoints and its model."""
    run = recipe.run
    # with keep_best, each evaluation is followed by a save
    every = min(run.save_every, run.eval_every) if run.keep_best else run.save_every
    check_room(
        out,
        model=model,
        optimizers=build_optimizers(model, run),
        saves=-(-steps // every),
        kept=1 + run.keep + run.keep_best,
    )


def _resumed(checkpoints: Checkpoints, source: StepSource) -> Progress:
    """Bring everything to where the newest sound checkpoint stands, if there is one."""
    state = checkpoints.load_latest()
    if state is None:
        return Progress(step=0, stream_state=None)
    source.check(state["stream"])
    return Progress(step=state["step"], stream_state=state["stream"])
