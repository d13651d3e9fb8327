"""Boxes as text: what stands in the prompt, and that nothing else of it changes.

Models here have random weights of a few thousand parameters.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from roikit.batch import encode_example
from roikit.config import TEXT_REGION_TOKENS, check_learns, load_recipe
from roikit.errors import UsageError
from roikit.evaluate.controls import swap_places
from roikit.model.box_text import box_text, character_ids
from roikit.model.build import build_model
from roikit.model.generate import (
    LoadedModel,
    generate,
    load_model,
    score_options,
    stream_answer,
)
from roikit.prompt import Prompt, render
from roikit.sample import Region, Turn
from tests.roikit.conftest import TEXTS, TINY, make_example


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    torch.set_num_threads(1)
    built = build_model(replace(TINY, region_encoder="text"), texts=TEXTS)
    return LoadedModel(model=built.model.eval(), processor=built.processor)


def make_prompt(text: str = "What is <region1>?", **region: Any) -> Prompt:
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    regions = (
        Region(box_xyxy=(10, 15, 20, 30), **region),
        Region(box_xyxy=(0, 0, 40, 30)),
    )
    return Prompt(image=image, regions=regions, turns=(Turn("user", text),))


def shown(loaded: LoadedModel, prompt: Prompt) -> str:
    """What the model reads after the picture."""
    ids = loaded.processor.encode_prompt(prompt).input_ids
    said: str = loaded.processor.tokenizer.decode(ids)
    return said.rpartition("<|image|>")[2]


def test_each_thousandth_reads_as_itself_and_the_end_as_999() -> None:
    for number in range(1000):
        assert box_text([number / 1000] * 4) == f"[{','.join([f'{number:03d}'] * 4)}]"
        # as float32 boxes come, and boxes that went through a resize
        assert box_text([np.float32(number / 1000)] * 4)[1:4] == f"{number:03d}"
    assert box_text([0.0, 0.0999, 0.9999, 1.0]) == "[000,099,999,999]"
    assert len(box_text([0.5] * 4)) == TEXT_REGION_TOKENS


def test_the_first_mention_is_followed_by_the_box_on_the_input_square(loaded: LoadedModel) -> None:
    # 40 x 30 in a square: no y above an eighth, y = (pixel + 5) / 40
    text = shown(loaded, make_prompt("<region1> and <region2>, <region1>"))
    assert "\nregion1[250,500,500,875] and region2[000,125,999,875], region1<" in text
    assert shown(loaded, make_prompt("red?")).count("[") == 0


@pytest.mark.parametrize("text", ["<region1>", "1<region1>1", "(<region2>,<region1>)[0,<region2>"])
def test_boxes_take_the_places_and_nothing_else_moves(loaded: LoadedModel, text: str) -> None:
    processor = loaded.processor
    prompt = make_prompt(text)
    rendered = render(prompt.turns, num_regions=2, special_tokens=processor.special_tokens)
    kept = processor.encode(rendered, add_generation_prompt=True)
    written = processor.encode_prompt(prompt)
    pairs = list(zip(kept.input_ids, written.input_ids, strict=True))
    place = processor.region_token_id
    assert all((one == place) != (one == other) for one, other in pairs)
    characters = [processor.tokenizer.decode([other]) for one, other in pairs if one == place]
    boxes = {1: "[250,500,500,875]", 2: "[000,125,999,875]"}
    assert characters == list("".join(boxes[number] for number in kept.region_order))
    assert written.assistant_mask == kept.assistant_mask


def test_what_a_person_writes_stays_what_it_is(loaded: LoadedModel) -> None:
    said = "Is [012,345,678,999] <|region|> red?"
    prompt = make_prompt(said.replace("<|", "<<|"))
    assert said in shown(loaded, prompt)
    encoded = loaded.processor.encode_prompt(prompt)
    assert encoded.region_order == ()
    assert loaded.processor.region_token_id not in encoded.input_ids


def test_points_and_masks_are_written_by_their_boxes(loaded: LoadedModel) -> None:
    plain = loaded.processor([make_prompt()])
    pointed = loaded.processor([make_prompt(point_xy=(15.0, 20.0))])
    assert torch.equal(plain["input_ids"], pointed["input_ids"])
    assert "region_masks" not in pointed


def test_a_mirrored_picture_has_mirrored_coordinates(loaded: LoadedModel) -> None:
    example = make_example(0)
    turns = (Turn("user", "What is <region1>?"), Turn("assistant", "red square"))
    example = msgspec.structs.replace(
        example, conversation=msgspec.structs.replace(example.conversation, turns=turns)
    )
    texts = []
    for flip in (0.0, 1.0):
        row = encode_example(example, loaded.processor, max_tokens=500, flip=flip)
        assert row is not None
        learned = [
            token for token, label in zip(row.input_ids, row.labels, strict=True) if label >= 0
        ]
        decode = loaded.processor.tokenizer.decode
        assert decode(learned) == "red square<|im_end|>"  # no loss on coordinates
        texts.append(decode(row.input_ids))
    assert "region1[000,000,500,999]" in texts[0]
    assert "region1[500,000,999,999]" in texts[1]


def test_swapped_boxes_are_other_coordinates_and_other_likelihoods(loaded: LoadedModel) -> None:
    prompt = make_prompt("What is <region1>?")
    swapped = replace(prompt, regions=swap_places(prompt.regions, {1: 2, 2: 1}))
    assert "region1[000,125,999,875]" in shown(loaded, swapped)
    (true,), (other,) = (
        score_options(loaded, [one], [["red", "green"]]) for one in (prompt, swapped)
    )
    assert [s.log_prob for s in true] != [s.log_prob for s in other]
    together = score_options(loaded, [prompt, swapped], [["red", "green"]] * 2)
    for alone, beside in zip((true, other), together, strict=True):
        for a, b in zip(alone, beside, strict=True):
            assert a.log_prob == pytest.approx(b.log_prob, abs=1e-4)


def test_answers_are_the_same_alone_together_streamed_and_reloaded(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    prompts = [make_prompt("What is <region1>?"), make_prompt("red"), make_prompt("<region2>?")]
    together = generate(loaded, prompts, max_new_tokens=6)
    assert together == [generate(loaded, [p], max_new_tokens=6)[0] for p in prompts]
    streamed = "".join(stream_answer(loaded, prompts[0], max_new_tokens=6))
    assert streamed.strip() == together[0].strip()
    loaded.model.save_pretrained(tmp_path)
    loaded.processor.save_pretrained(tmp_path)
    again = load_model(tmp_path, device="cpu")
    assert again.processor.boxes_as_text
    assert generate(again, prompts, max_new_tokens=6) == together


def test_a_tokenizer_without_single_characters_is_refused() -> None:
    class Tokenizer:
        def get_vocab(self) -> dict[str, int]:
            return {character: i for i, character in enumerate("0123456789[")}

    with pytest.raises(UsageError, match="found none for `],`"):
        character_ids(Tokenizer())


def test_a_sentencepiece_vocabulary_has_the_characters() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from roikit.model.templates import CHATML

    # pieces as SentencePiece makes them: a space is part of the word after it
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=60, unk_token="<unk>", special_tokens=["<unk>"])
    tokenizer.train_from_iterator(["a region 0123456789 [ ] , 10 [1, 2]"] * 9, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    fast.chat_template = CHATML
    ids = character_ids(fast)
    assert fast.convert_ids_to_tokens(list(ids.values())) == list("0123456789[],")


def test_a_stage_that_trains_the_region_encoder_alone_is_refused() -> None:
    with pytest.raises(UsageError, match=r"stage1\.train: the region encoder `text`") as caught:
        load_recipe("tiny", stage="stage1", overrides=["model.region_encoder=text"])
    assert "--set 'stage1.train=[\"language_model\"]'" in str(caught.value.hint)
    for more in (['stage1.train=["language_model"]'], ['stage1.train=["projector"]']):
        recipe = load_recipe("tiny", stage="stage1", overrides=["model.region_encoder=text", *more])
        check_learns(recipe)
    check_learns(load_recipe("tiny", stage="stage2", overrides=["model.region_encoder=text"]))
