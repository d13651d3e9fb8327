import msgspec
import pytest

from roikit.errors import CorruptSampleError, RoikitError, UsageError
from roikit.evaluate.predictor import Oracle
from roikit.evaluate.result import load, save
from roikit.evaluate.run import FEW_REGIONS, SAME_BOX, evaluate


def values(scores):
    return {name: score.value for name, score in scores.items()}


def by_shape(item):
    """A group of its own for pictures with two regions."""
    return "pairs" if len(item.sample.regions) == 2 else None


class Leak:
    found, total, compared, similar = 1, 5, ("ids", "bytes", "pixels", "looks"), 2


def test_a_model_that_looks_into_the_box_follows_it(world, category_samples):
    result = evaluate("coco-category", category_samples, predictor=world.PicksByBox())
    assert result.scores["accuracy"].value == 100.0
    assert (result.scores["accuracy"].n, result.record.images, result.record.items) == (11, 5, 11)
    swapped = result.record.controls["swapped"]
    assert swapped.left_out == {FEW_REGIONS: 1}
    assert swapped.items == swapped.paired.overall["accuracy"].n == 10
    assert values(swapped.paired.overall) == {"accuracy": 100.0}
    assert values(swapped.control.overall) == {"accuracy": 0.0}
    assert values(swapped.follows_box.overall) == {"accuracy": 100.0}
    assert values(swapped.difference.overall) == {"accuracy": 100.0}
    assert swapped.same_reference.value == 0.0
    blank = result.record.controls["blank"]
    assert (blank.items, blank.follows_box) == (11, None)
    assert values(blank.control.overall) == {"accuracy": 0.0}


def test_a_model_that_does_not_look_scores_the_same_under_every_control(world, category_samples):
    result = evaluate("coco-category", category_samples, predictor=world.Constant("A cat."))
    # 3 of the 11 regions are cats; one of them has no other region in its picture
    assert result.scores["accuracy"].value == pytest.approx(300 / 11, abs=1e-5)
    swapped = result.record.controls["swapped"]
    assert values(swapped.paired.overall) == values(swapped.control.overall) == {"accuracy": 20.0}
    assert values(swapped.follows_box.overall) == {"accuracy": 20.0}
    assert values(swapped.difference.overall) == {"accuracy": 0.0}


def test_accuracy_is_counted_by_class(world, category_samples):
    result = evaluate("coco-category", category_samples, predictor=world.Constant("cat"))
    classes = result.record.per_class
    assert {name: (c.n, c.right) for name, c in classes.items()} == {
        "bus": (3, 0),
        "cat": (3, 3),
        "cup": (2, 0),
        "dog": (3, 0),
    }
    assert result.scores["accuracy_by_class"].value == 25.0


def test_questions_are_scored_in_every_way_and_lost_without_the_picture(world, vcr_samples):
    result = evaluate("vcr", vcr_samples, predictor=world.PicksByBox())
    steps, ways = ("q_a", "qa_r", "q_ar"), ("likelihood", "likelihood_per_token", "letter")
    assert values(result.scores) == {f"{step}/{way}": 100.0 for way in ways for step in steps}
    for control in result.record.controls.values():
        assert control.items == 4
        assert values(control.control.overall)["q_ar/likelihood"] == 0.0
        assert values(control.difference.overall)["q_a/letter"] == 100.0


def test_a_model_without_a_preference_picks_nothing(world, vcr_samples):
    result = evaluate("vcr", vcr_samples, predictor=world.Constant("(B)"), controls=())
    scores = values(result.scores)
    assert scores["q_a/likelihood"] == 0.0
    assert scores["q_a/likelihood/unclear"] == 100.0
    assert scores["q_a/letter"] == scores["q_ar/letter"] == 25.0


@pytest.mark.parametrize(
    ("name", "fixture", "metrics"),
    [
        ("coco-category", "category_samples", ["accuracy", "accuracy_by_class"]),
        ("vcr", "vcr_samples", ["q_ar/likelihood", "q_ar/likelihood_per_token", "q_ar/letter"]),
        ("vg-caption", "caption_samples", ["exact", "rouge_l"]),
    ],
)
def test_the_oracle_reaches_100(name, fixture, metrics, request):
    samples = request.getfixturevalue(fixture)
    result = evaluate(name, samples, predictor=Oracle(), use_java=False)
    assert [result.scores[metric].value for metric in metrics] == [100.0] * len(metrics)
    assert result.record.controls == {}


