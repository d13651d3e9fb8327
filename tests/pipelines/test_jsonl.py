import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.draft import SourceOptions
from pipelines.phrasing import wordings
from pipelines.run import convert
from roikit.errors import UsageError
from roikit.masks import mask_box
from roikit.mentions import plain
from roikit.sample import Sample

BOX = [10, 20, 30, 40]


def line(image: str = "a.jpg", boxes: int = 1, talk: Any = None, **more: Any) -> dict[str, Any]:
    """A line with so many unnamed boxes and one conversation of one exchange."""
    entry: dict[str, Any] = {"image": image}
    if boxes:
        entry["regions"] = [{"box": BOX} for _ in range(boxes)]
    if talk is not None:
        entry["conversations"] = [talk]
    return entry | more


def said(user: Any, assistant: Any = "Yes.") -> list[dict[str, Any]]:
    return [{"user": user, "assistant": assistant}]


def convert_one(tree: Any, shards: Any, *lines: Any, **options: Any) -> Any:
    tree.lines("train.jsonl", list(lines))
    tree.picture("a.jpg")
    (report,) = convert("jsonl", tree.root, shards.root, max_rejects=1, **options)
    return report


def test_golden_sample(tree: Any, shards: Any, find: Any) -> None:
    tree.lines(
        "train.jsonl",
        [
            {
                "image": "photos/a.jpg",
                "regions": [
                    {"box": BOX, "label": " black\ncat "},
                    {"box": [50, 40, 99, 60], "label": "mat", "caption": "a mat for 2 <image>s"},
                    {"box": [0, 0, 5.5, 5], "label": "bird"},
                    {"box": [1, 1, 6, 6]},
                ],
                "conversations": [
                    [
                        {"user": "What does <region1> do?", "assistant": "It sits.\nStill."},
                        {"user": "On what?", "assistant": "On <region2>, not <<region3>."},
                    ],
                    [
                        {
                            "user": "Which?",
                            "options": ["<region2>", "  a </s>  "],
                            "answer": "a </s>",
                        }
                    ],
                ],
                "id": 17,
            }
        ],
    )
    tree.picture("photos/a.jpg")
    (report,) = convert("jsonl", tree.root, shards.root)
    assert (report.records_found, report.records_converted, report.boxes_clipped) == (6, 6, 1)
    sample = shards.samples("jsonl", "train")["jsonl:photos/a.jpg"]
    assert sample.image.file == "photos/a.jpg"
    assert [(r.box_xyxy, r.label, r.is_context) for r in sample.regions] == [
        ((10, 20, 30, 40), "black cat", False),
        ((50, 40, 64, 48), "mat", False),
        ((0, 0, 5.5, 5), "bird", False),
        ((1, 1, 6, 6), None, True),
    ]
    assert [(c.id, c.task, c.independent) for c in sample.conversations] == [
        ("17/0", "dialogue", False),
        ("17/1", "choice", False),
        ("photos/a.jpg/category", "category", True),
        ("photos/a.jpg/caption", "caption", True),
    ]
    dialogue = find(sample, "17/0")
    assert (dialogue.source.file, dialogue.source.record) == (
        "train.jsonl",
        "line 1, conversations[0]",
    )
    assert [(turn.role, turn.text, turn.phrasing) for turn in dialogue.turns] == [
        ("user", "What does <region1> do?", None),
        ("assistant", "It sits.\nStill.", None),
        ("user", "On what?", None),
        ("assistant", "On <region2>, not <<region3>.", None),
    ]
    choice = find(sample, "17/1").choice
    assert choice.options == ("<region2>", "a <</s>")
    assert (choice.answer, choice.step, choice.question_id) == (1, "answer", "17/1")
    # The cat and the mat are spoken of, the bird is not.
    names = find(sample, "photos/a.jpg/category").turns
    assert names[0].text.replace("<region3>", "{region}") in wordings("category")
    assert [turn.text for turn in names[1:]] == ["bird"]
    captions = find(sample, "photos/a.jpg/caption").turns
    assert captions[0].text.replace("<region2>", "{region}") in wordings("caption")
    assert [plain(turn.text) for turn in captions[1:]] == ["a mat for 2 <image>s"]


