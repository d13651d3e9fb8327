import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.detections_table import DetectedBox, write_detections
from pipelines.draft import SourceOptions
from pipelines.reports import SplitReport
from pipelines.run import convert
from roikit.errors import UsageError
from roikit.mentions import plain
from roikit.sample import Conversation

WHOLE = "llava_instruct_150k.json"


def said(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def record(image: int | str, *texts: str, **more: Any) -> dict[str, Any]:
    name = f"{image:012d}.jpg" if isinstance(image, int) else image
    return {"id": name.removesuffix(".jpg"), "image": name, "conversations": said(*texts), **more}


def lvis(size: int = 1203, **named: list[str]) -> dict[str, Any]:
    """An annotation file whose first classes are those named, the others nobody's words."""
    categories: list[dict[str, Any]] = [
        {"id": i + 1, "name": f"thing_{i}", "synonyms": [f"thing_{i}"], "frequency": "c"}
        for i in range(size)
    ]
    for i, (name, synonyms) in enumerate(named.items()):
        categories[i] |= {"name": name, "synonyms": synonyms}
    return {"images": [], "annotations": [], "categories": categories}


LVIS = lvis(
    dog=["dog"],
    person=["man", "woman", "person"],
    frisbee=["frisbee"],
    traffic_light=["traffic_light"],
    hot_dog=["hot_dog", "frankfurter"],
    scissors=["scissors"],
)
LVIS["categories"][7] |= {"name": "bat_(animal)", "synonyms": ["bat"]}
LVIS["categories"][8] |= {"name": "baseball_bat", "synonyms": ["bat", "baseball_bat"]}
#: A picture of 64 x 48: dog, person, frisbee; one box too unsure, one too small.
NINE = [
    [0.125, 0.25, 0.5, 0.75, 0.9],
    [0.5, 0.0, 0.75, 1.0, 0.8],
    [0.25, 0.25, 0.375, 0.5, 0.35],
    [0.1, 0.1, 0.9, 0.9, 0.3],
    [0.1, 0.1, 0.119, 0.9, 0.95],
]
NINE_LABELS = [0, 1, 2, 3, 3]


def entry(image: str, boxes: list[list[float]], labels: list[int]) -> dict[str, Any]:
    return {
        "filename": image,
        "pred_bboxes": np.array(boxes, dtype=np.float32).reshape(-1, 5),
        "labels": np.array(labels, dtype=np.int64),
    }


class Given:
    """A source, with the files beside it, and a short way to convert it."""

    def __init__(self, tree: Any, shards: Any) -> None:
        self.tree = tree
        self.shards = shards
        self.pickle = tree.root / "../llava_150k_bbox_pred_results.pkl"
        self.lvis = tree.root / "../lvis_v1_val.json"

    def records(self, *records: Any, file: str = WHOLE) -> None:
        self.tree.json(file, list(records))

    def detected(self, *entries: Any) -> SourceOptions:
        self.pickle.write_bytes(pickle.dumps(list(entries)))
        if not self.lvis.is_file():
            self.tree.json("../lvis_v1_val.json", LVIS)
        return SourceOptions(detections=self.pickle, categories=self.lvis)

    def convert(self, options: SourceOptions | None = None, **more: Any) -> SplitReport:
        more = {"max_rejects": 1, "overwrite": True, **more}
        (report,) = convert("llava", self.tree.root, self.shards.root, options=options, **more)
        return report

    def sample(self, native_id: str = "coco:9") -> Any:
        return self.shards.samples("llava", "train")[native_id]

    def found(self) -> list[tuple[str, str]]:
        return sorted((r.source.record, r.code) for r in self.shards.rejections("llava", "train"))


@pytest.fixture
def given(tree: Any, shards: Any) -> Given:
    tree.picture("train2017/000000000009.jpg")
    return Given(tree, shards)


def texts(conversation: Conversation) -> list[str]:
    return [turn.text for turn in conversation.turns]


def is_introduced(conversation: Conversation) -> bool:
    return conversation.turns[0].phrasing == "named-regions"


def test_golden_dialogue(given: Given) -> None:
    dialogue = (
        "What is the dog doing?\n<image>",
        "In the image, a dog catches the  frisbee.\n\n\n1. The man is near the dog.\r\n2. A <s>.",
        "Why?",
        "The dog is young.",
    )
    options = given.detected(entry("000000000009.jpg", NINE, NINE_LABELS))
    given.records(*([record(9, *dialogue)] * 8))
    report = given.convert(options)
    sample = given.sample()
    assert (report.records_found, report.records_converted) == (8, 8)
    assert [(r.box_xyxy, r.label, r.score, r.origin, r.native_id) for r in sample.regions] == [
        ((8.0, 12.0, 32.0, 36.0), "dog", 0.9, "detector", "0"),
        ((32.0, 0.0, 48.0, 48.0), "person", 0.8, "detector", "1"),
        ((16.0, 12.0, 24.0, 24.0), "frisbee", 0.35, "detector", "2"),
    ]
    assert all(c.task == "dialogue" and not c.independent for c in sample.conversations)
    assert [c.source.record for c in sample.conversations] == [f"[{i}]" for i in range(8)]
    introduced = [c for c in sample.conversations if is_introduced(c)]
    bare = [c for c in sample.conversations if not is_introduced(c)]
    assert introduced
    assert bare
    first, *rest = texts(introduced[0])
    # Drawn once and read; another result means that old shards and new ones differ in their texts.
    assert first == (
        "Regions and what they may hold: <region1> (dog), <region2> (person), <region3> (frisbee). "
        "What is the dog (<region1>) doing?"
    )
    assert rest == [
        "In the image, a dog catches the frisbee (<region3>).\n\n"
        "1. The man (<region2>) is near the dog (<region1>).\n2. A <<s>.",
        "Why?",
        "The dog (<region1>) is young.",
    ]
    assert texts(bare[0]) == [
        "What is the dog doing?",
        "In the image, a dog catches the frisbee.\n\n1. The man is near the dog.\n2. A <<s>.",
        "Why?",
        "The dog is young.",
    ]
    assert plain(texts(bare[0])[1]).endswith("2. A <s>.")


def test_half_of_the_dialogues_are_introduced(given: Given) -> None:
    given.records(*[record(9, "<image>\nWhy?", "So.") for _ in range(200)])
    given.convert(given.detected(entry("000000000009.jpg", NINE, NINE_LABELS)))
    introduced = [is_introduced(c) for c in given.sample().conversations]
    assert 70 < sum(introduced) < 130
    given.convert(given.detected(entry("000000000009.jpg", NINE, NINE_LABELS)), seed=1)
    assert introduced != [is_introduced(c) for c in given.sample().conversations]


def test_every_bad_record_has_its_code_and_costs_itself(given: Given) -> None:
    turned = record(9, "a", "b") | {"conversations": said("a", "b")[::-1]}
    given.records(
        record(9, "<image>\nWhat?", "This."),
        record(9, "<image>", "This."),
        record(9, "What?", " \n "),
        record(9, "What?"),
        record(9),
        turned,
        record(9, "What?", "a", "b", "c") | {"conversations": said("What?", "a") + said("b")},
        {"id": "x", "conversations": said("no", "picture")},
        record(9, "a", "b") | {"conversations": "a"},
        record(9, "a", "b") | {"conversations": [{"from": "human", "value": 4}]},
        record(9, "a", "b") | {"conversations": [{"value": "a"}]},
        record("../../secret.jpg", "a", "b"),
        record("gqa/images/1.jpg", "a", "b"),
        record("999999999999999999999999.jpg", "a", "b"),
        record(5, "a", "b"),
        "no record",
        record(9, "a", float("nan")),  # type: ignore[arg-type]
        record("coco/train2017/000000000009.jpg", "Says <image> what?", "That.", id=9),
    )
    given.tree.put("../secret.jpg", (given.tree.root / "train2017/000000000009.jpg").read_bytes())
    report = given.convert()
    assert given.found() == sorted(
        [
            ("[1]", "E_PHRASE_EMPTY"),
            ("[2]", "E_PHRASE_EMPTY"),
            ("[3]", "E_TURN_ORDER"),
            ("[4]", "E_TURN_ORDER"),
            ("[5]", "E_TURN_ORDER"),
            ("[6]", "E_TURN_ORDER"),
            ("[7]", "E_FIELD_MISSING"),
            ("[8]", "E_FIELD_TYPE"),
            ("[9]", "E_FIELD_TYPE"),
            ("[10]", "E_FIELD_MISSING"),
            ("[11]", "E_NAME_UNSAFE"),
            ("[12]", "E_IMAGE_UNKNOWN"),
            ("[13]", "E_IMAGE_UNKNOWN"),
            ("[14]", "E_IMAGE_MISSING"),
            ("[15]", "E_FIELD_TYPE"),
            ("[16]", "E_JSON_INVALID"),
        ]
    )
    assert (report.records_found, report.records_converted) == (18, 2)
    first, last = given.sample().conversations
    assert texts(first) == ["What?", "This."]
    assert texts(last) == ["Says what?", "That."]
    assert not given.sample().regions


def test_half_a_character_costs_one_record(given: Given) -> None:
    good = b'{"id": "9", "image": "000000000009.jpg", "conversations": [%s]}'
    turns = b'{"from": "human", "value": "a%s"}, {"from": "gpt", "value": "b"}'
    given.tree.put(
        WHOLE, b"[%s, %s]" % (good % (turns % b"\\ud800"), good % (turns % b" \xc3\xa9 \\u00e9"))
    )
    given.convert()
    assert given.found() == [("[0]", "E_JSON_INVALID")]
    assert texts(given.sample().conversations[0])[0] == "a é é"


@pytest.mark.parametrize("damage", [b'[{"image": ', b"{}", b"", b"[" * 100_000])
def test_a_damaged_file_is_one_clear_error(given: Given, damage: bytes) -> None:
    given.tree.put(WHOLE, damage)
    with pytest.raises(UsageError, match=r"llava_instruct_150k\.json"):
        given.convert()


def test_the_parts_and_the_subset_are_recognised(given: Given) -> None:
    given.tree.picture("COCO_train2014_000000000005.jpg")
    given.records(record(9, "a", "b"), file="detail_23k.json")
    given.records(record(9, "c", "d"), record(5, "e", "f"), file="conversation_58k.json")
    assert given.convert().images_found == 2
    ids = [c.id for c in given.sample().conversations]
    assert ids == ["conversation_58k/0", "detail_23k/0"]
    assert given.sample("coco:5").image.file == "COCO_train2014_000000000005.jpg"
    given.records(record(9, "g", "h"), file="llava_instruct_80k.json")
    assert given.convert().split == "train"
    assert given.convert(splits=["train80k"]).split == "train80k"
    given.records(record(9, "i", "j"))
    given.convert()
    assert texts(given.sample().conversations[0]) == ["i", "j"]  # the whole goes before its parts
    for name in (WHOLE, "detail_23k.json", "conversation_58k.json"):
        (given.tree.root / name).unlink()
    assert given.convert().split == "train80k"


def test_wrong_places_say_what_was_expected(given: Given) -> None:
    given.tree.json("llava_v1_5_mix665k.json", [])
    with pytest.raises(UsageError, match=r"llava_instruct_150k\.json.*found llava_v1_5_") as error:
        given.convert()
    assert error.value.hint is not None
    assert "`llava_v1_5_mix665k.json` is another mixture and not read" in error.value.hint
    given.records(record(9, "a", "b"))
    for options, expected in (
        (SourceOptions(categories=Path("x.json")), "`--categories`: changes only"),
        (SourceOptions(faithful=True), "`--faithful`: changes only"),
        (SourceOptions(detections=Path("nowhere.pkl")), "nowhere.pkl.*found nothing there"),
        (SourceOptions(detections=given.tree.root), "found a folder"),
    ):
        with pytest.raises(UsageError, match=expected):
            given.convert(options)


def test_pictures_are_found_where_cocos_usually_lie(tree: Any, shards: Any) -> None:
    tree.picture("../coco/train2017/000000000009.jpg")
    given = Given(tree, shards)
    given.records(record(9, "Why?", "Because."))
    given.convert()
    assert given.sample().image.file == "train2017/000000000009.jpg"


def test_boxes_of_other_pictures_are_no_detections(given: Given) -> None:
    given.records(record(9, "a", "b"))
    with pytest.raises(UsageError, match="1 pictures and none of them among 1"):
        given.convert(given.detected(entry("000000000010.jpg", NINE, NINE_LABELS)))


def test_at_most_a_hundred_boxes_in_the_files_order(given: Given) -> None:
    boxes = [[0.1, 0.1, 0.5, 0.5, 0.31 + i / 1000] for i in range(120)]
    given.records(*([record(9, "The dog is here?", "The man is.")] * 8))
    given.convert(given.detected(entry("000000000009.jpg", boxes, [1] + [0] * 118 + [1])))
    sample = given.sample()
    assert [r.native_id for r in sample.regions] == [str(i) for i in range(100)]
    # The second person is beyond the hundred: still there are two.
    assert not any("(<region" in text for c in sample.conversations for text in texts(c)[1:])


def test_objects_too_small_for_a_region_are_counted_all_the_same(given: Given) -> None:
    boxes = [[0.1, 0.1, 0.5, 0.5, 0.9], [0.6, 0.6, 0.61, 0.61, 0.8], [0.5, 0.1, 0.9, 0.9, 0.9]]
    unsure = [0.2, 0.2, 0.21, 0.21, 0.3]
    given.records(*([record(9, "The dog is here?", "The man is.")] * 8))
    given.convert(given.detected(entry("000000000009.jpg", [*boxes, unsure], [0, 0, 1, 1])))
    sample = given.sample()
    assert [r.label for r in sample.regions] == ["dog", "person"]
    introduced = [texts(c) for c in sample.conversations if is_introduced(c)]
    assert introduced
    assert all("The dog is here?" in asked for asked, _ in introduced)
    assert {answer for _, answer in introduced} == {"The man (<region2>) is."}


def test_without_a_good_box_the_dialogue_stays_plain(given: Given) -> None:
    given.records(*([record(9, "a", "b")] * 6))
    given.convert(given.detected(entry("000000000009.jpg", [[0.1, 0.1, 0.9, 0.9, 0.2]], [0])))
    sample = given.sample()
    assert not sample.regions
    assert not any(map(is_introduced, sample.conversations))


def test_faithful_brings_back_names_and_boxes_of_the_reference(given: Given) -> None:
    table = lvis()
    for i, name in ((938, "shaver_(electric)"), (939, "shaving_cream"), (940, "shawl")):
        table["categories"][i] |= {"name": name, "synonyms": [name]}
    table["categories"][1202] |= {"name": "zucchini", "synonyms": ["zucchini"]}
    given.tree.json("../lvis_v1_val.json", table)
    given.tree.picture("train2017/000000000005.jpg")
    boxes = [[0.1, 0.1, 0.5, 0.5, 0.9]] * 5
    options = given.detected(
        entry("000000000009.jpg", boxes, [937, 938, 939, 940, 1202]),
        entry("000000000005.jpg", [[0.1, 0.1, 0.9, 0.9, 0.2]] * 12, [939] * 12),
    )
    given.records(*([record(9, "The zucchini is here?", "The shawl is.")] * 8), record(5, "a", "b"))
    given.convert(options)
    labels = [r.label for r in given.sample().regions]
    assert labels == ["thing 937", "shaver", "shaving cream", "shawl", "zucchini"]
    said = [text for c in given.sample().conversations for text in texts(c)]
    assert "The shawl (<region4>) is." in said
    assert not given.sample("coco:5").regions
    faithful = SourceOptions(
        detections=options.detections, categories=options.categories, faithful=True
    )
    given.convert(faithful)
    labels = [r.label for r in given.sample().regions]
    assert labels == [
        "thing_937", "shaver_(electric)shaving_cream", "shawl", "thing_941", "background",
    ]  # fmt: skip
    dialogues = given.sample().conversations
    assert {text for c in dialogues for text in texts(c)[1:]} == {"The shawl is."}
    opening = next(texts(c)[0] for c in dialogues if is_introduced(c))
    assert "<region5> (background)" in opening
    assert [r.label for r in given.sample("coco:5").regions] == ["shawl"] * 10


def test_a_file_without_any_box_is_refused_and_says_so(given: Given) -> None:
    given.records(record(9, "a", "b"))
    table = given.tree.root / "../boxes.parquet"
    write_detections(table, [])
    given.tree.json("boxes.json", [])
    for path in (table, given.tree.root / "boxes.json"):
        with pytest.raises(UsageError, match="found no box at all"):
            given.convert(SourceOptions(detections=path))


def test_boxes_of_a_picture_of_another_shape_cost_only_themselves(given: Given) -> None:
    table = given.tree.root / "../boxes.parquet"
    box = DetectedBox("000000000009.jpg", 1, 1, 40, 40, 100, 100, 0.9, "dog", "d")
    write_detections(table, [box])
    given.records(record(9, "a", "b"))
    report = given.convert(SourceOptions(detections=table))
    assert given.found() == [("row 0", "E_SIZE_MISMATCH")]
    assert report.records_converted == 1
    write_detections(table, [replace(box, width=128, height=96)])
    given.convert(SourceOptions(detections=table))
    assert given.sample().regions[0].box_xyxy == (0.5, 0.5, 20.0, 20.0)
