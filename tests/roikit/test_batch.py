from typing import Any

import msgspec
import pytest
import torch

from roikit.batch import ask_together, collate, draw_exchanges, encode_example
from roikit.errors import RoikitError
from roikit.sample import Conversation, Turn
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


def asked(*pairs: tuple[str, str], independent: bool = True) -> Conversation:
    turns = tuple(
        Turn(role, text)
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    )
    return msgspec.structs.replace(
        make_example(0).conversation, turns=turns, independent=independent
    )


def together(conversation: Conversation, share: float = 1.0, key: str = "k") -> list[str]:
    changed = ask_together(conversation, share=share, seed=0, key=key, epoch=0)
    return [turn.text for turn in changed.turns]


def test_questions_asked_together_are_answered_by_name() -> None:
    conversation = asked(("Name <region3>.", "cat"), ("<region1>?", "dog"), ("<region7>?", "cow"))
    assert together(conversation) == [
        "Name <region3>, <region1> and <region7>.",
        "<region3>: cat\n<region1>: dog\n<region7>: cow",
    ]
    alone = [turn.text for turn in conversation.turns]
    assert together(conversation, share=0.0) == alone
    changed = sum(together(conversation, share=0.3, key=str(i)) != alone for i in range(1000))
    assert 240 < changed < 360


@pytest.mark.parametrize(
    "conversation",
    [
        asked(("<region1>?", "dog"), ("<region2>?", "cow"), independent=False),
        asked(("<region1>?", "dog")),
        asked(("<region1>?", "dog"), ("<region1>?", "brown")),
        asked(("<region1>?", "dog"), ("What is <region1> beside <region2>?", "cow")),
        asked(("<region1>?", "dog"), ("What does the picture show?", "a farm")),
    ],
    ids=["dialogue", "one", "same region", "two in one", "none"],
)
def test_only_questions_of_one_region_each_are_asked_together(conversation: Conversation) -> None:
    assert together(conversation) == [turn.text for turn in conversation.turns]


def test_what_is_too_long_together_is_asked_one_by_one(built: Any) -> None:
    example = make_example(0)
    rows = {
        share: encode_example(example, built.processor, max_tokens=500, asked_together=share)
        for share in (0.0, 1.0)
    }
    together, alone = rows[1.0], rows[0.0]
    assert together is not None
    assert alone is not None
    assert len(together.boxes_R4) == len(alone.boxes_R4) == 2
    assert together.input_ids != alone.input_ids
    limit = len(together.input_ids) - 1
    shorter = encode_example(example, built.processor, max_tokens=limit, asked_together=1.0)
    assert shorter is not None
    assert shorter.input_ids == alone.input_ids[: len(shorter.input_ids)]


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
    batch = collate([[rows[0]], [rows[1]]], pad_token_id=0)
    length = len(rows[0].input_ids)
    assert batch.attention_mask[0].tolist() == [1] * length + [0] * (
        batch.input_ids.shape[1] - length
    )
    assert (batch.labels[0, length:] == -100).all()
    assert batch.region_image_index.tolist() == [0, 1, 1]
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
            pixel_values=built.processor.normalise(batch.pixels),
            region_boxes=batch.region_boxes,
            region_image_index=batch.region_image_index,
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
        row.boxes_R4, torch.tensor([[0.5, 0, 1, 1], [0, 0, 0.5, 1]], dtype=torch.float32)
    )
