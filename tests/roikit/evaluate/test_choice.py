from collections import Counter

import pytest

from roikit.errors import RoikitError
from roikit.evaluate.bootstrap import point
from roikit.evaluate.choice import ChoiceAnswer, letter_turns, measures, parse_letter
from roikit.evaluate.items import questions


def scores(asked, answers):
    return {name: point(measure) for name, measure in measures(asked, answers).items()}


@pytest.fixture
def ask(world):
    """Makes questions q0, q1 …; the right option of question i stands at i % 4."""
    return lambda count: [make(world, i) for i in range(count)]


def make(world, i, steps=2):
    conversations = world.choice_conversations(i, "cat", i % 4)[:steps]
    sample, _ = world.sample(i, ["cat", "dog"], conversations, dataset="vcr")
    (question,) = questions(sample, Counter())
    return question


@pytest.mark.parametrize(
    ("text", "pick"),
    [
        ("(A)", 0),
        ("(B) because region2 smiles", 1),
        (" (C). ", 2),
        ("D", 3),
        ("D.", 3),
        ("B)", 1),
        ("(E)", None),
        ("A man", None),
        ("(a)", None),
        ("b", None),
        ("The answer is (A)", None),
        ("(AB)", None),
        ("(A)nd", None),
        ("", None),
    ],
)
def test_letters_are_parsed_strictly(text, pick):
    assert parse_letter(text, 4) == pick


def test_both_ways_to_score_likelihoods_can_differ():
    answer = ChoiceAnswer(log_probs=(-4.0, -6.0, -9.0, -9.0), num_tokens=(2, 6, 3, 3))
    assert answer.picks(4) == {"likelihood": 0, "likelihood_per_token": 1}


def test_a_tie_is_no_pick():
    answer = ChoiceAnswer(log_probs=(-2.0, -2.0, -3.0), num_tokens=(1, 2, 1))
    assert answer.picks(3) == {"likelihood": None, "likelihood_per_token": 1}


def test_scores_that_are_not_numbers_are_refused():
    with pytest.raises(RoikitError, match="expected numbers"):
        ChoiceAnswer(log_probs=(float("nan"), -1.0)).picks(2)


def test_q_ar_counts_a_question_when_both_picks_are_right(ask):
    # right answers are options 0, 1, 2, 3
    picked = [(0, 0), (1, 0), (0, 2), (0, 0)]
    answers = [
        {"answer": ChoiceAnswer(choice=a), "rationale": ChoiceAnswer(choice=r)} for a, r in picked
    ]
    # Q->A: questions 0 and 1; QA->R: 0 and 2; both: 0
    assert scores(ask(4), answers) == {
        "q_a/choice": 50.0,
        "qa_r/choice": 50.0,
        "q_ar/choice": 25.0,
    }


def test_an_unclear_letter_is_wrong_and_counted(ask):
    answers = [
        {"answer": ChoiceAnswer(letter=a), "rationale": ChoiceAnswer(letter="(A)")}
        for a in ("(A)", "hm")
    ]
    assert scores(ask(2), answers) == {
        "q_a/letter": 50.0,
        "qa_r/letter": 50.0,
        "q_ar/letter": 50.0,
        "q_a/letter/unclear": 50.0,
    }


def test_a_question_with_one_step_has_no_say_in_q_ar(world, ask):
    asked = [make(world, 9, steps=1), *ask(1)]
    right, wrong = ChoiceAnswer(choice=0), ChoiceAnswer(choice=3)
    answers = [{"answer": wrong}, {"answer": right, "rationale": right}]
    assert scores(asked, answers) == {
        "q_a/choice": 50.0,
        "qa_r/choice": 100.0,
        "q_ar/choice": 100.0,
    }


def test_the_letter_prompt_lists_every_option_after_the_last_question(ask):
    (question,) = ask(1)
    answer, rationale = question.steps
    text = letter_turns(answer)[-1].text
    assert text.startswith(answer.turns[-1].text + "\n(A) a cat\n(B) a dog\n(C) a cup\n(D) a bus\n")
    turns = letter_turns(rationale)
    assert turns[:-1] == rationale.turns[:-1]
    assert turns[-1].text.startswith("Why?\n(A) ")
