"""Which runs an ablation takes, where they lie, and which of them several variations share.

A stage in which no region encoder learns, and none has before, makes the same parts whatever the
encoder: it runs once a seed with the base's encoder, and every variation whose other parts and
settings are the same starts from it. Knows no torch and touches no file but recipes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.ablation_study import SHARED, Study, Variation
from roikit.config import ENCODER_KEYS, STAGES, Recipe, load_recipe, recipe_stages
from roikit.errors import UsageError

_ENCODER = "region_encoder"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One stage of one seed; the same run may stand in the trials of several variations."""

    recipe: Recipe
    out: Path
    start: Path | None  #: the run before
    is_shared: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A variation with one seed: the runs that lead to its model, in their order."""

    variation: Variation
    seed: int
    runs: tuple[Run, ...]
    refused: str | None = None  #: why its recipe cannot be, and then it has no runs

    @property
    def model(self) -> Path:
        """The last run: what is evaluated."""
        return self.runs[-1].out


def plan_trials(study: Study, out: Path) -> list[Trial]:
    """Return all trials, a seed after the other, so that a table is complete early.

    Args:
        study: what is compared.
        out: folder of the ablation.

    Raises:
        UsageError: the base's recipe cannot be; another variation's makes a refused trial.
    """
    stages = _in_order(study.stages, recipe_stages(study.recipe))
    trials = []
    for seed in study.seeds:
        seeded = (*study.overrides, f"seed={seed}", f"model.seed={seed}")

        def load(variation: Variation, seeded: Sequence[str] = seeded) -> list[Recipe]:
            given = [*seeded, *variation.overrides]
            return [load_recipe(study.recipe, stage=one, overrides=given) for one in stages]

        base = load(study.base)
        for variation in study.variations:
            try:
                recipes = load(variation)
            except UsageError as error:
                trials.append(Trial(variation=variation, seed=seed, runs=(), refused=str(error)))
                continue
            runs = _runs(recipes, base, out, variation, seed)
            trials.append(Trial(variation=variation, seed=seed, runs=runs))
    return trials


def distinct_runs(trials: Sequence[Trial]) -> list[Run]:
    """Return every run once, in the order in which they are made."""
    return list({run.out: run for trial in trials for run in trial.runs}.values())


def _in_order(wanted: Sequence[str], found: Sequence[str]) -> list[str]:
    for stage in wanted:
        if stage not in found:
            raise UsageError(f"stages: expected some of {', '.join(found)}, got `{stage}`")
    return [stage for stage in STAGES if stage in (wanted or found)]


def _runs(
    recipes: Sequence[Recipe], base: Sequence[Recipe], out: Path, variation: Variation, seed: int
) -> tuple[Run, ...]:
    runs: list[Run] = []
    start: Path | None = None
    has_learned = False
    for i, recipe in enumerate(recipes):
        has_learned |= _ENCODER in recipe.run.train or _ENCODER in base[i].run.train
        is_shared = not has_learned and i + 1 < len(recipes)
        if is_shared:
            keys = {key: getattr(base[i].model, key) for key in ENCODER_KEYS}
            recipe = replace(recipe, model=replace(recipe.model, **keys))
            # named by what it is: it stays where it lies when variations come and go
            before = "" if start is None else start.name
            told = hashlib.sha256(f"{before} {recipe.to_toml()}".encode()).hexdigest()
            folder = out / SHARED / f"seed-{seed}" / f"{recipe.stage}-{told[:8]}"
        else:
            folder = out / variation.slug / f"seed-{seed}" / recipe.stage
        runs.append(Run(recipe=recipe, out=folder, start=start, is_shared=is_shared))
        start = folder
    return tuple(runs)
