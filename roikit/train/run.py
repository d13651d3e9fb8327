"""One stage from start to saved model: build or load, resume, train, export.

OUT/recipe.toml     the recipe, resolved
OUT/run.json        what the run started from and which data it reads
OUT/excluded.txt    the pictures it leaves out, one identity a line
OUT/metrics.jsonl   one line a step
OUT/checkpoints/    see checkpoint.py
OUT/model/          the result, for `from_pretrained`; there only once the run is finished
OUT/loss.png
"""

import json
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from roikit.config import Recipe, load_recipe
from roikit.errors import RoikitError, UsageError
from roikit.model.build import build_model
from roikit.model.generate import load_model
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.processing import RoikitProcessor
from roikit.runs import EXCLUDED_NAME, excluded_text, weights_sha256
from roikit.train.checkpoint import find_latest, load_checkpoint, read_state, save_checkpoint
from roikit.train.feed import StepReader, StepSource, feed
from roikit.train.loop import Interrupted, Progress, choose_parts, stop_between_steps, train_steps
from roikit.train.metrics import MetricsWriter, StepReport, plot_loss, read_metrics
from roikit.train.optim import build_optimizers

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
    data: Mapping[str, Any] | None = None,
    excluded: Sequence[str] = (),
    device: str = "auto",
    workers: int = 0,
    overwrite: bool = False,
    on_step: Callable[[StepReport], None] | None = None,
    on_start: Callable[[int, int], None] | None = None,
) -> TrainResult:
    """Train one stage; run again after a stop, it goes on where the last checkpoint stood.

    Args:
        recipe: the stage's, resolved.
        source: the training data.
        out: the run's folder.
        start: the run or model to start from; None builds a new model.
        texts: training text, for a tokenizer that has to be learned with a new model.
        data: what identifies the training data (roots, mixture), saved with the run.
        excluded: the pictures that `source` leaves out, saved beside it; `data` holds their hash.
        device: `auto` or a torch device.
        workers: processes that read ahead; 0 reads in this one.
        overwrite: throw an earlier run in `out` away.
        on_step: called after each step.
        on_start: called once with (steps taken before, steps of the whole run).

    Raises:
        UsageError: `out` holds a run of another recipe, start or data.
        Interrupted: SIGINT or SIGTERM; a checkpoint of the last step is saved.
    """
    steps = recipe.run.steps or math.ceil(
        recipe.run.epochs * source.epoch_length / recipe.run.batch_size
    )
    if steps < 1:
        raise UsageError(f"{recipe.stage}.steps: expected 1 or more, got {steps}")
    identity = _identity(recipe, start, data or {})
    has_run = _check_folder(out, identity, start, overwrite=overwrite)
    model_folder = out / "model"
    if has_run and (model_folder / "config.json").is_file():
        return TrainResult(
            out=out, model=model_folder, steps=steps, resumed_from=steps, last_loss=None
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model, processor = _start(recipe, start, texts, out / "processor" if has_run else None)
    model.to(device)
    torch.manual_seed(recipe.seed)
    choose_parts(model, recipe.run.train)
    if recipe.run.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizers = build_optimizers(model, recipe.run)
    if not has_run:  # everything that can be refused has been: now the folder is taken
        _claim(out, identity, recipe, processor, excluded)
    progress = Progress(step=0, stream_state=None)
    checkpoints = out / "checkpoints"
    latest = find_latest(checkpoints) if checkpoints.is_dir() else None
    if latest is not None:
        state = read_state(latest)
        load_checkpoint(latest, model=model, optimizers=optimizers)
        progress.step, progress.stream_state = state["step"], state["stream"]
        source.check(state["stream"])
        log.info("resuming %s at step %d of %d", out, progress.step, steps)
    resumed_from = progress.step
    metrics = MetricsWriter(out / "metrics.jsonl", after_step=resumed_from)
    losses: list[float] = []

    def save() -> None:
        if progress.stream_state is None:
            return
        save_checkpoint(
            checkpoints,
            step=progress.step,
            model=model,
            optimizers=optimizers,
            state={"stream": progress.stream_state},
            keep=recipe.run.keep,
        )

    if on_start is not None:
        on_start(resumed_from, steps)
    with stop_between_steps() as check, closing(metrics):

        def after_step(report: StepReport) -> None:
            metrics.write(report)
            losses.append(report.loss)
            if on_step is not None:
                on_step(report)
            if report.step % recipe.run.save_every == 0 or report.step == steps:
                save()
            check()

        feedings = feed(
            StepReader(source, processor, recipe.run, seed=recipe.seed),
            first=progress.step,
            steps=steps,
            workers=workers,
            ahead=0 if device == "cpu" else 4,
        )
        try:
            with closing(feedings):
                train_steps(
                    model,
                    processor,
                    optimizers,
                    feedings,
                    recipe,
                    progress,
                    steps=steps,
                    device=torch.device(device),
                    on_step=after_step,
                )
        except (Interrupted, KeyboardInterrupt):
            save()
            raise
    _export(model, processor, recipe, out)
    if not losses:  # stopped between the last step and the export
        losses = [line["loss"] for line in read_metrics(out / "metrics.jsonl")]
    return TrainResult(
        out=out,
        model=model_folder,
        steps=steps,
        resumed_from=resumed_from,
        last_loss=losses[-1] if losses else None,
    )


def _identity(recipe: Recipe, start: Path | None, data: Mapping[str, Any]) -> dict[str, Any]:
    """What makes this run this run, as JSON gives it back."""
    identity = {
        "recipe": recipe.name,
        "stage": recipe.stage,
        "resolved": recipe.to_toml(),
        "start": str(start.resolve()) if start is not None else None,
        "start_sha256": weights_sha256(start) if start is not None else None,
        "data": dict(data),
    }
    restored: dict[str, Any] = json.loads(json.dumps(identity))
    return restored


def _check_folder(
    out: Path, identity: Mapping[str, Any], start: Path | None, *, overwrite: bool
) -> bool:
    """Whether `out` holds this very run, to go on with; anything in the way is refused."""
    file = out / "run.json"
    if overwrite:
        if out.exists() and any(out.iterdir()) and not file.is_file():
            raise UsageError(
                f"{out}: is not a training run, so --overwrite leaves it alone",
                hint="name another folder with --out",
            )
        if start is not None and start.resolve().is_relative_to(out.resolve()):
            raise UsageError(
                f"{out}: the run starts from this folder, so --overwrite leaves it alone",
                hint="name another folder with --out",
            )
        return False
    if not file.is_file():
        if out.exists() and any(out.iterdir()):
            raise UsageError(
                f"{out}: expected an empty folder or a run of ours", hint="name another --out"
            )
        return False
    found = json.loads(file.read_text(encoding="utf-8"))
    for key, value in identity.items():
        if found.get(key) != value:
            raise UsageError(
                f"{out}: holds a run with another {_difference(key, found.get(key), value)}",
                hint="finish it with its own settings, name another --out, or start over with "
                "--overwrite",
            )
    return True


def _claim(
    out: Path,
    identity: Mapping[str, Any],
    recipe: Recipe,
    processor: RoikitProcessor,
    excluded: Sequence[str],
) -> None:
    """Make the run's folder, whole or not at all; an earlier run in it goes."""
    fresh = out.with_name(f".{out.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    (fresh / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
    # a tokenizer that was learned must be the same after a stop, whatever was converted since
    processor.save_pretrained(fresh / "processor")
    (fresh / "run.json").write_text(json.dumps(identity, indent=1), encoding="utf-8")
    (fresh / EXCLUDED_NAME).write_text(excluded_text(excluded), encoding="utf-8")
    if out.exists():
        shutil.rmtree(out)
    fresh.rename(out)


def _difference(key: str, found: Any, expected: Any) -> str:
    if isinstance(found, dict) and isinstance(expected, dict):  # name what differs, not the whole
        names = (n for n in {**found, **expected} if found.get(n) != expected.get(n))
        return "; ".join(_difference(f"{key}.{n}", found.get(n), expected.get(n)) for n in names)
    if key != "resolved":
        return f"{key}: it has `{found}`, asked for was `{expected}`"
    lines = set(str(found).splitlines()) ^ set(str(expected).splitlines())
    return f"recipe: {'; '.join(sorted(lines))}"


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


def _export(
    model: RoikitForConditionalGeneration, processor: RoikitProcessor, recipe: Recipe, out: Path
) -> None:
    """Write the result under a temporary name and move it into place."""
    temporary = out / ".model"
    shutil.rmtree(temporary, ignore_errors=True)
    model.eval().save_pretrained(temporary)
    processor.save_pretrained(temporary)
    temporary.replace(out / "model")
    plot_loss(out / "metrics.jsonl", out / "loss.png", title=f"{recipe.name} {recipe.stage}")
