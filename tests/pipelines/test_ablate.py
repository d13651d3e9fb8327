"""Ablations on a drawn world of a few pictures: what runs once, what a stop or a failure costs."""

import json
import math
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.ablate import Plan, Settings, plan_ablation, run_ablation
from pipelines.ablation_clock import Clock
from pipelines.ablation_plan import distinct_runs, plan_trials
from pipelines.ablation_results import Ablation
from pipelines.ablation_scores import SeedScore, student, summarise
from pipelines.ablation_study import Study, Variation, load_study, parse_variation, study_names
from pipelines.ablation_table import markdown
from pipelines.demo import Watcher
from pipelines.miniature import make_miniature
from pipelines.run import convert
from roikit.config import load_recipe
from roikit.errors import RoikitError, UsageError
from roikit.runs import weights_sha256
from roikit.train.checkpoint import Checkpoints
from roikit.train.claim import claimed
from roikit.train.loop import Interrupted, train_steps

RECIPE = """
keep_clean = ["coco@val"]
[model]
vision_width = 32
language_width = 32
language_layers = 1
language_heads = 2
vocabulary = 300
image_size = 64
image_grid = 2
region_grid = 2
[align]
mix = "coco:category=1"
train = ["vision_tower", "projector", "language_model"]
steps = 2
batch_size = 2
max_exchanges = 2
save_every = 1
dtype = "fp32"
[stage1]
mix = "coco:category=1"
train = ["region_encoder"]
steps = 2
batch_size = 2
lr = 1e-2
max_exchanges = 2
save_every = 1
dtype = "fp32"
"""
BASE = Variation(name="base")
ONE_TOKEN = Variation(name="one token", overrides=("model.region_grid=1",))
SMALL = Variation(name="small input", overrides=("model.image_size=32",))
REFUSED = Variation(name="refused", overrides=("model.region_grid=0",))
LOST = Variation(name="lost", overrides=("stage1.mix=nowhere",))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("ablation")
    world = home / "world"
    make_miniature(world, images=48, seed=3, datasets=("coco",), evaluation=0.3, workers=1)
    convert("coco", world / "coco", home / "shards")
    (home / "mini.toml").write_text(RECIPE, encoding="utf-8")
    return home


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plot of the loss takes longer than a run of two steps."""
    monkeypatch.setattr("roikit.train.export.plot_loss", lambda *_, **__: None)


@pytest.fixture
def study(home: Path) -> Callable[..., Study]:
    def make(*variations: Variation, seeds: tuple[int, ...] = (1, 2), **changes: Any) -> Study:
        return Study(
            name="test",
            **changes,
            recipe=str(home / "mini.toml"),
            benchmarks=("coco-category",),
            seeds=seeds,
            variations=variations,
        )

    return make


@pytest.fixture
def settings(home: Path, tmp_path: Path) -> Settings:
    return Settings(shards=home / "shards", out=tmp_path / "out", limit=4, device="cpu")


class Told(Watcher):
    """Keeps what it hears; stops everything at a step, if it is told which."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.phases: list[str] = []
        self.steps = 0
        self._stop_at = stop_at

    def phase(self, title: str, detail: str = "") -> None:
        self.phases.append(f"{title} {detail}")

    def step(self, report: Any) -> None:
        self.steps += 1
        if self.steps == self._stop_at:
            raise KeyboardInterrupt


