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


def test_nothing_but_the_model_needs_torch():
    import subprocess
    import sys

    code = (
        "import sys, roikit.evaluate.run, roikit.evaluate.report, roikit.evaluate.predictor;"
        "print([m for m in ('torch', 'transformers', 'webdataset') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
