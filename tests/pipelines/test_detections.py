import math
import pickle
import subprocess
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.detection_files import open_detections, read_detections
from pipelines.detections import Detections, image_key
from pipelines.detections_table import SCHEMA, DetectedBox, write_detections
from roikit.errors import UsageError

WANTED = {"coco:9", "coco:10", "photo.png"}


@pytest.fixture
def categories(tree: Any) -> Path:
    names = ["dog", "bat_(animal)", "cat"]
    listed = [{"id": i + 1, "name": n, "synonyms": [n + "s"]} for i, n in enumerate(names)]
    tree.json("lvis.json", {"categories": listed})
    return Path(tree.root / "lvis.json")


def read(path: Path, categories: Path | None = None) -> Detections:
    return read_detections(open_detections(path, categories), WANTED)


def codes(detections: Detections) -> list[tuple[str, str]]:
    own = [r for found in detections.rejections.values() for r in found]
    return sorted((r.source.record, r.code) for r in (*own, *detections.strays))


@pytest.mark.parametrize(
    ("image", "key"),
    [
        ("000000000009.jpg", "coco:9"),
        ("coco/train2017/000000000009.jpg", "coco:9"),
        ("COCO_train2014_000000000009.jpg", "coco:9"),
        ("coco:9", "coco:9"),
        ("9.jpg", "9.jpg"),
        ("sub/photo.png", "sub/photo.png"),
        ("٠٠٠٠٠٠٠٠٠٠٠٩.jpg", "٠٠٠٠٠٠٠٠٠٠٠٩.jpg"),
        ("", "."),
    ],
)
def test_pictures_are_known_by_one_key(image: str, key: str) -> None:
    assert image_key(image) == key


# --- our own table ---

BOX = DetectedBox("000000000009.jpg", 1.5, 2.0, 30.0, 40.0, 64, 48, 0.9, "dog", "some-detector")


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "boxes.parquet"
    boxes = [
        BOX,
        replace(BOX, image="photo.png", label="cat", width=100, height=100),
        replace(BOX, image="coco:9", x1=3.0, label="cat"),
        replace(BOX, image="000000000777.jpg"),
    ]
    write_detections(path, iter(boxes))
    assert pq.read_schema(path).names == SCHEMA.names
    assert pq.read_table(path).to_pylist()[0]["detector"] == "some-detector"
    detections = read(path)
    assert detections.names == ["dog", "cat"]
    assert detections.num_images == 3
    assert set(detections.found) == {"coco:9", "photo.png"}
    found = detections.found["coco:9"]
    assert found.image_wh == (64, 48)
    assert not found.is_normalised
    assert found.rows.tolist() == [
        [1.5, 2.0, 30.0, 40.0, 0.9, 0, 0],
        [3.0, 2.0, 30.0, 40.0, 0.9, 1, 2],
    ]
    write_detections(path, [])
    assert read(path).num_images == 0


def test_labels_find_their_synonyms_however_they_are_spelt(
    tmp_path: Path, categories: Path
) -> None:
    path = tmp_path / "boxes.parquet"
    labels = ["bat_(animal)", "Bat", "Dog", "zebra"]
    write_detections(path, [replace(BOX, label=label) for label in labels])
    detections = read(path, categories)
    assert detections.found["coco:9"].rows[:, 5].tolist() == [1, 1, 0, 3]
    assert detections.names == ["dog", "bat_(animal)", "cat", "zebra"]
    assert detections.synonyms[1] == ("bat_(animal)s",)


def test_bad_rows_have_their_codes(tmp_path: Path) -> None:
    rows = [
        astuple(BOX),
        astuple(replace(BOX, x1=math.nan)),
        astuple(replace(BOX, y2=math.inf)),
        astuple(replace(BOX, x1=31.0)),
        astuple(replace(BOX, score=1.5)),
        astuple(replace(BOX, label="  ")),
        (*astuple(BOX)[:8], None, "d"),
        (None, *astuple(BOX)[1:]),
        astuple(replace(BOX, width=65)),
        astuple(replace(BOX, width=0)),
        (*astuple(BOX)[:5], None, *astuple(BOX)[6:]),
        (BOX.image, None, *astuple(BOX)[2:]),
        astuple(replace(BOX, x1=2.0)),
    ]
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
    path = tmp_path / "boxes.parquet"
    pq.write_table(pa.table(arrays, schema=SCHEMA), path)
    detections = read(path)
    assert codes(detections) == sorted(
        [
            ("row 1", "E_FIELD_TYPE"),
            ("row 2", "E_FIELD_TYPE"),
            ("row 3", "E_BOX_EMPTY"),
            ("row 4", "E_VALUE_RANGE"),
            ("row 5", "E_PHRASE_EMPTY"),
            ("row 6", "E_PHRASE_EMPTY"),
            ("row 7", "E_FIELD_MISSING"),
            ("row 8", "E_SIZE_MISMATCH"),
            ("row 9", "E_VALUE_RANGE"),
            ("row 10", "E_VALUE_RANGE"),
            ("row 11", "E_FIELD_TYPE"),
        ]
    )
    assert detections.found["coco:9"].rows[:, 6].tolist() == [0, 12]


