"""RefCOCO, RefCOCO+ and RefCOCOg in REFER's form and in MDETR's."""

import logging
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipelines.draft import SourceOptions
from pipelines.phrasing import wordings
from pipelines.run import convert
from roikit.errors import UsageError
from roikit.evaluate.items import region_items
from roikit.sample import exchanges

CATEGORIES = [{"id": 1, "name": "person"}, {"id": 44, "name": "bottle"}]


def python2_pickle(value: Any) -> bytes:
    """Pickle plain data as Python 2 did by default: text as byte strings, no protocol mark."""

    def write(value: Any) -> bytes:
        if isinstance(value, dict):
            return b"(d" + b"".join(write(k) + write(v) + b"s" for k, v in value.items())
        if isinstance(value, list):
            return b"(l" + b"".join(write(item) + b"a" for item in value)
        if isinstance(value, int):
            return b"I%d\n" % value
        return b"S%r\n" % value if isinstance(value, bytes) else f"S{value!r}\n".encode()

    return write(value) + b"."


def ref(ref_id: int, ann_id: int, image_id: int, split: str, *sents: Any) -> dict[str, Any]:
    sentences = [
        {"sent_id": 10 * ref_id + i, "sent": sent, "raw": sent.title(), "tokens": sent.split()}
        if isinstance(sent, str)
        else sent
        for i, sent in enumerate(sents)
    ]
    return {
        "ref_id": ref_id, "ann_id": ann_id, "image_id": image_id, "split": split,
        "category_id": 1, "sentences": sentences,
        "file_name": f"COCO_train2014_{image_id:012d}_{ref_id}.jpg",
        "sent_ids": [10 * ref_id + i for i in range(len(sents))],
    }  # fmt: skip


def image(id: int, width: int = 64, height: int = 48, tail: str = ".jpg") -> dict[str, Any]:
    name = f"COCO_train2014_{id:012d}{tail}"
    return {"id": id, "file_name": name, "width": width, "height": height}


def annotation(id: int, image_id: int, bbox: list[float], **more: Any) -> dict[str, Any]:
    return {
        "id": id, "image_id": image_id, "bbox": bbox, "category_id": 1, "iscrowd": 0,
        "segmentation": [[1, 2, 3, 4, 5, 6]], "area": 5.0, **more,
    }  # fmt: skip


def mdetr(*entries: tuple[int, int, list[float], str]) -> dict[str, Any]:
    """Make a file of (photograph, annotation, box, expression); running ids start at 120,624."""
    images, annotations = [], []
    for i, (photo_id, ann_id, bbox, caption) in enumerate(entries, 120624):
        images.append(
            image(photo_id)
            | {"id": i, "original_id": photo_id, "caption": caption, "dataset_name": "refcoco"}
            | {"tokens_negative": [[0, 3]]}
        )
        annotations.append(
            annotation(i, i, bbox) | {"original_id": ann_id, "tokens_positive": [[0, 3]]}
        )
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


