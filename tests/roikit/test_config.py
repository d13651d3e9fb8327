import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

import roikit.config
from roikit.config import (
    KEEP_CLEAN,
    REGION_ENCODERS,
    STAGES,
    ModelRecipe,
    StageRecipe,
    load_recipe,
    recipe_names,
    toml_value,
)
from roikit.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
RECIPES = Path(roikit.config.__file__).parent / "recipes"
PRESETS = [
    (path.stem, stage)
    for path in sorted(RECIPES.glob("*.toml"))
    for stage in STAGES
    if stage in tomllib.loads(path.read_text(encoding="utf-8"))
]


def test_every_preset_has_stages() -> None:
    assert {name for name, _ in PRESETS} == set(recipe_names())
    assert ("gpt4roi-7b", "align") not in PRESETS  # it takes a finished projector


@pytest.mark.parametrize(("name", "stage"), PRESETS)
def test_presets_load_and_come_back_from_their_resolved_form(
    name: str, stage: str, tmp_path: Path
) -> None:
    recipe = load_recipe(name, stage=stage)
    file = tmp_path / "recipe.toml"  # as a run keeps it: the name is told inside
    file.write_text(recipe.to_toml(), encoding="utf-8")
    assert load_recipe(str(file), stage=stage) == recipe
    assert load_recipe(str(file), stage=None).name == name


@pytest.mark.parametrize(
    "where", ["label = 'dog'", 'a = "b\\c"', "x\n-- \x7f\t", "1", "true", "größer"]
)
def test_any_text_comes_back_from_the_resolved_form(where: str, tmp_path: Path) -> None:
    from commands.options import stage_overrides

    overrides = stage_overrides("align", where=where, mix="vg=1,coco=2", dtype=None)
    recipe = load_recipe("tiny", stage="align", overrides=overrides)
    assert (recipe.run.where, recipe.run.mix) == (where, "vg=1,coco=2")
    file = tmp_path / "recipe.toml"
    file.write_text(recipe.to_toml(), encoding="utf-8")
    assert load_recipe(str(file), stage="align") == recipe


def test_overrides_take_toml_values_and_bare_words() -> None:
    recipe = load_recipe(
        "tiny",
        stage="stage1",
        overrides=[
            "stage1.lr=1e-4",
            "stage1.lr_muon=.01",
            "model.vision=some/hub-name",
            "seed=3",
            'stage1.train=["projector"]',
        ],
    )
    assert (recipe.run.lr, recipe.run.lr_muon) == (1e-4, 0.01)
    assert recipe.model.vision == "some/hub-name"
    assert recipe.seed == 3
    assert recipe.run.train == ("projector",)


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        ("stage1.stepps=3", r"stage1\.stepps: unknown key", "did you mean `steps`"),
        ("modell.vision=x", "`modell`: unknown key", "did you mean `model`"),
        ("align.batch=2", r"align\.batch: unknown key", "batch_size"),
        ("stag1.lr=1", "`stag1`: unknown key", "did you mean `stage1`"),
        ("lr=1", "`lr`: unknown key", "did you mean `STAGE.lr`"),
        ("image_size=1", "`image_size`: unknown key", "did you mean `model.image_size`"),
        ("sed=1", "`sed`: unknown key", "did you mean `seed`"),
        ("seed.x=1", "`seed` is no table", "--set seed=VALUE"),
        ("stage1.lr.x=1", r"`stage1\.lr`: unknown key", "did you mean `stage1`"),
        ("model=3", "`model`: expected a table, got `3`", None),
        ("seed=true", "seed: expected a whole number, got `True`", None),
        ("name=3", "name: expected text, got `3`", None),
        ("stage1.mix=3", 'expected text like `""`, got `3`', None),
        ("stage1.lr=fast", "expected a number like `2e-05`, got `fast`", None),
        ("stage1.steps=1.5", "expected a whole number like `0`, got `1.5`", None),
        ("model.vision_layers=[true]", r"a list like `\[-2\]`", None),
        ("stage1.steps=many", r"stage1\.steps: expected a whole number like `0`, got `many`", None),
        ("stage1.gradient_checkpointing=1", "expected true or false, like `false`", None),
        ("stage1", "expected `table.key=value`", None),
        ("stage1.train=[projector]", r'a list like `\["projector"\]`, got `\[projector\]`', None),
        ('stage1.train=["projectr"]', "`projectr`: unknown key", "did you mean `projector`"),
        ('model.vision_layers=["x"]', r"a list like `\[-2\]`", None),
        ("stage1.lr=nan", "expected 0 or more, got nan", None),
        ("stage1.epochs=inf", "expected 0 or more, got inf", None),
        ("stage1.grad_clip=-1", "expected 0 or more, got -1.0", None),
        ("keep_clean=vg@test", r'a list like `\["coco@val", "vg@test"\]`', "keep_clean=[]"),
        ('keep_clean=["vg"]', "`vg`: expected DATASET@SPLIT", None),
        ("model.region_width=30", r"region_width: expected a multiple of 4, got 30", None),
        ("stage1.optimizer=sgd", "expected `adamw` or `muon`, got `sgd`", None),
    ],
)
def test_wrong_overrides_are_refused(override: str, message: str, hint: str | None) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_recipe("tiny", stage="stage1", overrides=[override])
    if hint is not None:
        assert hint in str(caught.value.hint)


