"""What a run's folder refuses to go on with, and how it says so."""

import json
from pathlib import Path
from typing import Any

import pytest

from roikit.errors import UsageError
from roikit.train.run_folder import check_folder, identity_of
from tests.roikit.train.test_train import make_recipe

ROOTS = {"coco/train": "a" * 64, "vg/train": "b" * 64}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    told = identity_of(make_recipe(), None, {"mix": "coco,vg", "splits": ROOTS})
    (tmp_path / "run.json").write_text(json.dumps(told), encoding="utf-8")
    return tmp_path


def refusal(out: Path, splits: dict[str, str] = ROOTS, **changes: Any) -> str:
    identity = identity_of(make_recipe(**changes), None, {"mix": "coco,vg", "splits": splits})
    with pytest.raises(UsageError) as caught:
        check_folder(out, identity, None, overwrite=False)
    assert "--out" in (caught.value.hint or "")
    return str(caught.value)


def test_keys_that_differ_are_named_with_what_the_run_has_and_what_was_asked_for(
    out: Path,
) -> None:
    assert refusal(out, lr=0.5, layout="packed", keep=7) == (
        f"{out}: holds a run with another recipe: "
        'align.layout: it has "plain", asked for was "packed"; '
        "align.lr: it has 0.01, asked for was 0.5"
    )


def test_shards_that_were_made_anew_are_named_by_split(out: Path) -> None:
    assert refusal(out, splits=ROOTS | {"vg/train": "c" * 64}) == (
        f"{out}: holds a run with another state of the shards: "
        "`vg/train` had Merkle root `bbbbbbbbbbbbbbbb` when it began, has `cccccccccccccccc` now"
    )


def test_free_keys_may_change(out: Path) -> None:
    recipe = make_recipe(keep=7, micro_batch=1, save_every=1)
    identity = identity_of(recipe, None, {"mix": "coco,vg", "splits": ROOTS})
    assert check_folder(out, identity, None, overwrite=False)
