"""LLaVA's JSON. The expected numbers were worked out by hand from a picture of 32 x 24 pixels."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roikit.sample import Choice, Conversation, Region, Source, Turn
from shards.export.llava import export_llava
from shards.selection import named_splits

#: 8/32, 6/24, 24/32, 18/24 and 1/32, 1/24, 2/32, 2/24.
REGIONS = [Region(box_xyxy=(8, 6, 24, 18)), Region(box_xyxy=(1, 1, 2, 2), label="dot")]


def dialogue(*texts: str, **more: Any) -> Conversation:
    turns = tuple(
        Turn(role="assistant" if i % 2 else "user", text=text) for i, text in enumerate(texts)
    )
    fields: dict[str, Any] = {"id": "7", "task": "dialogue", "independent": False}
    return Conversation(source=Source(file="a.json", record="7"), turns=turns, **{**fields, **more})


@pytest.fixture
def export(tmp_path: Path, put_split: Callable[..., None]) -> Callable[..., Any]:
    def run(conversations: list[Conversation], **options: Any) -> list[dict[str, Any]]:
        root = tmp_path / "shards"
        put_split(root, "train", [REGIONS], conversations)
        export_llava(root, named_splits(root), tmp_path / "out", **options)
        records: list[dict[str, Any]] = json.loads((tmp_path / "out/made-train.json").read_text())
        return records

    return run


@pytest.mark.parametrize(
    ("coordinates", "first", "second"),
    [
        ("normalised", "[0.031, 0.042, 0.062, 0.083]", "[0.25, 0.25, 0.75, 0.75]"),
        ("0-1000", "[31, 42, 62, 83]", "[250, 250, 750, 750]"),
        ("pixel", "[1, 1, 2, 2]", "[8, 6, 24, 18]"),
    ],
)
def test_a_region_is_its_name_and_box_the_first_time(
    export: Any, tmp_path: Path, coordinates: str, first: str, second: str
) -> None:
    told = dialogue("Is <region2> in <region1>?", "<region2> is.", "Sure?", "<region1> is grey.")
    (record,) = export([told], coordinates=coordinates)
    assert record["id"] == "made-train-000000000/7"
    assert (tmp_path / "out/images" / record["image"]).read_bytes().startswith(b"\xff\xd8")
    assert record["conversations"] == [
        {"from": "human", "value": f"<image>\nIs region1 {first} in region2 {second}?"},
        {"from": "gpt", "value": "region1 is."},
        {"from": "human", "value": "Sure?"},
        {"from": "gpt", "value": "region2 is grey."},
    ]


def test_the_pictures_token_stands_once_whatever_the_texts_say(export: Any) -> None:
    told = dialogue("Is <<image> on <region1>?", "No <<image>.")
    (record,) = export([told])
    said = "".join(turn["value"] for turn in record["conversations"])
    assert said.count("<image>") == 1
    assert "Is < image> on region1 [0.25" in said


def test_choices_leave_only_when_named_and_only_answered(export: Any) -> None:
    asked = Choice(question_id="q", step="answer", options=("a cup", "<region1>"), answer=1)
    right = dialogue("What is it?", id="1", task="choice", choice=asked)
    hidden = dialogue(
        "What is it?",
        id="2",
        task="choice",
        choice=Choice(question_id="r", step="answer", options=("a", "b")),
    )
    (record,) = export([dialogue("Hi <region2>.", "Hello."), right, hidden], tasks=["choice"])
    question, answer = (turn["value"] for turn in record["conversations"])
    assert "(A) a cup\n(B) region1 [0.25, 0.25, 0.75, 0.75]\n" in question
    assert answer == "(B)"


def test_what_is_left_out_is_counted(tmp_path: Path, put_split: Callable[..., None]) -> None:
    asked = Choice(question_id="q", step="answer", options=("a", "b"), answer=1)
    root = tmp_path / "shards"
    put_split(root, "train", [[]], [dialogue("Hm?", task="choice", choice=asked)])
    report = export_llava(root, named_splits(root), tmp_path / "out")
    assert report.splits[0].left_out == {"task choice": 1}
    assert report.splits[0].file is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["export.json"]
