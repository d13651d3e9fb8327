"""What demos share: convert, train three stages, evaluate with controls, the closing table.

Conversion and training leave their results below OUT and are passed over when those are there
already, so a demo that was stopped goes on where it stood; evaluation is done again.

    OUT/source/    annotations in the official layouts
    OUT/shards/    converted
    OUT/runs/      align, stage1, stage2
    OUT/results/   one JSON file a benchmark, answers beside it

What is shown is in `demo_miniature.py` (drawn scenes) and `demo_photographs.py`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipelines.reports import Progress
from pipelines.run import convert
from pipelines.stages import run_stage
from roikit.config import STAGES, load_recipe
from shards.commit import load_dataset
from shards.read import iter_samples
from shards.seen import seen_in_training

if TYPE_CHECKING:
    from roikit.evaluate.items import Item
    from roikit.evaluate.result import Result, Score
    from roikit.train.metrics import StepReport

DATASETS = ("coco", "vg", "vcr")
SEEN, HELD_OUT = "seen pairs", "held-out pairs"

#: Metrics of the closing table, by benchmark.
_METRICS = {
    "coco-category": {"category accuracy": "accuracy"},
    "vg-caption": {
        "captions, all attributes right": "attributes",
        "captions, relations true": "relations",
        "captions, CIDEr": "cider",
    },
    "vcr": {
        "VCR-like Q→A": "q_a/likelihood_per_token",
        "VCR-like QA→R": "qa_r/likelihood_per_token",
        "VCR-like Q→AR": "q_ar/likelihood_per_token",
    },
}


class Watcher:
    """Hears how the demo goes; this one says nothing. The command line's draws progress bars."""

    def phase(self, title: str, detail: str = "") -> None:
        """A step begins."""

    def count(self, done: int, total: int | None) -> None:
        """Units of the current step."""

    def converting(self, progress: Progress) -> None:
        """How far a conversion has come."""
        self.count(progress.done, progress.total)

    def training(self, done: int, steps: int) -> None:
        """A stage begins with `done` of its `steps` taken."""

    def step(self, report: "StepReport") -> None:
        """One optimiser step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoRow:
    """One line of the closing table; scores are times 100."""

    benchmark: str
    score: float | None
    seen: float | None = None  #: on colour-shape pairs that training showed
    held_out: float | None = None  #: on pairs that it never showed
    swapped: float | None = None  #: boxes swapped, against the items' own answers
    follows: float | None = None  #: boxes swapped: answers true of the box that was given
    blank: float | None = None  #: on a blank picture
    items: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """A question about a held-out picture, and the answer as it came."""

    image: str
    question: str
    answer: str
    truth: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoReport:
    """What a demo ends with."""

    out: Path
    model: Path
    rows: tuple[DemoRow, ...]
    transcript: tuple[Exchange, ...]
    seen_in_training: tuple[str, ...]  #: a benchmark each
    caveat: str  #: what a reader of the scores must know


class Checks(Protocol):
    """What is known about a dataset's items beyond their references."""

    def group(self, item: "Item") -> str | None:
        """Which group an item is scored with, besides all."""

    def measure(self, item: "Item", answer: str) -> dict[str, float | None]:
        """More metrics of one answer, 0 to 1; None where the item has no say."""


def convert_all(
    sources: Mapping[str, Path],
    shards: Path,
    *,
    seed: int,
    workers: int | None,
    image_roots: Sequence[Path] = (),
    watcher: Watcher,
) -> None:
    """Convert the source trees of `DATASETS`; what is done already is passed over."""
    for name in DATASETS:
        watcher.phase("convert", name)
        convert(
            name,
            sources[name],
            shards,
            image_roots=image_roots,
            seed=seed,
            workers=workers or os.cpu_count() or 1,
            progress=watcher.converting,
        )


