import errno
import os
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from pipelines.phrasing import wordings
from pipelines.run import convert
from pipelines.vcr_text import class_name, detokenise
from roikit.errors import RoikitError
from roikit.sample import Conversation

FILE = "lsmdc_1054_Movie/1054_00.01.02.500-00.01.04.000@3.jpg"
NATIVE = f"vcr:{FILE.removesuffix('.jpg')}"
OBJECTS = ["person", "trafficlight", "person"]
BOXES = [[1.0, 2.0, 30.5, 40.0, 0.99], [40, 1, 50.5, 20, 0.9], [20, 5, 64.4, 48, 0.8]]


def question(id: str = "train-0", **more: Any) -> dict[str, Any]:
    return {
        "movie": "1054_Movie", "objects": OBJECTS, "img_fn": FILE,
        "metadata_fn": FILE.removesuffix(".jpg") + ".json", "annot_id": id, "img_id": "train-0",
        "question": ["Why", "are", [0, 2], "near", "2", "people", "?"],
        "question_orig": "Why are 1 and 3 near 2 people ?",
        "answer_choices": [
            [[0], "is", "tired", "."],
            [[2], "doesn", "'", "t", "know", "."],
            [[1], "is", "red", "."],
            ["Nobody", "knows", "."],
        ],
        "answer_label": 1,
        "rationale_choices": [
            [[1], "is", "green", "."],
            ["It", "is", "late", "."],
            [[0], "'", "s", "T", "-", "shirt", "(", "blue", ")", "is", "wet", "."],
            ["No", "."],
        ],
        "rationale_label": 2,
        **more,
    }  # fmt: skip


@pytest.fixture
def write(tree: Any) -> Any:
    """Write one picture's questions, train split."""

    def put(*questions: Any, width: int = 64, height: int = 48, boxes: Any = BOXES) -> Path:
        tree.picture(f"vcr1images/{FILE}", 64, 48)
        tree.json(
            f"vcr1images/{FILE.removesuffix('.jpg')}.json",
            {"boxes": boxes, "segms": [[]], "names": OBJECTS, "width": width, "height": height},
        )
        tree.lines("train.jsonl", list(questions))
        return Path(tree.root)

    return put


def texts(conversation: Conversation) -> list[str]:
    return [turn.text for turn in conversation.turns]


def test_golden_conversations(write: Any, shards: Any, find: Any) -> None:
    convert("vcr", write(question()), shards.root)
    sample = shards.samples("vcr", "train")[NATIVE]
    assert [(r.label, r.box_xyxy, r.score, r.origin) for r in sample.regions] == [
        ("person", (1, 2, 30.5, 40), 0.99, "detector"),
        ("traffic light", (40, 1, 50.5, 20), 0.9, "detector"),
        ("person", (20, 5, 64, 48), 0.8, "detector"),
    ]
    asked = "Why are <region1> and <region3> near 2 people?"
    everything = find(sample, "train-0/all")
    lead_in = everything.turns[0].text
    assert lead_in.endswith(asked)
    assert "<region1>, <region2> and <region3>" in lead_in
    assert texts(everything)[1] == "<region3> doesn't know."
    assert texts(everything)[2] in wordings("why")
    assert texts(everything)[3] == "<region1>'s T-shirt (blue) is wet."
    assert not everything.independent
    multi = find(sample, "train-0/multi")
    assert multi.task == "reasoning-multi"
    assert texts(multi)[:2] == [asked, "<region3> doesn't know."]
    assert texts(multi)[3] == "<region1>'s T-shirt (blue) is wet."
    choice = find(sample, "train-0/choice-answer").choice
    assert (choice.question_id, choice.step, choice.answer) == ("train-0", "answer", 1)
    assert choice.options[2] == "<region2> is red."
    rationale = find(sample, "train-0/choice-rationale")
    assert texts(rationale)[1] == "<region3> doesn't know."
    assert len(texts(rationale)) == 3
    assert rationale.choice.answer == 2
    assert "train-0/single" not in {c.id for c in sample.conversations}


def test_the_single_view_needs_one_region_that_the_answer_keeps_to(
    write: Any, shards: Any, find: Any
) -> None:
    one = ["What", "is", [2], "?"]
    source = write(
        question("train-1", question=one),
        question("train-2", question=one, answer_label=0),
        question("train-3", question=one, rationale_label=1),
        question("train-4", question=["Why", "?"], answer_label=3),
    )
    convert("vcr", source, shards.root)
    sample = shards.samples("vcr", "train")[NATIVE]
    single = {c.id: len(c.turns) for c in sample.conversations if c.task == "reasoning-single"}
    assert single == {"train-1/single": 2, "train-3/single": 4}
    assert not [c for c in sample.conversations if c.task == "reasoning-multi"]


