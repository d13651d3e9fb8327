"""Importing GPT4RoI's release, on a synthetic one: true names, small layers, random numbers."""

import json
import shlex
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoProcessor, CLIPConfig, CLIPModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from roikit.config import load_recipe
from roikit.errors import RoikitError, UsageError
from roikit.model import import_gpt4roi, released_tensors
from roikit.model.generate import generate, load_model, score_options, stream_answer
from roikit.model.import_gpt4roi import ImportPlan, plan_import, write_import
from roikit.model.skeleton import build_skeleton
from roikit.prompt import Prompt, render
from roikit.sample import Region, Turn
from tests.roikit.model import gpt4roi_release as made
from tests.roikit.model.gpt4roi_release import Release, write_release

BIG = 10**9


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return write_release(tmp_path_factory.mktemp("release"))


def plan(release: Release, *, size: int = BIG, dtype: str = "auto") -> ImportPlan:
    return plan_import(
        release.delta, release.base, str(release.vision), dtype=dtype, max_shard_bytes=size
    )


@pytest.fixture(scope="module")
def imported(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "model"
    write_import(plan(release, size=1_000_000), out)
    return out


def weights(folder: Path) -> dict[str, Tensor]:
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def prompt(text: str = "What is <region1>, left of <region2>? And <region1>?") -> Prompt:
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    regions = (Region(box_xyxy=(1, 2, 20, 25)), Region(box_xyxy=(10, 5, 70, 50)))
    return Prompt(image=image, regions=regions, turns=(Turn("user", text),))


# --- the weights ---


def test_every_tensor_is_the_sum_or_the_copy_it_should_be(release: Release, imported: Path) -> None:
    found = weights(imported)
    old = len(release.bases["lm_head.weight"])
    shared = [name for name in release.bases if "inv_freq" not in name]
    for name in shared:
        expected = release.deltas[name].float()
        expected[:old] += release.bases[name].float()
        assert torch.equal(found.pop(f"language_model.{name}"), expected.half()), name
    for theirs, ours in (
        ("model.mm_projector.", "projector.layers."),
        ("model.spi_module.", "region_encoder."),
    ):
        for name in [name for name in release.deltas if name.startswith(theirs)]:
            copied = found.pop(ours + name.removeprefix(theirs))
            assert torch.equal(copied, release.deltas[name]), name
    tower = load_file(release.vision / "model.safetensors")
    assert {name.partition(".")[0] for name in found} == {"vision_tower"}
    for name, value in tower.items():
        (ours,) = [n for n in found if n.endswith(f".{name.removeprefix('vision_model.')}")]
        assert torch.equal(found.pop(ours), value.half()), name
    assert not found


def test_files_keep_to_the_size_and_the_index_names_all_tensors(imported: Path) -> None:
    index = json.loads((imported / "model.safetensors.index.json").read_text())
    files = sorted(imported.glob("*.safetensors"))
    assert len(files) > 1 and set(index["weight_map"].values()) == {f.name for f in files}
    for file in files:
        held = load_file(file)
        assert all(index["weight_map"][name] == file.name for name in held)
        assert sum(t.nbytes for t in held.values()) <= 1_000_000 or len(held) == 1
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in weights(imported).values())


def test_float32_is_the_exact_sum(release: Release, tmp_path: Path) -> None:
    write_import(plan(release, dtype="fp32"), tmp_path / "m")
    name = "model.layers.1.mlp.up_proj.weight"
    expected = release.deltas[name].float() + release.bases[name].float()
    assert torch.equal(weights(tmp_path / "m")[f"language_model.{name}"], expected)


def test_the_true_shapes_match_the_recipes_model_both_ways() -> None:
    model = build_skeleton(load_recipe("gpt4roi-7b", stage="stage1").model)
    ours = {name: tuple(t.shape) for name, t in model.region_encoder.state_dict().items()}
    assert ours == made.region_shapes(width=4096, inner=1024)
    count = sum(p.numel() for p in model.region_encoder.parameters())
    assert count / 1e6 == pytest.approx(299.1, abs=0.05)
    assert {n: tuple(t.shape) for n, t in model.projector.state_dict().items()} == {
        "layers.weight": (4096, 1024),
        "layers.bias": (4096,),
    }
    language = made.language_shapes(32000, width=4096, layers=32, inner=11008)
    wanted = {name: shape for name, shape in language.items() if "inv_freq" not in name}
    assert {n: tuple(t.shape) for n, t in model.language_model.state_dict().items()} == wanted