def train_stages(
    out: Path, recipe: str, overrides: Sequence[str], *, device: str, watcher: Watcher
) -> Path:
    """Train the three stages, each from the one before; return the last one's model."""
    start: Path | None = None
    for stage in STAGES:
        watcher.phase("train", stage)
        result = run_stage(
            load_recipe(recipe, stage=stage, overrides=overrides),
            shards=out / "shards",
            out=out / "runs" / stage,
            start=start,
            device=device,
            on_start=watcher.training,
            on_step=watcher.step,
        )
        start = result.out
    return result.model


def evaluate_all(
    out: Path,
    model: Path,
    benchmarks: Mapping[str, tuple[str, str]],
    *,
    checks: Mapping[str, Checks],
    caveat: str,
    seed: int,
    limit: int | None,
    device: str,
    watcher: Watcher,
) -> "dict[str, Result]":
    """Evaluate with true boxes and both controls; each result is saved below OUT/results.

    Args:
        out: the demo's folder.
        model: the last stage's.
        benchmarks: dataset and split of each benchmark.
        checks: by dataset.
        caveat: put into every result.
        seed: of the controls and intervals.
        limit: items a benchmark at most; None for all.
        device: `auto` or a torch device.
        watcher: hears how it goes.
    """
    from roikit.evaluate.predictor import ModelPredictor
    from roikit.evaluate.result import save
    from roikit.evaluate.run import evaluate
    from roikit.model.generate import load_model
    from roikit.runs import trained_on, weights_sha256

    shards = out / "shards"
    predictor = ModelPredictor(load_model(model, device=device))
    results = {}
    for name, (dataset, split) in benchmarks.items():
        watcher.phase("evaluate", name)
        known = checks.get(dataset)
        result = evaluate(
            name,
            iter_samples(shards, dataset, split),
            predictor=predictor,
            batch_size=32,
            limit=limit,
            seed=seed,
            leak=seen_in_training(shards, eval=(dataset, split), trained=trained_on(model)),
            data_root=load_dataset(shards, dataset, split).merkle_root,
            system=str(model),
            system_hash=weights_sha256(model),
            subset=known.group if known is not None else None,
            extra_metrics=known.measure if known is not None else None,
            caveats=[caveat],
            progress=lambda done: watcher.count(done, None),
        )
        save(result, out / "results" / f"{name}.json", overwrite=True)
        results[name] = result
    return results


def closing_report(
    out: Path,
    model: Path,
    results: "Mapping[str, Result]",
    transcript: Sequence[Exchange],
    caveat: str,
) -> DemoReport:
    """Put the closing table together."""
    return DemoReport(
        out=out,
        model=model,
        rows=tuple(_rows(results)),
        transcript=tuple(transcript),
        seen_in_training=tuple(
            f"{name}: {result.seen_in_training}" for name, result in results.items()
        ),
        caveat=caveat,
    )


def _rows(results: "Mapping[str, Result]") -> "list[DemoRow]":
    rows = []
    for name, result in results.items():
        record = result.record
        for title, metric in _METRICS[name].items():
            if metric not in record.scores.overall:
                continue  # the scene graph's metrics are the miniature world's alone
            swapped, blank = record.controls.get("swapped"), record.controls.get("blank")
            follows = swapped.follows_box.overall if swapped and swapped.follows_box else {}
            groups = record.scores.groups
            rows.append(
                DemoRow(
                    benchmark=title,
                    score=_value(record.scores.overall.get(metric)),
                    seen=_value(groups.get(SEEN, {}).get(metric)),
                    held_out=_value(groups.get(HELD_OUT, {}).get(metric)),
                    swapped=_value(swapped.control.overall.get(metric)) if swapped else None,
                    follows=_value(follows.get(metric)),
                    blank=_value(blank.control.overall.get(metric)) if blank else None,
                    items=record.scores.overall[metric].n,
                )
            )
    return rows


def _value(score: "Score | None") -> float | None:
    return None if score is None else score.value
