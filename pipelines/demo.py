"""Everything in a row on a small scale: world, conversion, three stages, evaluation, chat.

Each step leaves its result below OUT and is passed over when it is there already, so a demo that
was stopped goes on where it stood.

    OUT/source/    the miniature world, in the official layouts
    OUT/shards/    converted
    OUT/runs/      align, stage1, stage2
    OUT/results/   one JSON file a benchmark, answers beside it
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.miniature import make_miniature, scenes_by_file
from pipelines.miniature_language import is_caption_right, read_relation, relation_is_true
from pipelines.miniature_scene import Scene, Thing
from pipelines.run import Progress, convert
from pipelines.stages import run_stage
from roikit.config import STAGES, load_recipe
from roikit.sample import Sample
from shards.commit import load_dataset
from shards.identity import overlap
from shards.read import iter_samples

if TYPE_CHECKING:
    from roikit.evaluate.items import Item
    from roikit.evaluate.result import Result, Score
    from roikit.train.metrics import StepReport

#: Recipes were tuned on the world of seed 0; a demo draws another one.
TUNING_SEED = 0
_BENCHMARKS = {
    "coco-category": ("coco", "val"),
    "vg-caption": ("vg", "test"),
    "vcr": ("vcr", "val"),
}
_MINIATURE = "miniature world: drawn scenes, not photographs"
SEEN, HELD_OUT = "seen pairs", "held-out pairs"


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
    held_out: float | None = None  #: on colour-shape pairs that training never showed
    swapped: float | None = None  #: the same items with boxes swapped, against their own answers
    follows: float | None = None  #: with boxes swapped: answers true of the box that was given
    blank: float | None = None  #: the same items on a blank picture
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
    """What the demo ends with."""

    out: Path
    model: Path
    rows: tuple[DemoRow, ...]
    transcript: tuple[Exchange, ...]
    seen_in_training: tuple[str, ...]  #: a benchmark each


def run_demo(
    out: Path,
    *,
    seed: int = 1,
    images: int = 8000,
    recipe: str = "tiny",
    overrides: Sequence[str] = (),
    limit: int | None = None,
    workers: int | None = None,
    device: str = "auto",
    watcher: Watcher | None = None,
) -> DemoReport:
    """Run the whole of roikit on a world drawn for the occasion.

    Args:
        out: folder of everything it makes.
        seed: of world, weights and order.
        images: pictures of the world.
        recipe: name or file of the recipe.
        overrides: `table.key=value` of the recipe.
        limit: items a benchmark at most; None for all.
        workers: processes of drawing and conversion; None takes one a core.
        device: `auto` or a torch device.
        watcher: hears how it goes.
    """
    watcher = watcher or Watcher()
    world, shards = out / "source", out / "shards"
    if not (world / "scenes.jsonl").is_file():
        watcher.phase("draw", f"a miniature world of {images:,} pictures")
        make_miniature(world, images=images, seed=seed, workers=workers, progress=watcher.count)
    for name in ("coco", "vg", "vcr"):
        watcher.phase("convert", name)
        convert(
            name,
            world / name,
            shards,
            seed=seed,
            workers=workers or os.cpu_count() or 1,
            progress=watcher.converting,
        )
    model = _train(out, recipe, [f"seed={seed}", f"model.seed={seed}", *overrides], device, watcher)
    results = _evaluate(out, world, model, seed, limit, device, watcher)
    watcher.phase("chat", "about a picture that training never saw")
    transcript = _chat(shards, world, model, device)
    return DemoReport(
        out=out,
        model=model,
        rows=tuple(_rows(results)),
        transcript=tuple(transcript),
        seen_in_training=tuple(
            f"{name}: {result.seen_in_training}" for name, result in results.items()
        ),
    )


def _train(out: Path, recipe: str, overrides: Sequence[str], device: str, watcher: Watcher) -> Path:
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


def _evaluate(
    out: Path,
    world: Path,
    model: Path,
    seed: int,
    limit: int | None,
    device: str,
    watcher: Watcher,
) -> "dict[str, Result]":
    from roikit.evaluate.predictor import ModelPredictor
    from roikit.evaluate.result import save
    from roikit.evaluate.run import evaluate
    from roikit.model.generate import load_model
    from roikit.runs import weights_sha256

    shards = out / "shards"
    predictor = ModelPredictor(load_model(model, device=device))
    trained_on = [("coco", "train"), ("vg", "train"), ("vcr", "train")]
    results = {}
    for name, (dataset, split) in _BENCHMARKS.items():
        watcher.phase("evaluate", name)
        checks = _Checks(dataset, scenes_by_file(world, dataset))
        result = evaluate(
            name,
            iter_samples(shards, dataset, split),
            predictor=predictor,
            batch_size=32,
            limit=limit,
            seed=seed,
            leak=overlap(shards, eval=(dataset, split), train=trained_on),
            data_root=load_dataset(shards, dataset, split).merkle_root,
            system=str(model),
            system_hash=weights_sha256(model),
            subset=checks.group,
            extra_metrics=checks.attributes if dataset == "vg" else None,
            caveats=[_MINIATURE],
            progress=lambda done: watcher.count(done, None),
        )
        save(result, out / "results" / f"{name}.json", overwrite=True)
        results[name] = result
    return results


class _Checks:
    """What the scene graph says about an item.

    Args:
        dataset: `coco`, `vg` or `vcr`.
        scenes: by the picture's file.
    """

    def __init__(self, dataset: str, scenes: dict[str, Scene]) -> None:
        self._dataset = dataset
        self._scenes = scenes

    def scene(self, sample: Sample) -> Scene:
        return self._scenes[sample.image.file]

    def about(self, item: "Item") -> list[Thing]:
        """The objects an item's region or answer speaks of."""
        scene = self.scene(item.sample)
        if self._dataset == "coco":
            index = _nearest(scene, item)
            return [scene.things[index]]
        for statement in scene.statements:
            if statement.dataset == self._dataset and statement.id == item.native_id:
                return [scene.things[i] for i in statement.about]
        return []

    def group(self, item: "Item") -> str | None:
        """Whether a single object's colour and shape ever stood together in training."""
        about = self.about(item)
        if self._dataset == "vcr" or not about:
            return None
        return HELD_OUT if any(thing.is_held_out for thing in about) else SEEN

    def attributes(self, item: "Item", answer: str) -> dict[str, float | None]:
        """Whether a caption names all attributes rightly, and a relation that holds.

        A caption of a single object is checked for its attributes, one of a pair for its relation.
        """
        about = self.about(item)
        if len(about) == 1:
            return {"attributes": float(is_caption_right(answer, about[0])), "relations": None}
        if read_relation(answer) is None:
            return {"attributes": None, "relations": 0.0}
        return {
            "attributes": None,
            "relations": float(bool(relation_is_true(self.scene(item.sample), answer))),
        }