def test_one_sample_holds_all_questions_of_a_picture(write: Any, shards: Any) -> None:
    source = write(question("train-1"), question("train-2"))
    (report,) = convert("vcr", source, shards.root)
    assert (report.images_converted, report.records_converted) == (1, 2)


def test_boxes_are_rescaled_where_the_metadata_names_another_size(write: Any, shards: Any) -> None:
    boxes = [[value * 2 for value in box[:4]] + [0.5] for box in BOXES]
    convert("vcr", write(question(), width=128, height=96, boxes=boxes), shards.root)
    sample = shards.samples("vcr", "train")[NATIVE]
    assert sample.regions[0].box_xyxy == (1, 2, 30.5, 40)


def test_another_shape_rejects_the_picture(write: Any, shards: Any) -> None:
    convert("vcr", write(question(), width=128, height=48), shards.root, max_rejects=1)
    (rejection,) = shards.rejections("vcr", "train")
    assert rejection.code == "E_SIZE_MISMATCH"
    assert "128x48" in rejection.message
    assert "64x48" in rejection.message


def test_every_trap_has_its_code(write: Any, shards: Any, tree: Any) -> None:
    no_question = question("train-5")
    del no_question["question"]
    source = write(
        question("train-1"),
        question("train-1"),
        question("train-2", question=["Who", "is", [7], "?"]),
        question("train-3", objects=["person"]),
        question("train-4", answer_label=4),
        no_question,
        question("train-6", question=["Who", "is", [], "?"]),
        question("train-7", question=["Who", "is", ["1"], "?"]),
        question("train-8", question=[" ", "?"]),
        question("train-9", answer_choices=[["a"], ["b"], [[9]], ["c"]]),
        question("train-10", img_fn="../secret.jpg"),
        question("train-11", img_fn="gone@1.jpg"),
        question("train-12", metadata_fn="gone.json", img_fn="lsmdc_2/b@2.jpg"),
    )
    tree.picture("vcr1images/lsmdc_2/b@2.jpg")
    with (source / "train.jsonl").open("ab") as file:
        file.write(b'\n{"annot_id": "train-13", \n')
    (report,) = convert("vcr", source, shards.root, max_rejects=1)
    assert shards.codes("vcr", "train") == {
        "line 2": "E_RECORD_DUPLICATE",
        "train-2": "E_REF_NO_ANNOTATION",
        "train-3": "E_COUNT_MISMATCH",
        "train-4": "E_VALUE_RANGE",
        "line 6": "E_FIELD_MISSING",
        "train-6": "E_FIELD_TYPE",
        "line 8": "E_FIELD_TYPE",
        "train-8": "E_PHRASE_EMPTY",
        "train-9": "E_REF_NO_ANNOTATION",
        "line 11": "E_NAME_UNSAFE",
        "line 12": "E_IMAGE_MISSING",
        "line 13": "E_METADATA_MISSING",
        "line 15": "E_JSON_INVALID",
    }
    sample = shards.samples("vcr", "train")[NATIVE]
    assert {c.source.record for c in sample.conversations} == {"train-1", "train-9"}
    nine = {c.id for c in sample.conversations if c.source.record == "train-9"}
    assert nine == {"train-9/all", "train-9/choice-rationale"}
    assert (report.records_found, report.records_converted) == (14, 2)


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ESTALE, "cannot be read"), (errno.EIO, "cannot be read"), (errno.ENOENT, "is gone")],
)
def test_metadata_that_cannot_be_read_just_now_ends_it(
    write: Any, shards: Any, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    source = write(question())
    real = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name.endswith("@3.json"):
            raise OSError(number, os.strerror(number))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(RoikitError, match=rf"@3\.json`: .*{message}"):
        convert("vcr", source, shards.root, max_rejects=1)


def test_metadata_that_may_not_be_read_rejects_its_picture(
    write: Any, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(question())
    real = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name.endswith("@3.json"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    (report,) = convert("vcr", source, shards.root, max_rejects=1)
    assert report.rejections == {"E_METADATA_MISSING": 1}


def test_a_bad_box_costs_the_questions_that_speak_of_it(write: Any, shards: Any, find: Any) -> None:
    boxes = [BOXES[0], [70, 1, 80, 20, 0.9], BOXES[2]]
    quiet = question("train-1", answer_choices=[["a"], ["b"], ["c"], ["d"]])
    quiet["rationale_choices"][0] = ["No"]
    source = write(quiet, question("train-2", question=["Is", [1], "red", "?"]), boxes=boxes)
    convert("vcr", source, shards.root, max_rejects=1)
    assert shards.codes("vcr", "train") == {
        "boxes[1]": "E_BOX_OUTSIDE",
        "train-2": "E_REF_NO_ANNOTATION",
    }
    sample = shards.samples("vcr", "train")[NATIVE]
    assert [r.native_id for r in sample.regions] == ["0", "2"]
    assert "<region1> and <region2> near 2 people" in texts(find(sample, "train-1/all"))[0]


def test_the_test_split_has_answers_to_choose_from_and_no_right_one(
    write: Any, shards: Any, tree: Any
) -> None:
    hidden = question("test-0")
    del hidden["answer_label"], hidden["rationale_label"]
    write()
    tree.lines("test.jsonl", [hidden])
    (report,) = convert("vcr", tree.root, shards.root)
    assert report.split == "test"
    (only,) = shards.samples("vcr", "test")[NATIVE].conversations
    assert (only.id, only.task, only.choice.answer) == ("test-0/choice-answer", "choice", None)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["Yes", ",", "it", "is", "."], "Yes, it is."),
        (["They", "'", "re", "the", "boys", "'", "hats"], "They're the boys' hats"),
        (['He', "says", '"', "stop", "!", '"', "twice"], 'He says "stop!" twice'),
        (["a", "well", "-", "lit", "room", "-", None], "a well-lit room - <region1>"),
        (["$", "10", "or", "5", "%"], "$10 or 5%"),
        (["Is", None, "'", "s", "hat", "(", "red", ")", "?"], "Is <region1>'s hat (red)?"),
        (["a", "<region1>", "sign", "<", None], "a <<region1> sign < <region1>"),
        (["He", "does", "n't", "..."], "He doesn't..."),
    ],
)  # fmt: skip
def test_token_lists_read_like_text(tokens: list[str | None], text: str) -> None:
    assert detokenise(tokens, ["<region1>"]) == text