@pytest.fixture
def source(tree: Any) -> Path:
    """REFER's form, as one archive holds it, with a trap in nearly every record."""
    missing_sent = ref(30, 130, 9, "train", "a hat")
    del missing_sent["sentences"][0]["sent"]
    no_split = ref(34, 134, 9, "train", "a hat")
    del no_split["split"]
    refs = [
        ref(1, 101, 9, "train", "left guy", " man <region1>\n on  left", "the tall man in blue"),
        ref(2, 102, 9, "train", "crowd of people at back"),
        ref(3, 103, 9, "val", "woman"),
        ref(4, 104, 11, "train", "bottle"),
        ref(5, 105, 9, "testA", "guy"),
        ref(6, 106, 9, "testB", "cup"),
        ref(7, 999, 9, "train", "nobody", "no one"),
        ref(8, 107, 9, "train", "the one in the other picture"),
        ref(9, 108, 9, "train", "", "  ", "?!", "ok", "a"),
        ref(10, 109, 9, "train"),
        ref(11, 110, 9, "train", "too thin"),
        ref(12, 111, 9, "train", "out of sight", "out of mind"),
        ref(13, 112, 9, "train", "negative corner"),
        ref(1, 113, 9, "train", "ref id again"),
        ref(15, 101, 9, "train", "same annotation again"),
        ref(16, 114, 13, "train", "no picture"),
        ref(17, 115, 15, "train", "not in images", "either"),
        ref(18, 116, 17, "train", "name of another photograph"),
        ref(19, 117, 19, "train", "other shape"),
        ref(20, 118, 21, "train", "image record is bad"),
        ref(21, 119, 23, "train", "junk behind the name"),
        ref(22, 120, 9, "train", "box is text"),
        ref(23, 121, 9, "train", "box of three"),
        ref(24, 122, 9, "train", "not a number"),
        ref(25, 123, 9, "train", "no such category"),
        ref(26, 124, 9, "train", "\ud800", 5, [[[]]], {"\ud800": 1}),
        ref(27, 125, 9, "dev", "unknown split"),
        ref(28, 126, -9, "train", "negative image"),
        ref(29, 10**5000, 9, "train", "giant annotation"),
        missing_sent,
        "not a dictionary",
        ref(32, 127, 9, "train", "huge box"),
        ref(33, 128, 10**12, "train", "thirteen digits"),
        no_split,
    ]
    good_box = [10.5, 20.0, 30.25, 20.0]
    good = {103: 9, 105: 9, 106: 9, 108: 9, 109: 9, 113: 9, 114: 13, 115: 15, 116: 17, 117: 19}
    good |= {118: 21, 119: 23, 124: 9, 130: 9, 107: 11}
    instances = {
        "images": [
            image(9), image(11), image(13), image(17) | {"file_name": "../../secret.jpg"},
            image(19, 64, 64), image(21) | {"width": "wide"}, image(23, tail=".jpg} "),
            image(9, 1, 1), "no image",
        ],
        "annotations": [
            annotation(101, 9, good_box),
            annotation(102, 9, [0, 0, 64, 24], iscrowd=1, segmentation={"counts": [1]}),
            annotation(104, 11, [1, 2, 8, 16], category_id=44),
            annotation(110, 9, [1, 1, 0.5, 20]),
            annotation(111, 9, [70, 1, 10, 10]),
            annotation(112, 9, [-3.5, -0.25, 20, 20]),
            annotation(120, 9, "box"),  # type: ignore[arg-type]
            annotation(121, 9, [1, 2, 3]),
            annotation(122, 9, [1, 2, 3, float("nan")]),
            annotation(123, 9, [1, 2, 3, 4], category_id=999),
            annotation(127, 9, [1e308, 1e308, 1e308, 1e308]),
            annotation(101, 9, [1, 1, 2, 2]),
            annotation(888, 9, "spoken of by nobody"),  # type: ignore[arg-type]
            {"id": "x"},
            *(annotation(id, owner, good_box) for id, owner in good.items()),
        ],
        "categories": CATEGORIES,
    }  # fmt: skip
    tree.put("refcoco/refs(unc).p", pickle.dumps(refs, protocol=2))
    tree.json("refcoco/instances.json", instances)
    for number in (9, 17, 19, 21, 23):
        tree.picture(f"images/mscoco/images/train2014/COCO_train2014_{number:012d}.jpg")
    tree.picture("coco/train2017/000000000011.jpg")
    tree.picture("secret.jpg")
    return Path(tree.root)


