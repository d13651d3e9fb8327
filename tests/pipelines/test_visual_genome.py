import json
import logging
from pathlib import Path
from typing import Any

import pytest

from pipelines.phrasing import wordings
from pipelines.run import convert
from roikit.errors import UsageError


def image(id: int, folder: str = "VG_100K", **more: Any) -> dict[str, Any]:
    url = f"https://cs.stanford.edu/people/rak248/{folder}/{id}.jpg"
    return {"image_id": id, "url": url, "width": 64, "height": 48, "coco_id": None, **more}


def region(
    id: int, image_id: int, xywh: tuple[int, ...], phrase: str, **more: Any
) -> dict[str, Any]:
    x, y, width, height = xywh
    return {
        "region_id": id, "image_id": image_id, "phrase": phrase,
        "x": x, "y": y, "width": width, "height": height, **more,
    }  # fmt: skip


@pytest.fixture
def source(tree: Any) -> Path:
    no_phrase = region(5, 1, (1, 1, 5, 5), "")
    del no_phrase["phrase"]
    old = {"id": 77, "image": 2, "phrase": "an old record", "x": 1, "y": 1, "width": 9, "height": 9}
    tree.json(
        "region_descriptions.json",
        [
            {
                "id": 1,
                "regions": [
                    region(900100184613, 1, (2, 3, 20, 30), " a half-eaten\nsandwich "),
                    region(2, 1, (-3, -904, 20, 30), "far above"),
                    region(3, 1, (-3, 40, 20, 30), "½ of a <image> sign"),
                    region(4, 1, (5, 5, 0, 9), "no width"),
                    no_phrase,
                    region(6, 1, (1, 1, 5, 5), "  "),
                    region(7, 1, (1, 1, 5, 5), "x", width="wide"),
                ],
            },
            {"id": 2, "regions": [old]},
            {"id": 3, "regions": [region(31, 3, (1, 1, 9, 9), "on the other disk")]},
            {"id": 99, "regions": [region(32, 99, (1, 1, 9, 9), "an image nobody lists")]},
            {"id": 4, "regions": [region(33, 4, (1, 1, 9, 9), "a")]},
            {"id": 5, "regions": 7},
            {"id": 6, "regions": [region(34, 6, (1, 1, 9, 9), "in no list")]},
            {"id": 3, "regions": [region(35, 3, (1, 1, 9, 9), "again")]},
            {"id": 2, "regions": [region(36, 2, (1, 1, 9, 9), "again")]},
            {"id": 8, "regions": [region(37, 8, (1, 1, 9, 9), "there")]},
        ],
    )
    tree.json(
        "image_data.json",
        [
            image(1),
            {k: v for k, v in image(2, coco_id=9).items() if k != "image_id"} | {"id": 2},
            image(3, "VG_100K_2"),
            image(4),
            image(5),
            image(6),
            image(7),
            image(8),
            image(9) | {"url": "https://cs.stanford.edu/people/rak248/VG_100K/1.jpg"},
        ],
    )
    tree.json("info/densecap_splits.json", {"train": [1, 3, 5, 7], "val": [2], "test": [4, 8]})
    for name in ("VG_100K/1", "VG_100K/2", "VG_100K_2/3", "VG_100K/5", "VG_100K/6", "VG_100K/7"):
        tree.picture(f"{name}.jpg")
    tree.picture("VG_100K/8.jpg")
    return Path(tree.root)


def test_golden_conversation(source: Path, shards: Any, find: Any) -> None:
    convert("vg", source, shards.root, splits=["train"], max_rejects=1)
    sample = shards.samples("vg", "train")["vg:1"]
    said = find(sample, "1/caption")
    assert said.independent
    assert said.source.record == "[0]"
    assert [turn.text for turn in said.turns[1::2]] == [
        "a half-eaten sandwich",
        "½ of a <<image> sign",
    ]
    for i, turn in enumerate(said.turns[::2]):
        assert turn.text.replace(f"<region{i + 1}>", "{region}") in wordings("caption")
    assert [(r.box_xyxy, r.native_id) for r in sample.regions] == [
        ((2, 3, 22, 33), "900100184613"),
        ((0, 40, 17, 48), "3"),
    ]