def test_class_names_get_their_blanks_back() -> None:
    assert class_name("trafficlight") == "traffic light"
    assert class_name("person") == "person"


@pytest.mark.parametrize("place", ["{}", "vcr1images/{}", "flat"])
def test_metadata_are_found_wherever_pictures_are(
    tree: Any, shards: Any, tmp_path: Path, place: str
) -> None:
    tree.lines("train.jsonl", [question()])
    other = type(tree)(tmp_path / "pictures")
    name = PurePosixPath(FILE).name if place == "flat" else place.format(FILE)
    other.picture(name, 64, 48)
    metadata = {"boxes": BOXES, "segms": [[]], "names": OBJECTS, "width": 64, "height": 48}
    other.json(name.removesuffix(".jpg") + ".json", metadata)
    (report,) = convert("vcr", tree.root, shards.root, image_roots=[other.root])
    assert (report.images_converted, report.rejections) == (1, {})
    assert shards.samples("vcr", "train")[NATIVE].image.file == name


def test_a_base_name_of_two_pictures_finds_neither_in_a_flat_folder(
    tree: Any, shards: Any, tmp_path: Path
) -> None:
    other = "other_Movie/" + PurePosixPath(FILE).name
    metadata = other.removesuffix(".jpg") + ".json"
    own = question("c", img_fn="movie/own@0.jpg", metadata_fn="movie/own@0.json")
    shared = question("b", img_fn=other, metadata_fn=metadata)
    tree.lines("train.jsonl", [question(), shared, own])
    flat = type(tree)(tmp_path / "flat")
    for name in (PurePosixPath(other).stem, "own@0"):
        flat.picture(f"{name}.jpg", 64, 48)
        flat.json(f"{name}.json", {"boxes": BOXES, "names": OBJECTS})
    roots = [flat.root]
    (report,) = convert("vcr", tree.root, shards.root, image_roots=roots, max_rejects=1)
    assert report.rejections == {"E_IMAGE_MISSING": 2}
    assert report.images_converted == 1