def test_golden_conversation(source: Path, shards: Any, find: Any) -> None:
    convert("refcoco", source / "refcoco", shards.root, max_rejects=1, splits=["train"])
    sample = shards.samples("refcoco", "train")["coco:9"]
    assert sample.image.file == "train2014/COCO_train2014_000000000009.jpg"
    assert [(r.box_xyxy, r.label, r.native_id) for r in sample.regions[:2]] == [
        ((10.5, 20.0, 40.75, 40.0), "person", "101"),
        ((0.0, 0.0, 64.0, 24.0), "person", "102"),
    ]
    man = find(sample, "101/refer")
    assert (man.task, man.independent) == ("refer", True)
    assert (man.source.file, man.source.record) == ("refs(unc).p", "ref 1, sentences 10 11 12")
    # Drawn once and read. `<<region1>` is text that somebody typed, `<region1>` is the region.
    assert [(turn.role, turn.text) for turn in man.turns] == [
        ("user", "Single out <region1> with a short phrase."),
        ("assistant", "left guy"),
        ("user", "Name <region1> so that it cannot be confused with others."),
        ("assistant", "man <<region1> on left"),
        ("user", "Describe <region1> just enough to find it."),
        ("assistant", "the tall man in blue"),
    ]
    assert {turn.phrasing for turn in man.turns[::2]} == {"refer"}
    assert find(sample, "102/refer").turns[1].text == "crowd of people at back"


def test_every_trap_has_its_code_and_costs_only_itself(source: Path, shards: Any) -> None:
    (report,) = convert("refcoco", source, shards.root, max_rejects=1, splits=["train"])
    found = [
        (r.source.file, r.source.record, r.code) for r in shards.rejections("refcoco", "train")
    ]
    refs, instances = "refs(unc).p", "instances.json"
    assert sorted(found) == sorted(
        [
            (refs, "[6]", "E_REF_NO_ANNOTATION"),
            (refs, "[7]", "E_REF_NO_ANNOTATION"),
            (refs, "[8].sentences[0]", "E_PHRASE_EMPTY"),
            (refs, "[8].sentences[1]", "E_PHRASE_EMPTY"),
            (refs, "[8].sentences[2]", "E_PHRASE_EMPTY"),
            (refs, "[9]", "E_PHRASE_EMPTY"),
            (instances, "annotations[3]", "E_BOX_EMPTY"),
            (instances, "annotations[4]", "E_BOX_OUTSIDE"),
            (refs, "[13]", "E_RECORD_DUPLICATE"),
            (refs, "[14]", "E_RECORD_DUPLICATE"),
            (refs, "image 13", "E_IMAGE_MISSING"),
            (refs, "image 15", "E_IMAGE_UNKNOWN"),
            (refs, "image 15", "E_IMAGE_MISSING"),
            (instances, "images[3]", "E_NAME_MISMATCH"),
            (refs, "image 19", "E_SIZE_MISMATCH"),
            (instances, "images[5]", "E_FIELD_TYPE"),
            (instances, "images[7]", "E_RECORD_DUPLICATE"),
            (instances, "annotations[6]", "E_FIELD_TYPE"),
            (instances, "annotations[7]", "E_FIELD_TYPE"),
            (instances, "annotations[8]", "E_JSON_INVALID"),
            (refs, "[23]", "E_REF_NO_ANNOTATION"),
            (instances, "annotations[13]", "E_FIELD_TYPE"),
            (instances, "images[8]", "E_FIELD_TYPE"),
            (instances, "annotations[10]", "E_BOX_OUTSIDE"),
            (instances, "annotations[11]", "E_RECORD_DUPLICATE"),
            (refs, "[25].sentences[0]", "E_PHRASE_EMPTY"),
            (refs, "[25].sentences[1]", "E_FIELD_TYPE"),
            (refs, "[25].sentences[2]", "E_FIELD_TYPE"),
            (refs, "[25].sentences[3]", "E_FIELD_TYPE"),
            (refs, "[26]", "E_VALUE_RANGE"),
            (refs, "[27]", "E_VALUE_RANGE"),
            (refs, "[28]", "E_VALUE_RANGE"),
            (refs, "[29].sentences[0]", "E_FIELD_MISSING"),
            (refs, "[30]", "E_FIELD_TYPE"),
            (refs, "[32]", "E_VALUE_RANGE"),
            (refs, "[33]", "E_FIELD_MISSING"),
        ]
    )
    assert sum(report.rejections.values()) == len(found)
    said = {
        region.native_id: [assistant.text for _, assistant in exchanges(conversation)]
        for sample in shards.samples("refcoco", "train").values()
        for region, conversation in zip(sample.regions, sample.conversations, strict=True)
    }
    assert said == {
        "101": ["left guy", "man <<region1> on left", "the tall man in blue"],
        "102": ["crowd of people at back"],  # a crowd box, kept
        "104": ["bottle"],
        "108": ["ok", "a"],
        "112": ["negative corner"],
        "119": ["junk behind the name"],
        "123": ["no such category"],
    }
    assert report.records_converted == sum(map(len, said.values()))
    assert (report.records_by_policy, report.boxes_clipped) == (0, 1)


