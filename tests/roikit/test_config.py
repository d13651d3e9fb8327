from pathlib import Path

import pytest

from roikit.config import KEEP_CLEAN, STAGES, load_recipe, recipe_names
from roikit.errors import UsageError


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("stage", STAGES)
def test_presets_load_and_come_back_from_their_resolved_form(
    name: str, stage: str, tmp_path: Path
) -> None:
    recipe = load_recipe(name, stage=stage)
    file = tmp_path / f"{name}.toml"
    file.write_text(recipe.to_toml(), encoding="utf-8")
    assert load_recipe(str(file), stage=stage) == recipe


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
        ("stage1.steps=many", r"stage1\.steps: expected a value like `0`, got `many`", None),
        ("stage1.gradient_checkpointing=1", "expected a value like `false`", None),
        ("stage1", "expected `table.key=value`", None),
        ("stage1.train=[projector]", r'a list like `\["projector"\]`, got `\[projector\]`', None),
        ('stage1.train=["projectr"]', "`projectr`: unknown key", "did you mean `projector`"),
        ('model.vision_layers=["x"]', r"a list like `\[-2\]`", None),
        ("stage1.lr=nan", "expected 0 or more, got nan", None),
        ("stage1.epochs=inf", "expected 0 or more, got inf", None),
        ("stage1.grad_clip=-1", "expected 0 or more, got -1.0", None),
        ("keep_clean=vg@test", r'a list like `\["coco@val", "vg@test"\]`', "keep_clean=[]"),
        ('keep_clean=["vg"]', "`vg`: expected DATASET@SPLIT", None),
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
