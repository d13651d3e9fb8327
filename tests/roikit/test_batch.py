import copy
import io
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from roikit.batch import collate, encode_example
from roikit.errors import CorruptSampleError, RoikitError
from roikit.masks import encode_mask
from roikit.prompt import Prompt
from roikit.sample import Region, Rle, Turn
from tests.roikit.conftest import TEXTS, TINY, make_example


def test_what_is_too_long_together_is_asked_one_by_one(built: Any) -> None:
    example = make_example(0)
    rows = {
        share: encode_example(example, built.processor, max_tokens=500, asked_together=share)
        for share in (0.0, 1.0)
    }
    together, alone = rows[1.0], rows[0.0]
    assert together is not None
    assert alone is not None
    assert len(together.view.boxes_R4) == len(alone.view.boxes_R4) == 2
    assert together.input_ids != alone.input_ids
    limit = len(together.input_ids) - 1
    shorter = encode_example(example, built.processor, max_tokens=limit, asked_together=1.0)
    assert shorter is not None
    assert shorter.input_ids == alone.input_ids[: len(shorter.input_ids)]


def test_too_long_a_dialogue_loses_whole_exchanges_and_their_boxes(built: Any) -> None:
    example = make_example(0)
    whole = encode_example(example, built.processor, max_tokens=500)
    assert whole is not None
    assert len(whole.view.boxes_R4) == 2
    shorter = encode_example(example, built.processor, max_tokens=len(whole.input_ids) - 1)
    assert shorter is not None
    assert len(shorter.view.boxes_R4) == 1
    places = built.processor.num_region_tokens
    assert shorter.input_ids.count(built.processor.region_token_id) == places
    assert encode_example(example, built.processor, max_tokens=10) is None


def test_padding_is_neither_attended_nor_learned(built: Any) -> None:
    rows = [
        encode_example(make_example(i), built.processor, max_tokens=500, max_exchanges=1 + i)
        for i in range(2)
    ]
    assert rows[0] is not None
    assert rows[1] is not None
    batch = collate([[rows[0]], [rows[1]]], pad_token_id=0)
    length = len(rows[0].input_ids)
    assert batch.attention_mask[0].tolist() == [1] * length + [0] * (
        batch.input_ids.shape[1] - length
    )
    assert (batch.labels[0, length:] == -100).all()
    assert batch.views.image_index_R.tolist() == [0, 1, 1]
    assert batch.num_tokens == length + len(rows[1].input_ids)
    assert batch.num_labels == int((batch.labels != -100).sum())
    assert batch.position_ids is None
    for empty in ([], [[]]):
        with pytest.raises(RoikitError):
            collate(empty, pad_token_id=0)


def test_conversations_that_share_a_row_see_themselves_alone(built: Any) -> None:
    rows = [
        encode_example(make_example(i), built.processor, max_tokens=500, max_exchanges=1 + i % 2)
        for i in range(5)
    ]
    apart = collate([[row] for row in rows if row], pad_token_id=0)
    shared = collate([[rows[1], rows[4], rows[0]], [rows[2], rows[3]]], pad_token_id=0)  # type: ignore[list-item]
    assert shared.input_ids.shape[0] == 2
    assert (shared.num_tokens, shared.num_labels) == (apart.num_tokens, apart.num_labels)
    assert shared.attention_mask is None
    losses = []
    for batch in (apart, shared):
        built.model.zero_grad()
        output = built.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            **batch.views.model_inputs(built.processor.normalise),
            labels=batch.labels,
            use_cache=False,
        )
        output.loss.backward()
        weight = built.model.language_model.model.layers[0].self_attn.k_proj.weight
        losses.append((output.loss.item(), weight.grad.clone()))
    built.model.zero_grad(set_to_none=True)
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5)
    assert torch.allclose(losses[0][1], losses[1][1], atol=1e-6)


def test_boxes_travel_in_the_order_of_their_tokens(built: Any) -> None:
    example = make_example(0)
    turns = (Turn("user", "<region2> then <region1>"), Turn("assistant", "red"))
    conversation = msgspec.structs.replace(example.conversation, turns=turns, independent=False)
    row = encode_example(
        msgspec.structs.replace(example, conversation=conversation),
        built.processor,
        max_tokens=500,
    )
    assert row is not None
    assert torch.allclose(
        row.view.boxes_R4, torch.tensor([[0.5, 0, 1, 1], [0, 0, 0.5, 1]], dtype=torch.float32)
    )


