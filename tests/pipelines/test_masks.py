"""Masks: from every form they are written in, onto pictures of every kind, and what is refused."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pipelines.draft import SourceOptions
from pipelines.images import Frame, match_frame
from pipelines.masks import MaskFault, read_mask
from pipelines.run import convert
from roikit.errors import UsageError
from roikit.images import ImageHeader
from roikit.sample import Rle

WIDTH, HEIGHT = 64, 48
SQUARE = [8.0, 4.0, 24.0, 4.0, 24.0, 20.0, 8.0, 20.0]


def frame(
    width: int = WIDTH,
    height: int = HEIGHT,
    *,
    orientation: int = 1,
    named: tuple[int, int] | None = None,
) -> Frame:
    header = ImageHeader(width=width, height=height, orientation=orientation, format="jpeg")
    found = match_frame(header, named)
    assert found is not None
    return found


def pixels(mask: Rle | MaskFault) -> Any:
    assert isinstance(mask, Rle), mask
    return coco_mask.decode({"size": list(mask.size), "counts": mask.counts.encode()})


def read(segmentation: Any, on: Frame | None = None) -> Rle | MaskFault:
    return read_mask(json.dumps(segmentation).encode(), on or frame())


def box_of(mask: Rle | MaskFault) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(pixels(mask))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_polygons_are_drawn_and_merged() -> None:
    second = [40.0, 30.0, 50.0, 30.0, 50.0, 40.0, 40.0, 40.0]
    drawn = pixels(read([SQUARE, second]))
    expected = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    expected[4:20, 8:24] = 1
    expected[30:40, 40:50] = 1
    assert (drawn == expected).all()


def test_a_polygon_that_covers_nothing_costs_itself_only() -> None:
    assert read([SQUARE, [1, 2, 3, 4], []]) == read([SQUARE])


def test_polygons_overshooting_by_a_little_are_cut() -> None:
    assert box_of(read([[-1.5, -2, 70, -2, 70, 10, -1.5, 10]])) == (0, 0, 64, 10)


def test_polygons_follow_a_picture_of_another_size() -> None:
    assert box_of(read([SQUARE], frame(128, 96, named=(WIDTH, HEIGHT)))) == (16, 8, 48, 40)


def test_polygons_are_turned_with_the_picture() -> None:
    # Drawn on 64 x 48 as stored; orientation 6 turns it clockwise to 48 x 64.
    turned = frame(48, 64, orientation=6, named=(64, 48))
    x0, y0, x1, y1 = 8, 4, 24, 20
    assert box_of(read([SQUARE], turned)) == (48 - y1, x0, 48 - y0, x1)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.floats(0.02, 0.98))
def test_runs_of_both_kinds_come_back_as_they_were(
    seed: int, width: int, height: int, share: float
) -> None:
    drawn = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    drawn[0, 0] = 1
    packed = coco_mask.encode(np.asfortranarray(drawn))
    counts = packed["counts"].decode()
    flat = drawn.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    lengths = np.diff([0, *edges, flat.size]).tolist()
    on = frame(width, height)
    compressed = read({"size": [height, width], "counts": counts}, on)
    listed = read({"size": [height, width], "counts": lengths}, on)
    assert (pixels(compressed) == drawn).all()
    assert compressed == listed == Rle(size=(height, width), counts=counts)


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        (None, "found none"),
        ([], "found none"),
        ("polygon", "expected polygons"),
        ([[1, 2, 3, 4], []], "expected a polygon of 3 corners or more, found none"),
        ([SQUARE, [1, 2, 3, 4, 5, 6, 7]], "polygon 1: expected x, y pairs, got 7 numbers"),
        ([["a", 2, 3, 4, 5, 6]], "got `str` at `segmentation[0][0]`"),
        ([[[1, 2], [3, 4], [5, 6]]], "expected polygons"),
        ([[1, 2, 3, 4, 5, 1e308]], "far outside the picture"),
        ([[1, 2, -1e9, 4, 5, 6]], "far outside the picture"),
        ([[0, 0, 64, 48] * 10_000], "is none"),
        ([[100, 60, 110, 60, 110, 70]], "hold no pixel"),
        ([[3, 3, 3, 3, 3, 3]], "hold no pixel"),
        ({"size": [HEIGHT, WIDTH]}, "missing required field `counts`"),
        ({"size": [HEIGHT], "counts": [1]}, "size"),
        ({"size": [HEIGHT, WIDTH], "counts": [3072, -1, 1]}, "expected polygons, or runs"),
        ({"size": [HEIGHT, WIDTH], "counts": [2**40]}, "expected polygons, or runs"),
        ({"size": [HEIGHT, WIDTH], "counts": [1, 2]}, "expected 3,072 pixels together, got 3"),
        ({"size": [HEIGHT, WIDTH], "counts": []}, "got 0"),
        ({"size": [HEIGHT, WIDTH], "counts": [3072]}, "the runs hold no pixel"),
        ({"size": [HEIGHT, WIDTH], "counts": ""}, "got 0"),
        ({"size": [HEIGHT, WIDTH], "counts": "P"}, "in the middle of a number"),
        ({"size": [HEIGHT, WIDTH], "counts": "é"}, "got another text"),
        ({"size": [HEIGHT, WIDTH], "counts": "o" * 1000 + "1"}, "got another text"),
        ({"size": [HEIGHT, WIDTH], "counts": "M"}, "expected none below 0"),
    ],
)
def test_damaged_masks_are_refused_with_a_reason(segmentation: Any, said: str) -> None:
    fault = read(segmentation)
    assert isinstance(fault, MaskFault)
    assert fault.code == "E_MASK_INVALID"
    assert said in fault.message


def test_json_that_is_none_is_refused() -> None:
    for damaged in (b"[[NaN, 1, 2, 3, 4, 5]]", b"[[1e999, 1, 2, 3, 4, 5]]", b"[" * 100_000):
        assert read_mask(damaged, frame()).code == "E_MASK_INVALID"  # type: ignore[union-attr]


def test_runs_of_another_size_are_refused_under_their_own_code() -> None:
    runs = {"size": [48, 64], "counts": [0, 3072]}
    larger = read(runs, frame(128, 96, named=(64, 48)))
    assert isinstance(larger, MaskFault)
    assert larger.code == "E_MASK_SIZE"
    assert "expected runs of the picture's size, 128 x 96, got 64 x 48" in larger.message
    turned = read(runs, frame(48, 64, orientation=6, named=(64, 48)))
    assert isinstance(turned, MaskFault)
    assert (turned.code, "before EXIF turns it" in turned.message) == ("E_MASK_SIZE", True)
    huge = read({"size": [2**31 - 1, 2**31 - 1], "counts": [2**31 - 1]})
    assert isinstance(huge, MaskFault)
    assert huge.code == "E_MASK_SIZE"


@given(st.text(max_size=60))
def test_no_text_of_counts_crashes(text: str) -> None:
    found = read({"size": [HEIGHT, WIDTH], "counts": text})
    assert isinstance(found, Rle | MaskFault)


# --- through the converters ---


MASKS = SourceOptions(masks=True)
SEGMENTATIONS: list[Any] = [
    [SQUARE],
    {"size": [HEIGHT, WIDTH], "counts": [100, 50, HEIGHT * WIDTH - 150]},
    [[1, 2, 3]],
    {"size": [10, 10], "counts": [0, 100]},
]


def coco_like(categories: list[Any], **more: Any) -> dict[str, Any]:
    images = [
        {
            "id": 9,
            "file_name": "COCO_train2014_000000000009.jpg",
            "width": WIDTH,
            "height": HEIGHT,
            **more,
        }
    ]
    annotations = [
        {"id": 40 + i, "image_id": 9, "category_id": 1, "bbox": [1, 1, 20, 20]}
        | {"segmentation": segmentation}
        for i, segmentation in enumerate(SEGMENTATIONS)
    ]
    annotations.append({"id": 50, "image_id": 9, "category_id": 1, "bbox": [2, 2, 20, 20]})
    return {"images": images, "annotations": annotations, "categories": categories}


def put_source(tree: Any, name: str) -> str:
    """Write one dataset's files and return the split."""
    if name == "coco":
        table = coco_like([{"id": 1, "name": "cat"}])
        table["images"][0]["file_name"] = "000000000009.jpg"
        tree.json("annotations/instances_train2017.json", table)
    elif name == "refcoco":
        tree.json("instances.json", coco_like([{"id": 1, "name": "cat"}]))
        refs = [
            {"ref_id": i, "ann_id": ann_id, "image_id": 9, "split": "train"}
            | {"sentences": [{"sent_id": i, "sent": "the cat"}]}
            for i, ann_id in enumerate((40, 41, 42, 43, 50))
        ]
        tree.put("refs(unc).p", pickle.dumps(refs))
    else:
        url = "http://images.cocodataset.org/train2017/000000000009.jpg"
        table = coco_like([{"id": 1, "name": "cat"}], coco_url=url)
        del table["images"][0]["file_name"]
        tree.json({"lvis": "lvis_v1_train.json", "paco": "paco_lvis_v1_train.json"}[name], table)
    tree.picture("train2017/000000000009.jpg", WIDTH, HEIGHT)
    return "train"


