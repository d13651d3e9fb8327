"""What an ablation found, put together from the evaluations of all its models.

In: records by variation and seed, costs, reasons of failures. Out: the values of the table, and in
words what they are on. Trains and evaluates nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.ablation_plan import Run, Trial
from pipelines.ablation_scores import MetricScore, SeedScore, summarise
from pipelines.ablation_study import Study, Variation
from pipelines.demo import HELD_OUT
from pipelines.demo_miniature import CAVEAT
from roikit.evaluate import benchmarks
from roikit.evaluate.report import heading
from roikit.evaluate.result import Result, ResultRecord, Score, Scores
from roikit.train.metrics import METRICS_NAME, read_metrics

#: Shown for the miniature world beside a benchmark's own metrics.
_SCENE_METRICS = ("attributes", "relations")
#: Shown for colour-shape pairs that training never showed, too.
_BY_PAIR = ("accuracy", "attributes")

#: Results of a variation and seed, by benchmark.
Records = Mapping[tuple[str, int], Mapping[str, ResultRecord]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a variation costs; see `roikit/model/encoder_costs.py` for what is counted."""

    tokens: int  #: of a region
    encoder_parameters: int
    model_parameters: int
    flops_picture: int  #: of the encoder, once a picture with regions
    flops_region: int
    ms_region: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What all variations cost, by name."""

    costs: dict[str, Cost]
    where: str  #: device and threads of the times


@dataclass(frozen=True, kw_only=True, slots=True)
class VariationResult:
    """One variation."""

    name: str
    overrides: tuple[str, ...]
    metrics: dict[str, MetricScore]  #: by the table's own heading
    failed: dict[int, str]  #: why a seed has no scores
    cost: Cost | None
    train_seconds: float | None  #: of its own stages, mean over the seeds; shared ones not counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Ablation:
    """All that the table says."""

    study: str
    recipe: str
    seeds: tuple[int, ...]
    remarks: tuple[str, ...]  #: what the scores are on, and how to read them
    metrics: tuple[str, ...]  #: headings, in order
    variations: tuple[VariationResult, ...]  #: the first one is the base

    @property
    def has_failed(self) -> bool:
        """Whether some variation lacks a seed."""
        return any(one.failed for one in self.variations)


def put_together(
    study: Study,
    trials: Sequence[Trial],
    records: Records,
    *,
    failed: Mapping[tuple[str, int], str],
    costs: Costs | None,
) -> Ablation:
    """Bring everything together, or what there is of it so far.

    Args:
        study: what was compared.
        trials: all of them.
        records: of the trials that came through.
        failed: why others did not; a trial in neither is still to be done.
        costs: of the variations with records; None where they are not measured.
    """
    shown = _metrics(study, records)
    base = {title: _seed_scores(study.base, study.seeds, records, *shown[title]) for title in shown}
    variations = []
    for one in study.variations:
        is_base = one is study.base
        scores = {
            title: summarise(
                _seed_scores(one, study.seeds, records, *key), None if is_base else base[title]
            )
            for title, key in shown.items()
        }
        seconds = [
            math.fsum(train_seconds(run) for run in trial.runs if not run.is_shared)
            for trial in trials
            if trial.variation is one and (one.name, trial.seed) in records
        ]
        variations.append(
            VariationResult(
                name=one.name,
                overrides=one.overrides,
                metrics={title: score for title, score in scores.items() if score is not None},
                failed={seed: why for (name, seed), why in failed.items() if name == one.name},
                cost=costs.costs.get(one.name) if costs is not None else None,
                train_seconds=math.fsum(seconds) / len(seconds) if seconds else None,
            )
        )
    return Ablation(
        study=study.name,
        recipe=study.recipe,
        seeds=study.seeds,
        remarks=(
            *_of_progress(trials, len(records) + len(failed)),
            *_of_training(study, next(trial for trial in trials if trial.runs)),
            *_of_benchmarks(study, records),
            _of_statistics(study.seeds),
            *([_of_costs(costs.where)] if costs is not None else []),
        ),
        metrics=tuple(shown),
        variations=tuple(variations),
    )


def train_seconds(run: Run) -> float:
    """Return how long a run's steps took, stops and saves not counted."""
    return math.fsum(line["seconds"] for line in read_metrics(run.out / METRICS_NAME))


def _metrics(study: Study, records: Records) -> dict[str, tuple[str, str, str]]:
    """Return benchmark, metric and group of what is shown, by heading."""
    shown = {}
    for name in study.benchmarks:
        for metric in (*benchmarks.get(name).headline, *_SCENE_METRICS):
            for group in ("", HELD_OUT) if metric in _BY_PAIR else ("",):
                found = (one[name].scores for one in records.values())
                if any(_value(scores, metric, group) is not None for scores in found):
                    title = f"{name}: {heading(metric)}" + (f", {group}" if group else "")
                    shown[title] = (name, metric, group)
    return shown


