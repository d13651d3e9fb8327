"""Published counts, as literals: what each dataset's files hold if they are all there."""

import json
import logging
import pickle
from typing import Any

import pytest

from pipelines import lvis, paco
from pipelines.draft import SourceOptions
from pipelines.registry import DATASETS
from pipelines.reports import CountsDifferError, SplitReport
from pipelines.run import convert

#: pictures and records of each split, and the records of each kind that is counted apart
Counts = dict[str, tuple[int | None, int | None] | tuple[int | None, int | None, dict[str, int]]]


def official(tree: Any, dataset: str, files: list[str], **options: Any) -> Counts:
    """Open a source of these (empty) files and return its counts, of the splits it has."""
    for name in files:
        tree.put(name, b"[]")
    spec = DATASETS[dataset]
    opened = spec.open_source(tree.root, (), SourceOptions(**options))
    counts: Counts = {}
    for split in opened.splits:
        if split in opened.official:
            one = opened.official[split]
            counts[split] = (one.images, one.records)
            if one.kinds:
                counts[split] = (one.images, one.records, dict(one.kinds))
    return counts


def visual7w(images: dict[str, int], **kinds: dict[str, int]) -> Counts:
    return {
        split: (
            images.get(split),
            None,
            {f"{kind} questions": counts[split] for kind, counts in kinds.items()},
        )
        for split in SPLITS
    }


REFCOCO: Counts = {
    "train": (16_994, 120_624), "val": (1_500, 10_834), "testA": (750, 5_657), "testB": (750, 5_095)
}  # fmt: skip
REFCOCO_PLUS: Counts = {
    "train": (16_992, 120_191), "val": (1_500, 10_758), "testA": (750, 5_726), "testB": (750, 4_889)
}  # fmt: skip
REFCOCOG: Counts = {"train": (21_899, 80_512), "val": (1_300, 4_896), "test": (2_600, 9_602)}
FLICKR: Counts = {
    "train": (29_783, None, {"captions": 148_915}),
    "val": (1_000, None, {"captions": 5_000}),
    "test": (1_000, None, {"captions": 5_000}),
}
FLICKR_SEPARATE: Counts = {f"{split}-separate": counts for split, counts in FLICKR.items()}
TELLING = {"train": 69_817, "val": 28_020, "test": 42_031}
POINTING = {"train": 93_813, "val": 36_990, "test": 57_265}
TELLING_IMAGES = {"train": 14_366, "val": 5_678, "test": 8_609}
SPLITS = ("train", "val", "test")
PARTS = ["conversation_58k.json", "detail_23k.json", "complex_reasoning_77k.json"]