def pictured(key: str = "toy-train-000000000") -> Any:
    """An example with a mark in the left part of its only region."""
    example = make_example(0)
    image = np.full((60, 90, 3), 200, dtype=np.uint8)
    image[20:40, 30:45] = (250, 0, 0)
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    turns = (Turn("user", "What is <region1>?", phrasing="category"), Turn("assistant", "red"))
    region = msgspec.structs.replace(example.sample.regions[0], box_xyxy=(30.0, 20.0, 60.0, 40.0))
    return msgspec.structs.replace(
        example,
        sample=msgspec.structs.replace(example.sample, key=key, regions=(region,)),
        conversation=msgspec.structs.replace(example.conversation, turns=turns),
        image_bytes=out.getvalue(),
    )


def left_is_red(row: Any) -> bool:
    side = row.view.pixels_3SS.shape[1]
    x0, y0, x1, y1 = (row.view.boxes_R4[0] * side).round().int().tolist()
    middle = (x0 + x1) // 2
    box = row.view.pixels_3SS[1, y0 + 1 : y1 - 1].float()
    left, right = box[:, x0 + 1 : middle - 1].mean(), box[:, middle + 1 : x1 - 1].mean()
    assert min(left, right) < 60 < 140 < max(left, right)
    return bool(left < right)


def test_augmented_boxes_stay_on_their_pixels(built: Any) -> None:
    rows = []
    for i in range(30):
        row = encode_example(
            pictured(f"toy-train-{i:09d}"),
            built.processor,
            max_tokens=500,
            flip=0.5,
            crop=1.0,
            colour=0.2,
        )
        assert row is not None
        rows.append(row)
    assert 5 < sum(left_is_red(row) for row in rows) < 25
    plain = encode_example(pictured(), built.processor, max_tokens=500)
    assert plain is not None
    assert left_is_red(plain)
    assert all(row.input_ids == plain.input_ids for row in rows)


def test_what_speaks_of_sides_is_not_mirrored_whoever_says_it(built: Any) -> None:
    example = pictured()
    sided = msgspec.structs.replace(example.sample.regions[0], label="left shoe")
    said = (*example.conversation.turns[:1], Turn("assistant", "the one on the left"))
    for changed in (
        msgspec.structs.replace(
            example, sample=msgspec.structs.replace(example.sample, regions=(sided,))
        ),
        msgspec.structs.replace(
            example, conversation=msgspec.structs.replace(example.conversation, turns=said)
        ),
    ):
        row = encode_example(changed, built.processor, max_tokens=500, flip=1.0)
        assert left_is_red(row)
    mirrored = encode_example(example, built.processor, max_tokens=500, flip=1.0)
    assert not left_is_red(mirrored)


def test_draws_depend_on_the_place_in_the_run_and_not_on_the_epoch(built: Any) -> None:
    settings: dict[str, Any] = {"max_tokens": 500, "flip": 0.5, "crop": 0.5, "colour": 1.0}

    def encoded(**changes: Any) -> Any:
        seed = changes.pop("seed", 0)
        example = msgspec.structs.replace(pictured(), **changes)
        row = encode_example(example, built.processor, seed=seed, **settings)
        assert row is not None
        return row.view.pixels_3SS

    assert torch.equal(encoded(), encoded(epoch=3, position=7, source="other"))
    for change in ({"seed": 1}, {"ordinal": 1}, {"passes": 1}):
        assert not torch.equal(encoded(), encoded(**change))


def test_questions_are_rephrased_before_they_are_asked_together(built: Any) -> None:
    def shout(turn: Turn, generator: random.Random) -> Turn:
        generator.random()
        return msgspec.structs.replace(turn, text=turn.text.replace("What", "Say what"))

    example = pictured()
    row = encode_example(example, built.processor, max_tokens=500, rephrase=shout)
    assert row is not None
    assert "Say what is" in built.processor.tokenizer.decode(row.input_ids)
    unnamed = tuple(Turn(turn.role, turn.text) for turn in example.conversation.turns)
    example = msgspec.structs.replace(
        example, conversation=msgspec.structs.replace(example.conversation, turns=unnamed)
    )
    row = encode_example(example, built.processor, max_tokens=500, rephrase=shout)
    assert row is not None
    assert "Say what" not in built.processor.tokenizer.decode(row.input_ids)