def test_every_trap_has_its_code(source: Path, shards: Any) -> None:
    reports = convert("vg", source, shards.root, max_rejects=1)
    assert {r.split: r.images_converted for r in reports} == {"train": 2, "val": 1, "test": 1}
    assert shards.codes("vg", "train") == {
        "[0].regions[1]": "E_BOX_OUTSIDE",
        "[0].regions[3]": "E_BOX_EMPTY",
        "[0].regions[4]": "E_FIELD_MISSING",
        "[0].regions[5]": "E_PHRASE_EMPTY",
        "[0].regions[6]": "E_FIELD_TYPE",
        "[3]": "E_IMAGE_UNKNOWN",
        "[5]": "E_FIELD_TYPE",
        "[7]": "E_RECORD_DUPLICATE",
        "[8]": "E_NAME_MISMATCH",
        "image 7": "E_IMAGE_UNANNOTATED",
    }
    assert shards.codes("vg", "val") == {"[8]": "E_RECORD_DUPLICATE"}
    assert shards.codes("vg", "test") == {"[4]": "E_IMAGE_MISSING"}


def test_the_folder_comes_from_the_url_and_the_photograph_from_its_coco_id(
    source: Path, shards: Any
) -> None:
    convert("vg", source, shards.root, max_rejects=1)
    assert shards.samples("vg", "train")["vg:3"].image.file == "VG_100K_2/3.jpg"
    (old,) = shards.samples("vg", "val").values()
    assert old.image.native_id == "coco:9"
    assert old.regions[0].native_id == "77"
    assert old.conversations[0].id == "2/caption"