@pytest.mark.parametrize(
    ("dataset", "files", "options", "expected"),
    [
        (
            "coco",
            ["instances_train2017.json", "instances_val2017.json", "captions_val2017.json"],
            {},
            {"train": (118_287, 860_001), "val": (5_000, 36_781 + 25_014)},
        ),
        (
            "coco",
            ["instances_train2014.json", "captions_train2014.json", "instances_val2014.json"],
            {},
            {"train": (82_783, 604_907 + 414_113), "val": (40_504, 291_875)},
        ),
        ("refcoco", ["instances.json", "refs(unc).p"], {}, REFCOCO),
        ("refcoco", [f"finetune_refcoco_{split}.json" for split in REFCOCO], {}, REFCOCO),
        (
            "refcoco",
            ["instances.json", "refs(unc).p", "refs(google).p"],
            {"split_by": "google"},
            {"train": (19_213, None), "val": (4_559, None), "test": (4_527, None)},
        ),
        ("refcoco+", ["instances.json", "refs(unc).p"], {}, REFCOCO_PLUS),
        ("refcoco+", [f"finetune_refcoco+_{s}.json" for s in REFCOCO], {}, REFCOCO_PLUS),
        ("refcocog", ["instances.json", "refs(umd).p"], {}, REFCOCOG),
        ("refcocog", [f"finetune_refcocog_{split}.json" for split in SPLITS], {}, REFCOCOG),
        (
            "refcocog",
            ["instances.json", "refs(google).p"],
            {},
            {"train": (24_698, 85_474), "val": (4_650, 9_536)},
        ),
        (
            "flickr30k",
            ["Annotations/1.xml", "Sentences/1.txt", "train.txt", "val.txt", "test.txt"],
            {},
            FLICKR | FLICKR_SEPARATE,
        ),
        ("flickr30k", [f"final_flickr_mergedGT_{split}.json" for split in SPLITS], {}, FLICKR),
        (
            "flickr30k",
            [f"final_flickr_separateGT_{split}.json" for split in SPLITS],
            {},
            FLICKR_SEPARATE,
        ),
        (
            "lvis",
            ["lvis_v1_train.json", "lvis_v1_val.json", "lvis_v1_minival_inserted_image_name.json"],
            {},
            {"train": (100_170, 1_270_141), "val": (19_809, 244_707), "minival": (4_809, None)},
        ),
        (
            "paco",
            [f"paco_lvis_v1_{split}.json" for split in SPLITS],
            {},
            {"train": (45_790, 612_188), "val": (2_410, 31_739), "test": (9_443, 131_902)},
        ),
        (
            "visual7w",
            ["dataset_v7w_telling.json", "v7w_telling_answers.json"],
            {},
            visual7w(TELLING_IMAGES, telling=TELLING),
        ),
        (
            "visual7w",
            ["dataset_v7w_pointing.json", "v7w_telling_answers.json"],
            {},
            visual7w({}, pointing=POINTING),
        ),
        (
            "visual7w",
            ["dataset_v7w_telling.json", "dataset_v7w_pointing.json", "v7w_telling_answers.json"],
            {},
            visual7w({}, telling=TELLING, pointing=POINTING),
        ),
        (
            "llava",
            ["llava_instruct_150k.json", "llava_instruct_80k.json"],
            {},
            {"train": (81_479, 157_712)},
        ),
        ("llava", PARTS, {}, {}),
        (
            "vg",
            ["region_descriptions.json", "image_data.json"],
            {},
            {},  # splits of our own
        ),
        (
            "vg",
            ["train.json", "test.json"],
            {},
            {"train": (77_396, 3_596_689), "test": (5_000, 232_935)},
        ),
        (
            "vcr",
            ["train.jsonl", "val.jsonl", "test.jsonl"],
            {},
            {"train": (80_418, 212_923), "val": (9_929, 26_534), "test": (9_557, 25_263)},
        ),
    ],
)
def test_counts_are_the_published_ones(
    tree: Any, dataset: str, files: list[str], options: dict[str, Any], expected: Counts
) -> None:
    assert official(tree, dataset, files, **options) == expected


def test_visual_genomes_counts_are_those_of_densecaps_lists(tree: Any) -> None:
    tree.json("densecap_splits.json", {"train": [1], "val": [2], "test": [3]})
    assert official(tree, "vg", ["region_descriptions.json", "image_data.json"]) == {
        "train": (77_398, 3_684_063),
        "val": (5_000, None),
        "test": (5_000, 238_069),
        "unlisted": (20_679, None),
    }


def test_totals_agree_with_those_published_for_all_splits_together() -> None:
    def total(dataset: str) -> tuple[int, int]:
        counts = DATASETS[dataset].published.values()
        return sum(c.images or 0 for c in counts), sum(c.records or 0 for c in counts)

    assert total("refcoco") == (19_994, 142_210)
    assert total("refcoco+") == (19_992, 141_564)
    assert total("refcocog") == (25_799, 95_010)
    kinds = [counts.kinds for counts in DATASETS["visual7w"].published.values()]
    assert sum(kind["telling questions"] for kind in kinds) == 139_868
    assert sum(kind["pointing questions"] for kind in kinds) == 188_068
    captions = [counts.kinds["captions"] for counts in DATASETS["flickr30k"].published.values()]
    assert sum(captions) == 158_915
    assert total("vcr") == (99_904, 264_720)
    assert total("flickr30k")[0] == 31_783
    assert total("vg")[0] == 108_077


