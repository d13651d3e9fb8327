from roikit.evaluate.predictor import ModelPredictor
from roikit.evaluate.run import evaluate


def test_a_real_model_answers_every_item_the_same_way_twice(built, category_samples, vcr_samples):
    from roikit.model.generate import LoadedModel

    loaded = LoadedModel(model=built.model.eval(), processor=built.processor)
    for name, samples in (("coco-category", category_samples), ("vcr", vcr_samples)):
        first, again = (
            evaluate(name, samples[:2], predictor=ModelPredictor(loaded), batch_size=4)
            for _ in range(2)
        )
        assert first.record == again.record
        assert first.predictions.equals(again.predictions)
    rows = first.predictions.to_pylist()
    assert [row["control"] for row in rows] == 2 * [
        "true",
        "true",
        "swapped",
        "swapped",
        "blank",
        "blank",
    ]
    assert all(len(row["log_probs"]) == 4 and max(row["log_probs"]) < 0 for row in rows)
    # boxes and picture reach the model: likelihoods move with both
    true, swapped, blank = (row["log_probs"] for row in rows[::2][:3])
    assert true != swapped and true != blank


def test_boxes_as_text_are_evaluated_with_their_controls(category_samples, vcr_samples):
    from dataclasses import replace

    from roikit.model.build import build_model
    from roikit.model.generate import LoadedModel
    from tests.roikit.conftest import TEXTS, TINY

    built = build_model(replace(TINY, region_encoder="text"), texts=TEXTS)
    loaded = LoadedModel(model=built.model.eval(), processor=built.processor)

    read = []  # what the model is given to read

    class Watched(ModelPredictor):
        def generate(self, prompts, max_new_tokens):
            read.append([built.processor.encode_prompt(prompt).input_ids for prompt in prompts])
            return super().generate(prompts, max_new_tokens)

    evaluate("coco-category", category_samples[:1], predictor=Watched(loaded), batch_size=4)
    true, swapped, blank = read
    assert true == blank
    assert len(true) == len(swapped) > 1
    for one, other in zip(true, swapped, strict=True):
        assert one != other
        assert len(one) == len(other)
    result = evaluate("vcr", vcr_samples[:1], predictor=ModelPredictor(loaded), batch_size=4)
    rows = result.predictions.to_pylist()
    by_control = {row["control"]: row["log_probs"] for row in rows}
    assert by_control["true"] != by_control["swapped"]


def test_nothing_but_the_model_needs_torch():
    import subprocess
    import sys

    code = (
        "import sys, roikit.evaluate.run, roikit.evaluate.report, roikit.evaluate.predictor;"
        "print([m for m in ('torch', 'transformers', 'webdataset') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
