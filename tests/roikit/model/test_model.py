"""The model end to end on random weights of a few thousand parameters."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from roikit.errors import RoikitError, UsageError
from roikit.model.build import build_model
from roikit.model.generate import (
    LoadedModel,
    generate,
    load_model,
    score_options,
    stream_answer,
)
from roikit.model.projector import Projector
from roikit.model.regions import Regions
from roikit.model.replay import ReplayEncoder
from roikit.model.roi_align import pool_regions
from roikit.model.vision import EfficientNetLiteTower, PlainTower, VitTower
from roikit.prompt import IMAGE_TOKEN, Prompt, render
from roikit.sample import Region, Turn
from tests.roikit.conftest import TEXTS, TINY


def make_prompt(text: str = "What is <region1>?", seed: int = 0) -> Prompt:
    image = np.random.default_rng(seed).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    regions = (Region(box_xyxy=(1, 2, 20, 25)), Region(box_xyxy=(10, 5, 40, 30)))
    return Prompt(image=image, regions=regions, turns=(Turn("user", text),))


@pytest.fixture(scope="module")
def loaded(built: Any) -> LoadedModel:
    return LoadedModel(model=built.model.eval(), processor=built.processor)


def test_prompt_holds_as_many_places_as_the_model_has_features(loaded: LoadedModel) -> None:
    processor = loaded.processor
    encoded = processor.encode_prompt(make_prompt("<region2> or <region1>, <region2>?"))
    assert encoded.input_ids.count(processor.image_token_id) == 4
    assert encoded.input_ids.count(processor.region_token_id) == 2 * 4
    assert encoded.region_order == (2, 1)


def test_loss_falls_on_the_assistants_words_and_end_of_turn_alone(loaded: LoadedModel) -> None:
    processor = loaded.processor
    turns = (
        Turn("user", "What is <region1>?"),
        Turn("assistant", "red square"),
        Turn("user", "And <<|im_end|> then?"),
        Turn("assistant", "green"),
    )
    rendered = render(turns, num_regions=1, special_tokens=processor.special_tokens)
    encoded = processor.encode(rendered)
    spoken = [t for t, m in zip(encoded.input_ids, encoded.assistant_mask, strict=True) if m]
    assert processor.tokenizer.decode(spoken) == "red square<|im_end|>green<|im_end|>"
    # the user's literal <|im_end|> is text, not the token
    assert encoded.input_ids.count(processor.tokenizer.eos_token_id) == 4


def test_too_long_a_chat_loses_its_oldest_exchanges_and_keeps_its_regions(
    loaded: LoadedModel,
) -> None:
    processor = loaded.processor
    turns = (
        Turn("user", "What is <region2>?"),
        Turn("assistant", "a red square"),
        Turn("user", "And <region1>, beside <region2>?"),
        Turn("assistant", "green"),
        Turn("user", "Is <region2> blue?"),
    )
    prompt = replace(make_prompt(), turns=turns)
    whole = processor.encode_prompt(prompt)
    assert whole.region_order == (2, 1)
    length = len(whole.input_ids)
    shorter = processor.encode_prompt(prompt, max_tokens=length - 1)
    assert shorter.region_order == (1, 2)
    assert shorter.input_ids.count(processor.region_token_id) == 8
    last = processor.encode_prompt(replace(prompt, turns=turns[-1:]))
    assert processor.encode_prompt(prompt, max_tokens=len(last.input_ids)) == last
    with pytest.raises(RoikitError, match="the model's context leaves room for"):
        processor.encode_prompt(prompt, max_tokens=len(last.input_ids) - 1)


def regions_of(inputs: dict[str, torch.Tensor]) -> Regions:
    return Regions(boxes_R4=inputs["region_boxes"], image_index_R=inputs["region_image_index"])


def test_swapped_boxes_swap_region_features(loaded: LoadedModel) -> None:
    prompt = make_prompt("<region1> <region2>")
    swapped = replace(prompt, regions=prompt.regions[::-1])
    first, second = (loaded.processor([p]) for p in (prompt, swapped))
    assert torch.equal(first["region_boxes"], second["region_boxes"].flip(0))
    model = loaded.model
    levels = model.vision_tower(first["pixel_values"])
    tokens = [model.region_encoder(levels, regions_of(x), model.projector) for x in (first, second)]
    assert torch.allclose(tokens[0], tokens[1].flip(0))
    assert not torch.allclose(tokens[0][0], tokens[0][1])


def test_a_region_starts_as_the_projectors_view_of_its_cells(loaded: LoadedModel) -> None:
    inputs = loaded.processor([make_prompt("<region1> <region2>")])
    model = loaded.model
    levels = model.vision_tower(inputs["pixel_values"])
    regions = regions_of(inputs)
    cells = pool_regions(levels, regions, 2)
    tokens = model.region_encoder(levels, regions, model.projector)
    assert torch.allclose(tokens, model.projector(cells), atol=1e-6)


def test_an_image_embedding_marks_image_tokens_alone() -> None:
    torch.manual_seed(0)
    projector = Projector(6, 8, image_embedding=True)
    cells = torch.randn(2, 3, 6)
    added = projector.image_tokens(cells) - projector(cells)
    assert projector.image_embedding is not None
    assert torch.allclose(added, projector.image_embedding.expand_as(added), atol=1e-6)
    assert Projector(6, 8).image_embedding is None


def test_pooling_reads_the_cells_of_the_box() -> None:
    # a map that holds its own x coordinate: the mean of a cell is the cell's centre
    level = (torch.arange(8.0) + 0.5).expand(1, 1, 8, 8)
    boxes = torch.tensor([[0.25, 0.25, 0.75, 0.75]])
    regions = Regions(boxes_R4=boxes, image_index_R=torch.tensor([0]))
    cells = pool_regions([level, level * 2], regions, 2)
    assert cells.shape == (1, 4, 2)
    assert cells[0, :, 0].tolist() == pytest.approx([3, 5, 3, 5])
    assert cells[0, :, 1].tolist() == pytest.approx([6, 10, 6, 10])


def test_box_embedding_can_be_left_out() -> None:
    encoder = ReplayEncoder(8, 16, 2, box_embedding=False)
    assert not any("box_embedding" in name for name, _ in encoder.named_parameters())


def test_loss_equals_one_over_all_logits(loaded: LoadedModel) -> None:
    inputs = loaded.processor([make_prompt(), make_prompt("<region2> red?", 1)], left_pad=False)
    ids = inputs["input_ids"]
    labels = torch.full_like(ids, -100)
    labels[0, -6:] = ids[0, -6:]
    labels[1, 3:5] = ids[1, 3:5]
    with torch.no_grad():
        output = loaded.model(**inputs, labels=labels)
        logits = loaded.model(**inputs).logits
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
    )
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_batched_answers_equal_single_ones(loaded: LoadedModel) -> None:
    prompts = [
        make_prompt("What is <region1>?", 0),
        make_prompt("Describe the picture.", 1),
        make_prompt("red <region2> and <region1> green blue square?", 2),
    ]
    together = generate(loaded, prompts, max_new_tokens=6)
    assert together == [generate(loaded, [p], max_new_tokens=6)[0] for p in prompts]
    streamed = "".join(stream_answer(loaded, prompts[0], max_new_tokens=6))
    assert streamed.strip() == together[0].strip()


def test_option_scores_do_not_depend_on_their_company(loaded: LoadedModel) -> None:
    prompts = [make_prompt(), make_prompt("<region2> blue?", 1)]
    options = [["red", "green square <region2>"], ["blue blue", "red"]]
    together = score_options(loaded, prompts, options)
    for prompt, texts, scores in zip(prompts, options, together, strict=True):
        alone = score_options(loaded, [prompt], [texts])[0]
        turned = score_options(loaded, [prompt], [texts[::-1]])[0][::-1]
        for a, b, c in zip(scores, alone, turned, strict=True):
            assert a.log_prob == pytest.approx(b.log_prob, abs=1e-4)
            assert a.num_tokens == b.num_tokens == c.num_tokens


def test_placeholders_and_boxes_must_agree(loaded: LoadedModel) -> None:
    inputs = loaded.processor([make_prompt("<region1> <region2>")])
    inputs["region_boxes"] = inputs["region_boxes"][:1]
    inputs["region_image_index"] = inputs["region_image_index"][:1]
    with pytest.raises(RoikitError, match="region tokens: the prompt has 8 places"):
        loaded.model(**inputs)


def test_saved_model_answers_the_same_in_a_fresh_process(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    loaded.model.save_pretrained(tmp_path)
    loaded.processor.save_pretrained(tmp_path)
    again = load_model(tmp_path, device="cpu")
    prompt = make_prompt()
    assert generate(again, [prompt], max_new_tokens=6) == generate(
        loaded, [prompt], max_new_tokens=6
    )
    script = (
        "import sys, roikit.model;"
        "from transformers import AutoModelForImageTextToText, AutoProcessor;"
        "m = AutoModelForImageTextToText.from_pretrained(sys.argv[1]);"
        "p = AutoProcessor.from_pretrained(sys.argv[1]); print(type(m).__name__, type(p).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["RoikitForConditionalGeneration", "RoikitProcessor"]


def test_pad_and_squash_place_boxes_with_the_picture(loaded: LoadedModel) -> None:
    image = np.zeros((20, 40, 3), dtype=np.uint8)
    image[5:15, 10:30] = 255
    for mode in ("pad", "squash"):
        processor = type(loaded.processor)(
            loaded.processor.tokenizer, image_size=32, image_mode=mode, image_mean=(0, 0, 0)
        )
        view = processor.view(image, [[10, 5, 30, 15]])
        pixels, boxes = view.pixels_3SS, view.boxes_R4
        rows, columns = np.nonzero(pixels[0].numpy() > 127)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert (boxes[0] * 32).tolist() == pytest.approx(seen, abs=1)


@pytest.mark.parametrize("size", [32, 48])
def test_towers_give_maps_that_cover_the_square(size: int) -> None:
    config = {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    pixels = torch.rand(2, 3, size, size)
    vit = VitTower(config, layers=(-2, -1), interpolate=size != 32)
    assert [tuple(x.shape) for x in vit(pixels)] == [(2, 16, size // 8, size // 8)] * 2
    assert [tuple(x.shape) for x in PlainTower(32)(pixels)] == [(2, 32, size // 8, size // 8)]


def test_the_pyramid_has_three_strides_and_stays_in_evaluation_mode() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    tower = EfficientNetLiteTower().train()
    assert not any(module.training for module in tower.modules())
    with torch.no_grad():
        levels = tower(torch.rand(1, 3, 64, 64))
    assert [tuple(x.shape[1:]) for x in levels] == [(40, 8, 8), (112, 4, 4), (320, 2, 2)]


def test_any_hugging_face_vit_and_language_model_fit(tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    vision = tmp_path / "clip"
    CLIPVisionModel(config).save_pretrained(vision)
    language = tmp_path / "llama"
    first = build_model(TINY, texts=TEXTS)
    first.model.language_model.save_pretrained(language)
    first.processor.tokenizer.save_pretrained(language)
    recipe = replace(TINY, vision=str(vision), language=str(language), image_grid=4)
    built = build_model(recipe)
    assert built.from_scratch == ("projector", "region_encoder")
    saved = CLIPVisionModel.from_pretrained(vision).state_dict()
    for name, value in built.model.vision_tower.model.state_dict().items():
        assert torch.equal(value, saved[name]), name
    wanted = first.model.language_model.state_dict()
    for name, value in built.model.language_model.state_dict().items():
        assert torch.equal(value, wanted[name]), name
    loaded = LoadedModel(model=built.model.eval(), processor=built.processor)
    assert len(generate(loaded, [make_prompt()], max_new_tokens=3)) == 1


def test_wrong_parts_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.vision: `no/such/tower` is neither"):
        build_model(replace(TINY, vision="no/such/tower"), texts=TEXTS)
    with pytest.raises(UsageError, match="region_encoder: expected `replay`, `pooled`"):
        build_model(replace(TINY, region_encoder="magic"), texts=TEXTS)
    with pytest.raises(UsageError, match="expected a model"):
        load_model(tmp_path)


def test_an_unmarked_template_of_an_unknown_family_is_refused() -> None:
    from roikit.model.templates import ensure_marked_template

    class Tokenizer:
        chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"

    with pytest.raises(UsageError, match="without generation marks") as caught:
        ensure_marked_template(Tokenizer())
    assert "model.chat_template=FILE" in str(caught.value.hint)


def test_image_token_opens_the_first_turn() -> None:
    rendered = render((Turn("user", "x"),), num_regions=0, special_tokens=())
    assert rendered.messages[0]["content"].startswith(IMAGE_TOKEN)


def test_growing_the_vocabulary_leaves_the_language_model_as_it_was(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from roikit.model.build import _learn_tokenizer

    tokenizer = _learn_tokenizer(TEXTS, 400)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    language = LlamaForCausalLM(config).eval()
    language.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    grown = build_model(replace(TINY, language=str(tmp_path))).model.language_model.eval()
    ids = torch.tensor([tokenizer("red green blue square").input_ids])
    with torch.no_grad():
        before = language(ids).logits
        after = grown(ids).logits[:, :, : len(tokenizer)]
    assert torch.allclose(before, after, atol=1e-5)
    assert grown.lm_head.weight is grown.model.embed_tokens.weight