@pytest.mark.parametrize(
    ("box_format", "box"),
    [
        (None, [16, 12, 48, 36]),
        ("xyxy", [16, 12, 48, 36]),
        ("xywh", [16, 12, 32, 24]),
        ("xyxy_norm", [0.25, 0.25, 0.75, 0.75]),
        ("xywh_norm", [0.25, 0.25, 0.5, 0.5]),
    ],
)
def test_every_box_format_gives_the_same_region(
    tree: Any, shards: Any, box_format: str | None, box: list[float]
) -> None:
    named = {} if box_format is None else {"box_format": box_format}
    convert_one(tree, shards, line(boxes=0, regions=[{"box": box, "label": "cat"}], **named))
    (region,) = shards.samples("jsonl", "train")["jsonl:a.jpg"].regions
    assert region.box_xyxy == (16, 12, 48, 36)


def test_boxes_speak_of_the_upright_picture(tree: Any, shards: Any) -> None:
    tree.lines("train.jsonl", [
        line("turned.jpg", 0, regions=[{"box": [0, 0, 48, 10], "label": "sky"}]),
        line("turned.jpg", 0, regions=[{"box": [0, 0, 1, 0.5], "label": "top"}],
             box_format="xyxy_norm"),
    ])  # fmt: skip
    tree.picture("turned.jpg", orientation=6)
    convert("jsonl", tree.root, shards.root)
    sample = shards.samples("jsonl", "train")["jsonl:turned.jpg"]
    assert [r.box_xyxy for r in sample.regions] == [(0, 0, 48, 10), (0, 0, 48, 32)]


BAD_LINES = [
    ("{", "E_JSON_INVALID", "not valid JSON"),
    ('["a.jpg"]', "E_FIELD_TYPE", "expected `object`, got `array`"),
    ({"regions": []}, "E_FIELD_MISSING", "missing field `image`"),
    (line(imge="x"), "E_FIELD_UNKNOWN", "unknown field `imge`"),
    (line(image=7), "E_FIELD_TYPE", "image: expected `str`, got `int`"),
    (line(boxes=0, regions={}), "E_FIELD_TYPE", "regions: expected `array`"),
    (line(box_format="yxyx"), "E_FIELD_TYPE", "box_format: invalid enum value 'yxyx'"),
    (line(split="no.dots"), "E_FIELD_TYPE", "split: expected letters"),
    (line(native_id="9"), "E_FIELD_TYPE", "native_id: expected DATASET:ID"),
    (line(""), "E_NAME_UNSAFE", "image: expected a path below"),
    (line("/home/me/a.jpg"), "E_NAME_UNSAFE", "image: expected a path below"),
    (line("photos\\a.jpg"), "E_NAME_UNSAFE", "forward slashes"),
    (line("../a.jpg"), "E_NAME_UNSAFE", "image: expected a path below"),
    (line("a.jpg\0"), "E_NAME_UNSAFE", "image: expected a path below"),
    ('{"image": "a.jpg", "regions": [' + "[" * 100_000, "E_JSON_INVALID", "not valid JSON"),
]


@pytest.mark.parametrize(("bad", "code", "message"), BAD_LINES)
def test_a_bad_line_costs_itself_only(
    tree: Any, shards: Any, bad: Any, code: str, message: str
) -> None:
    text = bad if isinstance(bad, str) else json.dumps(bad)
    good = json.dumps(line(talk=said("Is <region1> a cat?")))
    tree.put("train.jsonl", f"\n{good}\n{text}\n".encode())
    tree.picture("a.jpg")
    (report,) = convert("jsonl", tree.root, shards.root, max_rejects=1)
    (rejection,) = shards.rejections("jsonl", "train")
    assert (rejection.code, rejection.source.record) == (code, "line 3")
    assert message in rejection.message
    assert (report.records_found, report.records_converted) == (3, 2)


