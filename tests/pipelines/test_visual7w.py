import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipelines.draft import SourceOptions
from pipelines.phrasing import wordings
from pipelines.run import convert
from roikit.errors import UsageError
from roikit.mentions import mentioned
from shards.identity import overlap


def image(id: int, questions: list[Any], split: str = "train", **more: Any) -> dict[str, Any]:
    return {
        "image_id": id, "filename": f"v7w_{id}.jpg", "split": split, "qa_pairs": questions, **more,
    }  # fmt: skip


def telling(id: int, image_id: int, answer: Any, wrong: Any, question: str = "What is it?") -> Any:
    return {
        "qa_id": id, "image_id": image_id, "question": question, "answer": answer,
        "multiple_choices": wrong, "type": "what",
    }  # fmt: skip


def pointing(id: int, answer: Any, wrong: Any, question: str = "Which one is red?") -> Any:
    # No image_id: the released file has none here.
    return {
        "qa_id": id, "question": question, "answer": answer, "multiple_choices": wrong,
        "type": "which",
    }  # fmt: skip


def box(id: int | None, xywh: tuple[float, ...], name: str | None = "cup", **more: Any) -> Any:
    x, y, width, height = xywh
    entry = {"box_id": id, "name": name, "x": x, "y": y, "width": width, "height": height}
    return {k: v for k, v in (entry | more).items() if v is not None}


def write(tree: Any, telling_images: Any = None, pointing_images: Any = None, boxes: Any = ()):
    if telling_images is not None:
        table = {"dataset": "visual7w-telling", "images": telling_images}
        tree.json("dataset_v7w_telling.json", table)
    if pointing_images is not None:
        table = {"dataset": "visual7w-pointing", "images": pointing_images, "boxes": list(boxes)}
        tree.json("dataset_v7w_pointing.json", table)


FOUR = [
    box(11, (30, 20, 10, 10), "red cup"),
    box(12, (-1, -1, 20, 20), "blue cup"),
    box(13, (50, 30, 30, 30), "dog"),
    box(14, (5, 5, 10, 10), "green cup"),
]


@pytest.fixture
def source(tree: Any) -> Path:
    """Two splits with a trap in nearly every record."""
    no_answer = telling(104, 1, "x", ["a", "b", "c"])
    del no_answer["answer"]
    write(
        tree,
        [
            image(1, [
                telling(100, 1, "A <image> of\n 2 dogs.", ["A cat.", "A cat.", "Nothing."]),
                telling(101, 1, "Red.", ["red.", "Blue.", "Green."]),
                telling(102, 1, "Red.", ["", "Blue.", "Green."]),
                telling(103, 1, "Red.", []),
                no_answer,
                telling(105, 1, 7, ["a", "b", "c"]),
                telling(100, 1, "Again.", ["a", "b", "c"]),
                telling(106, 1, "Red.", ["Blue."] * 26),
                telling(107, 1, "Red.", ["Blue."], question="  "),
                "no question at all",
            ]),
            image(2, [telling(200, 2, "Yes.", ["No.", "Perhaps.", "Never."])], "val"),
            image(3, [telling(300, 3, "Yes.", ["No.", "Perhaps.", "Never."])]),
            image(3, [telling(301, 3, "Yes.", ["No.", "Perhaps.", "Never."])]),
            image(4, [telling(400, 4, "Yes.", ["No."])], "dev"),
            image(5, [telling(500, 5, "Yes.", ["No."])], filename="../secret.jpg"),
            image(6, []),
            image(10**25, [telling(10**25, 1, "Yes.", ["No."])]),
        ],
        [
            image(1, [
                pointing(100, 11, [12, 13, 14]),
                pointing(101, 11, [12, 13, 999]),
                pointing(102, 11, [12, 13, 15]),
                pointing(103, 11, [12, 13, 11]),
                pointing(104, 11, [12, 13, 16]),
                pointing(105, 17, [12, 13, 11]),
                pointing(106, "11", [12, 13, 14]),
            ]),
            image(7, [pointing(700, 11, [12, 13, 14])], "val"),
        ],
        [
            *FOUR,
            box(15, (-30, 5, 10, 10), "outside"),
            box(16, (30, 20, 10, 10), "red cup"),
            box(17, (1, 1, "wide", 5), "no number"),
            box(11, (1, 1, 5, 5), "again"),
            box(None, (1, 1, 5, 5), "no id"),
        ],
    )  # fmt: skip
    groundings = [
        box(None, (10, 10, 20, 20), "dog", qa_id=100),
        box(None, (10, 10, 20, 20), "dog", qa_id=101),
        box(None, (70, 10, 20, 20), "far", qa_id=100),
        box(None, (10, 10, 20, 20), "", qa_id=100),
        box(None, (10, 10, 20, 20), "lost", qa_id=987),
        box(None, (0, 0, 20, 20), "sky", qa_id=200),
    ]
    folder = "dataset_v7w_grounding_annotations"
    tree.json(f"{folder}/v7w_telling_answers.json", {"boxes": groundings})
    for id in (1, 2, 5, 6, 7, 10**25):
        tree.picture(f"images/v7w_{id}.jpg", seed=id % 1000)
    return Path(tree.root)