def test_every_dataset_names_its_terms_and_stage() -> None:
    stages = {name: spec.stage for name, spec in DATASETS.items()}
    assert stages == {
        "coco": "1", "refcoco": "1", "refcoco+": "1",
        "refcocog": "2", "flickr30k": "2", "vg": "2", "llava": "2", "vcr": "2",
        "lvis": "evaluation", "paco": "evaluation", "visual7w": "evaluation", "jsonl": "own data",
    }  # fmt: skip
    registered = {name for name, spec in DATASETS.items() if spec.registration}
    assert registered == {"flickr30k", "vcr"}


# --- what is counted is what the published figures count ---


def found(tree: Any, shards: Any, dataset: str, split: str) -> tuple[int, int]:
    with pytest.raises(CountsDifferError, match="published") as caught:
        convert(dataset, tree.root, shards.root, splits=[split], strict=True)
    (report,) = caught.value.reports
    assert f"published {report.official_images:,}" in str(caught.value)
    return report.images_found, report.records_found


def test_strict_compares_expressions_in_both_forms_of_refcoco(tree: Any, shards: Any) -> None:
    tree.picture("train2014/COCO_train2014_000000000009.jpg")
    image = {"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "width": 64, "height": 48}
    box = {"id": 1, "image_id": 9, "category_id": 1, "bbox": [1, 1, 20, 20]}
    categories = [{"id": 1, "name": "cat"}]
    tables = {"images": [image], "annotations": [box], "categories": categories}
    tree.json("instances.json", tables)
    sentences = [{"sent_id": i, "sent": f"cat number {i}"} for i in range(3)]
    ref = {"ref_id": 1, "ann_id": 1, "image_id": 9, "split": "val", "sentences": sentences}
    tree.put("refs(unc).p", pickle.dumps([ref]))
    assert found(tree, shards, "refcoco", "val") == (1, 3)
    (tree.root / "refs(unc).p").unlink()
    entries = [image | {"id": i, "original_id": 9, "caption": f"cat number {i}"} for i in range(3)]
    boxes = [box | {"id": i, "image_id": i, "original_id": 1} for i in range(3)]
    tree.json(
        "finetune_refcoco_val.json",
        {"images": entries, "annotations": boxes, "categories": categories},
    )
    assert found(tree, type(shards)(shards.root / "mdetr"), "refcoco", "val") == (1, 3)


@pytest.mark.parametrize("module", [lvis, paco])
def test_strict_compares_boxes_of_lvis_and_paco(tree: Any, shards: Any, module: Any) -> None:
    tree.picture("train2017/000000000009.jpg")
    url = "http://images.cocodataset.org/train2017/{:012d}.jpg"
    images = [{"id": i, "width": 64, "height": 48, "coco_url": url.format(i)} for i in (9, 10)]
    boxes = [{"id": i, "image_id": 9, "category_id": 1, "bbox": [1, 1, 9, 9]} for i in (1, 2, 3)]
    tables = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a:b"}]}
    tree.json(module._FILES["train"], tables)
    # An image without a box is one of those counted, as in the published figures.
    assert found(tree, shards, module.SPEC.name, "train") == (2, 3)


def test_strict_compares_dialogues_and_photographs_of_llava(tree: Any, shards: Any) -> None:
    tree.picture("train2017/000000000009.jpg")
    said = [{"from": "human", "value": "Why?\n<image>"}, {"from": "gpt", "value": "Because."}]
    record = {"id": "9", "image": "000000000009.jpg", "conversations": said}
    tree.put("llava_instruct_150k.json", json.dumps([record, record]).encode())
    assert found(tree, shards, "llava", "train") == (1, 2)


def test_strict_compares_the_sum_of_visual_genomes_own_cut(
    tree: Any, shards: Any, caplog: pytest.LogCaptureFixture
) -> None:
    images = [{"image_id": i, "url": f"VG_100K/{i}.jpg"} for i in range(1, 41)]
    region = {"phrase": "a dog", "x": 1, "y": 1, "width": 9, "height": 9}
    entries = [{"id": i, "regions": [region, region]} for i in range(1, 41)]
    tree.json("image_data.json", images)
    tree.json("region_descriptions.json", entries)
    for i in range(1, 41):
        tree.picture(f"VG_100K/{i}.jpg")
    said = "40 images, published 108,077"
    with pytest.raises(CountsDifferError, match=said) as caught:
        convert("vg", tree.root, shards.root, strict=True)
    assert "80 records, published 5,408,689" in str(caught.value)
    assert "nothing was compared" not in caplog.text
    convert("vg", tree.root, shards.root)
    assert said in caplog.text
    caplog.clear()
    convert("vg", tree.root, shards.root, splits=["train"], strict=True)
    assert "nothing was compared" in caplog.text
    assert "counts differ" not in caplog.text


def strict_report(tree: Any, shards: Any, dataset: str) -> SplitReport:
    with pytest.raises(CountsDifferError, match="published") as caught:
        convert(dataset, tree.root, shards.root, splits=["val"], strict=True, overwrite=True,
                max_rejects=1)  # fmt: skip
    (report,) = caught.value.reports
    return report


def test_strict_compares_captions_of_flickr30k_in_both_forms(tree: Any, shards: Any) -> None:
    tree.picture("1.jpg")
    tree.put("Annotations/1.xml", b"<annotation></annotation>")
    tree.put("Sentences/1.txt", b"A kite .\n[/EN# broken\n\nA boy .\n")
    tree.put("val.txt", b"1\n")
    report = strict_report(tree, shards, "flickr30k")
    assert report.kinds == {"captions": 3}  # a bad one, too
    assert report.count_differences == [
        "flickr30k val: 1 images, published 1,000 (-999)",
        "flickr30k val: 3 captions, published 5,000 (-4,997)",
    ]
    (tree.root / "val.txt").unlink()
    entry = {"id": 1, "file_name": "1.jpg", "width": "64", "height": "48", "caption": "A kite ."}
    box = {"id": 1, "image_id": 1, "bbox": [1, 1, 9, 9], "tokens_positive": [[0, 6]]}
    images = [entry, entry | {"id": 2, "caption": ""}]
    tree.json("final_flickr_mergedGT_val.json", {"images": images, "annotations": [box]})
    report = strict_report(tree, shards, "flickr30k")
    assert (report.images_found, report.records_found, report.kinds) == (1, 3, {"captions": 2})


def test_strict_compares_questions_of_visual7w_beside_groundings(
    tree: Any, shards: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tree.picture("images/v7w_1.jpg")
    good = {"qa_id": 1, "question": "Is it?", "answer": "Yes.", "multiple_choices": ["No."]}
    image = {"image_id": 1, "filename": "v7w_1.jpg", "split": "val", "qa_pairs": [good, "bad"]}
    tree.json("dataset_v7w_telling.json", {"images": [image]})
    tree.json("dataset_v7w_pointing.json", {"images": [image | {"qa_pairs": []}], "boxes": []})
    box = {"qa_id": 1, "name": "cup", "x": 1, "y": 1, "width": 9, "height": 9}
    tree.json("v7w_telling_answers.json", {"boxes": [box]})
    caplog.set_level(logging.WARNING)
    report = strict_report(tree, shards, "visual7w")
    assert report.records_found == 3
    assert report.count_differences == [
        "visual7w val: 2 telling questions, published 28,020 (-28,018)",
        "visual7w val: 0 pointing questions, published 36,990 (-36,990)",
    ]
    assert "nothing was compared" not in caplog.text
    # A second run finds it done, and compares what the commit noted; a part of it is not compared.
    (again,) = convert("visual7w", tree.root, shards.root, splits=["val"], max_rejects=1)
    assert again.was_done
    assert again.count_differences == report.count_differences
    options = {"splits": ["val"], "limit": 1, "max_rejects": 1}
    (first,) = convert("visual7w", tree.root, shards.root, **options)
    assert first.count_differences == []
