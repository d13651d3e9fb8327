import shutil

import pytest

from roikit.evaluate import captions
from roikit.evaluate.bootstrap import mean_measure, point
from roikit.evaluate.captions import CaptionScorer

ANSWERS = [
    "a man riding a brown horse",
    "the cat's tail (grey) is long",
    "two dogs",
    "",
    "a red bus parked on the street",
]
REFERENCES = [
    ["a man rides a brown horse", "man on a horse"],
    ["the tail of a grey cat"],
    ["two dogs run in the park", "brown dogs", "dogs"],
    ["a cup"],
    ["a red bus parked on the street"],
]

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")


def tokenized():
    """References and answers through the tokenizer, called as pycocoevalcap itself does."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    gold = tokenizer.tokenize(
        {i: [{"caption": text} for text in texts] for i, texts in enumerate(REFERENCES)}
    )
    said = tokenizer.tokenize({i: [{"caption": text}] for i, text in enumerate(ANSWERS)})
    return gold, said


@needs_java
def test_scores_equal_those_of_pycocoevalcap(monkeypatch):
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    # METEOR reads its tables for many seconds: it has a test of its own
    monkeypatch.setattr(CaptionScorer, "_meteor_measure", lambda *_: mean_measure([0.0] * 5))
    gold, said = tokenized()
    measures = CaptionScorer().measures(ANSWERS, REFERENCES)
    scores = {name: point(measure) for name, measure in measures.items()}
    bleu, _ = Bleu(4).compute_score(gold, said, verbose=0)
    assert scores == pytest.approx(
        {
            **{f"bleu_{order}": 100 * bleu[order - 1] for order in (1, 2, 3, 4)},
            "meteor": 0.0,
            "rouge_l": 100 * Rouge().compute_score(gold, said)[0],
            "cider": 100 * Cider().compute_score(gold, said)[0],
            "exact": 20.0,
        },
        abs=1e-6,
    )


@needs_java
@pytest.mark.slow
def test_meteor_equals_that_of_pycocoevalcap():
    gold, said = tokenized()
    with CaptionScorer() as scorer:
        meteor = scorer.measures(ANSWERS, REFERENCES)["meteor"]
        process = scorer._meteor._scorer
        assert point(meteor) == pytest.approx(100 * process.compute_score(gold, said)[0])
        # a resample is the corpus of the items drawn, each as often as it was drawn
        drawn = [0, 4, 4, 2]
        sums = meteor.stats[drawn].sum(axis=0, keepdims=True)
        corpus = [{k: side[i] for k, i in enumerate(drawn)} for side in (gold, said)]
        assert meteor.finish(sums)[0] == pytest.approx(100 * process.compute_score(*corpus)[0])


def test_a_pair_that_matches_as_a_whole_adds_no_chunk_to_meteor():
    # as METEOR writes them: equal captions, and captions that share words in three chunks
    whole = "7 7 3 3 4 4 3 3 0 0 0 0 0 0 0 0 0 0 0 0 1 7 7"
    partly = "7 6 4 3 2 2 1 1 0 0 0 0 0 0 0 0 0 0 0 0 3 3 3"
    chunks = [captions._summable([float(x) for x in line.split()])[20] for line in (whole, partly)]
    assert chunks == [0, 3]


@needs_java
def test_the_tokenizer_is_quiet(capfd):
    captions._ptb_tokens(["a cat"])
    assert capfd.readouterr() == ("", "")


@needs_java
def test_captions_stay_in_step_whatever_they_hold():
    odd = ["a\u2028b", "c\rd", "", "e ||| f", "", "g"]
    tokens = captions._ptb_tokens(odd)
    assert tokens == {"a\u2028b": "a b", "c\rd": "c d", "": "", "e ||| f": "e | | | f", "g": "g"}


def test_without_java_the_scores_say_what_they_are():
    with CaptionScorer(use_java=False) as scorer:
        measures = scorer.measures(ANSWERS, REFERENCES)
        assert "meteor" not in measures
        assert {"bleu_4", "rouge_l", "cider", "exact"} <= set(measures)
        assert scorer.versions["tokenizer"] == "white space"
        assert "METEOR is left out" in scorer.caveats[0]


def test_java_that_is_missing_is_noticed(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert captions.java_problem() == "Java is not installed"


def test_bleu_of_equal_captions_is_100():
    text = "a small cat on a wall"
    measures = CaptionScorer(use_java=False).measures([text] * 3, [[text]] * 3)
    assert point(measures["bleu_4"]) == pytest.approx(100, abs=1e-4)
    assert point(measures["rouge_l"]) == 100


def test_nothing_to_score_gives_no_metric():
    assert CaptionScorer(use_java=False).measures([], []) == {}
    silent = CaptionScorer(use_java=False).measures([""], [[""]])
    assert point(silent["cider"]) == 0.0
