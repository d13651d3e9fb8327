import json

import msgspec
import pytest

from roikit.errors import UsageError
from roikit.evaluate.predictions import read_predictions
from roikit.evaluate.run import evaluate


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_predictions(path)


def test_answers_are_found_by_our_ids_and_by_the_datasets(tmp_path, category_samples):
    rows = [
        {"item": "coco-val-000000000#1", "answer": "The cat."},
        {"image_id": "01", "caption": "dog"},
        {"item": "02", "answer": "<bus>"},
        {"item": "nobody", "answer": "x"},
    ]
    predictions = write(tmp_path / "p.jsonl", rows)
    result = evaluate("coco-category", category_samples[:1], predictor=predictions)
    assert result.scores["accuracy"].value == pytest.approx(200 / 3, abs=1e-5)
    assert result.record.controls == {}
    assert result.record.system == "p.jsonl"
    assert len(result.record.system_hash) == 64
    assert "1 predictions answered no item" in result.record.notes
    # what looks like a tag is what the system said
    assert result.predictions["answer"].to_pylist() == ["The cat.", "dog", "<bus>"]


def test_numbers_and_lists_are_read_as_coco_caption_results_spell_them(tmp_path, category_samples):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"image_id": 20, "caption": "cat"}]))
    result = evaluate("coco-category", category_samples[2:3], predictor=read_predictions(path))
    assert result.scores["accuracy"].value == 100.0


def test_picks_come_as_index_letter_or_scores(tmp_path, vcr_samples):
    rows = []
    for i, given in enumerate(
        [{"choice": 0}, {"choice": "B"}, {"scores": [0, 1, 5, 2]}, {"choice": 1}]
    ):
        rows += [{"item": f"q{i}", "step": step, **given} for step in ("answer", "rationale")]
    result = evaluate("vcr", vcr_samples, predictor=write(tmp_path / "p.jsonl", rows))
    assert {name: score.value for name, score in result.scores.items()} == {
        "q_a/choice": 75.0,
        "qa_r/choice": 75.0,
        "q_ar/choice": 75.0,
    }


def test_an_item_without_an_answer_is_named(tmp_path, category_samples):
    predictions = write(tmp_path / "p.jsonl", [{"item": "00", "answer": "cat"}])
    with pytest.raises(UsageError, match=r"none for `coco-val-000000000#2`, the dataset's `01`"):
        evaluate("coco-category", category_samples, predictor=predictions)


def test_an_id_that_names_two_items_is_refused(tmp_path, world):
    conversation = world.region_conversation("category", [("<region1>?", "cat")])
    samples = [world.sample(0, ["cat"], [conversation], dataset="coco")]
    samples += [world.sample(1, ["cat"], [conversation], dataset="coco")]
    sample, image = samples[1]
    twin = msgspec.structs.replace(sample, regions=samples[0][0].regions)
    predictions = write(tmp_path / "p.jsonl", [{"item": "00", "answer": "cat"}])
    with pytest.raises(
        UsageError, match="names both coco-val-000000000#1 and coco-val-000000001#1"
    ):
        evaluate("coco-category", [samples[0], (twin, image)], predictor=predictions)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got an empty file"),
        ('{"item": "a", "answer": "x"}\n{"item":', "line 2: expected JSON"),
        ('{"answer": "x"}', "line 1: expected `item` or `image_id`"),
        ('{"item": "a", "answer": 3}', r"line 1: Expected `str \| null`"),
        ('{"item": "a", "answer": "x"}\n{"item": "a", "answer": "y"}', "a second answer to `a`"),
        ('[{"item": "a"', "the file: expected JSON"),
    ],
)
def test_a_file_that_is_not_predictions_says_where(tmp_path, text, message):
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_predictions(path)


@pytest.mark.parametrize("given", [{"choice": 4}, {"choice": "E"}, {"scores": [1, 2]}, {}])
def test_a_pick_that_is_no_option_is_refused(tmp_path, vcr_samples, given):
    rows = [{"item": "q0", "step": step, **given} for step in ("answer", "rationale")]
    predictions = write(tmp_path / "p.jsonl", rows)
    with pytest.raises(UsageError, match=r"q0 \(step `answer`\): expected"):
        evaluate("vcr", vcr_samples[:1], predictor=predictions)


def test_a_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_predictions(tmp_path / "none.jsonl")
