"""The reference's recipe with miniature stand-ins of its parts: LLaMA, CLIP, LLaVA's projector."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pipelines.token_counts import TokenizerCounter, introduced_text
from roikit.config import Recipe, load_recipe
from roikit.errors import RoikitError, UsageError
from roikit.model.build import build_model
from roikit.model.generate import LoadedModel, load_model
from roikit.model.import_gpt4roi import plan_import, write_import
from roikit.model.projector import Projector, load_projector_weights
from roikit.train.run import train_stage
from tests.roikit.conftest import ToySource
from tests.roikit.model import gpt4roi_release as made


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `vicuna` and `clip`, and `mm_projector.bin`."""
    folder = tmp_path_factory.mktemp("parts")
    tokenizer = made.tokenizer()
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=made.WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "vicuna")
    tokenizer.save_pretrained(folder / "vicuna")
    made.write_clip(folder / "clip")
    projector = made.random(made.projector_shapes(), 4, torch.float16)
    embeddings = {"model.embed_tokens.weight": torch.zeros(6, made.WIDTH)}
    torch.save(projector | embeddings, folder / "mm_projector.bin")
    return folder


def recipe(parts: Path, stage: str, **changes: Any) -> Recipe:
    settings = {
        "model.vision": parts / "clip",
        "model.language": parts / "vicuna",
        "model.projector_weights": parts / "mm_projector.bin",
        "model.region_width": 16,  # most of a step's time goes into the pyramid
        f"{stage}.steps": 2,
        f"{stage}.batch_size": 2,
        f"{stage}.micro_batch": 0,
        f"{stage}.dtype": "fp32",
        f"{stage}.parallel": "ddp",
        f"{stage}.lr": 1e-3,
        f"{stage}.warmup": 0,
        **changes,
    }
    overrides = [f"{key}={value}" for key, value in settings.items()]
    return load_recipe("gpt4roi-7b", stage=stage, overrides=overrides)


def moved_parts(before: LoadedModel, after: LoadedModel) -> set[str]:
    """Name the parts in which some weight differs."""
    old = before.model.state_dict()
    return {
        name.partition(".")[0]
        for name, value in after.model.state_dict().items()
        if not torch.equal(value, old[name])
    }


def test_both_stages_start_without_align_and_leave_a_model(parts: Path, tmp_path: Path) -> None:
    start = None
    for stage in ("stage1", "stage2"):
        train_stage(
            recipe(parts, stage),
            source=ToySource(batch_size=2),
            out=tmp_path / stage,
            start=start,
            texts=None,
            device="cpu",
        )
        start = tmp_path / stage
    built = build_model(recipe(parts, "stage1").model)
    new = LoadedModel(model=built.model, processor=built.processor)
    one, two = (load_model(tmp_path / stage, device="cpu") for stage in ("stage1", "stage2"))
    assert moved_parts(new, one) == {"region_encoder"}
    assert moved_parts(one, two) == {"projector", "region_encoder", "language_model"}
    assert two.model.generation_config.stop_strings == ["###"]
    assert two.processor.region_token == "<bbox>"


def test_an_imported_model_is_trained_further(parts: Path, tmp_path: Path) -> None:
    release = made.write_release(tmp_path / "release")
    ready = plan_import(
        release.delta, release.base, str(release.vision), dtype="fp32", max_shard_bytes=10**9
    )
    write_import(ready, tmp_path / "imported")
    train_stage(
        recipe(parts, "stage2", **{"stage2.steps": 1, "stage2.batch_size": 1}),
        source=ToySource(batch_size=1),
        out=tmp_path / "run",
        start=tmp_path / "imported",
        device="cpu",
    )
    before, after = (load_model(tmp_path / at, device="cpu") for at in ("imported", "run"))
    assert moved_parts(before, after) == {"projector", "region_encoder", "language_model"}
    assert after.model.generation_config.stop_strings == ["###"]
    assert after.processor.region_token == "<bbox>" and not after.processor.use_masks


def test_a_new_model_has_the_projector_and_the_tokens_at_the_mean(parts: Path) -> None:
    built = build_model(recipe(parts, "stage1").model)
    assert built.from_scratch == ("region_encoder",)
    assert not built.processor.use_masks  # the reference reads boxes alone
    saved = torch.load(parts / "mm_projector.bin", weights_only=True)
    layer = built.model.projector.layers
    assert torch.equal(layer.weight, saved["model.mm_projector.weight"].float())
    tokenizer = built.processor.tokenizer
    old = len(made.tokenizer())
    ids = [tokenizer.convert_tokens_to_ids(token) for token in made.ADDED]
    assert ids == list(range(old, old + 6))
    language = built.model.language_model
    for layer in (language.get_input_embeddings(), language.get_output_embeddings()):
        mean = layer.weight[:old].mean(dim=0)
        assert torch.allclose(layer.weight[old:], mean.expand(6, -1))


def test_missing_parts_are_named_with_where_they_come_from(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for key, said, hint in (
        ("model.language", "`vicuna-7b-v0` is neither", "lmsys/vicuna-7b-delta-v0"),
        ("model.projector_weights", "`no.bin`: no such file", "LLaVA-Pretrained-Projectors"),
        ("model.vision", "`openai/clip-vit-large-patch14` is neither", "--set model.vision=DIR"),
    ):
        name = said.split("`")[1]
        with pytest.raises(UsageError, match=said) as caught:
            build_model(recipe(parts, "stage1", **{key: name}).model)
        assert hint in str(caught.value.hint)
    with pytest.raises(RoikitError, match="projector would stay at random weights"):
        train_stage(
            recipe(parts, "stage1", **{"model.projector_weights": '""'}),
            source=ToySource(batch_size=2),
            out=parts / "run",
            start=None,
            texts=None,
            device="cpu",
        )


def test_projector_weights_of_another_form_are_refused(parts: Path, tmp_path: Path) -> None:
    file = parts / "mm_projector.bin"
    with pytest.raises(UsageError, match=r"expected `mm_projector.weight` \[16, 64\]"):
        load_projector_weights(Projector(64, 16, kind="linear"), file)
    with pytest.raises(UsageError, match="expected") as caught:
        load_projector_weights(Projector(64, 32), file)
    assert 'projector = "linear"' in str(caught.value.hint)
    (tmp_path / "x.bin").write_text("not torch")
    with pytest.raises(UsageError, match="cannot be read"):
        load_projector_weights(Projector(64, 32, kind="linear"), tmp_path / "x.bin")


def test_a_format_that_does_not_exist_is_refused(parts: Path) -> None:
    with pytest.raises(UsageError, match="`vicuna`: no such file or format") as caught:
        build_model(recipe(parts, "stage1", **{"model.chat_template": "vicuna"}).model)
    assert "vicuna-v0" in str(caught.value.hint)


def test_lengths_are_counted_in_the_formats_tokens(parts: Path) -> None:
    processor = build_model(recipe(parts, "stage1").model).processor
    counter = TokenizerCounter(processor.tokenizer)
    introduced, plain = counter.count([f"x {introduced_text(1)}", "x region1"])
    assert introduced == plain + 1
    assert "<im_start><im_patch><im_end>" in counter.frame.head