def test_other_writers_types_are_read(tmp_path: Path) -> None:
    path = tmp_path / "boxes.parquet"
    table = pa.table(
        {
            "label": pa.array(["dog"]).dictionary_encode(),
            "image": pa.array(["coco:9"], pa.large_string()),
            "x1": pa.array([1]), "y1": pa.array([2]), "x2": pa.array([3], pa.int16()),
            "y2": pa.array([4], pa.uint8()), "score": pa.array([np.float16(0.5)]),
            "width": pa.array([8.0]), "height": pa.array([8], pa.int64()), "more": pa.array([None]),
        }
    )  # fmt: skip
    pq.write_table(table, path)
    assert read(path).found["coco:9"].rows.tolist() == [[1, 2, 3, 4, 0.5, 0, 0]]


def test_a_table_that_is_none_of_ours_says_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "boxes.parquet"
    pq.write_table(pa.table({"image": ["a"], "bbox": [[1]]}), path)
    with pytest.raises(UsageError, match=r"missing: label, x1, .*found image, bbox"):
        read(path)
    write_detections(path, [BOX])
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "x1", pa.array(["1"])), path)
    with pytest.raises(UsageError, match="column `x1`: expected numbers, found `string`"):
        read(path)
    write_detections(path, [BOX])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UsageError, match="not a readable Parquet file"):
        read(path)


# --- COCO's results ---


def result(**more: Any) -> dict[str, Any]:
    return {"image_id": 9, "category_id": 18, "bbox": [1.5, 2, 10, 20], "score": 0.5, **more}


def test_results_are_named_by_coco_itself_or_by_the_file_given(tree: Any, categories: Path) -> None:
    tree.json("results.json", [result(segmentation={}), result(category_id=1), result(image_id=5)])
    detections = read(tree.root / "results.json")
    found = detections.found["coco:9"]
    assert found.rows[:, :5].tolist() == [[1.5, 2, 11.5, 22, 0.5]] * 2
    assert [detections.names[int(i)] for i in found.rows[:, 5]] == ["dog", "person"]
    assert found.image_wh is None
    assert set(detections.found) == {"coco:9"}
    assert detections.num_images == 2
    tree.json("results.json", [result(category_id=2, image_id="COCO_val2014_000000000009.jpg")])
    detections = read(tree.root / "results.json", categories)
    assert [detections.names[int(i)] for i in detections.found["coco:9"].rows[:, 5]] == [
        "bat_(animal)"
    ]


def test_bad_results_have_their_codes(tree: Any) -> None:
    results = [
        result(),
        result(category_id=12),
        result(bbox=[1, 2, 3]),
        result(bbox=[1, 2, 0, 5]),
        result(bbox=[1, 2, 1e308, 1e308]),
        result(score=-1),
        result(score="high"),
        {"image_id": 9},
        result(image_id=-9),
        result(image_id=10**30),
        result(bbox=[1e308, 2, 1e308, 3]),
        result(score=math.nan),
        [[[]]],
    ]
    tree.json("results.json", results)
    detections = read(tree.root / "results.json")
    assert codes(detections) == sorted(
        [
            ("[1]", "E_CATEGORY_UNKNOWN"),
            ("[2]", "E_FIELD_TYPE"),
            ("[3]", "E_BOX_EMPTY"),
            ("[4]", "E_VALUE_RANGE"),
            ("[5]", "E_VALUE_RANGE"),
            ("[6]", "E_FIELD_TYPE"),
            ("[7]", "E_FIELD_MISSING"),
            ("[10]", "E_FIELD_TYPE"),
            ("[11]", "E_JSON_INVALID"),
            ("[12]", "E_FIELD_TYPE"),
        ]
    )
    assert detections.found["coco:9"].rows[:, 6].tolist() == [0]