def without_times(found: Ablation, out: Path) -> Any:
    told = json.loads((out / "ablation.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in told["variations"]] == [one.name for one in found.variations]
    for one in told["variations"]:
        one.pop("train_seconds")
        one["cost"] = one["cost"] and {**one["cost"], "ms_region": None}
    return told


def test_align_runs_once_a_seed_and_a_stop_changes_nothing(
    study: Callable[..., Study], settings: Settings, tmp_path: Path
) -> None:
    compared = study(BASE, ONE_TOKEN, seeds=(1,))
    whole = run_ablation(compared, settings, watcher=(heard := Told()))
    assert heard.steps == 2 * 3  # align, and stage 1 twice
    told = {}
    for one in ("base", "one-token"):
        file = settings.out / one / "seed-1" / "stage1" / "run.json"
        told[one] = json.loads(file.read_text(encoding="utf-8"))
    assert told["base"]["start_sha256"] == told["one-token"]["start_sha256"]
    assert told["base"]["new_parts"] == []
    assert told["one-token"]["new_parts"] == ["region_encoder"]

    other = replace(settings, out=tmp_path / "stopped")
    for stop_at in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            run_ablation(compared, other, watcher=Told(stop_at))
    again = run_ablation(compared, other, watcher=Told())
    assert without_times(again, other.out) == without_times(whole, settings.out)

    rebuilt = run_ablation(compared, settings, watcher=(heard := Told()))
    assert (heard.steps, heard.phases) == (0, [])
    assert rebuilt == whole

    more = study(BASE, ONE_TOKEN, seeds=(1, 2))
    found = run_ablation(more, settings, watcher=(heard := Told()))
    assert heard.steps == 2 * 3  # the second seed alone
    assert len(found.variations[0].metrics["coco-category: accuracy"].seeds) == 2


def test_what_fails_is_a_row_that_says_why(study: Callable[..., Study], settings: Settings) -> None:
    found = run_ablation(study(BASE, REFUSED, LOST, seeds=(1,)), settings)
    base, refused, lost = found.variations
    assert found.has_failed and not base.failed and base.metrics
    assert "model.region_grid: expected 1 or more" in refused.failed[1]
    assert lost.failed[1].startswith("stage1: ") and "nowhere" in lost.failed[1]
    assert not refused.metrics and lost.cost is None
    rows = [line for line in markdown(found).splitlines() if line.startswith("| lost |")]
    assert "nowhere" in rows[0]


def test_a_base_that_cannot_be_ends_it_at_once(
    study: Callable[..., Study], settings: Settings
) -> None:
    with pytest.raises(UsageError, match=r"model\.region_grid"):
        run_ablation(study(REFUSED, BASE), settings)
    with pytest.raises(UsageError, match="expected one of"):
        run_ablation(replace(study(BASE, LOST), benchmarks=("no-such",)), settings)
    assert not settings.out.exists()


def test_a_dry_run_counts_steps_and_writes_nothing(
    study: Callable[..., Study], settings: Settings
) -> None:
    by_epochs = ("stage1.steps=0", "stage1.epochs=2")
    compared = study(BASE, ONE_TOKEN, SMALL, REFUSED, overrides=by_epochs)
    plan: Plan = plan_ablation(compared, settings)
    assert not settings.out.exists()
    assert [one.stage for one in plan.runs].count("align") == 4
    align = plan.runs[0]
    assert (align.steps, align.used_by, align.is_done) == (2, ("base", "one token"), False)
    assert list(plan.refused) == ["refused"]
    stage1 = [one for one in plan.runs if one.stage == "stage1"]
    assert len(stage1) == 6 and {one.steps for one in stage1} != {0}


def test_two_ablations_on_one_folder_are_refused(
    study: Callable[..., Study], settings: Settings
) -> None:
    with claimed(settings.out), pytest.raises(UsageError, match="works on this run"):
        run_ablation(study(BASE, ONE_TOKEN), settings)


def test_a_signal_ends_everything_though_the_stage_cannot_be_saved(
    study: Callable[..., Study], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RoikitError("the disk is full")

    class Stops(Told):
        def step(self, report: Any) -> None:
            super().step(report)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Checkpoints, "save", fail)
    heard = Stops()
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as ended:
        run_ablation(study(BASE, ONE_TOKEN), settings, watcher=heard)
    assert ended.value.signum == signal.SIGTERM
    assert len(heard.phases) == 1
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_signal_at_the_last_moment_lets_the_stage_end_and_nothing_begin(
    study: Callable[..., Study], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*args: Any, **how: Any) -> None:  # signals are held back still, and nobody looks
        train_steps(*args, **how)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("roikit.train.run.train_steps", late)
    heard = Told()
    compared = study(BASE, ONE_TOKEN)
    with pytest.raises(Interrupted):
        run_ablation(compared, settings, watcher=heard)
    assert (heard.steps, len(heard.phases)) == (2, 1)
    monkeypatch.undo()
    done = [one for one in plan_ablation(compared, settings).runs if one.is_done]
    assert [one.stage for one in done] == ["align"]


def test_the_table_grows_with_each_model(
    study: Callable[..., Study], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Ablation] = []
    monkeypatch.setattr("pipelines.ablate.write_tables", lambda found, _: written.append(found))
    compared = study(BASE, LOST, ONE_TOKEN, seeds=(1,))
    found = run_ablation(compared, settings)
    first, last = written  # a model that failed makes no table of its own
    assert first.remarks[0].startswith("Not finished: 1 of 3 models")
    assert [bool(one.metrics) for one in first.variations] == [True, False, False]
    assert last == found and not any("Not finished" in remark for remark in found.remarks)
    written.clear()
    run_ablation(compared, settings)
    assert written == [found]  # nothing new: a finished table is never taken back


def test_what_was_done_in_another_folder_is_done_where_it_is_copied_to(
    study: Callable[..., Study], settings: Settings, tmp_path: Path
) -> None:
    elsewhere = replace(settings, out=tmp_path / "elsewhere")
    run_ablation(study(BASE, ONE_TOKEN, seeds=(2,)), elsewhere)
    settings.out.mkdir()
    for folder in ("base", "one-token", "shared"):
        shutil.move(elsewhere.out / folder, settings.out / folder)
    # a key that may change on a run's way makes no other run of it
    again = study(BASE, ONE_TOKEN, seeds=(2,), overrides=("stage1.save_every=7",))
    found = run_ablation(again, settings, watcher=(heard := Told()))
    assert not found.has_failed
    assert (heard.steps, heard.phases) == (0, ["costs of the region encoders"])


def test_other_items_are_asked_anew_and_nothing_else(
    study: Callable[..., Study], settings: Settings
) -> None:
    compared = study(BASE, ONE_TOKEN, seeds=(1,))
    run_ablation(compared, settings)
    heard = Told()
    found = run_ablation(compared, replace(settings, limit=6), watcher=heard)
    assert heard.steps == 0 and len(heard.phases) == 2
    assert any("6 items" in remark for remark in found.remarks)


def test_scenes_are_asked_where_the_world_is_named(
    home: Path, study: Callable[..., Study], settings: Settings
) -> None:
    compared = study(BASE, ONE_TOKEN, seeds=(1,))
    plain = run_ablation(compared, settings)
    assert not any("drawn scenes" in remark for remark in plain.remarks)
    found = run_ablation(compared, replace(settings, world=home / "world", limit=None))
    assert any("Miniature world: drawn scenes" in remark for remark in found.remarks)
    assert "coco-category: accuracy, held-out pairs" in found.metrics


def test_costs_are_the_encoders_own(study: Callable[..., Study], settings: Settings) -> None:
    found = run_ablation(study(BASE, ONE_TOKEN, seeds=(1,)), settings)
    four, one = (variation.cost for variation in found.variations)
    assert four is not None and one is not None
    assert (four.tokens, one.tokens) == (4, 1)
    assert four.flops_region > 3 * one.flops_region > 0
    assert four.flops_picture == one.flops_picture == 0  # nothing is computed before the cells
    width = 32
    assert four.encoder_parameters - one.encoder_parameters == 3 * width  # cell embeddings
    assert four.model_parameters - one.model_parameters == 3 * width


def test_a_stage_without_a_learning_encoder_is_shared_by_what_is_alike(
    home: Path, study: Callable[..., Study]
) -> None:
    text = Variation(
        name="text",
        overrides=("model.region_encoder=text", 'stage1.train=["language_model"]'),
    )
    rate = Variation(name="rate", overrides=("align.lr=0.1",))
    trials = plan_trials(study(BASE, text, SMALL, rate, seeds=(5,)), home / "x")
    aligns = [trial.runs[0] for trial in trials]
    assert aligns[0].out == aligns[1].out
    assert len({run.out for run in aligns}) == 3
    assert aligns[1].recipe.model.region_encoder == "replay"
    assert trials[1].runs[1].recipe.model.region_encoder == "text"
    assert not any(trial.runs[1].is_shared for trial in trials)
    assert len(distinct_runs(trials)) == 3 + 4
    assert all(run.recipe.seed == run.recipe.model.seed == 5 for run in aligns)
    # the last stage is what is evaluated: never another variation's
    (only,) = plan_trials(study(BASE, seeds=(5,), stages=("align",)), home / "x")
    assert not only.runs[0].is_shared
    moved = plan_trials(study(BASE, seeds=(5,)), home / "elsewhere")
    assert moved[0].runs[0].out.name == aligns[0].out.name


# --- statistics, by hand ---


def test_students_interval_and_the_paired_difference() -> None:
    found = student([1.0, 2.0, 3.0])  # deviation 1, standard error 1 / sqrt(3), t(2) = 4.303
    assert found.mean == 2.0
    assert found.high == pytest.approx(2 + 4.303 / math.sqrt(3))
    assert found.low == pytest.approx(2 - 4.303 / math.sqrt(3))
    assert student([7.0]).low is None

    def scores(**values: float) -> dict[int, SeedScore]:
        return {
            int(seed[1:]): SeedScore(
                value=value, low=value - 1, high=value + 1, controls={"swapped": value / 2}
            )
            for seed, value in values.items()
        }

    base = scores(s1=10.0, s2=20.0)
    ours = summarise(scores(s1=12.0, s2=24.0, s3=90.0), base)
    assert ours is not None and ours.difference is not None
    assert ours.score.mean == 42.0
    assert ours.difference.mean == 3.0  # of 2 and 4: the seed without a base is left out
    assert ours.difference.high == pytest.approx(3 + 12.706)  # standard error 1, t(1)
    assert ours.controls == {"swapped": 21.0}
    single = summarise(scores(s1=12.0), base)
    assert single is not None and (single.score.low, single.score.high) == (11.0, 13.0)
    assert summarise({}, base) is None


def test_the_table_of_quantiles_is_students() -> None:
    stats = pytest.importorskip("scipy.stats")
    for count in range(2, 32):
        values = [0.0] * (count - 1) + [1.0]
        half = stats.t.ppf(0.975, count - 1) * math.sqrt(1 / count / count)
        found = student(values)
        assert found.high is not None
        assert found.high - found.mean == pytest.approx(half, rel=1e-3)


def test_the_clock_says_nothing_before_it_can_know(study: Callable[..., Study]) -> None:
    trials = plan_trials(study(BASE, ONE_TOKEN, seeds=(1,)), Path("x"))
    clock = Clock(trials)
    (align, base), (_, other) = (trial.runs for trial in trials)
    clock.trained(align, 40.0)
    clock.trained(base, 60.0)
    assert clock.said() == "2 of 3 runs done:"
    clock.evaluated(10.0)
    clock.trained(align, 40.0)  # shared: counts once
    assert clock.said() == "2 of 3 runs done, about 0:01:10 left:"
    clock.trained(other, 60.0)
    clock.evaluated(10.0)
    assert clock.said() == "3 of 3 runs done, about 0:00:00 left:"


# --- studies ---


def test_overrides_may_hold_lists_and_mixtures() -> None:
    text = (
        'a b: stage1.train=["projector", "region_encoder"], align.mix=coco=1,vg:caption=2, seed=4'
    )
    found = parse_variation(text)
    assert found.name == "a b" and found.slug == "a-b"
    assert found.overrides == (
        'stage1.train=["projector", "region_encoder"]',
        "align.mix=coco=1,vg:caption=2",
        "seed=4",
    )


@pytest.mark.parametrize("text", ["no colon", ": model.region_grid=1", "name:", "name: nothing"])
def test_a_variation_without_name_or_change_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--vary"):
        parse_variation(text)


@pytest.mark.parametrize("name", study_names())
def test_studies_of_the_package_are_recipes_that_can_be(name: str, tmp_path: Path) -> None:
    trials = plan_trials(load_study(name, seeds=(1,)), tmp_path)
    assert [trial.refused for trial in trials] == [None] * len(trials)
    firsts = {trial.runs[0].out: trial.runs[0] for trial in trials}
    if name == "encoders":  # nothing is shared: everybody's encoder learns from the first step
        assert len(firsts) == len(trials)
    else:  # the other input size has its own
        assert len(firsts) == 2 and all(run.is_shared for run in firsts.values())


def test_a_study_names_overrides_and_stages_and_what_is_asked_for_wins(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(
        "stages = ['align']\nset = ['align.steps=9', 'align.lr=0.5', 'model.region_grid=1']\n"
        "[variations]\na = []\nb = ['model.region_grid=4']\n",
        encoding="utf-8",
    )
    (a,), (b,) = (one.runs for one in plan_trials(load_study(str(file), seeds=(1,)), tmp_path))
    assert (a.recipe.run.steps, a.recipe.run.lr) == (9, 0.5)
    assert (a.recipe.model.region_grid, b.recipe.model.region_grid) == (1, 4)
    asked = load_study(str(file), (), ["align.steps=7"], seeds=(1,), stages=("align", "stage1"))
    assert asked.overrides == ("align.steps=7", "align.lr=0.5", "model.region_grid=1")
    first, second = plan_trials(asked, tmp_path)[0].runs
    assert (first.recipe.run.steps, first.recipe.run.lr, second.recipe.stage) == (7, 0.5, "stage1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[variations]\na = []\n", "expected two or more"),
        ("[variations]\na = []\n'A!' = []\n", "has the same folder"),
        ("[variations]\na = []\nshared = []\n", "has the same folder"),
        ("[variations]\na = []\nb = 'x'\n", "variations.b: expected a list"),
        ("seeds = ['1']\n[variations]\na = []\nb = []\n", "seeds: expected a list of whole"),
        ("seeds = [1, 1]\n[variations]\na = []\nb = []\n", "each once"),
        ("set = 'a=1'\n[variations]\na = []\nb = []\n", "set: expected a list of texts"),
        ("stages = [1]\n[variations]\na = []\nb = []\n", "stages: expected a list of texts"),
        ("what = 1\n[variations]\na = []\nb = []\n", "`what`: expected one of"),
        ("recipe = 1\n[variations]\na = []\nb = []\n", "recipe: expected text"),
        ("recipe = ", "study.toml"),
        ("", "expected a table"),
    ],
)
def test_a_study_that_cannot_be_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        load_study(str(file))


def test_a_recipe_alone_is_the_base_of_what_varies() -> None:
    study = load_study(None, ["k1: model.region_grid=1"], recipe="small", seeds=(4,))
    assert [one.name for one in study.variations] == ["base", "k1"]
    assert (study.recipe, study.seeds) == ("small", (4,))
    with pytest.raises(UsageError, match="no such file"):
        load_study("nothing")
    with pytest.raises(UsageError, match="two or more"):
        load_study(None)


def test_a_new_encoder_on_an_aligned_model_keeps_all_other_parts(
    home: Path, study: Callable[..., Study], settings: Settings
) -> None:
    from roikit.model.generate import load_model

    run_ablation(study(BASE, ONE_TOKEN, seeds=(1,)), settings)
    (align,) = (settings.out / "shared" / "seed-1").glob("align-*")
    before = load_model(align, device="cpu").model.state_dict()
    run = settings.out / "one-token" / "seed-1" / "stage1"
    loaded = load_model(run, device="cpu")
    after = loaded.model.state_dict()
    for name, value in before.items():
        if not name.startswith("region_encoder."):
            assert torch.equal(value, after[name]), name
    assert loaded.processor.num_region_tokens == 1
    assert "the region encoder is new" in (run / "model" / "README.md").read_text("utf-8")
    assert weights_sha256(run) != weights_sha256(align)
    assert load_recipe(str(run / "recipe.toml"), stage=None).model.region_grid == 1
