"""Multiple choice: which option an answer picks, and whether Q->A, QA->R and Q->AR are right.

An answer may hold scores of all options (likelihoods), a generated letter, or a bare choice. Every
way of picking is scored by itself; nothing here asks a model.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from roikit.errors import RoikitError
from roikit.evaluate import normalise
from roikit.evaluate.bootstrap import Measure, mean_measure
from roikit.evaluate.items import ChoiceStep, Question
from roikit.prompt import letter_question, replace_text
from roikit.sample import Turn

#: How each step is called in published tables.
STEP_METRICS = {"answer": "q_a", "rationale": "qa_r"}

_LETTERED = re.compile(r"\(([A-Z])\)(?:\W.*)?", re.DOTALL)
_LETTER_ALONE = re.compile(r"([A-Z])[.)]?")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceAnswer:
    """What a system said to one step of a question; what it did not give is None."""

    log_probs: tuple[float, ...] | None = (
        None  #: of each option, natural logarithm, summed over tokens
    )
    num_tokens: tuple[int, ...] | None = None  #: of each option
    letter: str | None = None  #: generated, as it came
    choice: int | None = None  #: 0-based; another system's own pick

    def picks(self, num_options: int) -> dict[str, int | None]:
        """Return the picked option by way of picking; None where it picks none.

        Options that tie for the best are no pick: a system that cannot tell them apart would
        otherwise be right as often as the right option stands first.
        """
        picks: dict[str, int | None] = {}
        if self.log_probs is not None:
            picks["likelihood"] = _best(self.log_probs)
            if self.num_tokens is not None:
                pairs = zip(self.log_probs, self.num_tokens, strict=True)
                picks["likelihood_per_token"] = _best([x / max(1, n) for x, n in pairs])
        if self.letter is not None:
            picks["letter"] = parse_letter(self.letter, num_options)
        if self.choice is not None:
            picks["choice"] = self.choice
        return picks


def _best(scores: Sequence[float]) -> int | None:
    if any(math.isnan(x) for x in scores):
        raise RoikitError(f"scores of options: expected numbers, got {list(scores)}")
    best = max(scores)
    winners = [i for i, x in enumerate(scores) if x == best]
    return winners[0] if len(winners) == 1 else None


def parse_letter(text: str, num_options: int) -> int | None:
    """Return the option a generated answer names, strictly.

    Right are a letter in brackets that opens the answer (`(B)`, `(B) because …`) and a letter that
    is the whole answer (`B`, `B.`, `B)`). `A man` names none.
    """
    text = normalise.clean(text)
    match = _LETTERED.fullmatch(text) or _LETTER_ALONE.fullmatch(text)
    if match is None:
        return None
    index = ord(match[1]) - ord("A")
    return index if index < num_options else None


def letter_turns(step: ChoiceStep) -> tuple[Turn, ...]:
    """Return the step's turns with the lettered options written below its last question."""
    last = step.turns[-1]
    return (*step.turns[:-1], replace_text(last, letter_question(step.choice, last.text)))


def measures(
    questions: Sequence[Question], answers: Sequence[Mapping[str, ChoiceAnswer]]
) -> dict[str, Measure]:
    """Score every way of picking at every step, and both steps together.

    Args:
        questions: (N,).
        answers: (N,) the answers to each question, by step.

    Returns:
        `q_a/<way>`, `qa_r/<way>`, `q_ar/<way>` (right only if both picks are; questions that lack
        one of the steps have no say), and `q_a/<way>/unclear`, the share without a pick, if any.
    """
    right: dict[str, list[bool | None]] = {}
    unclear: dict[str, list[bool | None]] = {}
    for row, (question, given) in enumerate(zip(questions, answers, strict=True)):
        for step in question.steps:
            picks = given[step.step].picks(len(step.options))
            for way, pick in picks.items():
                name = f"{STEP_METRICS[step.step]}/{way}"
                for table in (right, unclear):
                    table.setdefault(name, [None] * len(questions))
                right[name][row] = pick == step.answer
                unclear[name][row] = pick is None
    ways = dict.fromkeys(name.split("/")[1] for name in right)
    for way in ways:
        if f"q_a/{way}" in right and f"qa_r/{way}" in right:
            pairs = zip(right[f"q_a/{way}"], right[f"qa_r/{way}"], strict=True)
            right[f"q_ar/{way}"] = [None if a is None or r is None else a and r for a, r in pairs]
    order = [f"{step}/{way}" for way in ways for step in ("q_a", "qa_r", "q_ar")]
    scores = {name: mean_measure(right[name]) for name in order if name in right}
    for name, values in unclear.items():
        if any(values):
            scores[f"{name}/unclear"] = mean_measure(values)
    return scores
