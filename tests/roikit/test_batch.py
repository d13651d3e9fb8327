from dataclasses import replace
from typing import Any

import msgspec
import pytest
import torch

from roikit.batch import collate, draw_exchanges, encode_example
from roikit.errors import RoikitError
from roikit.sample import Turn
from tests.roikit.conftest import make_example


def test_draws_depend_on_seed_key_and_epoch_alone() -> None:
    conversation = make_example(0).conversation
    turns = tuple(Turn(role, f"{role}{i}") for i in range(20) for role in ("user", "assistant"))
    conversation = msgspec.structs.replace(conversation, turns=turns)

    def draw(**changes: Any) -> tuple[Turn, ...]:
        arguments = {"limit": 5, "seed": 0, "key": "k", "epoch": 0} | changes
        return draw_exchanges(conversation, **arguments).turns

    assert draw() == draw()
    for change in ({"seed": 1}, {"key": "j"}, {"epoch": 1}):
        assert draw(**change) != draw()
    drawn = draw(limit=0)
    assert sorted(t.text for t in drawn) == sorted(t.text for t in turns)
    pairs = list(zip(draw()[::2], draw()[1::2], strict=True))
    assert len(pairs) == 5
    assert all(u.text[4:] == a.text[9:] for u, a in pairs)


def test_a_dialogue_is_kept_whole_and_in_order() -> None:
    conversation = msgspec.structs.replace(make_example(0).conversation, independent=False)
    assert draw_exchanges(conversation, limit=1, seed=0, key="k", epoch=0) == conversation


def test_too_long_a_dialogue_loses_whole_exchanges_and_their_boxes(built: Any) -> None:
    example = make_example(0)
    whole = encode_example(example, built.processor, max_tokens=500)
    assert whole is not None
    assert len(whole.boxes_R4) == 2
    shorter = encode_example(example, built.processor, max_tokens=len(whole.input_ids) - 1)
    assert shorter is not None
    assert len(shorter.boxes_R4) == 1
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
    batch = collate([rows[0], rows[1]], pad_token_id=0)
    length = len(rows[0].input_ids)
    assert batch.attention_mask[0].tolist() == [1] * length + [0] * (
        batch.input_ids.shape[1] - length
    )
    assert (batch.labels[0, length:] == -100).all()
    assert batch.region_image_index.tolist() == [0, 1, 1]
    assert batch.num_tokens == length + len(rows[1].input_ids)
    assert batch.num_labels == int((batch.labels != -100).sum())
    with pytest.raises(RoikitError):
        collate([], pad_token_id=0)


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
        row.boxes_R4, torch.tensor([[0.5, 0, 1, 1], [0, 0, 0.5, 1]], dtype=torch.float32)
    )


def test_a_region_beside_a_skipped_example_is_not_mixed_up(built: Any) -> None:
    first = encode_example(make_example(3), built.processor, max_tokens=500)
    again = encode_example(make_example(3), built.processor, max_tokens=500)
    assert first is not None
    assert again is not None
    assert replace(first, pixels_3SS=again.pixels_3SS, boxes_R4=again.boxes_R4) == again
