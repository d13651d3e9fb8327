"""Run an ablation: train what is not trained, evaluate what is not evaluated, put it together.

    OUT/shared/seed-1/align-1a2b3c4d/     what several variations start from
    OUT/<variation>/seed-1/<stage>/       a variation's own runs
    OUT/<variation>/seed-1/results/       one JSON file a benchmark, every answer beside it
    OUT/costs.json                        what the region encoders cost, and where that was measured
    OUT/ablation.json  OUT/ablation.md    the table

Everything is kept and found again, so the same command goes on after any stop, seeds and
variations can be added, and a finished table is put together anew in seconds.
"""

import json
import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.ablation_clock import Clock
from pipelines.ablation_plan import Run, Trial, distinct_runs, plan_trials
from pipelines.ablation_results import Ablation, Cost, Costs, put_together, train_seconds
from pipelines.ablation_study import Study
from pipelines.ablation_table import write_tables
from pipelines.demo import Watcher
from pipelines.demo_miniature import CAVEAT, SceneChecks
from pipelines.stages import open_steps, open_stream, run_stage
from roikit.errors import RoikitError
from roikit.evaluate import benchmarks
from roikit.evaluate.controls import CONTROLS
from roikit.evaluate.result import Result, ResultRecord, load, save
from roikit.runs import trained_on, weights_sha256
from roikit.train.claim import claimed
from shards.commit import load_dataset
from shards.read import iter_samples, open_split
from shards.seen import seen_in_training

if TYPE_CHECKING:
    from roikit.model.generate import LoadedModel

log = logging.getLogger(__name__)

#: Of swapped boxes and of intervals over pictures: the same for all models, so that they are asked
#: the same questions.
_EVALUATION_SEED = 0
#: Datasets of the miniature world whose items its scenes say more about.
_WITH_SCENES = ("coco", "vg")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How all models of an ablation are trained and evaluated."""

    shards: Path
    out: Path
    limit: int | None = None  #: items a benchmark
    world: Path | None = None  #: the miniature world that the shards were made from
    batch_size: int = 16  #: prompts at once
    workers: int = 0  #: processes that read ahead
    device: str = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """A line of the plan."""

    run: str  #: folder below OUT
    stage: str
    steps: int
    used_by: tuple[str, ...]  #: variations
    is_done: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What an ablation would do."""

    runs: tuple[PlannedRun, ...]
    refused: dict[str, str]  #: variations that cannot be, and why


def plan_ablation(study: Study, settings: Settings) -> Plan:
    """Say which runs there would be; nothing is trained or written.

    Raises:
        UsageError: as `run_ablation`.
    """
    trials = _checked_trials(study, settings)
    planned = []
    for run in distinct_runs(trials):
        stage = run.recipe.run
        steps = stage.steps
        if not steps:
            stream, _ = open_stream(run.recipe, settings.shards)
            length = open_steps(run.recipe, stream).epoch_length
            steps = math.ceil(stage.epochs * length / stage.batch_size)
        users = [t.variation.name for t in trials if any(one.out == run.out for one in t.runs)]
        planned.append(
            PlannedRun(
                run=str(run.out.relative_to(settings.out)),
                stage=run.recipe.stage,
                steps=steps,
                used_by=tuple(users),
                is_done=_is_done(run),
            )
        )
    refused = {t.variation.name: t.refused for t in trials if t.refused is not None}
    return Plan(runs=tuple(planned), refused=refused)


def run_ablation(study: Study, settings: Settings, *, watcher: Watcher | None = None) -> Ablation:
    """Train and evaluate all variations with all seeds; what is there already is taken as it is.

    A variation that fails costs its own rows alone. The table is also written to OUT, after each
    model that was not there before and once all are done.

    Raises:
        UsageError: the base's recipe cannot be, a benchmark or its shards are not there, or another
            process works on OUT.
        Interrupted: SIGINT or SIGTERM while a stage trains; a checkpoint is saved, if it can be.
    """
    trials = _checked_trials(study, settings)
    with claimed(settings.out):
        job = _Job(study, settings, trials, watcher or Watcher())
        for trial in trials[:-1]:
            if job.do(trial):
                write_tables(job.so_far(), settings.out)
        job.do(trials[-1])
        found = job.so_far(costs=job.measure_costs())
        settings.out.mkdir(parents=True, exist_ok=True)
        write_tables(found, settings.out)
    return found