def test_messages_say_what_is_wrong(source: Path, shards: Any) -> None:
    convert("refcoco", source, shards.root, max_rejects=1, splits=["train"])
    rejections = shards.rejections("refcoco", "train")
    messages = {r.source.record: r.message for r in rejections if r.code != "E_IMAGE_MISSING"}
    assert messages["[6]"] == "ref 7: annotation 999 is not in instances.json, `annotations`"
    assert "in image 9, found annotation 107 in image 11" in messages["[7]"]
    assert "2 expressions left out with it" in messages["annotations[4]"]
    assert messages["[26]"] == "split: expected one of train, val, testA, testB, got 'dev'"
    assert messages["images[3]"].startswith("file_name: expected the number 000000000017")
    lost = next(r for r in rejections if r.source.record == "image 13")
    assert "train2014/COCO_train2014_000000000013.jpg" in lost.message
    assert {r.native_id for r in rejections if r.source.record == "[6]"} == {"coco:9"}


def test_each_split_holds_its_own_and_strays_are_counted_once(source: Path, shards: Any) -> None:
    reports = convert("refcoco", source, shards.root, max_rejects=1)
    assert [(r.split, r.records_converted) for r in reports] == [
        ("train", 10), ("val", 1), ("testA", 1), ("testB", 1),
    ]  # fmt: skip
    assert not shards.rejections("refcoco", "val")
    for split, expected in (("val", "woman"), ("testA", "guy"), ("testB", "cup")):
        sample = shards.samples("refcoco", split)["coco:9"]
        assert sample.conversations[0].turns[1].text == expected


def test_boxes_are_rescaled_to_the_picture_and_clipped(tree: Any, shards: Any) -> None:
    tree.put(
        "refs(unc).p", python2_pickle([ref(1, 5, 9, "val", "one"), ref(2, 6, 9, "val", "two")])
    )
    table = {"images": [image(9, 128, 96)], "categories": [], "annotations": []}
    table["annotations"] = [annotation(5, 9, [20, 20, 40, 40]), annotation(6, 9, [-9, -2, 21, 12])]
    tree.json("instances.json", table)
    tree.picture("000000000009.jpg")
    convert("refcoco", tree.root, shards.root, splits=["val"])
    regions = shards.samples("refcoco", "val")["coco:9"].regions
    assert [(r.box_xyxy, r.label) for r in regions] == [
        ((10, 10, 30, 30), None),
        ((0, 0, 6, 5), None),
    ]


REFS = [
    ref(1, 5, 9, "train", "the man on the left", "left guy"),
    ref(2, 6, 9, "train", "cup"),
    ref(3, 7, 11, "train", "green bottle near man"),
    ref(4, 8, 13, "val", "dog"),
]
BOXES = {5: (9, [1, 2, 30, 40]), 6: (9, [5, 5, 9, 9]), 7: (11, [2, 2, 8, 8]), 8: (13, [1, 1, 9, 9])}


@pytest.fixture
def clean(tree: Any) -> Any:
    """Write a faultless dataset in both forms: `clean(name, authority, form, folder)`."""

    def write(name: str, authority: str = "unc", form: str = "refer", folder: str = "") -> Path:
        for number in (9, 11, 13):
            tree.picture(f"{folder}train2014/COCO_train2014_{number:012d}.jpg", seed=number)
        if form == "refer":
            tree.put(f"{folder}refs({authority}).p", python2_pickle(REFS))
            table = {
                "images": [image(9), image(11), image(13)],
                "annotations": [annotation(id, *rest) for id, rest in BOXES.items()],
                "categories": CATEGORIES,
            }
            tree.json(f"{folder}instances.json", table)
            return Path(tree.root)
        for split in ("train", "val"):
            entries = [
                (r["image_id"], r["ann_id"], BOXES[r["ann_id"]][1], sentence["sent"])
                for r in REFS
                for sentence in r["sentences"]
                if r["split"] == split
            ]
            tree.json(f"{folder}finetune_{name}_{split}.json", mdetr(*entries))
        return Path(tree.root)

    return write