def test_golden_conversations(source: Path, shards: Any, find: Any) -> None:
    convert("visual7w", source, shards.root, max_rejects=1)
    sample = shards.samples("visual7w", "train")["vg:1"]
    assert sample.image.file == "v7w_1.jpg"
    # By place, not by id; a coordinate of -1 is cut at the picture's edge.
    assert [(r.box_xyxy, r.label, r.native_id) for r in sample.regions] == [
        ((0, 0, 19, 19), "blue cup", "12"),
        ((5, 5, 15, 15), "green cup", "14"),
        ((10, 10, 30, 30), "dog", None),
        ((30, 20, 40, 30), "red cup", "11"),
        ((50, 30, 64, 48), "dog", "13"),
    ]
    assert [c.id for c in sample.conversations] == ["1/category", "telling/100", "pointing/100"]
    names = find(sample, "1/category")
    assert names.independent
    assert [turn.text for turn in names.turns[1::2]] == [r.label for r in sample.regions]
    for i, turn in enumerate(names.turns[::2], 1):
        assert turn.text.replace(f"<region{i}>", "{region}") in wordings("category")

    told = find(sample, "telling/100")
    assert (told.task, told.independent) == ("choice", False)
    assert (told.source.file, told.source.record) == (
        "dataset_v7w_telling.json",
        "images[0].qa_pairs[0]",
    )
    assert [(turn.role, turn.text, turn.phrasing) for turn in told.turns] == [
        ("user", "What is it?", None)
    ]
    assert told.choice.options == ("A cat.", "A cat.", "A <<image> of 2 dogs.", "Nothing.")
    assert (told.choice.question_id, told.choice.step, told.choice.answer) == (
        *("telling/100", "answer"),
        2,
    )

    pointed = find(sample, "pointing/100")
    assert [(turn.role, turn.text, turn.phrasing) for turn in pointed.turns] == [
        (
            "user",
            "Which one is red? Pick one of <region5>, <region1>, <region2> and <region4>.",
            "pointing",
        )
    ]
    assert pointed.choice.options == ("<region5>", "<region1>", "<region2>", "<region4>")
    assert pointed.choice.answer == 3