def test_captions_have_their_controls_too(world, caption_samples):
    class Describes(world.PicksByBox):
        def generate(self, prompts, max_new_tokens):
            said = super().generate(prompts, max_new_tokens)
            return [f"A small {text[4:-1]} on a grey wall in picture 0." for text in said]

    result = evaluate("vg-caption", caption_samples, predictor=Describes(), use_java=False)
    # picture 0 has three of the eleven regions; its captions come out word for word
    assert result.scores["exact"].value == pytest.approx(300 / 11, abs=1e-5)
    swapped = result.record.controls["swapped"]
    assert values(swapped.paired.overall)["exact"] == 30.0
    assert values(swapped.control.overall)["exact"] == 0.0
    assert values(swapped.follows_box.overall) == {"exact": 30.0}
    assert swapped.control.overall["bleu_4"].value < swapped.paired.overall["bleu_4"].value
    assert "METEOR is left out" in result.record.caveats[0]


def test_groups_are_scored_by_themselves(world, category_samples):
    result = evaluate(
        "coco-category", category_samples, predictor=world.Constant("dog"), subset=by_shape
    )
    # pairs: dog bus, cup bus
    assert values(result.record.scores.groups["pairs"]) == {"accuracy": 25.0}
    assert set(result.record.scores.groups) == {"pairs"}
    assert values(result.record.controls["swapped"].control.groups["pairs"]) == {"accuracy": 25.0}


def test_extra_metrics_are_averaged_and_follow_the_box(world, category_samples):
    def first_letter(item, text):
        name = item.references[0]
        return {
            "first letter": float(text[4:5] == name[0]),
            "of cups": None if name != "cup" else 1.0,
        }

    result = evaluate(
        "coco-category", category_samples, predictor=world.PicksByBox(), extra_metrics=first_letter
    )
    assert result.scores["first letter"].value == 100.0
    assert (result.scores["of cups"].value, result.scores["of cups"].n) == (100.0, 2)
    swapped = result.record.controls["swapped"]
    assert values(swapped.follows_box.overall)["first letter"] == 100.0
    assert values(swapped.control.overall)["first letter"] < 50.0


def test_extra_metrics_of_a_question_get_the_option_picked(world, vcr_samples):
    texts = []
    evaluate(
        "vcr",
        vcr_samples,
        predictor=world.PicksByBox(),
        controls=(),
        extra_metrics=lambda item, text: texts.append(text) or {},
    )
    assert texts == ["a cat", "a dog", "a cup", "a bus"]


def test_the_same_arguments_give_the_same_result_in_any_batches(world, category_samples):
    model = world.PicksByBox()
    first = evaluate("coco-category", category_samples, predictor=model, batch_size=2)
    assert max(model.batches) == 2
    again = evaluate("coco-category", category_samples, predictor=world.PicksByBox(), batch_size=5)
    assert first.record == again.record
    assert first.predictions.equals(again.predictions)
    other = evaluate("coco-category", category_samples, predictor=world.PicksByBox(), seed=1)
    assert other.predictions["box_xyxy"] != first.predictions["box_xyxy"]


def test_a_question_takes_two_prompts_and_batches_stay_small(world, vcr_samples):
    model = world.PicksByBox()
    evaluate("vcr", vcr_samples, predictor=model, batch_size=3)
    assert max(model.batches) == 3


def test_each_row_says_what_was_asked_given_and_answered(world, category_samples):
    result = evaluate("coco-category", category_samples[1:2], predictor=world.PicksByBox())
    rows = result.predictions.to_pylist()
    assert [(row["item"][-2:], row["control"]) for row in rows] == [
        (item, control) for item in ("#1", "#2") for control in ("true", "swapped", "blank")
    ]
    true, swapped, blank = rows[:3]
    assert (true["prompt"], true["references"], true["answer"]) == (
        "What is region1?",
        ["dog"],
        "The dog.",
    )
    assert (true["given_item"], true["native_id"]) == (None, "10")
    assert (swapped["given_item"], swapped["answer"]) == ("coco-val-000000001#2", "The bus.")
    assert swapped["box_xyxy"] == rows[3]["box_xyxy"]
    assert blank["answer"] == "The nothing."


