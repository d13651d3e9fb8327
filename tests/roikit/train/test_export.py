"""The result of a run: loads in a fresh process, and says where it comes from."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from roikit.model.generate import load_model
from roikit.train import export as exporting
from roikit.train.card import add_scores
from roikit.train.export import export
from roikit.train.metrics import read_held_out
from tests.roikit.train.test_train import aligned as aligned
from tests.roikit.train.test_train import losses, make_recipe, run

DATA = {
    "mix": "vg=1,vcr:qa=2",
    "splits": {"vg/train": "abc123", "own/train": "def456"},
    "sources": {"vg": 1234567},
    "licences": {"vg/train": "CC BY 4.0", "own/train": None},  # of a commit that says nothing
    "kept_clean": {"sha256": "x", "unresolved": ["lvis@val"]},
}


def test_a_fresh_process_loads_the_result(aligned: Path) -> None:
    code = (
        "import sys, roikit.model\n"
        "from transformers import AutoModel, AutoProcessor\n"
        "from roikit.model.modeling import RoikitForConditionalGeneration as R\n"
        "model, told = R.from_pretrained(sys.argv[1], output_loading_info=True)\n"
        "print({str(p.dtype) for p in model.parameters()}, *map(sorted, told.values()))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, aligned / "model"], capture_output=True, text=True, check=True
    )
    assert ended.stdout.startswith("{'torch.float32'} [] []"), ended.stdout


def test_the_card_says_what_was_recorded_and_no_more(aligned: Path, tmp_path: Path) -> None:
    recipe = make_recipe(stage="stage1", train=("region_encoder",), steps=2, held_out=0.1)
    out = tmp_path / "run"
    run(out, recipe, start=aligned, data=DATA, excluded=["1", "2"])
    card = (out / "model" / "README.md").read_text(encoding="utf-8")
    told = json.loads((out / "run.json").read_text(encoding="utf-8"))
    for part in (
        "# toy stage1",
        f"| `{aligned.parent.name}/align` (SHA-256 of its weights: `{told['start_sha256']}`)",
        "| steps | 2 of 2 conversations |",
        f"| loss of the first step | {losses(out)[0][1]:.4f} |",
        "| `vg` | 1,234,567 |",
        "| `vg/train` | `abc123` | CC BY 4.0 |",
        "| `own/train` | `def456` | not recorded |",
        "10.00% of the pictures",
        "(2 identities of pictures). Not kept clean, since their pictures were not known: lvis@val",
        "None was measured when this was written.",
    ):
        assert part in card, part
    assert "held-out loss" not in card  # none was measured
    clean = card.partition("were left out: ")[2].partition("(")[0]
    assert "coco@val" in clean
    assert "lvis@val" not in clean
    before = card.partition("## Scores")
    for benchmark, value in (("vcr@val", "1.5"), ("coco@val", "9.5"), ("vcr@val", "2.5")):
        add_scores(out, benchmark, {"accuracy": value})
        card = (out / "model" / "README.md").read_text(encoding="utf-8")
    table = "| benchmark | accuracy |\n| --- | --- |\n| `coco@val` | 9.5 |\n| `vcr@val` | 2.5 |"
    assert f"## Scores\n\n{table}\n\n## Training" in card
    assert card.startswith(before[0])
    assert card.endswith(before[2].partition("## Training")[2])


def test_a_folder_without_a_card_gets_none(tmp_path: Path) -> None:
    add_scores(tmp_path, "vcr@val", {"accuracy": "1.5"})
    assert not list(tmp_path.iterdir())


def test_the_card_tells_the_last_held_out_loss(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out, make_recipe(steps=3, held_out=0.1, eval_every=2, eval_size=2))
    card = (out / "model" / "README.md").read_text(encoding="utf-8")
    measured = list(read_held_out(out / "metrics.jsonl"))
    assert [line["step"] for line in measured] == [2, 3]
    assert f"| held-out loss, step 3 | {measured[-1]['held_out']:.4f} |" in card
    assert card.count("held-out loss") == 1


def test_a_large_model_is_cut_into_files(
    built: Any, aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "MAX_FILE_SIZE", "50KB")
    out = copy_of_run(aligned, tmp_path)
    export(built.model, built.processor, make_recipe(), out)
    assert len(list((out / "model").glob("*.safetensors"))) > 2
    loaded = load_model(out, device="cpu").model.state_dict()
    for name, value in built.model.state_dict().items():
        assert torch.equal(loaded[name], value), name


def copy_of_run(aligned: Path, tmp_path: Path) -> Path:
    out = tmp_path / "run"
    out.mkdir()
    for name in ("run.json", "metrics.jsonl", "excluded.txt"):
        shutil.copy(aligned / name, out / name)
    return out


def test_a_stop_during_the_export_is_made_good(
    aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "model_card", None)  # fails when half of it is written
        with pytest.raises(TypeError):
            run(out)
    assert not (out / "model").exists()
    result = run(out)
    assert (result.resumed_from, result.last_loss) == (8, losses(aligned)[-1][1])
    for name in ("model.safetensors", "config.json"):
        assert (out / "model" / name).read_bytes() == (aligned / "model" / name).read_bytes()


def test_adapters_are_merged_and_lie_apart(aligned: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    out = copy_of_run(aligned, tmp_path)
    start = load_model(aligned, device="cpu")
    config = peft.LoraConfig(r=2, lora_alpha=4.0, target_modules="all-linear")
    model = start.model
    peft.inject_adapter_in_model(config, model.language_model)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    inputs = {"input_ids": torch.arange(12).view(1, 12)}
    with torch.no_grad():
        before = load_model(aligned, device="cpu").model(**inputs).logits
        adapted = model(**inputs).logits
    recipe = make_recipe(lora_rank=2)
    for _ in range(2):  # again, as after a kill
        export(model, start.processor, recipe, out)
    assert any("lora_" in name for name, _ in model.named_parameters())  # as it was
    with torch.no_grad():
        merged = load_model(out, device="cpu").model(**inputs).logits
        base = load_model(aligned, device="cpu").model
        base.language_model = peft.PeftModel.from_pretrained(base.language_model, out / "adapter")
        apart = base(**inputs).logits
    assert not torch.allclose(adapted, before, atol=1e-2)
    torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(apart, adapted, atol=1e-4, rtol=1e-4)
    card = (out / "model" / "README.md").read_text(encoding="utf-8")
    assert "LoRA adapters of rank 2" in card
    assert "PeftModel.from_pretrained" in card