def test_every_trap_has_its_code(source: Path, shards: Any) -> None:
    report = convert("visual7w", source, shards.root, max_rejects=1)[0]
    found = [
        (r.source.file, r.source.record, r.code) for r in shards.rejections("visual7w", "train")
    ]
    told, pointed = "dataset_v7w_telling.json", "dataset_v7w_pointing.json"
    grounded = "dataset_v7w_grounding_annotations/v7w_telling_answers.json"
    assert sorted(found) == sorted(
        [
            (told, "images[0].qa_pairs[1]", "E_OPTIONS_AMBIGUOUS"),
            (told, "images[0].qa_pairs[2]", "E_PHRASE_EMPTY"),
            (told, "images[0].qa_pairs[3]", "E_VALUE_RANGE"),
            (told, "images[0].qa_pairs[4]", "E_FIELD_MISSING"),
            (told, "images[0].qa_pairs[5]", "E_FIELD_TYPE"),
            (told, "images[0].qa_pairs[6]", "E_RECORD_DUPLICATE"),
            (told, "images[0].qa_pairs[7]", "E_VALUE_RANGE"),
            (told, "images[0].qa_pairs[8]", "E_PHRASE_EMPTY"),
            (told, "images[0].qa_pairs[9]", "E_FIELD_TYPE"),
            (told, "images[2]", "E_IMAGE_MISSING"),
            (told, "images[3]", "E_RECORD_DUPLICATE"),
            (told, "images[4]", "E_FIELD_TYPE"),
            (told, "images[5]", "E_NAME_UNSAFE"),
            (told, "images[6]", "E_IMAGE_UNANNOTATED"),
            (pointed, "images[0].qa_pairs[1]", "E_REF_NO_ANNOTATION"),
            (pointed, "images[0].qa_pairs[2]", "E_REF_NO_ANNOTATION"),
            (pointed, "boxes[4]", "E_BOX_OUTSIDE"),
            (pointed, "images[0].qa_pairs[3]", "E_OPTIONS_AMBIGUOUS"),
            (pointed, "images[0].qa_pairs[4]", "E_OPTIONS_AMBIGUOUS"),
            (pointed, "images[0].qa_pairs[5]", "E_REF_NO_ANNOTATION"),
            (pointed, "images[0].qa_pairs[6]", "E_FIELD_TYPE"),
            (pointed, "boxes[6]", "E_FIELD_TYPE"),
            (pointed, "boxes[7]", "E_RECORD_DUPLICATE"),
            (pointed, "boxes[8]", "E_FIELD_MISSING"),
            (grounded, "boxes[2]", "E_BOX_OUTSIDE"),
            (grounded, "boxes[3]", "E_PHRASE_EMPTY"),
            (grounded, "boxes[4]", "E_IMAGE_UNKNOWN"),
        ]
    )
    # Two questions and two groundings of image 1, one question of the image with the giant id.
    assert report.records_converted == 2 + 2 + 1
    samples = shards.samples("visual7w", "train")
    assert samples.keys() == {"vg:1", f"vg:{10**25}"}


def test_faults_of_no_image_are_counted_once(source: Path, shards: Any) -> None:
    convert("visual7w", source, shards.root, max_rejects=1)
    assert not shards.rejections("visual7w", "val")
    samples = shards.samples("visual7w", "val")
    assert [r.label for r in samples["vg:2"].regions] == ["sky"]
    # The same boxes serve another image's question.
    assert len(samples["vg:7"].regions) == 4


def test_the_right_option_stands_anywhere_and_numbers_do_not_tell(tree: Any, shards: Any) -> None:
    # The right box has the lowest id, as a person who writes the answer first would leave it.
    questions = [pointing(i, 4 * i, [4 * i + 1, 4 * i + 2, 4 * i + 3]) for i in range(400)]
    boxes = [
        box(4 * i + j, (((7 * i + 13 * j) % 50), ((11 * i + 5 * j) % 30), 8, 9), f"{i} {j}")
        for i in range(400)
        for j in range(4)
    ]
    told = [telling(i, 1, "right", ["a", "b", "c"]) for i in range(400)]
    write(tree, [image(1, told)], [image(1, questions)], boxes)
    tree.picture("images/v7w_1.jpg")
    convert("visual7w", tree.root, shards.root)
    sample = shards.samples("visual7w", "train")["vg:1"]
    choices = [c for c in sample.conversations if c.choice is not None]
    assert len(choices) == 800
    for kind in ("telling", "pointing"):
        ours = [c for c in choices if c.id.startswith(kind)]
        places = Counter(c.choice.answer for c in ours if c.choice is not None)
        assert all(70 <= places[i] <= 130 for i in range(4)), places
    ranks = Counter[int]()
    for c in choices:
        if c.id.startswith("telling"):
            assert c.choice is not None and c.choice.options[c.choice.answer or 0] == "right"
            continue
        assert c.choice is not None and c.choice.answer is not None
        options = [mentioned(option)[0] for option in c.choice.options]
        assert mentioned(c.turns[0].text) == options
        right = options[c.choice.answer]
        assert sample.regions[right - 1].label == f"{c.id.removeprefix('pointing/')} 0"
        ranks[sorted(options).index(right)] += 1
    assert all(60 <= ranks[i] <= 140 for i in range(4)), ranks


