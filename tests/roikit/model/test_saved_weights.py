"""What a saved model's folder must hold to be loaded, in use and as a stage's start."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from roikit.config import load_recipe
from roikit.errors import UsageError
from roikit.model.build import build_model
from roikit.model.generate import load_model
from roikit.train.run import train_stage
from tests.roikit.conftest import TEXTS, TINY, ToySource


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "m"
    built = build_model(replace(TINY, region_encoder="replay"), texts=TEXTS)
    built.model.save_pretrained(folder)
    built.processor.save_pretrained(folder)
    return folder


@pytest.fixture
def said_by_transformers() -> Iterator[list[str]]:
    """What transformers logs, which it keeps from the root logger."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("transformers").addHandler(handler)
    yield said
    logging.getLogger("transformers").removeHandler(handler)


def change(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def leave_out_encoder(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("region_encoder.")]:
        del tensors[name]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (leave_out_encoder, r"missing: `region_encoder\.[^`]+`, .* and \d+ more$"),
        (lambda t: t.update(old=torch.ones(2)), "unexpected: `old`$"),
        (
            lambda t: t.update({"projector.layers.3.bias": torch.ones(3)}),
            r"of another shape: `projector\.layers\.3\.bias` \[3\] \(expected \[32\]\)$",
        ),
        (
            lambda t: t.update(old=t.pop("projector.layers.3.bias")),
            r"missing: `projector\.layers\.3\.bias`; unexpected: `old`$",
        ),
    ],
)
def test_weights_that_are_not_the_configurations_are_one_line(
    saved: Path,
    edit: Callable[[dict[str, Tensor]], object],
    said: str,
    said_by_transformers: list[str],
) -> None:
    change(saved, edit)
    with pytest.raises(UsageError, match=said) as caught:
        load_model(saved, device="cpu")
    assert "\n" not in str(caught.value) and caught.value.hint
    assert not said_by_transformers


def test_a_stage_does_not_start_from_weights_that_are_missing(saved: Path, tmp_path: Path) -> None:
    change(saved, leave_out_encoder)
    with pytest.raises(UsageError, match="missing: `region_encoder"):
        train_stage(
            load_recipe("tiny", stage="stage1"),
            source=ToySource(),
            out=tmp_path / "run",
            start=saved,
            texts=None,
            device="cpu",
        )
    assert not (tmp_path / "run").exists()


def test_a_file_that_was_cut_short_is_one_line(saved: Path) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UsageError, match="the model cannot be read: ") as caught:
        load_model(saved, device="cpu")
    assert "\n" not in str(caught.value)


def test_whole_weights_load_without_a_word(saved: Path, said_by_transformers: list[str]) -> None:
    load_model(saved, device="cpu")
    assert not said_by_transformers


def test_weights_that_are_tied_are_not_missing(tmp_path: Path) -> None:
    built = build_model(TINY, texts=TEXTS)
    assert built.model.config.tie_word_embeddings
    built.model.save_pretrained(tmp_path)
    built.processor.save_pretrained(tmp_path)
    assert "language_model.lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model = load_model(tmp_path, device="cpu").model.language_model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_another_kind_of_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UsageError, match="expected a roikit model, found `llama`"):
        load_model(tmp_path, device="cpu")