def _checked_trials(study: Study, settings: Settings) -> list[Trial]:
    for name in study.benchmarks:
        benchmark = benchmarks.get(name)
        open_split(settings.shards, benchmark.dataset, benchmark.split)
    return plan_trials(study, settings.out)


class _Job:
    """One ablation on its way: what is done is in `records`, what could not be in `failed`."""

    def __init__(
        self, study: Study, settings: Settings, trials: list[Trial], watcher: Watcher
    ) -> None:
        self.records: dict[tuple[str, int], dict[str, ResultRecord]] = {}
        self.failed: dict[tuple[str, int], str] = {}
        self._study = study
        self._settings = settings
        self._trials = trials
        self._watcher = watcher
        self._clock = Clock(trials)
        self._signals: list[int] = []  # that came while a stage trained
        self._failed_runs: dict[Path, str] = {}
        self._checks: dict[str, SceneChecks] = {}
        if settings.world is not None:
            datasets = {benchmarks.get(name).dataset for name in study.benchmarks}
            for name in sorted(datasets.intersection(_WITH_SCENES)):
                self._checks[name] = SceneChecks(name, settings.world)

    def do(self, trial: Trial) -> bool:
        """Train and evaluate one variation with one seed, or note why that cannot be.

        Returns:
            Whether it was evaluated now, and not before.
        """
        at = (trial.variation.name, trial.seed)
        try:
            if trial.refused is not None:
                raise RoikitError(trial.refused)
            for run in trial.runs:
                self._train(run, trial)
            self.records[at], is_new = self._evaluate(trial)
        except (RoikitError, MemoryError, RuntimeError) as error:
            self.failed[at] = _reason(error)
            log.warning("%s, seed %d: %s", *at, self.failed[at])
            return False
        return is_new

    def so_far(self, costs: Costs | None = None) -> Ablation:
        """Put together what is done."""
        return put_together(
            self._study, self._trials, self.records, failed=self.failed, costs=costs
        )

    def measure_costs(self) -> Costs | None:
        """Measure what each variation's encoder costs, on the model of its first seed."""
        models: dict[str, Path] = {}
        for trial in self._trials:
            if (trial.variation.name, trial.seed) in self.records:
                models.setdefault(trial.variation.name, trial.model)
        if not models:
            return None
        file = self._settings.out / "costs.json"
        hashes = {name: weights_sha256(model) for name, model in models.items()}
        told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if told.get("models") == hashes:
            found = {name: Cost(**cost) for name, cost in told["costs"].items()}
            return Costs(costs=found, where=told["where"])
        # all of them anew: times are compared within one session only
        self._watcher.phase("costs", "of the region encoders")
        costs = _measured(models, self._settings.device)
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps({"models": hashes, **asdict(costs)}, indent=1))
        temporary.replace(file)
        return costs

    def _train(self, run: Run, trial: Trial) -> None:
        if run.out in self._failed_runs:
            raise RoikitError(self._failed_runs[run.out])
        began = time.monotonic()
        if not self._is_finished(run):
            about = "shared" if run.is_shared else trial.variation.name
            self._watcher.phase(
                self._clock.said(), f"{about}, seed {trial.seed}, {run.recipe.stage}"
            )
            try:
                run_stage(
                    run.recipe,
                    shards=self._settings.shards,
                    out=run.out,
                    start=run.start,
                    device=self._settings.device,
                    workers=self._settings.workers,
                    on_start=self._watcher.training,
                    on_step=self._watcher.step,
                    on_signal=self._signals.append,
                )
            except (RoikitError, MemoryError, RuntimeError) as error:
                why = f"{run.recipe.stage}: {_reason(error)}"
                self._end_if_stopped(error)
                self._failed_runs[run.out] = why
                raise RoikitError(why) from error
            self._end_if_stopped()
        # of a run of before, what its steps took; of one made now, start and export as well
        self._clock.trained(run, max(train_seconds(run), time.monotonic() - began))

    def _end_if_stopped(self, error: BaseException | None = None) -> None:
        """End everything after a signal that did not end the stage: else the next would begin.

        It came after the last step, or `error` came in its way, as a save that fails.
        """
        from roikit.train.loop import Interrupted

        if not self._signals:
            return
        if error is not None:
            log.error("%s", error)
        raise Interrupted(self._signals[0]) from error

    def _is_finished(self, run: Run) -> bool:
        """Whether a run is done and was just this one; anything else is `run_stage`'s to judge."""
        if run.out in self._clock.done:
            return True
        if not _is_done(run):
            return False
        from roikit.train.run_folder import is_same_recipe

        told = json.loads((run.out / "run.json").read_text(encoding="utf-8"))
        start = None if run.start is None else weights_sha256(run.start)
        return (
            is_same_recipe(told["resolved"], run.recipe.to_toml())
            and told["start_sha256"] == start
            and all(
                self._root(*name.split("/")) == root
                for name, root in told["data"]["splits"].items()
            )
        )

    def _root(self, dataset: str, split: str) -> str:
        return load_dataset(self._settings.shards, dataset, split).merkle_root

    def _evaluate(self, trial: Trial) -> tuple[dict[str, ResultRecord], bool]:
        """Return the results of all benchmarks, and whether one was not there from before."""
        folder = trial.model.parent / "results"
        system_hash = weights_sha256(trial.model)
        found: dict[str, ResultRecord] = {}
        loaded: LoadedModel | None = None
        began = time.monotonic()
        for name in self._study.benchmarks:
            file = folder / f"{name}.json"
            kept = self._kept(file, name, system_hash)
            if kept is None:
                about = f"{trial.variation.name}, seed {trial.seed}, {name}"
                self._watcher.phase(self._clock.said(), about)
                loaded = loaded or _load(trial.model, self._settings.device)
                result = self._measure(name, trial, loaded, system_hash)
                kept = save(result, file, overwrite=True)
            found[name] = kept
        self._clock.evaluated(None if loaded is None else time.monotonic() - began)
        return found, loaded is not None

    def _kept(self, file: Path, name: str, system_hash: str | None) -> ResultRecord | None:
        """Return an earlier result, if it is of this model, these data and this way of asking."""
        if not file.is_file():
            return None
        record = load(file).record
        benchmark = benchmarks.get(name)
        is_same = (
            record.system_hash == system_hash
            and record.benchmark_version == benchmark.version
            and record.data_root == self._root(benchmark.dataset, benchmark.split)
            and record.limit == self._settings.limit
            and record.seed == _EVALUATION_SEED
            and (CAVEAT in record.caveats) == (benchmark.dataset in self._checks)
        )
        return record if is_same else None

    def _measure(
        self, name: str, trial: Trial, loaded: "LoadedModel", system_hash: str | None
    ) -> Result:
        from roikit.evaluate.predictor import ModelPredictor
        from roikit.evaluate.run import evaluate

        settings, benchmark = self._settings, benchmarks.get(name)
        place = (benchmark.dataset, benchmark.split)
        checks = self._checks.get(benchmark.dataset)
        return evaluate(
            name,
            iter_samples(settings.shards, *place, tasks=[benchmark.task]),
            predictor=ModelPredictor(loaded),
            batch_size=settings.batch_size,
            limit=settings.limit,
            seed=_EVALUATION_SEED,
            controls=CONTROLS,
            leak=seen_in_training(settings.shards, eval=place, trained=trained_on(trial.model)),
            data_root=self._root(*place),
            system=str(trial.model.relative_to(settings.out)),
            system_hash=system_hash,
            subset=checks.group if checks is not None else None,
            extra_metrics=checks.measure if checks is not None else None,
            caveats=[CAVEAT] if checks is not None else [],
            progress=lambda done: self._watcher.count(done, settings.limit),
        )


def _reason(error: BaseException) -> str:
    """Say why one variation cannot go on; what is no affair of the variation is raised again."""
    from roikit.train.memory import is_out_of_memory

    if isinstance(error, RoikitError):
        return str(error)
    if isinstance(error, MemoryError) or is_out_of_memory(error):
        return f"out of memory: {str(error).partition(chr(10))[0]}".rstrip(": ")
    raise error


def _is_done(run: Run) -> bool:
    return (run.out / "model" / "config.json").is_file()


def _load(model: Path, device: str) -> "LoadedModel":
    from roikit.model.generate import load_model

    return load_model(model, device=device)


def _measured(models: dict[str, Path], device: str) -> Costs:
    import torch

    from roikit.model.encoder_costs import measure_encoders, take_probe

    probes, where = {}, ""
    for name, model in models.items():
        loaded = _load(model, device)
        probes[name] = take_probe(loaded)
        at = loaded.model.device
        where = f"{at.type}, {torch.get_num_threads()} threads"
        if at.type == "cuda":
            where = torch.cuda.get_device_name(at)
    measured = zip(probes, measure_encoders(list(probes.values())), strict=True)
    return Costs(costs={name: Cost(**asdict(cost)) for name, cost in measured}, where=where)
