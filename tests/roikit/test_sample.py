import math
from typing import Any

import msgspec
import pytest

from roikit.errors import ValidationError
from roikit.sample import (
    Choice,
    Conversation,
    Image,
    Provenance,
    Region,
    Rle,
    Sample,
    Source,
    Turn,
    decode_sample,
    encode_sample,
    exchanges,
    validate_sample,
)


def make_sample(**changes: Any) -> Sample:
    conversation = Conversation(
        id="1",
        task="dialogue",
        independent=False,
        source=Source(file="a.jsonl", record="1"),
        turns=(Turn("user", "Why is <region1> smiling?"), Turn("assistant", "It is warm.")),
    )
    fields: dict[str, Any] = {
        "schema": 1,
        "key": "vcr-train-000000042",
        "dataset": "vcr",
        "split": "train",
        "image": Image(file="a@3.jpg", native_id="vcr:a@3", width=400, height=300, sha256="0" * 64),
        "regions": (Region(box_xyxy=(10.5, 20.0, 300.0, 250.0)),),
        "conversations": (conversation,),
        "provenance": Provenance(converter="vcr@1", phrasing="x", seed=0),
    }
    return Sample(**(fields | changes))


def with_conversation(**changes: Any) -> Sample:
    conversation = make_sample().conversations[0]
    return make_sample(conversations=(msgspec.structs.replace(conversation, **changes),))


def test_round_trip_is_canonical() -> None:
    sample = make_sample()
    validate_sample(sample)
    data = encode_sample(sample)
    assert decode_sample(data) == sample
    assert encode_sample(decode_sample(data)) == data


def test_what_a_record_does_not_have_is_not_written() -> None:
    data = encode_sample(make_sample())
    for name in (b"absent_labels", b"partly_labelled", b"native_label"):
        assert name not in data
    assert data.endswith(b'"provenance":{"converter":"vcr@1","phrasing":"x","seed":0}}')
    region = Region(box_xyxy=(1, 2, 3, 4), label="bat", native_label="bat_(animal)")
    full = make_sample(regions=(region,), absent_labels=("cat", "dog"), partly_labelled=("cup",))
    validate_sample(full)
    assert b'"absent_labels":["cat","dog"],"partly_labelled":["cup"]' in encode_sample(full)
    assert decode_sample(encode_sample(full)) == full


def test_what_a_region_shows_is_not_absent() -> None:
    region = Region(box_xyxy=(1, 2, 3, 4), label="cat")
    sample = make_sample(regions=(region,), absent_labels=("dog", "cat"))
    with pytest.raises(ValidationError, match=r"absent_labels\[1\]: `cat` is regions\[0\]"):
        validate_sample(sample)


def test_unknown_and_missing_fields_are_named() -> None:
    with pytest.raises(ValidationError, match=r"unknown field `colour`.*\$\.regions\[0\]"):
        decode_sample(encode_sample(make_sample()).replace(b'"label"', b'"colour":1,"label"'))
    with pytest.raises(ValidationError, match="missing required field `independent`"):
        decode_sample(encode_sample(make_sample()).replace(b'"independent":false,', b""))


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((410.0, 0, 300.0, 10), r"regions\[0\]\.box_xyxy: expected x0 < x1, got 410\.0 >= 300\.0"),
        ((0, 10, 5, 10), r"expected y0 < y1"),
        ((0, 0, 401, 10), r"inside 400 x 300"),
        ((0, 0, float("nan"), 10), r"finite"),
    ],
)
def test_bad_boxes_are_named(box: tuple[float, float, float, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        validate_sample(make_sample(regions=(Region(box_xyxy=box),)))


def test_a_mention_must_resolve() -> None:
    turns = (Turn("user", "<region2>?"), Turn("assistant", "<region1>"))
    with pytest.raises(ValidationError, match=r"turns\[0\]\.text: `<region2>` does not exist"):
        validate_sample(with_conversation(turns=turns))


def test_an_unused_region_must_be_context_and_a_used_one_must_not() -> None:
    unused = Region(box_xyxy=(0, 0, 5, 5))
    used = make_sample().regions[0]
    with pytest.raises(ValidationError, match=r"regions\[1\]: is never mentioned"):
        validate_sample(make_sample(regions=(used, unused)))
    context = msgspec.structs.replace(unused, is_context=True)
    validate_sample(make_sample(regions=(used, context)))
    with pytest.raises(ValidationError, match="mentioned but marked as context"):
        validate_sample(make_sample(regions=(msgspec.structs.replace(used, is_context=True),)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"turns": ()}, "at least one"),
        ({"turns": (Turn("assistant", "x"),)}, "expected `user`"),
        ({"turns": (Turn("user", "<region1>"),)}, "last to be `assistant`"),
        ({"turns": (Turn("user", " "), Turn("assistant", "x"))}, "expected text"),
        ({"task": "choice"}, "choice"),
        (
            {
                "turns": (Turn("user", "<region1>?"),),
                "choice": Choice(question_id="q", step="answer", options=("a", "b")),
            },
            "on task `choice` and there only",
        ),
    ],
)
def test_conversations_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        validate_sample(with_conversation(**changes))


def test_options_are_part_of_a_choice() -> None:
    choice = Choice(question_id="q", step="answer", options=("a", "<region3>"), answer=0)
    turns = (Turn("user", "<region1>?"),)
    with pytest.raises(ValidationError, match=r"options\[1\]: `<region3>` does not exist"):
        validate_sample(with_conversation(task="choice", turns=turns, choice=choice))


def test_keys_hold_no_dots() -> None:
    with pytest.raises(ValidationError, match="without dots"):
        validate_sample(make_sample(key="a.b"))


def test_exchanges_leave_out_an_open_question() -> None:
    turns = (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"))
    conversation = msgspec.structs.replace(make_sample().conversations[0], turns=turns)
    assert [(u.text, a.text) for u, a in exchanges(conversation)] == [("a", "b")]


def test_masks_and_points_are_of_their_picture() -> None:
    good = make_sample()
    width, height = good.image.width, good.image.height
    for changes, message in (
        ({"mask_rle": Rle(size=(width, height + 1), counts="")}, "mask_rle.size: expected the"),
        ({"point_xy": (width + 1, 0)}, "point_xy: expected a point inside"),
        ({"point_xy": (math.nan, 0)}, "point_xy: expected a point inside"),
    ):
        region = msgspec.structs.replace(good.regions[0], **changes)
        bad = msgspec.structs.replace(good, regions=(region, *good.regions[1:]))
        with pytest.raises(ValidationError, match=message):
            validate_sample(bad)