def bare(sample: Any) -> Any:
    """Return a sample's regions and turns, without where they come from."""
    conversations = [(c.id, c.task, c.independent, c.turns) for c in sample.conversations]
    return sample.key, sample.image, sample.regions, conversations


@pytest.mark.parametrize(
    ("name", "authority", "family"),
    [
        ("refcoco", "unc", "refer"),
        ("refcoco+", "unc", "refer-appearance"),
        ("refcocog", "umd", "refer-sentence"),
    ],
)
def test_both_forms_give_the_same_samples(
    clean: Any, tmp_path: Path, shards: Any, name: str, authority: str, family: str
) -> None:
    for form in ("refer", "mdetr"):
        source = clean(name, authority, form, folder=f"{form}/")
        reports = convert(name, source / form, shards.root / form)
        assert [(r.split, r.records_converted) for r in reports] == [("train", 4), ("val", 1)]
        assert all(not r.rejections for r in reports)
    shards_of = {form: type(shards)(shards.root / form) for form in ("refer", "mdetr")}
    refer, entries = (
        [bare(s) for _, s in sorted(shards_of[form].samples(name, "train").items())]
        for form in ("refer", "mdetr")
    )
    assert refer == entries
    sample = shards_of["mdetr"].samples(name, "train")["coco:9"]
    assert sample.conversations[0].source.file == f"finetune_{name}_train.json"
    assert sample.conversations[0].source.record == "annotations 120624 120625"
    question = sample.conversations[1].turns[0]
    assert question.phrasing == family
    assert question.text.replace("<region2>", "{region}") in wordings(family)


def test_mdetr_traps_have_their_codes(tree: Any, shards: Any) -> None:
    box = [1, 1, 9, 9]
    table = mdetr(
        (9, 5, box, "the man"), (9, 5, box, "left guy"), (9, 6, box, "  "),
        (9, 5, [2, 2, 9, 9], "another box"), (9, 7, box, "no annotation"),
        (9, 8, box, "name of another photograph"), (9, 9, box, "running id again"),
        (9, 10, [1, 2, 3], "short box"), (9, 11, box, "other size"), (9, 12, box, "no original id"),
        (13, 14, box, "no picture"), (9, 15, [90, 90, 9, 9], "outside"),
        (9, 16, box, "cup <image>"),
    )  # fmt: skip
    images, annotations = table["images"], table["annotations"]
    del annotations[4]
    images[5]["file_name"] = "COCO_train2014_000000000010.jpg"
    images[6]["id"] = images[0]["id"]
    images[8]["width"] = 65
    del images[9]["original_id"]
    annotations[11]["iscrowd"] = 1
    annotations.append(dict(annotations[0]))
    annotations.append(annotation(7, 777, box) | {"original_id": 7})
    annotations.append({"id": 8, "original_id": 8, "bbox": box})
    tree.json("finetune_refcoco_train.json", table)
    tree.picture("train2017/000000000009.jpg")
    (report,) = convert("refcoco", tree.root, shards.root, max_rejects=1)
    assert shards.codes("refcoco", "train") == {
        "images[2]": "E_PHRASE_EMPTY",
        "annotations[3]": "E_RECORD_DUPLICATE",
        "images[4]": "E_REF_NO_ANNOTATION",
        "images[5]": "E_NAME_MISMATCH",
        "images[6]": "E_RECORD_DUPLICATE",
        "annotations[5]": "E_IMAGE_UNKNOWN",  # its entry took another's id
        "annotations[6]": "E_FIELD_TYPE",
        "images[8]": "E_SIZE_MISMATCH",
        "images[9]": "E_FIELD_MISSING",
        "image 13": "E_IMAGE_MISSING",
        "annotations[10]": "E_BOX_OUTSIDE",
        "annotations[12]": "E_RECORD_DUPLICATE",
        "annotations[13]": "E_IMAGE_UNKNOWN",
        "annotations[14]": "E_FIELD_MISSING",
    }
    sample = shards.samples("refcoco", "train")["coco:9"]
    assert [r.native_id for r in sample.regions] == ["5", "16"]
    said = [[a.text for _, a in exchanges(c)] for c in sample.conversations]
    assert said == [["the man", "left guy"], ["cup <<image>"]]
    assert report.records_converted == 3