def test_images_in_no_list_are_converted_on_request(
    source: Path, shards: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        convert("vg", source, shards.root, splits=["unlisted"])
    assert "1 of 8 images are in none of its lists" in caplog.text
    assert list(shards.samples("vg", "unlisted")) == ["vg:6"]


def test_without_densecaps_lists_we_cut_our_own_and_say_so(
    tree: Any, shards: Any, caplog: pytest.LogCaptureFixture
) -> None:
    count = 60
    tree.json("image_data.json", [image(i) for i in range(1, count + 1)])
    entries = [
        {"id": i, "regions": [region(i, i, (1, 1, 9, 9), "a dog")]} for i in range(1, count + 1)
    ]
    tree.json("region_descriptions.json", entries)
    for i in range(1, count + 1):
        tree.picture(f"VG_100K/{i}.jpg", 16, 16)
    with caplog.at_level(logging.WARNING):
        reports = convert("vg", tree.root, shards.root, dry_run=True, max_rejects=1)
        again = convert("vg", tree.root, shards.root, dry_run=True, max_rejects=1, seed=5)
    assert "densecap_splits.json is not there" in caplog.text
    sizes = {report.split: report.images_found for report in reports}
    assert sum(sizes.values()) == count
    assert sizes["train"] > count * 0.7
    assert sizes == {report.split: report.images_found for report in again}


def test_a_number_that_nothing_can_hold_costs_its_record_only(tree: Any, shards: Any) -> None:
    giant = image(2) | {"coco_id": 10**400}
    tree.json("image_data.json", [image(1), giant, image(3) | {"image_id": -(2**64)}])
    regions = [{"id": i, "regions": [region(i, i, (1, 1, 9, 9), "a dog")]} for i in (1, 2, 3)]
    tree.json("region_descriptions.json", regions)
    tree.json("densecap_splits.json", {"train": [1, 2, 3], "val": [], "test": []})
    tree.picture("VG_100K/1.jpg")
    (report,) = convert("vg", tree.root, shards.root, splits=["train"], max_rejects=1)
    assert report.images_converted == 1
    assert report.rejections == {"E_VALUE_RANGE": 2, "E_IMAGE_UNKNOWN": 2}


@pytest.mark.parametrize("damage", [b"{", b"\x9e", b'{"a": "\x9e"}', b"[" * 5000, b'{"train": 1}'])
def test_a_damaged_list_of_splits_is_one_clear_error(
    source: Path, shards: Any, damage: bytes
) -> None:
    (source / "densecap_splits.json").write_bytes(damage)
    with pytest.raises(UsageError, match="expected an object of lists of image ids"):
        convert("vg", source, shards.root)


def test_grits_flat_form_is_read_too(tree: Any, shards: Any) -> None:
    tree.json(
        "train.json",
        {
            "images": [{"id": 51, "file_name": "51.jpg", "width": 64, "height": 48}],
            "annotations": [
                {"id": 8, "image_id": 51, "bbox": [1, 1, 9, 9], "caption": "a cup"},
                {"id": 9, "image_id": 52, "bbox": [1, 1, 9, 9], "caption": "nowhere"},
                {"id": 10, "image_id": 51, "bbox": [1, 1, 9, 9]},
                {"id": 11, "image_id": 51, "bbox": [2, 2, 9, 9], "caption": "a plate"},
            ],
        },
    )
    tree.picture("VG_100K_2/51.jpg")
    convert("vg", tree.root, shards.root, max_rejects=1)
    sample = shards.samples("vg", "train")["vg:51"]
    assert [turn.text for turn in sample.conversations[0].turns[1::2]] == ["a cup", "a plate"]
    assert [r.native_id for r in sample.regions] == ["8", "11"]
    assert shards.codes("vg", "train") == {
        "annotations[1]": "E_IMAGE_UNKNOWN",
        "annotations[2]": "E_FIELD_MISSING",
    }


GRIT = {
    "images": [
        {"id": 51, "file_name": "51.jpg", "width": 64, "height": 48},
        {"id": 52, "file_name": "51.jpg", "width": 64, "height": 48},
    ],
    "annotations": [
        {"id": 8, "image_id": 51, "bbox": [1, 1, 9, 9], "caption": "a cup"},
        {"id": 9, "image_id": 52, "bbox": [1, 1, 9, 9], "caption": "another picture's cup"},
    ],
}


def test_grits_form_knows_cocos_photographs_by_the_list_of_images(
    tree: Any, shards: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tree.json("train.json", GRIT)
    tree.picture("51.jpg")
    convert("vg", tree.root, shards.root, max_rejects=1)
    assert list(shards.samples("vg", "train")) == ["vg:51"]
    assert "image_data.json is not there: COCO's photographs are not known" in caplog.text
    caplog.clear()
    tree.json("image_data.json", [image(51, coco_id=9), {"image_id": 52}])
    known = type(shards)(shards.root / "known")
    convert("vg", tree.root, known.root, max_rejects=1)
    assert list(known.samples("vg", "train")) == ["coco:9"]
    assert "is not there" not in caplog.text
    assert "1 images cannot be read" in caplog.text
    committed = json.loads((known.root / "vg/train/dataset.json").read_text())
    assert [f["path"] for f in committed["source_files"]] == ["train.json", "image_data.json"]


@pytest.mark.parametrize("folder", ["annotations", "VG_preprocessed_annotations"])
def test_grits_files_may_lie_in_the_folder_of_their_archive(
    tree: Any, shards: Any, folder: str
) -> None:
    tree.json(f"{folder}/train.json", GRIT)
    tree.picture("51.jpg")
    (report,) = convert("vg", tree.root, shards.root, max_rejects=1)
    assert report.rejections == {"E_NAME_MISMATCH": 1, "E_IMAGE_UNKNOWN": 1}
    assert shards.codes("vg", "train")["images[1]"] == "E_NAME_MISMATCH"


@pytest.mark.parametrize("version", ["_v1_2", "_v1"])
def test_the_official_files_are_read_under_their_versioned_names(
    source: Path, shards: Any, version: str
) -> None:
    for name in ("region_descriptions", "image_data"):
        (source / f"{name}.json").rename(source / f"{name}{version}.json")
    convert("vg", source, shards.root, splits=["val"], max_rejects=1)
    (sample,) = shards.samples("vg", "val").values()
    assert sample.conversations[0].source.file == f"region_descriptions{version}.json"


def test_a_missing_partner_file_is_named(tree: Any, shards: Any) -> None:
    tree.json("region_descriptions.json", [])
    with pytest.raises(UsageError, match=r"image_data\.json.*found region_descriptions\.json"):
        convert("vg", tree.root, shards.root)


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ({"x": float("nan")}, "E_JSON_INVALID"),
        ({"phrase": "half \ud800 a character"}, "E_JSON_INVALID"),
        ({"x": None}, "E_FIELD_TYPE"),
    ],
)
def test_what_is_no_json_costs_its_region_only(
    tree: Any, shards: Any, bad: dict[str, Any], expected: str
) -> None:
    tree.json("image_data.json", [image(1), image(2)])
    regions = [region(i, 1, (i, 1, 9, 9), f"number {i}") for i in range(3)]
    regions[1] |= bad
    other = {"id": 2, "regions": [region(9, 2, (1, 1, 9, 9), "another")]}
    tree.json("region_descriptions.json", [{"id": 1, "regions": regions}, other])
    tree.json("densecap_splits.json", {"train": [1, 2]})
    for i in (1, 2):
        tree.picture(f"VG_100K/{i}.jpg", seed=i)
    (report,) = convert("vg", tree.root, shards.root, max_rejects=1)
    assert (report.records_found, report.records_converted) == (4, 3)
    assert shards.codes("vg", "train") == {"[0].regions[1]": expected}
    samples = shards.samples("vg", "train")
    assert [r.native_id for r in samples["vg:1"].regions] == ["0", "2"]
    assert [r.native_id for r in samples["vg:2"].regions] == ["9"]