def test_ids_that_are_not_cocos_ask_for_their_names(tree: Any) -> None:
    tree.json("results.json", [result(category_id=1203), result(category_id=400), result()])
    with pytest.raises(UsageError, match="2 of 3 boxes have others") as caught:
        read(tree.root / "results.json")
    assert "--categories" in str(caught.value.hint)


# --- the published pickle ---


def entry(**more: Any) -> dict[str, Any]:
    boxes = np.array([[0.25, 0.5, 0.5, 1.0, 0.75]], dtype=np.float32)
    return {
        "filename": "000000000009.jpg", "pred_bboxes": boxes, "labels": np.array([1]), **more
    }  # fmt: skip


def dumped(tmp_path: Path, value: Any, protocol: int = 4) -> Path:
    path = tmp_path / "llava_150k_bbox_pred_results.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_the_published_pickle_is_read(tmp_path: Path, categories: Path, protocol: int) -> None:
    empty = entry(
        filename="000000000010.jpg", pred_bboxes=np.empty((0, 5)), labels=np.empty(0, int)
    )
    detections = read(dumped(tmp_path, [entry(), empty], protocol), categories)
    found = detections.found["coco:9"]
    assert found.is_normalised
    assert found.rows.tolist() == [[0.25, 0.5, 0.5, 1.0, 0.75, 1, 0]]
    assert detections.names[1] == "bat_(animal)"
    assert detections.num_images == 2
    assert set(detections.found) == {"coco:9"}


def test_bad_entries_have_their_codes(tmp_path: Path, categories: Path) -> None:
    nan = np.array([[0.1, 0.1, math.nan, 0.5, 0.9], [0.1, 0.1, 0.5, 0.5, 0.9]])
    for bad, expected in (
        ({"labels": np.array([3])}, ("[0].labels[0]", "E_CATEGORY_UNKNOWN")),
        ({"labels": np.array([-1])}, ("[0].labels[0]", "E_CATEGORY_UNKNOWN")),
        ({"labels": np.array([1, 1])}, ("[0]", "E_COUNT_MISMATCH")),
        ({"labels": np.array([0.5])}, ("[0]", "E_FIELD_TYPE")),
        ({"labels": [1]}, ("[0]", "E_FIELD_TYPE")),
        ({"pred_bboxes": np.ones((1, 4))}, ("[0]", "E_FIELD_TYPE")),
        ({"pred_bboxes": np.float64(1)}, ("[0]", "E_FIELD_TYPE")),
        ({"pred_bboxes": nan, "labels": np.array([0, 0])}, ("[0].pred_bboxes[0]", "E_FIELD_TYPE")),
        ({"filename": 9}, ("[0]", "E_FIELD_MISSING")),
    ):
        good = entry(filename="000000000010.jpg")
        detections = read(dumped(tmp_path, [entry(**bad), good]), categories)
        assert codes(detections) == [expected], bad
        assert "coco:10" in detections.found
    no_boxes = entry()
    del no_boxes["pred_bboxes"]
    found = read(dumped(tmp_path, [no_boxes, "no entry", entry()]), categories)
    assert codes(found) == [
        ("[0]", "E_FIELD_MISSING"),
        ("[1]", "E_FIELD_MISSING"),
        ("[2]", "E_RECORD_DUPLICATE"),
    ]


def test_the_pickle_needs_names_and_holds_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="in the order of LVIS") as caught:
        read(dumped(tmp_path, [entry()]))
    assert "--categories lvis_v1_val.json" in str(caught.value.hint)


class Evil:
    def __reduce__(self) -> Any:
        return subprocess.check_call, (["true"],)


@pytest.mark.parametrize("value", [[Evil()], {"a": 1}, "text"])
def test_another_pickle_is_refused_and_not_run(
    tmp_path: Path, categories: Path, value: Any
) -> None:
    with pytest.raises(UsageError, match=r"llava_150k_bbox_pred_results\.pkl"):
        read(dumped(tmp_path, value), categories)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"x1,y1\n", b"PAR1", b'{"a": 1}', b"["])
def test_a_file_of_no_form_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "boxes").write_bytes(content)
    with pytest.raises(UsageError, match="boxes`") as caught:
        read(tmp_path / "boxes")
    assert caught.value.hint