def test_a_recipe_keeps_the_standard_benchmarks_clean_unless_it_says_otherwise(
    tmp_path: Path,
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[align]\nmix = "coco"\n')
    assert load_recipe(str(file), stage="align").keep_clean == KEEP_CLEAN
    assert "vg@test" in KEEP_CLEAN and "refcoco@testA" in KEEP_CLEAN
    for override, expected in (("keep_clean=[]", ()), ('keep_clean=["a@b"]', ("a@b",))):
        recipe = load_recipe(str(file), stage="align", overrides=[override])
        assert recipe.keep_clean == expected
        file_of_run = tmp_path / "recipe.toml"
        file_of_run.write_text(recipe.to_toml())
        assert load_recipe(str(file_of_run), stage=None).keep_clean == expected


def test_a_missing_recipe_names_the_presets() -> None:
    with pytest.raises(UsageError, match="no such file or preset") as caught:
        load_recipe("tinny", stage="stage1")
    assert "tiny" in str(caught.value.hint)


def test_a_number_without_a_point_is_a_number_in_lists_too() -> None:
    recipe = load_recipe("tiny", stage="align", overrides=["align.betas=[0, 0.95]"])
    assert recipe.run.betas == (0.0, 0.95)


@pytest.mark.parametrize("encoder", REGION_ENCODERS)
def test_tiles_are_refused_where_an_encoder_cannot_read_them(encoder: str) -> None:
    overrides = [f"model.region_encoder={encoder}", "model.max_tiles=4"]
    if encoder in ("replay", "pooled", "deformable"):
        assert load_recipe("tiny", stage="align", overrides=overrides).model.max_tiles == 4
    else:
        with pytest.raises(UsageError, match=rf"max_tiles: expected 1 with .*`{encoder}`, got 4"):
            load_recipe("tiny", stage="align", overrides=overrides)


def test_an_override_makes_no_stage_that_a_recipe_lacks() -> None:
    for stage in ("align", "stage1"):
        with pytest.raises(UsageError, match="has no stage `align`") as caught:
            load_recipe("gpt4roi-7b", stage=stage, overrides=["align.lr=1"])
        assert caught.value.hint == "it has: stage1, stage2"


def test_the_reference_is_told_as_it_was_trained() -> None:
    one, two = (load_recipe("gpt4roi-7b", stage=stage).run for stage in ("stage1", "stage2"))
    assert (one.batch_size, one.micro_batch, two.batch_size, two.micro_batch) == (4, 1, 16, 2)
    assert (one.warmup, two.warmup, one.weight_decay, two.weight_decay) == (0.003, 3000, 0.01, 0)
    for run in (one, two):
        assert (run.epochs, run.steps, run.lr, run.betas) == (2, 0, 2e-5, (0.9, 0.999))
        assert (run.max_tokens, run.dtype, run.gradient_checkpointing) == (2048, "bf16", True)


def test_every_key_stands_in_the_page_and_no_other() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    for kind, heading in ((ModelRecipe, "Keys of the model"), (StageRecipe, "Keys of a stage")):
        section = page.split(f"## {heading}\n")[1].split("\n## ")[0]
        told = re.findall(r"^\| `(\w+)` \|([^|]*)\|", section, re.M)
        assert {key for key, _ in told} == {f.name for f in fields(kind)}
        defaults = kind()
        for key, default in told:
            assert default.strip(" `") == toml_value(getattr(defaults, key)), key


@pytest.mark.parametrize("name", recipe_names())
def test_the_page_says_of_every_recipe_whether_it_was_run(name: str) -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert f"| `{name}` |" in page