def test_other_forms_and_sizes_give_one_model_too(tmp_path: Path) -> None:
    """As the 13B would come: other sizes, torch files with an index, bfloat16, a whole CLIP."""
    rows, width = len(made.tokenizer()), 40
    base = made.random(made.language_shapes(rows, width, 3, 56), 1, torch.float16)
    made.write_llama(tmp_path / "llama", base, width=width)
    for file in tmp_path.glob("llama/*.bin*"):
        file.unlink()
    save_file(base, tmp_path / "llama" / "model.safetensors")
    shapes = made.language_shapes(rows + 6, width, 3, 56) | made.projector_shapes(width)
    shapes |= {f"model.spi_module.{n}": s for n, s in made.region_shapes(width).items()}
    delta = made.random(shapes, 2, torch.bfloat16)
    made.write_halves(tmp_path / "delta", delta)
    clip = CLIPModel(CLIPConfig(text_config=made.CLIP_TEXT, vision_config=made.CLIP_VISION))
    clip.half().save_pretrained(tmp_path / "clip")

    ready = plan_import(
        tmp_path / "delta", tmp_path / "llama", str(tmp_path / "clip"), max_shard_bytes=BIG
    )
    write_import(ready, tmp_path / "m")
    found = weights(tmp_path / "m")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    name = "lm_head.weight"
    expected = delta[name].float()
    expected[:rows] += base[name].float()
    assert torch.equal(found[f"language_model.{name}"], expected.bfloat16())
    cell = "embeddings.patch_embedding.weight"
    (copied,) = (found[n] for n in found if n.endswith(cell))
    assert torch.equal(copied, clip.state_dict()[f"vision_model.{cell}"].bfloat16())
    assert load_model(tmp_path / "m", device="cpu").model.config.text_config.hidden_size == width


# --- what is refused ---