BAD_REGIONS = [
    ({"label": "x"}, "E_FIELD_MISSING", "missing field `box`"),
    ({"box": BOX, "lable": "x"}, "E_FIELD_UNKNOWN", "unknown field `lable`"),
    ({"box": [1, 2, 3]}, "E_FIELD_TYPE", "box: expected `array` of length 4"),
    ({"box": "1,2,3,4"}, "E_FIELD_TYPE", "box: expected `array"),
    ({"box": BOX, "label": 3}, "E_FIELD_TYPE", "label: expected `str | null`"),
    ({"box": BOX, "label": " \n"}, "E_PHRASE_EMPTY", "label: expected a text"),
    ({"box": BOX, "phrase": ""}, "E_PHRASE_EMPTY", "phrase: expected a text"),
    ({"box": [30, 20, 10, 40]}, "E_BOX_EMPTY", '"box_format": "xywh"'),
    ({"box": [10, 10, 10.5, 40]}, "E_BOX_EMPTY", "in a picture of (64, 48)"),
    ({"box": [70, 10, 90, 40]}, "E_BOX_OUTSIDE", "in a picture of (64, 48)"),
    ({"box": [0, 0, 1, 1]}, "E_VALUE_RANGE", '"box_format": "xyxy_norm"'),
    ({"point": [1, 2, 3]}, "E_FIELD_TYPE", "point: expected `array` of length 2"),
    ({"point": [65, 4]}, "E_VALUE_RANGE", "point [65.0, 4.0] (xyxy): lies outside the picture"),
]


@pytest.mark.parametrize(("bad", "code", "message"), BAD_REGIONS)
def test_a_bad_region_costs_itself_and_what_speaks_of_it(
    tree: Any, shards: Any, bad: Any, code: str, message: str
) -> None:
    talk = [said("Is <region2> a cat?"), said("Is <region1> a cat?")]
    report = convert_one(
        tree, shards, {"image": "a.jpg", "regions": [bad, {"box": BOX}], "conversations": talk}
    )
    first, second = shards.rejections("jsonl", "train")
    assert (first.code, first.source.record) == (code, "line 1, regions[0]")
    assert message in first.message
    assert (second.code, second.source.record) == (
        "E_REF_NO_ANNOTATION",
        "line 1, conversations[1]",
    )
    assert "[0].user: `<region1>` has no usable box" in second.message
    assert (report.records_found, report.records_converted) == (4, 2)
    # What was the second region is the sample's first.
    (kept,) = shards.samples("jsonl", "train")["jsonl:a.jpg"].conversations
    assert kept.turns[0].text == "Is <region1> a cat?"


@pytest.mark.parametrize(("box_format", "point"), [("xyxy", [32, 12]), ("xywh_norm", [0.5, 0.25])])
def test_a_point_gets_a_small_box_around_it(
    tree: Any, shards: Any, box_format: str, point: list[float]
) -> None:
    regions = [{"point": point, "label": "cat"}, {"point": [0, 0], "label": "dog"}]
    report = convert_one(
        tree, shards, {"image": "a.jpg", "regions": regions, "box_format": box_format}
    )
    assert report.boxes_clipped == 0
    first, corner = shards.samples("jsonl", "train")["jsonl:a.jpg"].regions
    assert (first.point_xy, first.box_xyxy) == ((32, 12), (30, 10, 34, 14))
    assert (corner.point_xy, corner.box_xyxy) == ((0, 0), (0, 0, 2, 2))