def test_the_order_of_options_follows_the_seed_and_the_question_alone(
    tree: Any, shards: Any
) -> None:
    questions = [telling(i, 1, "right", ["a", "b", "c"]) for i in range(20)]
    write(tree, [image(1, questions), image(2, [telling(50, 2, "x", ["y"])])])
    tree.picture("images/v7w_1.jpg")
    tree.picture("images/v7w_2.jpg", seed=1)

    def orders(root: Path, split: str = "train", **options: Any) -> dict[str, tuple[str, ...]]:
        convert("visual7w", tree.root, root, **options)
        samples = type(shards)(root).samples("visual7w", split).values()
        return {c.id: c.choice.options for s in samples for c in s.conversations}

    first = orders(shards.root / "a")
    limited = orders(shards.root / "b", "train-first1", limit=1)
    assert limited.items() <= first.items()
    assert orders(shards.root / "c", seed=1) != first


def test_photographs_are_known_as_cocos_where_the_list_of_images_is_there(
    tree: Any, shards: Any, caplog: pytest.LogCaptureFixture
) -> None:
    questions = [telling(1, 1, "Yes.", ["No."])]
    write(tree, [image(1, questions), image(2, [telling(2, 2, "Yes.", ["No."])])])
    tree.picture("images/v7w_1.jpg")
    tree.picture("images/v7w_2.jpg", seed=1)
    with caplog.at_level(logging.WARNING):
        convert("visual7w", tree.root, shards.root / "without")
    assert "image_data.json is not there" in caplog.text
    assert type(shards)(shards.root / "without").samples("visual7w", "train").keys() == {
        "vg:1", "vg:2",
    }  # fmt: skip
    listed = [
        {"image_id": 1, "url": "a", "coco_id": 9},
        {"image_id": 2, "url": "b", "coco_id": None},
    ]
    tree.json("image_data.json", [*listed, {"image_id": "three"}])
    convert("visual7w", tree.root, shards.root)
    assert shards.samples("visual7w", "train").keys() == {"coco:9", "vg:2"}
    (tree.root / "image_data.json").rename(tree.root / "image_data_v1_2.json")
    versioned = type(shards)(shards.root / "versioned")
    convert("visual7w", tree.root, versioned.root)
    assert versioned.samples("visual7w", "train").keys() == {"coco:9", "vg:2"}
    coco = type(tree)(tree.root / "coco")
    coco.picture("val2017/000000000009.jpg", seed=5)
    coco.json(
        "annotations/captions_val2017.json",
        {
            "images": [{"id": 9, "file_name": "000000000009.jpg"}],
            "annotations": [{"id": 1, "image_id": 9, "caption": "A dog."}],
        },
    )
    convert("coco", coco.root, shards.root)
    leak = overlap(shards.root, eval=("coco", "val"), train=[("visual7w", "train")])
    assert (leak.found, leak.total) == (1, 1)


@pytest.mark.parametrize(
    "names",
    [
        ("dataset_v7w_telling.json", "v7w_telling_answers.json", "images/v7w_1.jpg"),
        ("visual7w-telling/dataset.json", "dataset_v7w_grounding_annotations.json", "v7w_1.jpg"),
    ],
)
def test_telling_alone_in_every_form(tree: Any, shards: Any, names: tuple[str, ...]) -> None:
    questions, groundings, picture = names
    tree.json(questions, {"images": [image(1, [telling(1, 1, "Yes.", ["No."])])]})
    tree.json(groundings, {"boxes": [box(5, (1, 1, 9, 9), qa_id=1)]})
    tree.picture(picture)
    (report,) = convert("visual7w", tree.root, shards.root)
    assert (report.records_found, report.records_converted) == (2, 2)
    assert [r.native_id for r in shards.samples("visual7w", "train")["vg:1"].regions] == ["5"]