def changed(release: Release, folder: Path, **changes: Tensor | None) -> Release:
    """Copy the release with some of the delta's tensors replaced, added or left out."""
    tensors = dict(release.deltas)
    for key, value in changes.items():
        name = key.replace("__", ".")
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value
    save_file(tensors, folder / "model.safetensors")
    return replace(release, delta=folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model__norm__weight": None}, "missing: `model.norm.weight`"),
        ({"model__norm__bias": torch.ones(3)}, "unexpected: `model.norm.bias`"),
        (
            {"model__mm_projector__bias": torch.ones(3)},
            r"of another shape: `model.mm_projector.bias` \[3\] \(expected \[32\]\)",
        ),
        (
            {"model__spi_module__roi_align__updims__bias": None},
            "missing: `model.spi_module.roi_align.updims.bias`",
        ),
    ],
)
def test_names_and_shapes_that_do_not_fit_are_one_line(
    release: Release, tmp_path: Path, changes: dict[str, Tensor | None], said: str
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        plan(changed(release, tmp_path, **changes))
    assert "\n" not in str(caught.value) and caught.value.hint


def test_a_base_of_another_size_is_refused(release: Release, tmp_path: Path) -> None:
    rows = len(made.tokenizer())
    shapes = made.language_shapes(rows, width=16, layers=3, inner=24)
    made.write_llama(tmp_path / "b", made.random(shapes, 5, torch.float16), width=16)
    with pytest.raises(UsageError, match=r"of another shape: .* and [0-9]+ more"):
        plan(replace(release, base=tmp_path / "b"))


def test_a_tokenizer_of_another_size_is_refused(release: Release, tmp_path: Path) -> None:
    shutil.copytree(release.base, tmp_path / "b")
    tokenizer = made.tokenizer()
    tokenizer.add_tokens(["one"])
    tokenizer.save_pretrained(tmp_path / "b")
    with pytest.raises(UsageError, match=r"expected the tokens \[PAD\], <im_patch>"):
        plan(replace(release, base=tmp_path / "b"))


def test_a_checkpoint_with_a_file_missing_or_damaged_is_refused(
    release: Release, tmp_path: Path
) -> None:
    shutil.copytree(release.base, tmp_path / "b")
    (tmp_path / "b" / "b.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UsageError, match=r"b\.bin: cannot be read"):
        plan(replace(release, base=tmp_path / "b"))
    (tmp_path / "b" / "b.bin").unlink()
    with pytest.raises(UsageError, match="1 of 2 files of the checkpoint are missing"):
        plan(replace(release, base=tmp_path / "b"))
    with pytest.raises(UsageError, match="expected a checkpoint"):
        plan(replace(release, base=tmp_path))
    with pytest.raises(UsageError, match=r"--delta .*: expected a folder, found nothing"):
        plan(replace(release, delta=tmp_path / "no"))


def test_what_stands_at_out_is_kept_unless_told_otherwise(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = plan(release)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    for kept in (tmp_path / "mine", release.base, release.vision):
        with pytest.raises(UsageError, match="expected an empty folder or a model of roikit"):
            write_import(ready, kept, overwrite=True)
    write_import(ready, tmp_path / "m")
    with pytest.raises(UsageError, match="holds a model already"):
        write_import(ready, tmp_path / "m")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = weights(tmp_path / "m").keys()
    with pytest.raises(KeyboardInterrupt):
        write_import(ready, tmp_path / "m", overwrite=True, progress=stop)
    assert weights(tmp_path / "m").keys() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "mine"]
    write_import(ready, tmp_path / "m", overwrite=True)

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(RoikitError, match="of room on the disk, found 0 B"):
        write_import(ready, tmp_path / "new")


# --- how it speaks ---


def test_a_prompt_reads_as_the_reference_wrote_it(imported: Path) -> None:
    processor = load_model(imported, device="cpu").processor
    encoded = processor.encode_prompt(prompt())
    tokenizer = processor.tokenizer
    tokens = tokenizer.convert_ids_to_tokens(encoded.input_ids)
    assert tokens.count("<im_patch>") == 256 and tokens.count("<bbox>") == 2
    start, end = tokens.index("<im_start>"), tokens.index("<im_end>")
    assert tokens[start + 1 : end] == ["<im_patch>"] * 256
    head = "".join(tokens[:start]).replace("▁", " ").replace("<0x0A>", "\n")
    assert head == (
        "<s> A chat between a curious human and an artificial intelligence assistant. The "
        "assistant gives helpful, detailed, and polite answers to the human's questions.\n\n"
        "### Human: The"
    )
    rest = "".join(tokens[end + 1 :]).replace("▁", " ").replace("<0x0A>", "\n")
    # the blanks around a token belong to it; the tokenizer puts one before the text behind it
    assert rest == (
        " provides an overview of the picture.\nWhat is region1<bbox> , left of region2<bbox> ? "
        "And region1?\n### Assistant:"
    )
    first = encoded.input_ids.index(made_id(processor, "<bbox>"))
    assert tokenizer.convert_ids_to_tokens(encoded.input_ids[first - 1]) == "1"


def made_id(processor: object, token: str) -> int:
    found: int = processor.tokenizer.convert_tokens_to_ids(token)  # type: ignore[attr-defined]
    return found


def test_a_batch_answers_as_one_by_one(imported: Path) -> None:
    loaded = load_model(imported, device="cpu")
    with torch.no_grad():  # small random weights say the same whatever they are asked
        for layer in loaded.model.language_model.model.layers:
            for weight in layer.parameters():
                weight *= 8
    asked = [
        prompt(),
        prompt("Say <region2>, though I write ### Human: <<bbox> <<im_patch> here."),
        prompt("Describe the picture."),
    ]
    alone = [generate(loaded, [one], max_new_tokens=4)[0] for one in asked]
    assert generate(loaded, asked, max_new_tokens=4) == alone
    assert len(set(alone)) > 1, "the prompts make no difference"


def test_the_loss_falls_on_answers_and_the_marks_that_end_them(imported: Path) -> None:
    processor = load_model(imported, device="cpu").processor
    turns = (
        Turn("user", "What is <region1>?"),
        Turn("assistant", "red square"),
        Turn("user", "And then?"),
        Turn("assistant", "green"),
    )
    rendered = render(turns, num_regions=1, special_tokens=processor.special_tokens)
    encoded = processor.encode(rendered)
    pairs = zip(encoded.input_ids, encoded.assistant_mask, strict=True)
    spoken = [t for t, learned in pairs if learned]
    text = "".join(processor.tokenizer.convert_ids_to_tokens(spoken))
    assert text.replace("▁", " ").replace("<0x0A>", "\n") == " red square\n### green\n###"


@pytest.mark.parametrize(
    "literal", ["<|image|>", "<|region|>", "<bbox>", "<im_patch>", "<im_start>", "<s>", "[PAD]"]
)
def test_tokens_that_a_user_writes_stay_text(imported: Path, literal: str) -> None:
    processor = load_model(imported, device="cpu").processor
    plain = processor.encode_prompt(prompt("What is <region1>?"))
    encoded = processor.encode_prompt(prompt(f"What is <region1>{literal.replace('<', '<<')}?"))
    special = set(processor.tokenizer.all_special_ids)
    special |= set(processor.tokenizer.get_added_vocab().values())

    def count(ids: list[int]) -> int:
        return sum(i in special for i in ids)

    unknown = processor.tokenizer.unk_token_id
    assert unknown not in encoded.input_ids
    assert count(encoded.input_ids) == count(plain.input_ids)


def test_options_are_scored_with_the_tokens_of_training(imported: Path) -> None:
    loaded = load_model(imported, device="cpu")
    asked, answer = prompt(), "red <region2>"
    encoded = loaded.processor.encode_prompt(asked, options=(answer,))
    turns = (*asked.turns, Turn("assistant", answer))
    whole = loaded.processor.encode(
        render(turns, num_regions=2, special_tokens=loaded.processor.special_tokens)
    )
    tail = loaded.processor.encode_answer(encoded, answer)
    assert [*encoded.input_ids, *tail] == whole.input_ids
    ((score,),) = score_options(loaded, [asked], [[answer]])
    assert score.num_tokens == len(tail) == sum(whole.assistant_mask)


def test_an_answer_ends_before_the_marks(imported: Path) -> None:
    loaded = load_model(imported, device="cpu")
    assert loaded.model.generation_config.stop_strings == ["###"]
    processor = loaded.processor
    asked = prompt("What is <region1>?")
    encoded = processor.encode_prompt(asked)
    said = processor.encode_answer(encoded, "red region1")
    said += processor.tokenizer("Human: more", add_special_tokens=False)["input_ids"]
    count = 0

    def speak(_module: object, _inputs: object, output: CausalLMOutputWithPast) -> None:
        """Make the model say the words above."""
        nonlocal count
        assert output.logits is not None
        output.logits[:, -1] = -100.0
        output.logits[:, -1, said[count % len(said)]] = 100.0
        count += 1

    loaded.model.register_forward_hook(speak)
    assert generate(loaded, [asked], max_new_tokens=len(said)) == ["red <region1>"]
    assert count < len(said), "generation went on after the end of the turn"
    count = 0
    assert "".join(stream_answer(loaded, asked, max_new_tokens=len(said))).strip() == "red region1"


def test_what_was_written_reads_prompts_as_the_plan_does(release: Release, imported: Path) -> None:
    ready = plan(release).processor
    saved = AutoProcessor.from_pretrained(imported)
    asked = prompt("What is <region1>,\n left of <region2>? ### <<bbox>")
    here, there = ready([asked]), saved([asked])
    assert here.keys() == there.keys()
    for name, value in here.items():
        assert torch.equal(value, there[name]), name
    assert not saved.use_masks and type(saved) is type(ready)


@pytest.mark.slow
def test_a_fresh_process_loads_it_by_the_auto_classes_and_generates_the_same(
    imported: Path,
) -> None:
    script = (
        "import sys, torch, roikit.model;"
        "from transformers import AutoModelForImageTextToText, AutoProcessor;"
        "from tests.roikit.model.test_import_gpt4roi import prompt;"
        "m = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype=torch.float32).eval();"
        "p = AutoProcessor.from_pretrained(sys.argv[1]);"
        "x = p([prompt()]);"
        "y = m.generate(**x, max_new_tokens=5, tokenizer=p.tokenizer);"
        "print(y[0, x['input_ids'].shape[1]:].tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(imported)], capture_output=True, text=True, check=True
    )
    loaded = load_model(imported, device="cpu")
    inputs = loaded.processor([prompt()])
    with torch.inference_mode():
        here = loaded.model.generate(
            **inputs, max_new_tokens=5, tokenizer=loaded.processor.tokenizer
        )
    assert json.loads(done.stdout) == here[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_it_answers_in_half_precision_whatever_the_towers_file_was_saved_in(
    imported: Path, dtype: str
) -> None:
    loaded = load_model(imported, device="cpu", dtype=dtype)
    assert loaded.model.config.vision["config"]["dtype"] == "float32"
    assert len({weight.dtype for weight in loaded.model.parameters()}) == 1
    assert len(generate(loaded, [prompt()], max_new_tokens=2)) == 1


def test_no_tensor_is_held_once_it_is_written(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, made_ = released_tensors.read_tensor, import_gpt4roi.make_tensor
    seen: list[weakref.ref[Tensor]] = []
    most = {"read": 0, "made": 0}

    def watched(kind: str, make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def watch(*arguments: Any) -> Tensor:
            held = {id(tensor) for ref in seen if (tensor := ref()) is not None}
            most[kind] = max(most[kind], len(held))
            tensor = make(*arguments)
            seen.append(weakref.ref(tensor))
            return tensor

        return watch

    monkeypatch.setattr(released_tensors, "read_tensor", watched("read", read))
    monkeypatch.setattr(import_gpt4roi, "make_tensor", watched("made", made_))
    write_import(plan(release), tmp_path / "m")
    assert len(seen) > 200
    # the one written last; while a sum is made, the delta's too
    assert most == {"made": 1, "read": 2}


@pytest.mark.slow
def test_memory_stays_far_below_the_model_and_a_file(tmp_path: Path) -> None:
    """A release of 190 MB in tensors of up to 6 MB, to be written in files of 100 MB."""
    rows, width = len(made.tokenizer()), 1024
    base = made.zeros(made.language_shapes(rows, width, 7, 3072))
    shapes = made.language_shapes(rows + 6, width, 7, 3072) | made.projector_shapes(width)
    shapes |= {f"model.spi_module.{n}": s for n, s in made.region_shapes(width).items()}
    made.write_llama(tmp_path / "llama", base, width=width)
    made.write_clip(tmp_path / "clip")
    (tmp_path / "delta").mkdir()
    torch.save(made.zeros(shapes), tmp_path / "delta" / "pytorch_model.bin")
    script = (
        "import resource, sys; from pathlib import Path;"
        "from roikit.model.import_gpt4roi import plan_import, write_import;"
        "at = Path(sys.argv[1]);"
        "p = plan_import(at/'delta', at/'llama', str(at/'clip'), max_shard_bytes=100_000_000);"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024;"
        "before = int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize();"
        "write_import(p, at/'out'); print(p.num_bytes, peak() - before)"
    )
    # A process starts with the peak of the one it was forked from: of a shell, not of this one.
    words = shlex.join([sys.executable, "-c", script, str(tmp_path)])
    done = subprocess.run(
        ["sh", "-c", f"{words}; exit $?"], capture_output=True, text=True, check=True
    )
    num_bytes, grown = map(int, done.stdout.split())
    assert num_bytes > 180_000_000
    assert grown < 80_000_000, f"{grown:,} bytes for files of 100 MB"