def test_a_mask_stands_beside_its_box_and_a_bad_one_costs_itself(tree: Any, shards: Any) -> None:
    corners = [10, 20, 30, 20, 30, 30, 10, 30]
    regions = [
        {"box": BOX, "label": "cat", "mask": [corners]},
        {"box": BOX, "label": "dog", "mask": {"size": [3, 3], "counts": [4, 5]}},
    ]
    convert_one(tree, shards, {"image": "a.jpg", "regions": regions})
    first, second = shards.samples("jsonl", "train")["jsonl:a.jpg"].regions
    assert first.mask_rle is not None
    assert first.mask_rle.size == (48, 64)
    assert mask_box(first.mask_rle) == (10, 20, 30, 30)
    assert second.mask_rle is None
    (rejection,) = shards.rejections("jsonl", "train")
    assert (rejection.code, rejection.source.record) == ("E_MASK_SIZE", "line 1, regions[1]")


def test_fractions_outside_the_picture_are_refused(tree: Any, shards: Any) -> None:
    regions = [{"box": box, "label": "x"} for box in (BOX, [0, 0, 1.005, 1], [0, 0, 0.5, 1.2])]
    convert_one(tree, shards, line(boxes=0, regions=regions, box_format="xyxy_norm"))
    assert shards.codes("jsonl", "train") == {
        "line 1, regions[0]": "E_VALUE_RANGE",
        "line 1, regions[2]": "E_VALUE_RANGE",
    }
    (region,) = shards.samples("jsonl", "train")["jsonl:a.jpg"].regions
    assert region.box_xyxy == (0, 0, 64, 48)


def choice(options: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"user": "Which?", "options": options, **more}]


BAD_TALK = [
    ("hello", "E_FIELD_TYPE", "expected `array`, got `str`"),
    ([], "E_PHRASE_EMPTY", "got an empty list"),
    ([{"user": "What?"}], "E_FIELD_MISSING", "[0]: missing field `assistant`"),
    ([{"assistant": "That."}], "E_FIELD_MISSING", "missing field `user`"),
    ([{"user": "a", "asistant": "b"}], "E_FIELD_UNKNOWN", "unknown field `asistant`"),
    (said(7), "E_FIELD_TYPE", "user: expected `str`"),
    (said("  "), "E_PHRASE_EMPTY", "[0].user: expected a text"),
    (said("What is <region3>?"), "E_REF_NO_ANNOTATION", "does not exist, the line has 2"),
    (said("a", "<region3>"), "E_REF_NO_ANNOTATION", "[0].assistant: `<region3>` does not exist"),
    (said("What is <region0>?"), "E_REF_NO_ANNOTATION", "counted from 1"),
    (said("What is <region01>?"), "E_REF_NO_ANNOTATION", "is written `<region1>`"),
    (said("What is <Region 1>?"), "E_REF_NO_ANNOTATION", "is written `<region1>`"),
    (said("What is <region>?"), "E_REF_NO_ANNOTATION", "is written `<region1>`"),
    (said(f"<region{'1' * 5000}>"), "E_REF_NO_ANNOTATION", "is written `<region1>`"),
    (choice(["a", "b"], answer="c"), "E_OPTIONS_AMBIGUOUS", "`c` is that of 0"),
    (choice(["a", "a", "b"], answer="a"), "E_OPTIONS_AMBIGUOUS", "`a` is that of 2"),
    (choice(["a"]), "E_VALUE_RANGE", "options: expected 2 to 26, got 1"),
    (choice(["a"] * 27), "E_VALUE_RANGE", "options: expected 2 to 26, got 27"),
    (choice(["a", " "]), "E_PHRASE_EMPTY", "[0].options[1]: expected a text"),
    (choice(["a", "<region9>"]), "E_REF_NO_ANNOTATION", "[0].options[1]: `<region9>`"),
    (choice(["a", "b"], assistant="a"), "E_RECORD_INVALID", "got both"),
    (choice(["a", "b"]) + said("Why?"), "E_RECORD_INVALID", "in the last exchange only"),
    ([{"user": "a", "assistant": "b", "answer": "b"}], "E_FIELD_MISSING", "needs `options`"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "code", "message"), BAD_TALK)