@pytest.mark.parametrize("name", ["coco", "lvis", "paco", "refcoco"])
def test_masks_are_kept_where_they_are_asked_for(tree: Any, shards: Any, name: str) -> None:
    split = put_source(tree, name)
    options = {"splits": [split], "options": MASKS}
    (report,) = convert(name, tree.root, shards.root, **options)
    (sample,) = shards.samples(name, split).values()
    masks = {region.native_id: region.mask_rle for region in sample.regions}
    assert list(masks) == ["40", "41", "42", "43", "50"]
    assert box_of(masks["40"]) == (8, 4, 24, 20)
    assert pixels(masks["41"]).sum() == 50
    assert masks["42"] is masks["43"] is masks["50"] is None
    # A mask is no record: all five are converted.
    assert (report.records_found, report.records_converted, report.faults) == (5, 5, 0)
    assert shards.codes(name, split) == {
        "annotations[2]": "E_MASK_INVALID",
        "annotations[3]": "E_MASK_SIZE",
        "annotations[4]": "E_MASK_INVALID",
    }
    with_pixels = shards.tars(name, split)
    convert(name, tree.root, shards.root / "again", workers=2, **options)
    assert type(shards)(shards.root / "again").tars(name, split) == with_pixels


@pytest.mark.parametrize("name", ["coco", "lvis", "paco", "refcoco"])
def test_without_the_option_masks_change_nothing(
    tree: Any, shards: Any, tmp_path: Path, name: str
) -> None:
    split = put_source(tree, name)
    convert(name, tree.root, shards.root, splits=[split])
    bare = type(tree)(tmp_path / "bare")
    put_source(bare, name)
    for path in bare.root.rglob("*.json"):
        table = json.loads(path.read_bytes())
        for annotation in table["annotations"]:
            annotation.pop("segmentation", None)
        path.write_text(json.dumps(table))
    convert(name, bare.root, shards.root / "bare", splits=[split])
    without = type(shards)(shards.root / "bare")
    assert shards.tars(name, split) == without.tars(name, split)
    assert not shards.rejections(name, split)
    plan = [
        json.loads((root / name / split / "dataset.json").read_bytes())["plan_hash"]
        for root in (shards.root, without.root)
    ]
    assert plan[0] == plan[1]


def test_mdetrs_files_hold_no_masks(tree: Any, shards: Any) -> None:
    tree.json("finetune_refcoco_val.json", {"images": [], "annotations": [], "categories": []})
    with pytest.raises(UsageError, match=r"--masks.*instances\.json.*finetune_refcoco_val\.json"):
        convert("refcoco", tree.root, shards.root, options=MASKS)


def test_other_datasets_have_none(tree: Any, shards: Any) -> None:
    with pytest.raises(UsageError, match=r"`--masks`: VCR has no use for it"):
        convert("vcr", tree.root, shards.root, options=MASKS)