def _seed_scores(
    variation: Variation,
    seeds: Sequence[int],
    records: Records,
    benchmark: str,
    metric: str,
    group: str,
) -> dict[int, SeedScore]:
    scores = {}
    for seed in seeds:
        if (variation.name, seed) not in records:
            continue
        record = records[variation.name, seed][benchmark]
        score = _score(record.scores, metric, group)
        if score is None or score.value is None:
            continue
        controls = {}
        for name, control in record.controls.items():
            controls[name] = _value(control.control, metric, group)
            if control.follows_box is not None:
                controls["follows"] = _value(control.follows_box, metric, group)
        scores[seed] = SeedScore(
            value=score.value,
            low=score.low,
            high=score.high,
            controls={name: value for name, value in controls.items() if value is not None},
        )
    return scores


def _score(scores: Scores, metric: str, group: str) -> Score | None:
    part = scores.groups.get(group, {}) if group else scores.overall
    return part.get(metric)


def _value(scores: Scores, metric: str, group: str) -> float | None:
    score = _score(scores, metric, group)
    return None if score is None else score.value


def _of_progress(trials: Sequence[Trial], num_done: int) -> list[str]:
    if num_done == len(trials):
        return []
    return [
        f"Not finished: {num_done:,} of {len(trials):,} models are done, a seed after the other."
    ]


def _of_training(study: Study, base: Trial) -> list[str]:
    given = ", ".join(f"`{one}`" for one in study.overrides)
    given = f" with {given}" if given else ""
    lines = [f"Recipe `{study.recipe}`{given}; the base is `{study.base.name}`."]
    for run in base.runs:
        stage = run.recipe.run
        length = f"{stage.steps:,} steps" if stage.steps else f"{stage.epochs:g} epochs"
        lines.append(
            f"{run.recipe.stage}: {length}, {stage.batch_size} conversations a step, mixture "
            f"`{stage.mix}`."
        )
    shared = ", ".join(run.recipe.stage for run in base.runs if run.is_shared)
    if shared:
        lines.append(
            f"No region encoder learns in {shared}: it ran once a seed with the base's, and "
            "variations whose other parts and settings are the same started from it. That favours "
            "encoders whose tokens are like the base's."
        )
    return lines


def _of_benchmarks(study: Study, records: Records) -> list[str]:
    lines = []
    is_miniature = False
    for name in study.benchmarks:
        found = [one[name] for one in records.values()]
        if not found:
            continue
        first = found[0]
        limit = f", limited to {first.limit:,} items" if first.limit is not None else ""
        lines.append(
            f"{name}: {first.items:,} items in {first.images:,} pictures of {first.dataset} "
            f"{first.split}{limit}; {_leaks(found)}."
        )
        lines += [f"{name}: {caveat}." for caveat in first.caveats if caveat != CAVEAT]
        is_miniature |= CAVEAT in first.caveats
    if is_miniature:
        lines.append(f"{CAVEAT[0].upper()}{CAVEAT[1:]}.")
    return lines


def _leaks(records: Sequence[ResultRecord]) -> str:
    """Say what the worst of several models had seen of a benchmark."""
    unknown = next((record for record in records if record.leak is None), None)
    worst = unknown or max(records, key=lambda one: one.leak.found if one.leak else 0)
    return Result(record=worst).seen_in_training


def _of_statistics(seeds: Sequence[int]) -> str:
    which = f"Seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    told = f"{which}, of weights and order; the pictures are the same."
    if len(seeds) == 1:
        return (
            f"{told} Intervals are 95 %, over pictures (bootstrap): another seed may "
            "differ by more."
        )
    return (
        f"{told} Scores are means over the seeds, intervals 95 %, Student's t over the seeds. "
        "Differences to the base are taken seed by seed; `*` marks those whose interval leaves 0 "
        "out, which one comparison in twenty does by chance."
    )


def _of_costs(where: str) -> str:
    return (
        "Parameters, operations and time are of the region encoder on its own. Operations are "
        "those of matrix products and convolutions, two a multiply-add; sampling (RoIAlign), "
        "norms and what is elementwise are not counted, nor are the tower and what a region's "
        "tokens cost in the language model. Time is a picture's with 8 regions, divided by 8, "
        f"median of interleaved repeats ({where}). Training seconds leave shared stages out."
    )