def test_a_bad_conversation_costs_itself_only(
    tree: Any, shards: Any, bad: Any, code: str, message: str
) -> None:
    talk = [bad, said("Is <region1> beside <region2>?")]
    convert_one(tree, shards, line(boxes=2, conversations=talk))
    (rejection,) = shards.rejections("jsonl", "train")
    assert (rejection.code, rejection.source.record) == (code, "line 1, conversations[0]")
    assert message in rejection.message
    sample = shards.samples("jsonl", "train")["jsonl:a.jpg"]
    assert [c.id for c in sample.conversations] == ["train:1/1"]


def test_lines_about_one_picture_become_one_sample(tree: Any, shards: Any) -> None:
    convert_one(
        tree,
        shards,
        {"image": "a.jpg", "regions": [{"box": BOX, "label": "cat"}]},
        line("./a.jpg", talk=said("What is <region1>?"), native_id="coco:9"),
        line(".//a.jpg", 0, native_id="coco:10"),
        line(id="me", boxes=0, talk=choice(["a", "b"])),
        line(id="me", boxes=0, talk=said("Again?")),
    )
    sample = shards.samples("jsonl", "train")["coco:9"]
    assert [(c.id, c.turns[0].text) for c in sample.conversations[:2]] == [
        ("train:2/0", "What is <region2>?"),
        ("me/0", "Which?"),
    ]
    assert sample.conversations[1].choice is not None
    assert sample.conversations[1].choice.answer is None
    assert sample.conversations[2].turns[1].text == "cat"
    assert shards.codes("jsonl", "train") == {
        "line 3": "E_RECORD_DUPLICATE",
        "line 5": "E_RECORD_DUPLICATE",
    }


def test_a_picture_about_which_nothing_is_said_is_left_out_by_policy(
    tree: Any, shards: Any
) -> None:
    tree.lines("train.jsonl", [line(), line("b.jpg", 0), line("gone.jpg", talk=said("a"))])
    tree.picture("a.jpg")
    tree.picture("b.jpg")
    (report,) = convert("jsonl", tree.root, shards.root, max_rejects=1)
    assert shards.codes("jsonl", "train") == {
        "line 1": "E_IMAGE_UNANNOTATED",
        "line 2": "E_IMAGE_UNANNOTATED",
        "line 3": "E_IMAGE_MISSING",
    }
    assert (report.records_found, report.records_by_policy, report.faults) == (3, 1, 2)


# --- files and splits ---


def test_a_line_belongs_to_the_split_it_names_or_to_its_file(tree: Any, shards: Any) -> None:
    tree.lines(
        "train.jsonl",
        [
            line("1.jpg", talk=said("a")),
            line("2.jpg", talk=said("a"), split="val"),
            line("3.jpg", talk=said("a"), split="../x"),
        ],
    )
    tree.lines("extra.jsonl", [line("4.jpg", talk=said("a"), split="val")])
    tree.lines("odd.jsonl", [line("5.jpg", talk=said("a"))])
    for number in range(1, 6):
        tree.picture(f"images/{number}.jpg", seed=number)
    reports = convert("jsonl", tree.root, shards.root, max_rejects=1)
    assert [r.split for r in reports] == ["train", "val", "odd"]
    assert shards.samples("jsonl", "train").keys() == {"jsonl:1.jpg"}
    assert shards.samples("jsonl", "val").keys() == {"jsonl:2.jpg", "jsonl:4.jpg"}
    assert shards.codes("jsonl", "train") == {"line 3": "E_FIELD_TYPE"}


def test_a_single_file_is_a_source(tree: Any, shards: Any, tmp_path: Path) -> None:
    tree.put("pets.jsonl", b"\xef\xbb\xbf" + json.dumps(line(talk=said("Ä?"))).encode() + b"\r\n")
    tree.lines("other.jsonl", [line("b.jpg", talk=said("a"))])
    elsewhere = type(tree)(tmp_path / "photos")
    elsewhere.picture("a.jpg")
    (report,) = convert(
        "jsonl", tree.root / "pets.jsonl", shards.root, image_roots=[elsewhere.root]
    )
    assert (report.split, report.rejections) == ("pets", {})
    assert shards.samples("jsonl", "pets").keys() == {"jsonl:a.jpg"}