def test_rows_of_questions_hold_likelihoods_and_picks(world, vcr_samples):
    result = evaluate("vcr", vcr_samples[1:2], predictor=world.PicksByBox(), controls=())
    answer, rationale = result.predictions.to_pylist()
    assert (answer["step"], answer["right_option"], answer["answer"]) == ("answer", 1, "(B)")
    assert dict(answer["picks"]) == {"likelihood": 1, "likelihood_per_token": 1, "letter": 1}
    assert answer["log_probs"] == [-9.0, -1.0, -9.0, -9.0]
    assert rationale["prompt"].splitlines()[1:] == ["a dog", "Why?"]


def test_the_record_says_what_it_stands_on(world, category_samples):
    seen = []
    result = evaluate(
        "coco-category",
        category_samples,
        predictor=world.Constant(),
        limit=4,
        leak=Leak(),
        data_root="abc",
        system="runs/x",
        system_hash="def",
        caveats=["miniature data"],
        batch_size=3,
        progress=seen.append,
    )
    record = result.record
    assert (record.dataset, record.split, record.limit, record.items) == ("coco", "val", 4, 4)
    assert (record.data_root, record.system, record.system_hash) == ("abc", "runs/x", "def")
    assert result.seen_in_training == (
        "1 of 5 benchmark images were in the training data; 2 more look like one "
        "(compared: ids, bytes, pixels, looks)"
    )
    assert record.caveats == ["miniature data"]
    assert seen == [3, 4]


def test_what_is_not_known_of_the_training_data_is_said_with_its_reason(
    world, category_samples, tmp_path
):
    result = evaluate(
        "coco-category", category_samples, predictor=world.Constant(), limit=2, leak="it is gone"
    )
    unknown = "unknown whether benchmark images were in the training data: it is gone"
    assert result.seen_in_training == unknown
    save(result, tmp_path / "x.json")
    assert load(tmp_path / "x.json").seen_in_training == unknown


def test_regions_in_the_same_place_are_no_control(world):
    conversation = world.region_conversation(
        "category", [("<region1>?", "cat"), ("<region2>?", "pet")]
    )
    sample, image = world.sample(0, ["cat", "dog"], [conversation], dataset="coco")
    first = sample.regions[0]
    same = msgspec.structs.replace(sample, regions=(first, first))
    result = evaluate("coco-category", [(same, image)], predictor=world.Constant())
    swapped = result.record.controls["swapped"]
    assert (swapped.items, swapped.left_out) == (0, {SAME_BOX: 2})
    assert values(swapped.control.overall) == {"accuracy": None}


def test_wrong_calls_say_what_was_expected(world, category_samples, vcr_samples):
    model = world.Constant()
    with pytest.raises(UsageError, match="expected one of vg-caption, vcr, coco-category"):
        evaluate("coco", [], predictor=model)
    with pytest.raises(UsageError, match="swapped, blank, got `mirror`"):
        evaluate("vcr", [], predictor=model, controls=["mirror"])
    with pytest.raises(UsageError, match="expected samples, got none"):
        evaluate("vcr", [], predictor=model)
    with pytest.raises(
        UsageError, match="expected `choice` conversations in coco val, found 5 cat"
    ):
        evaluate("vcr", category_samples, predictor=model)
    with pytest.raises(UsageError, match="expected samples of one split"):
        evaluate("coco-category", [*category_samples, *vcr_samples], predictor=model)
    with pytest.raises(UsageError, match="limit"):
        evaluate("vcr", vcr_samples, predictor=model, limit=0)


def test_a_picture_that_cannot_be_read_stops_the_run(world, category_samples):
    sample, _ = category_samples[0]
    with pytest.raises(CorruptSampleError):
        evaluate("coco-category", [(sample, b"no picture")], predictor=world.Constant())


def test_a_model_that_loses_answers_is_noticed(world, category_samples):
    class Forgets(world.Constant):
        def generate(self, prompts, max_new_tokens):
            return ["cat"]

    with pytest.raises(RoikitError, match="expected 8 answers, got 1"):
        evaluate("coco-category", category_samples, predictor=Forgets())
