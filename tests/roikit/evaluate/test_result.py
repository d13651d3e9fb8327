import json

import pyarrow.parquet as pq
import pytest

from roikit.errors import UsageError
from roikit.evaluate.result import PREDICTIONS_SCHEMA, load, save
from roikit.evaluate.run import evaluate


@pytest.fixture
def result(world, category_samples):
    return evaluate("coco-category", category_samples, predictor=world.PicksByBox())


def test_a_result_comes_back_as_it_was_saved(tmp_path, result):
    record = save(result, tmp_path / "new" / "coco.json")
    assert record.predictions == "coco.parquet"
    assert load(tmp_path / "new" / "coco.json").record == record
    rows = pq.read_table(tmp_path / "new" / "coco.parquet")
    assert rows.schema.equals(PREDICTIONS_SCHEMA)
    assert rows.num_rows == 11 + 10 + 11
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "coco.json",
        "coco.parquet",
    ]


def test_the_same_evaluation_gives_the_same_bytes(tmp_path, world, category_samples, result):
    again = evaluate("coco-category", category_samples, predictor=world.PicksByBox())
    for name, one in (("a", result), ("b", again)):
        save(one, tmp_path / f"{name}.json")
    a, b = ((tmp_path / f"{name}.parquet").read_bytes() for name in "ab")
    assert a == b
    first, second = ((tmp_path / f"{name}.json").read_text() for name in "ab")
    assert first.replace("a.parquet", "b.parquet") == second


def test_a_result_is_not_overwritten_unless_told(tmp_path, result):
    path = tmp_path / "r.json"
    save(result, path)
    with pytest.raises(UsageError, match="exists"):
        save(result, path)
    save(result, path, overwrite=True)


def test_other_files_are_no_results(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"benchmark": "vcr"}))
    with pytest.raises(UsageError, match="not an evaluation's JSON file"):
        load(path)
    with pytest.raises(UsageError, match="No such file"):
        load(tmp_path / "none.json")