@pytest.mark.parametrize(
    ("groundings", "more"),
    [
        ("v7w_pointing_answers.json", {"qa_id": 1}),
        ("dataset_v7w_grounding_annotations.json", {}),
    ],
)
def test_pointing_boxes_may_lie_in_the_groundings(
    tree: Any, shards: Any, groundings: str, more: Any
) -> None:
    # The telling question of the same number is another one.
    tree.json("dataset_v7w_telling.json", {"images": [image(1, [telling(1, 1, "Yes.", ["No."])])]})
    images = [image(1, [pointing(1, 11, [12, 13, 14])])]
    tree.json("visual7w-pointing/dataset.json", {"images": images})
    tree.json(groundings, {"boxes": [b | more for b in FOUR]})
    tree.picture("images/v7w_1.jpg")
    (report,) = convert("visual7w", tree.root, shards.root)
    assert (report.records_found, report.records_converted) == (2, 2)
    ids = [c.id for c in shards.samples("visual7w", "train")["vg:1"].conversations]
    assert ids == ["1/category", "telling/1", "pointing/1"]


def test_boxes_of_both_kinds_in_one_file_are_told_apart_by_their_own_ids(
    tree: Any, shards: Any
) -> None:
    told = [image(i, [telling(i, i, "Yes.", ["No."])], split) for i, split in SPLIT_OF.items()]
    asked = [
        image(1, [pointing(2, 11, [12])], "train"),
        image(2, [pointing(1, 13, [14])], "val"),
    ]
    write(tree, told, asked)
    qa_ids = {11: 2, 12: 2, 13: 1, 14: 1}
    options = [b | {"qa_id": qa_ids[b["box_id"]]} for b in FOUR]
    groundings = [box(20 + i, (1, 1, 9, 9), f"thing {i}", qa_id=i) for i in SPLIT_OF]
    tree.json("dataset_v7w_grounding_annotations.json", {"boxes": [*options, *groundings]})
    for i in SPLIT_OF:
        tree.picture(f"images/v7w_{i}.jpg", seed=i)
    reports = convert("visual7w", tree.root, shards.root)
    assert not any(report.rejections for report in reports)
    labels = {
        i: {r.label for r in shards.samples("visual7w", split)[f"vg:{i}"].regions}
        for i, split in SPLIT_OF.items()
    }
    assert labels == {
        1: {"red cup", "blue cup", "thing 1"},
        2: {"dog", "green cup", "thing 2"},
    }


SPLIT_OF = {1: "train", 2: "val"}


def test_boxes_are_rescaled_from_the_size_that_visual_genome_lists(tree: Any, shards: Any) -> None:
    write(tree, None, [image(i, [pointing(i, 11, [13])]) for i in (1, 2)], FOUR)
    tree.json(
        "image_data.json",
        [
            {"image_id": 1, "url": "a", "width": 128, "height": 96},
            {"image_id": 2, "url": "b", "width": 128, "height": 128},
        ],
    )
    for i in (1, 2):
        tree.picture(f"images/v7w_{i}.jpg", seed=i)
    convert("visual7w", tree.root, shards.root, max_rejects=1)
    (sample,) = shards.samples("visual7w", "train").values()
    assert [r.box_xyxy for r in sample.regions] == [(15, 10, 20, 15), (25, 15, 40, 30)]
    assert shards.codes("visual7w", "train") == {"images[1]": "E_SIZE_MISMATCH"}


