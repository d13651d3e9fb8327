"""What the data costs in a training step, and how fast steps are beside Hugging Face's Trainer.

    roikit miniature data/world --images 400 --datasets coco,vg,vcr
    for name in coco vg vcr; do roikit convert $name data/world/$name --out data/world-shards; done
    python benchmarks/train.py --shards data/world-shards --all

takes steps of the presets on those shards, prints tables and writes `benchmarks/results/train.json`
and the tables in `benchmarks/README.md`. One part alone: `data` or `trainer`; `--json` prints one
document instead of tables.

*data*: each step is taken twice on the same conversations, once read, decoded and tokenised in the
step loop's own thread, once from the tensors kept of that. *trainer*: blocks of steps alternate
between our loop, once reading its data and once on finished batches, and a plain `Trainer` on the
same model and finished batches; all with AdamW, clipping and a cosine schedule.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import Table, keep, machine, show
from pipelines.stages import open_steps, open_stream, training_texts
from roikit import render
from roikit.batch import Batch
from roikit.config import Recipe, load_recipe
from roikit.model.build import build_model
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.processing import RoikitProcessor
from roikit.train.feed import Feeding, StepReader, feed
from roikit.train.loop import Progress, train_steps
from roikit.train.optim import build_optimizers
from roikit.train.parts import prepare
from roikit.train.quarantine import Quarantine
from roikit.train.world import World

PARTS = ("data", "trainer")
_PACKAGES = ("torch", "transformers", "tokenizers", "simplejpeg", "numpy")
#: Presets, the steps measured of each, and the share of a step that its data may take.
_PRESETS = {"tiny": (40, 0.10), "small": (8, 0.03)}
_BLOCKS = 3
_ALONE = World(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))
#: Steps of a block that are not timed.
_WARM_UP = 1


class Trial:
    """A preset's stage, ready to take steps."""

    def __init__(self, preset: str, stage: str, shards: Path) -> None:
        self.recipe = load_recipe(preset, stage=stage, overrides=["keep_clean=[]"])
        self.shards = shards
        built = build_model(self.recipe.model, texts=training_texts(shards, frozenset()))
        self.model: RoikitForConditionalGeneration = built.model
        self.processor: RoikitProcessor = built.processor
        prepare(self.model, self.recipe)
        torch.manual_seed(0)

    def feedings(self, recipe: Recipe) -> Iterator[Feeding]:
        """Yield what steps need, made in this thread."""
        stream, _ = open_stream(recipe, self.shards)
        steps = open_steps(recipe, stream)
        reader = StepReader(steps, self.processor, recipe.run, seed=recipe.seed)
        return feed(reader, first=0, steps=10**6)

    def loop(self, recipe: Recipe) -> "Loop":
        """Return our step loop over this model."""
        return Loop(self, recipe)


class Loop:
    """Takes single steps with `train_steps`."""

    def __init__(self, trial: Trial, recipe: Recipe) -> None:
        self._trial = trial
        self._recipe = recipe
        self._optimizers = build_optimizers(trial.model, recipe.run)
        self._progress = Progress(step=0, stream_state=None)

    def step(self, feedings: Iterator[Feeding]) -> float:
        """Take the next step; return its seconds, those of waiting for `feedings` among them."""
        started = time.perf_counter()
        # each counts as the last, where the learning rate is near 0: that costs the same
        train_steps(
            self._trial.model,
            self._trial.processor,
            self._optimizers,
            feedings,
            self._recipe,
            self._progress,
            steps=self._progress.step + 1,
            world=_ALONE,
            bf16=False,
            stopped_by=lambda: None,
            quarantine=Quarantine(Path(), max_bad=0, writes=False),
            on_step=lambda report, keys: None,
        )
        return time.perf_counter() - started


def measure_data(trial: Trial, steps: int) -> dict[str, Any]:
    """Alternate steps that read their data with the same steps on tensors kept."""
    feedings = trial.feedings(trial.recipe)
    loop = trial.loop(trial.recipe)
    reading, fresh, cached = [], [], []
    for number in range(steps + _WARM_UP):
        made: list[tuple[float, Feeding]] = []
        fresh_s = loop.step(_noting(feedings, made))
        cached_s = loop.step(iter([made[0][1]]))
        if number >= _WARM_UP:
            reading.append(made[0][0])
            fresh.append(fresh_s)
            cached.append(cached_s)
    return {
        "stage": trial.recipe.stage,
        "steps": steps,
        "step_s": float(np.median(cached)),
        "data_s": float(np.median(reading)),
        "share": float(sum(reading) / sum(cached)),
        "slower": float(sum(fresh) / sum(cached) - 1),
        "runs": {"reading": reading, "fresh": fresh, "cached": cached},
    }


def _noting(feedings: Iterator[Feeding], made: list[tuple[float, Feeding]]) -> Iterator[Feeding]:
    started = time.perf_counter()
    feeding = next(feedings)
    made.append((time.perf_counter() - started, feeding))
    yield feeding