def two_coloured(mask: Any) -> Any:
    """One region over a picture that is red on the left and green on the right, with a mask."""
    example = make_example(0)
    rle = None if mask is None else encode_mask(mask, (40, 40))
    region = Region(box_xyxy=(0.0, 0.0, 40.0, 40.0), mask_rle=rle)
    turns = (Turn("user", "What is <region1>?"), Turn("assistant", "red square"))
    return msgspec.structs.replace(
        example,
        sample=msgspec.structs.replace(example.sample, regions=(region,)),
        conversation=msgspec.structs.replace(example.conversation, turns=turns),
    )


def on_the(side: str) -> Any:
    mask = np.zeros((40, 40), dtype=bool)
    mask[:, slice(0, 20) if side == "left" else slice(20, 40)] = True
    return mask


def test_a_mask_on_one_of_two_colours_changes_what_the_model_says(built: Any) -> None:
    model = copy.deepcopy(built.model).eval()
    losses = {}
    for name, mask in {
        "none": None,
        "ones": np.ones((40, 40), dtype=bool),
        "left": on_the("left"),
        "right": on_the("right"),
    }.items():
        row = encode_example(two_coloured(mask), built.processor, max_tokens=500)
        plain = encode_example(two_coloured(None), built.processor, max_tokens=500)
        assert row is not None
        assert plain is not None
        assert row.input_ids == plain.input_ids  # a mask takes no tokens
        # beside a region without one, which is its whole box
        batch = collate([[row], [plain]], pad_token_id=0)
        assert (batch.views.masks_RMM is None) == (mask is None)
        with torch.no_grad():
            losses[name] = model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                **batch.views.model_inputs(built.processor.normalise),
                labels=batch.labels,
            ).loss.item()
    assert losses["ones"] == pytest.approx(losses["none"], rel=1e-6)
    apart = [losses[name] for name in ("none", "left", "right")]
    assert len({round(loss, 5) for loss in apart}) == 3


def test_masks_are_mirrored_with_their_boxes_and_can_be_left_out(built: Any) -> None:
    example = two_coloured(on_the("left"))
    halves = {}
    for flip in (0.0, 1.0):
        row = encode_example(example, built.processor, max_tokens=500, flip=flip, crop=1.0)
        assert row is not None
        assert row.view.masks_RMM is not None
        halves[flip] = row.view.masks_RMM[0, :, :14].mean().item()
    assert halves == {0.0: pytest.approx(1), 1.0: pytest.approx(0)}
    processor = type(built.processor)(
        built.processor.tokenizer,
        image_size=32,
        num_image_tokens=4,
        num_region_tokens=4,
        use_masks=False,
    )
    row = encode_example(example, processor, max_tokens=500)
    assert row is not None
    assert row.view.masks_RMM is None


def test_a_model_built_without_masks_is_saved_without_them(tmp_path: Path) -> None:
    from roikit.model.build import build_model

    processor = build_model(replace(TINY, use_masks=False), texts=TEXTS).processor
    processor.save_pretrained(tmp_path)
    again = type(processor).from_pretrained(tmp_path)
    assert (processor.use_masks, again.use_masks, again.boxes_as_text) == (False, False, False)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mask_rle": Rle(size=(40, 40), counts="nonsense")}, r"regions\[0\]\.mask_rle"),
        ({"box_xyxy": (60, 0, 80, 20)}, "box 1 of 1: expected some area .* 40 x 40 pixels"),
    ],
)
@pytest.mark.parametrize("crop", [0.0, 1.0])
def test_a_region_that_cannot_be_read_names_its_sample(
    built: Any, changed: dict[str, Any], message: str, crop: float
) -> None:
    example = two_coloured(on_the("left"))
    region = msgspec.structs.replace(example.sample.regions[0], **changed)
    example = msgspec.structs.replace(
        example, sample=msgspec.structs.replace(example.sample, regions=(region,))
    )
    with pytest.raises(CorruptSampleError, match=f"`toy-train-000000000`: {message}"):
        encode_example(example, built.processor, max_tokens=500, crop=crop)


def test_masks_reach_the_model_from_prompts_too(built: Any) -> None:
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    masked = Region(box_xyxy=(0, 0, 40, 40), mask_rle=encode_mask(on_the("right"), (40, 40)))
    plain = Region(box_xyxy=(0, 0, 40, 40))
    prompt = Prompt(
        image=image, regions=(plain, masked), turns=(Turn("user", "<region2> or <region1>"),)
    )
    masks = built.processor([prompt])["region_masks"]
    assert masks[0, :, :14].max() == 0
    assert masks[1].min() == 1
    alone = Prompt(image=image, regions=(plain, masked), turns=(Turn("user", "<region1>"),))
    assert "region_masks" not in built.processor([alone])  # nobody speaks of the masked one