def test_faithful_drops_short_training_expressions_only(clean: Any, shards: Any) -> None:
    for form in ("refer", "mdetr"):
        source = clean("refcoco", "unc", form, folder=f"{form}/") / form
        out = type(shards)(shards.root / form)
        reports = convert("refcoco", source, out.root, options=SourceOptions(faithful=True))
        assert [(r.records_by_policy, r.faults) for r in reports] == [(2, 0), (0, 0)]
        assert {r.code for r in out.rejections("refcoco", "train")} == {"E_PHRASE_SHORT"}
        sample = out.samples("refcoco", "train")["coco:9"]
        assert [r.native_id for r in sample.regions] == ["5"]
        assert [t.text for t in sample.conversations[0].turns[1:]] == ["the man on the left"]
        assert out.samples("refcoco", "val")["coco:13"].conversations[0].turns[1].text == "dog"


def test_an_evaluator_gets_all_references_of_an_object(clean: Any, shards: Any) -> None:
    convert("refcocog", clean("refcocog", "umd"), shards.root)
    sample = shards.samples("refcocog", "train")["coco:9"]
    items = region_items(sample, "refer", Counter())
    assert [(item.native_id, item.references) for item in items] == [
        ("5", ("the man on the left", "left guy")),
        ("6", ("cup",)),
    ]
    # Once an expression: the ids stand in the exchanges' order.
    ids = [c.source.record.partition(" sentences ")[2].split() for c in sample.conversations]
    assert ids == [["10", "11"], ["20"]]


# --- which files ---


def test_the_usual_authority_is_taken_where_several_lie(
    clean: Any, shards: Any, caplog: pytest.LogCaptureFixture
) -> None:
    clean("refcocog", "google", folder="refcocog/")
    clean("refcocog", "umd", folder="refcocog/")
    with caplog.at_level(logging.WARNING):
        source = clean("refcoco", "google", folder="refcoco/")
        clean("refcoco", "unc", folder="refcoco/")
        convert("refcocog", source, shards.root)
        convert("refcoco", source, shards.root)
        assert "divide objects" not in caplog.text
        google = type(shards)(shards.root / "google")
        convert("refcocog", source, google.root, options=SourceOptions(split_by="google"))
    assert "google's splits divide objects, not images" in caplog.text
    for found, name, file in (
        (shards, "refcocog", "refs(umd).p"),
        (shards, "refcoco", "refs(unc).p"),
        (google, "refcocog", "refs(google).p"),
    ):
        sample = found.samples(name, "train")["coco:9"]
        assert sample.conversations[0].source.file == file


def test_a_lone_authority_needs_no_option(clean: Any, shards: Any) -> None:
    convert("refcocog", clean("refcocog", "google"), shards.root)
    sample = shards.samples("refcocog", "train")["coco:9"]
    assert sample.conversations[0].source.file == "refs(google).p"


def test_an_authority_that_is_not_there_is_answered_with_those_that_are(
    clean: Any, shards: Any
) -> None:
    source = clean("refcoco", "google")
    clean("refcoco", form="mdetr")
    with pytest.raises(UsageError) as caught:
        convert("refcoco", source, shards.root, options=SourceOptions(split_by="umd"))
    assert str(caught.value).endswith(
        "google (refs(google).p); unc (finetune_refcoco_train.json, finetune_refcoco_val.json); "
        "got `umd`"
    )
    convert("refcoco", source, shards.root, options=SourceOptions(split_by="unc"))
    sample = shards.samples("refcoco", "train")["coco:9"]
    assert sample.conversations[0].source.file == "finetune_refcoco_train.json"
    clean("refcocog", "google", folder="refcocog/")
    clean("refcocog", "unc", folder="refcocog/")
    with pytest.raises(UsageError, match="expected umd's splits, found several others: google"):
        convert("refcocog", source, shards.root)


