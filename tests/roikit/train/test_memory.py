"""Running out of memory ends in advice; checkpointing of activations saves what it should."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from roikit.errors import RoikitError
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.train.feed import StepReader
from roikit.train.loop import batch_loss
from roikit.train.parts import prepare
from tests.roikit.conftest import TEXTS, TINY, ToySource
from tests.roikit.train.test_train import make_recipe, run

FULL = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
    ),
}


@pytest.mark.parametrize("kind", FULL)
def test_running_out_of_memory_says_what_to_set(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise FULL[kind]

    monkeypatch.setattr(RoikitForConditionalGeneration, "forward", fail)
    with pytest.raises(RoikitError, match="out of memory on `cpu`: 4 conversations at once") as e:
        run(tmp_path / "a", make_recipe(batch_size=8, micro_batch=4))
    hint = str(e.value.hint)
    wanted = ["align.micro_batch=2 (4 now", "gradient_checkpointing=true", "parallel=fsdp"]
    wanted += ["lora_rank=16", "max_tokens=100 (200 now)"]
    places = [hint.find(text) for text in wanted]
    assert min(places) >= 0, hint
    assert places == sorted(places)
    with pytest.raises(RoikitError) as e:
        run(tmp_path / "b", make_recipe(batch_size=1, gradient_checkpointing=True))
    assert "micro_batch" not in str(e.value.hint)
    assert "gradient_checkpointing" not in str(e.value.hint)


def test_other_errors_pass_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(RoikitForConditionalGeneration, "forward", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run(tmp_path / "a")


def kept_and_gradients(**changes: Any) -> tuple[int, dict[str, torch.Tensor], float]:
    """Bytes kept for the backward pass, the gradients, and the loss."""
    from roikit.model.build import build_model

    built = build_model(replace(TINY, language_layers=4), texts=TEXTS)
    recipe = make_recipe(**changes)
    prepare(built.model, recipe)
    source = ToySource(batch_size=2)
    reader = StepReader(source, built.processor, recipe.run, seed=0)
    (batch,) = reader[0].batches
    assert batch is not None
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = batch_loss(built.model, built.processor, batch, 10.0)
    total = sum(kept.values())
    loss.backward()
    gradients = {n: p.grad for n, p in built.model.named_parameters() if p.grad is not None}
    return total, gradients, float(loss.detach())


@pytest.mark.parametrize("parts", [("region_encoder",), ("region_encoder", "language_model")])
def test_checkpointing_saves_memory_where_the_language_model_is_frozen_too(
    parts: tuple[str, ...],
) -> None:
    plain, gradients, loss = kept_and_gradients(train=parts)
    less, same, same_loss = kept_and_gradients(train=parts, gradient_checkpointing=True)
    assert less < 0.7 * plain
    assert loss == same_loss
    assert gradients.keys() == same.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, same[name], atol=1e-6), name


@pytest.mark.slow
def test_compiled_layers_compute_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.roikit.train.test_train import losses

    # what a killed test left half written in the shared cache would be loaded
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    run(tmp_path / "plain", make_recipe(steps=3))
    run(tmp_path / "compiled", make_recipe(steps=3, compile=True))
    one, two = losses(tmp_path / "plain"), losses(tmp_path / "compiled")
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], rel=1e-4)
