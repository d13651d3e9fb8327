"""Adapters learn, everything else in the language model rests, and a stop costs nothing."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from roikit.errors import UsageError
from roikit.model.generate import load_model
from roikit.train.optim import build_optimizers
from roikit.train.parts import prepare
from tests.roikit.conftest import TEXTS, TINY
from tests.roikit.train.test_train import Stopping, losses, make_recipe, run

PARTS = ("projector", "language_model")


def lora(**changes: Any) -> Any:
    return make_recipe(stage="stage2", train=PARTS, lora_rank=4, steps=4, save_every=2, **changes)


def new_model() -> Any:
    from roikit.model.build import build_model

    return build_model(TINY, texts=TEXTS).model


def test_only_adapters_learn_in_the_language_model() -> None:
    model = new_model()
    prepare(model, lora(optimizer="muon"))
    learning = {name for name, p in model.language_model.named_parameters() if p.requires_grad}
    assert learning
    assert all(".lora_" in name for name in learning)
    assert {name.split(".")[-4] for name in learning} >= {"q_proj", "down_proj"}
    assert all(p.requires_grad for p in model.projector.parameters())
    names = {id(p): name for name, p in model.named_parameters()}
    by_muon = [
        names[id(p)]
        for optimizer in build_optimizers(model, lora(optimizer="muon").run)
        if type(optimizer).__name__ == "Muon"
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    assert by_muon
    assert not any(".lora_" in name for name in by_muon)


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    run(tmp_path / "start", make_recipe(steps=2))
    for dropout in (0.0, 0.3):  # dropout draws by step
        whole, cut = tmp_path / f"whole{dropout}", tmp_path / f"cut{dropout}"
        run(whole, lora(lora_dropout=dropout), start=tmp_path / "start")
        with pytest.raises(RuntimeError, match="the power went"):
            run(
                cut,
                lora(lora_dropout=dropout),
                start=tmp_path / "start",
                source=Stopping(after=6),
            )
        result = run(cut, lora(lora_dropout=dropout), start=tmp_path / "start")
        assert result.resumed_from == 2
        assert losses(cut) == losses(whole)
    before = load_model(tmp_path / "start", device="cpu").model.state_dict()
    after = load_model(whole, device="cpu").model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("q_proj" in name for name in moved)
    assert not any("embed" in name or "norm" in name for name in moved if "language" in name)


def test_a_name_that_is_no_layer_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="lora_targets: `query`") as caught:
        prepare(new_model(), lora(lora_targets=("q_proj", "query")))
    assert "q_proj" in str(caught.value.hint)


def test_adapters_need_a_language_model_that_may_learn() -> None:
    recipe = make_recipe(train=("projector",), lora_rank=4)
    with pytest.raises(UsageError, match=r"align\.lora_rank: 4 puts adapters"):
        prepare(new_model(), recipe)


def test_without_peft_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match="needs the package `peft`") as caught:
        prepare(new_model(), lora())
    assert "[lora]" in str(caught.value.hint)