def test_a_bad_question_does_not_cost_its_boxes(tree: Any, shards: Any) -> None:
    bad = telling(2, 1, "Yes.", ["No."])
    del bad["answer"]
    good = telling(1, 1, "Yes.", ["No."])
    write(
        tree,
        [
            image(1, [good, bad]),
            image(1, [telling(3, 1, "Yes.", ["No."])]),
            image(2, [telling(4, 2, "Yes.", ["No."])], "dev"),
        ],
    )
    boxes = [box(None, (i, 1, 9, 9), f"thing {i}", qa_id=i) for i in (1, 2, 3, 4, 5)]
    tree.json("v7w_telling_answers.json", {"boxes": boxes})
    tree.picture("images/v7w_1.jpg")
    convert("visual7w", tree.root, shards.root, max_rejects=1)
    (sample,) = shards.samples("visual7w", "train").values()
    assert [r.label for r in sample.regions] == ["thing 1", "thing 2", "thing 3"]
    assert shards.codes("visual7w", "train") == {
        "images[0].qa_pairs[1]": "E_FIELD_MISSING",
        "images[1]": "E_RECORD_DUPLICATE",
        "images[2]": "E_FIELD_TYPE",
        "boxes[3]": "E_IMAGE_UNKNOWN",
        "boxes[4]": "E_IMAGE_UNKNOWN",
    }
    said = {r.source.record: r.message for r in shards.rejections("visual7w", "train")}
    assert said["boxes[3]"] == "qa_id 4: its entry in `images` cannot be read"
    assert said["boxes[4]"] == "qa_id 5 is no question's"


def test_repeated_boxes_in_the_groundings_are_no_fault(tree: Any, shards: Any) -> None:
    write(tree, None, [image(1, [pointing(1, 11, [12, 13, 14])])], FOUR)
    tree.json("v7w_pointing_answers.json", {"boxes": FOUR})
    tree.json("v7w_telling_answers.json", {"boxes": [box(None, (1, 1, 9, 9), qa_id=1)]})
    tree.picture("images/v7w_1.jpg")
    (report,) = convert("visual7w", tree.root, shards.root)
    assert not report.rejections


def test_an_image_in_two_splits_is_told(
    tree: Any, shards: Any, caplog: pytest.LogCaptureFixture
) -> None:
    write(
        tree,
        [image(1, [telling(1, 1, "Yes.", ["No."])], "train")],
        [image(1, [pointing(1, 11, [12, 13, 14])], "test")],
        FOUR,
    )
    tree.picture("images/v7w_1.jpg")
    with caplog.at_level(logging.WARNING):
        convert("visual7w", tree.root, shards.root)
    assert caplog.text.count("1 images are in one split of telling and in another") == 1
    assert overlap(shards.root, eval=("visual7w", "test"), train=[("visual7w", "train")]).found == 1


def test_not_a_number_and_deep_nesting_cost_one_record(tree: Any, shards: Any) -> None:
    deep = json.loads("[" * 300 + "]" * 300)
    questions = [telling(1, 1, "Yes.", ["No."]), telling(2, 1, deep, ["No."])]
    boxes = [*FOUR, box(15, (float("nan"), 1, 5, 5)), box(16, (1, float("inf"), 5, 5))]
    write(tree, [image(1, questions)], [image(1, [pointing(1, 11, [12])])], boxes)
    tree.picture("images/v7w_1.jpg")
    convert("visual7w", tree.root, shards.root, max_rejects=1)
    assert shards.codes("visual7w", "train") == {
        "images[0].qa_pairs[1]": "E_FIELD_TYPE",
        "boxes[4]": "E_JSON_INVALID",
        "boxes[5]": "E_JSON_INVALID",
    }


def test_endless_nesting_is_one_clear_error(tree: Any, shards: Any) -> None:
    tree.put("dataset_v7w_telling.json", b'{"images": ' + b"[" * 200_000 + b"]" * 200_000 + b"}")
    with pytest.raises(UsageError, match=r"dataset_v7w_telling\.json.*not valid JSON"):
        convert("visual7w", tree.root, shards.root)


def test_wrong_places_and_options_are_one_clear_error(tree: Any, shards: Any) -> None:
    tree.put("notes.txt", b"hello")
    with pytest.raises(UsageError, match=r"dataset_v7w_telling\.json.*found notes\.txt"):
        convert("visual7w", tree.root, shards.root)
    write(tree, [image(1, [])])
    with pytest.raises(UsageError, match=r"--faithful.*Visual7W"):
        convert("visual7w", tree.root, shards.root, options=SourceOptions(faithful=True))
    tree.json("dataset_v7w_telling.json", {"image": []})
    with pytest.raises(UsageError, match="expected a JSON object with `images`, found `image`"):
        convert("visual7w", tree.root, shards.root)