def _nearest(scene: Scene, item: "Item") -> int:
    """Index of the object whose box a region is: the converter may have moved it by rounding."""
    from roikit.evaluate.items import regions_of

    box = item.sample.regions[regions_of(item)[0] - 1].box_xyxy
    distances = [
        sum(abs(a - b) for a, b in zip(thing.box_xyxy, box, strict=True)) for thing in scene.things
    ]
    return distances.index(min(distances))


def _rows(results: "dict[str, Result]") -> "list[DemoRow]":
    wanted = {
        "coco-category": {"category accuracy": "accuracy"},
        "vg-caption": {
            "captions, all attributes right": "attributes",
            "captions, relations true": "relations",
            "captions, CIDEr": "cider",
        },
        "vcr": {
            "VCR-like Q→A": "q_a/likelihood",
            "VCR-like QA→R": "qa_r/likelihood",
            "VCR-like Q→AR": "q_ar/likelihood",
        },
    }
    rows = []
    for name, metrics in wanted.items():
        record = results[name].record
        for title, metric in metrics.items():
            if metric not in record.scores.overall:
                continue  # METEOR and the tokenizer's metrics need Java
            swapped, blank = record.controls.get("swapped"), record.controls.get("blank")
            follows = swapped.follows_box.overall if swapped and swapped.follows_box else {}
            rows.append(
                DemoRow(
                    benchmark=title,
                    score=_value(record.scores.overall.get(metric)),
                    held_out=_value(record.scores.groups.get(HELD_OUT, {}).get(metric)),
                    swapped=_value(swapped.control.overall.get(metric)) if swapped else None,
                    follows=_value(follows.get(metric)),
                    blank=_value(blank.control.overall.get(metric)) if blank else None,
                    items=record.scores.overall[metric].n,
                )
            )
    return rows


def _value(score: "Score | None") -> float | None:
    return None if score is None else score.value


def _chat(shards: Path, world: Path, model: Path, device: str) -> list[Exchange]:
    """Ask about the first regions of an evaluation picture, in one conversation."""
    from roikit.chat.api import load

    sample, data = next(
        (s, d) for s, d in iter_samples(shards, "coco", "val") if len(s.regions) >= 2
    )
    scene = scenes_by_file(world, "coco")[sample.image.file]
    session = load(model, device=device).session(data)
    for region in sample.regions[:2]:
        session.add_region(region.box_xyxy)
    exchanges = []
    for number, question in (
        (1, "What is region1? Answer in a word or two."),
        (2, "Describe region2 briefly."),
        (1, "Give a short description of region1."),
    ):
        region = sample.regions[number - 1]
        thing = min(
            scene.things,
            key=lambda t: sum(abs(a - b) for a, b in zip(t.box_xyxy, region.box_xyxy, strict=True)),
        )
        answer = session.ask(question)
        truth = f"{thing.size} {thing.colour} {thing.pattern} {thing.shape}"
        exchanges.append(Exchange(image=sample.key, question=question, answer=answer, truth=truth))
    return exchanges