def measure_trainer(trial: Trial, steps: int) -> dict[str, Any]:
    """Alternate blocks of steps of our loop with blocks of a plain `Trainer`."""
    recipe = replace(trial.recipe, run=replace(trial.recipe.run, optimizer="adamw", dtype="fp32"))
    feedings = trial.feedings(recipe)
    loop = trial.loop(recipe)
    reading, finished, theirs = [], [], []
    for _ in range(_BLOCKS):
        kept: list[tuple[float, Feeding]] = []
        seconds = [loop.step(_noting(feedings, kept)) for _ in range(steps + _WARM_UP)]
        again = [loop.step(iter([feeding])) for _, feeding in kept]
        batches = [b for _, feeding in kept for b in feeding.batches if b is not None]
        tokens = sum(batch.num_tokens for batch in batches[_WARM_UP:])
        reading.append(tokens / sum(seconds[_WARM_UP:]))
        finished.append(tokens / sum(again[_WARM_UP:]))
        theirs.append(tokens / _trainer_seconds(trial, recipe, batches))

    def against(ours: list[float]) -> float:
        return float(np.median([a / b for a, b in zip(ours, theirs, strict=True)]))

    return {
        "stage": recipe.stage,
        "steps": steps,
        "tokens_per_s": float(np.median(finished)),
        "trainer_tokens_per_s": float(np.median(theirs)),
        "against_trainer": against(finished),
        "reading_against_trainer": against(reading),
        "runs": {"reading": reading, "finished": finished, "trainer": theirs},
    }


def _trainer_seconds(trial: Trial, recipe: Recipe, batches: list[Batch]) -> float:
    """Train on the batches with a plain `Trainer`; return the seconds past the warm-up."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            self.ends.append(time.perf_counter())

    def collate(rows: list[Batch]) -> dict[str, Any]:
        batch = rows[0]
        return {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            **batch.views.model_inputs(trial.processor.normalise),
            "labels": batch.labels,
            "use_cache": False,
        }

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=trial.model,
            args=TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=1,  # a batch is one item of its dataset
                max_steps=len(batches),
                learning_rate=recipe.run.lr,
                lr_scheduler_type="cosine",
                max_grad_norm=recipe.run.grad_clip,
                weight_decay=recipe.run.weight_decay,
                adam_beta2=0.98,
                use_cpu=True,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
                dataloader_pin_memory=False,
            ),
            train_dataset=batches,
            data_collator=collate,
            callbacks=[clock],
        )
        trainer.train()
    return clock.ends[-1] - clock.ends[_WARM_UP - 1]


def tables(results: dict[str, Any]) -> list[Table]:
    """Return the parts that were measured as titles, columns, rows and remarks."""
    made: list[Table] = []
    if "data" in results:
        rows: list[tuple[Any, ...]] = [
            (
                row["preset"],
                row["stage"],
                row["steps"],
                f"{1000 * row['step_s']:,.0f}",
                f"{1000 * row['data_s']:,.0f}",
                f"{100 * row['share']:.1f}",
                f"{100 * row['allowed']:.0f}",
            )
            for row in results["data"]
        ]
        columns: tuple[str, ...] = ("preset", "stage", "steps", "step on kept tensors, ms")
        columns += ("its data, ms", "share, %", "allowed, %")
        made.append(("The data's share of a step, nothing read ahead", columns, rows, []))
    if "trainer" in results:
        rows = [
            (
                row["preset"],
                row["stage"],
                f"{_BLOCKS} x {row['steps']}",
                f"{row['tokens_per_s']:,.0f}",
                f"{row['trainer_tokens_per_s']:,.0f}",
                f"{row['against_trainer']:.2f}",
                f"{row['reading_against_trainer']:.2f}",
            )
            for row in results["trainer"]
        ]
        columns = ("preset", "stage", "steps", "tokens/s", "Trainer, tokens/s", "× Trainer")
        columns += ("× Trainer, reading its data",)
        made.append(("Beside a plain Trainer, both on finished batches", columns, rows, []))
    return made


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}")
    parser.add_argument(
        "--all", action="store_true", help="measure everything and keep the results"
    )
    parser.add_argument("--shards", type=Path, required=True, help="converted coco, vg and vcr")
    parser.add_argument("--stage", default="stage2", help="which stage's steps")
    parser.add_argument("--presets", nargs="+", choices=list(_PRESETS), default=list(_PRESETS))
    parser.add_argument("--remark", help="kept with the results, such as `preliminary`")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    parts = PARTS if arguments.all else tuple(arguments.parts)
    if not parts or set(parts) - set(PARTS):
        parser.error(f"expected `--all` or some of {', '.join(PARTS)}")
    results: dict[str, Any] = {"machine": machine(_PACKAGES), "repeats": _BLOCKS}
    if arguments.remark:
        results["remark"] = arguments.remark
    for preset in arguments.presets:
        steps, allowed = _PRESETS[preset]
        trial = Trial(preset, arguments.stage, arguments.shards)
        for part in parts:
            render.note(f"measuring: {part} of {preset}")
            if part == "data":
                row = measure_data(trial, steps) | {"allowed": allowed}
            else:
                row = measure_trainer(trial, max(3, steps // _BLOCKS))
            results.setdefault(part, []).append({"preset": preset, **row})
    made = tables(results)
    show(results, made, as_json=arguments.json)
    if arguments.all:
        command = "python benchmarks/train.py --shards data/world-shards --all"
        keep("train", command, results, made)


if __name__ == "__main__":
    main()