def test_wrong_places_say_what_was_expected(tree: Any, shards: Any) -> None:
    tree.put("boxes.json", b"{}")
    for source, found in (
        (tree.root / "nowhere", "found nothing there"),
        (tree.root / "boxes.json", "found another file"),
        (tree.root, r"found boxes\.json"),
    ):
        with pytest.raises(UsageError, match=rf"train\.jsonl.*{found}") as caught:
            convert("jsonl", source, shards.root)
        assert caught.value.hint == "docs/your-own-data.md shows the form"
    tree.put("my.data.jsonl", b"")
    with pytest.raises(UsageError, match=r"my\.data\.jsonl.*name of a split.*got `my\.data`"):
        convert("jsonl", tree.root, shards.root)
    (tree.root / "my.data.jsonl").rename(tree.root / "empty.jsonl")
    with pytest.raises(UsageError, match="expected images in empty, found none"):
        convert("jsonl", tree.root, shards.root)
    with pytest.raises(UsageError, match=r"--detections.*Your own data"):
        options = SourceOptions(detections=Path("x"))
        convert("jsonl", tree.root, shards.root, options=options)


# --- the form holds what a sample holds ---


def as_line(sample: Sample) -> dict[str, Any]:
    """Write a sample of dialogues and choices as a line."""
    conversations = []
    for conversation in sample.conversations:
        texts = [turn.text for turn in conversation.turns]
        exchanges: list[dict[str, Any]] = [
            {"user": user, "assistant": assistant}
            for user, assistant in zip(texts[::2], texts[1::2], strict=False)
        ]
        if conversation.choice is not None:
            options = list(conversation.choice.options)
            exchanges.append({"user": texts[-1], "options": options})
            if conversation.choice.answer is not None:
                exchanges[-1]["answer"] = options[conversation.choice.answer]
        conversations.append(exchanges)
    regions = [
        {"box": r.box_xyxy} | ({} if r.label is None else {"label": r.label})
        for r in sample.regions
    ]
    return {
        "image": sample.image.file,
        "native_id": sample.image.native_id,
        "regions": regions,
        "conversations": conversations,
    }


def test_a_round_trip_loses_nothing(tree: Any, shards: Any) -> None:
    talk = [
        said("<region2> or <<region1>?\n\n\tTell <</s> & <<<region1>!")
        + choice(["ü <b>", "<region1>"]),
        choice(["a", "<region3>", "c"], answer="<region3>"),
        said("<<image> <region1>", " 1 < 2 << 3 <region2>"),
    ]  # fmt: skip
    regions = [{"box": [0.1, 1 / 3, 9.7, 20], "label": f"thing <region{i}>"} for i in range(3)]
    convert_one(tree, shards, line(boxes=0, regions=regions, conversations=talk, native_id="a:b:c"))
    (first,) = shards.samples("jsonl", "train").values()
    again = type(shards)(shards.root / "again")
    convert_one(tree, again, as_line(first))
    (second,) = again.samples("jsonl", "train").values()
    assert second.regions == first.regions
    assert second.image == first.image
    assert [(c.turns, c.choice, c.task) for c in second.conversations] == [
        (c.turns, c.choice, c.task) for c in first.conversations
    ]
    assert [c.task for c in first.conversations] == ["choice", "choice", "dialogue"]


def test_a_name_over_two_lines_does_not_break_the_message(tree: Any, shards: Any) -> None:
    with pytest.raises(UsageError, match="expected pictures such as") as caught:
        convert_one(tree, shards, line(image="con\nnul.jpg"))
    assert "\n" not in str(caught.value)