def test_refers_files_go_before_mdetrs_whichever_folder_they_are_in(
    clean: Any, shards: Any
) -> None:
    source = clean("refcoco", form="mdetr")
    clean("refcoco", folder="refcoco/")
    convert("refcoco", source, shards.root)
    sample = shards.samples("refcoco", "train")["coco:9"]
    assert sample.conversations[0].source.file == "refs(unc).p"


def test_the_parent_of_the_folders_does_as_well(clean: Any, shards: Any) -> None:
    source = clean("refcoco+", folder="refcoco+/")
    clean("refcoco", folder="refcoco/")
    convert("refcoco+", source, shards.root / "a")
    convert("refcoco+", source / "refcoco+", shards.root / "b")
    a, b = (type(shards)(shards.root / name).tars("refcoco+", "train") for name in "ab")
    assert a == b and a


def test_the_folder_of_another_dataset_is_refused(clean: Any, shards: Any) -> None:
    source = clean("refcoco+", folder="refcoco+/") / "refcoco+"
    with pytest.raises(UsageError, match="expected RefCOCO's references, found the folder of"):
        convert("refcoco", source, shards.root)


def test_a_missing_file_is_named(tree: Any, clean: Any, shards: Any, tmp_path: Path) -> None:
    tree.put("refcoco/refs(unc).p", python2_pickle(REFS))
    with pytest.raises(UsageError) as caught:
        convert("refcoco", tree.root, shards.root)
    assert "expected RefCOCO's files (instances.json), found refs(unc).p" in str(caught.value)
    with pytest.raises(UsageError) as caught:
        convert("refcocog", tree.root, shards.root)
    for name in ("refs(umd).p", "finetune_refcocog_test.json", "found refcoco/"):
        assert name in str(caught.value)
    # Without its boxes REFER's form is of no use; MDETR's is taken.
    clean("refcoco", form="mdetr", folder="refcoco/")
    assert len(convert("refcoco", tree.root, shards.root)) == 2


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (pickle.dumps({"refs": []}), "expected a list of references, found a dict"),
        (pickle.dumps(print), "plain data"),
        (b"(lp0\n", "not a readable pickle"),
        (b"", "not a readable pickle"),
    ],
)
def test_a_damaged_pickle_is_one_clear_error(
    clean: Any, tree: Any, shards: Any, content: bytes, expected: str
) -> None:
    source = clean("refcoco")
    tree.put("refs(unc).p", content)
    with pytest.raises(UsageError, match=expected) as caught:
        convert("refcoco", source, shards.root)
    assert "refs(unc).p" in str(caught.value)
    assert caught.value.hint


def test_hostile_nesting_ends_in_one_clear_line(clean: Any, tree: Any, shards: Any) -> None:
    source = clean("refcoco", form="mdetr")
    deep = b"[" * 100_000 + b"]" * 100_000
    tree.put(
        "finetune_refcoco_train.json",
        b'{"images": [{"id": 1, "x": ' + deep + b'}], "annotations": [], "categories": []}',
    )
    with pytest.raises(UsageError, match="finetune_refcoco_train"):
        convert("refcoco", source, shards.root)
    endless: list[Any] = []
    endless.append(endless)
    refs = [*REFS, ref(9, 5, 9, "train") | {"sentences": endless}, endless]
    clean("refcoco")
    tree.put("refs(unc).p", pickle.dumps(refs))
    convert("refcoco", source, shards.root, max_rejects=1)
    codes = shards.codes("refcoco", "train")
    assert codes == {"[4]": "E_RECORD_DUPLICATE", "[5]": "E_FIELD_TYPE"}
