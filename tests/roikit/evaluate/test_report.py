import io

import msgspec
from rich.console import Console

from roikit.evaluate.report import PUBLISHED, incomparable, render, report
from roikit.evaluate.result import Result
from roikit.evaluate.run import evaluate


def text_of(renderable):
    stream = io.StringIO()
    Console(file=stream, width=200, color_system=None).print(renderable)
    return stream.getvalue()


def test_a_result_is_shown_beside_its_controls(world, category_samples):
    result = evaluate(
        "coco-category",
        category_samples,
        predictor=world.PicksByBox(),
        system="runs/[b]",
        subset=lambda item: "pairs [new]" if len(item.sample.regions) == 2 else None,
    )
    text = text_of(render(result))
    (row, pairs) = (line for line in text.splitlines() if line.startswith("│ accuracy  "))
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == ["accuracy", "100.0 [100.0, 100.0]", "0.0", "0.0", "100.0"]
    assert "runs/[b]" in text and "pairs [new]" in text and "100.0" in pairs
    assert "not in `swapped`: the picture has fewer than two regions: 1" in text
    assert "11 items in 5 images" in text


def test_a_report_stands_beside_published_numbers_and_says_what_does_not_compare(
    world, vcr_samples
):
    result = evaluate(
        "vcr",
        vcr_samples,
        predictor=world.PicksByBox(),
        limit=3,
        system="runs/stage2",
        caveats=["miniature data"],
    )
    text = text_of(report([result]))
    assert "GPT4RoI-7B" in text and "78.6" in text
    assert "runs/stage2, letter generated [1]" in text
    assert "limited to 3 items" in text and "3 items instead of 26,534" in text
    assert "miniature data" in text


def test_only_the_whole_official_split_compares(world, vcr_samples):
    result = evaluate("vcr", vcr_samples, predictor=world.Constant("A"), controls=())
    assert incomparable(result) == ["4 items instead of 26,534"]
    whole = Result(record=msgspec.structs.replace(result.record, items=26_534))
    assert incomparable(whole) == []
    other = Result(record=msgspec.structs.replace(whole.record, split="train", dataset="mine"))
    assert incomparable(other) == ["data of `mine` instead of `vcr`", "split train instead of val"]


def test_published_numbers_name_metrics_that_exist():
    assert {metric for row in PUBLISHED for metric in row.scores} == {
        "bleu_4",
        "meteor",
        "rouge_l",
        "cider",
        "q_a",
        "qa_r",
        "q_ar",
    }
    assert all(row.source for row in PUBLISHED)


def test_no_results_are_said_to_be_none():
    assert "no results" in text_of(report([]))
