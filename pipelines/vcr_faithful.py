"""VCR's training text as GPT4RoI's released code makes it, its defects included (`--faithful`).

The reference reads the `*_orig` texts, whose objects are numbers from 1, and cannot tell them from
ordinary numbers. A question's three texts and its objects' names go in, the texts of up to three
views come out; `vcr.py` makes conversations of them. What it does wrong, and this repeats:

- the list of all regions: a number's class is looked up from 0, so a region bears the next object's
  class, a question that names the last object is lost, and so is one with a larger number;
- everywhere: ordinary numbers ("2 people") are taken for objects;
- one or several regions: digits are looked for inside words, too ("the 2nd").

Class names keep VCR's spelling (`trafficlight`). An answer names a region by class and number,
`person at region1`.

Source: GPT4RoI `gpt4roi/datasets/vcr.py`. Deviations: a region keeps one number where a question
names it twice (there it gets two), and white space is tidied.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from roikit.mentions import join_mentions, mention

_DIGITS = re.compile(r"\d+")
_NUMBER = re.compile(r"\b\d+\b")

ViewName = Literal["all", "single", "multi"]
_Speak = Callable[[re.Match[str]], list[str | int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Originals:
    """A question's texts as people wrote them, objects numbered from 1."""

    question: str
    answer: str
    rationale: str


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """The texts of one view, as they stand in a record."""

    name: ViewName
    question: str
    answer: str
    rationale: str | None  #: None where the reference leaves the second exchange out


def listed(numbers: Sequence[int]) -> str:
    """Return the list of all regions, by their numbers in the record."""
    return ",".join(mention(number) for number in numbers)


def all_view(texts: Originals, names: Sequence[str], numbers: Sequence[int | None]) -> View | int:
    """Make the view that lists all regions.

    Args:
        texts: the question's texts.
        names: the objects' class names, in VCR's spelling.
        numbers: their region numbers in the record; None for one without a usable box.

    Returns:
        The view, or the number in the texts that loses it.
    """
    asked = (texts.question, texts.answer, texts.rationale)
    for text in asked:
        for match in _NUMBER.finditer(text):
            number = int(match[0])
            # The last object's number is one past the end of a list that counts from 0.
            if number >= len(names) or (number and numbers[number - 1] is None):
                return number

    def speak(match: re.Match[str]) -> list[str | int]:
        number = int(match[0])
        said = f"{names[number]} at "
        # `region0` and `region01` are in the reference's text, too; no box has these names.
        region = numbers[number - 1] if str(number) == match[0] and number else None
        return [f"{said}region{match[0]}"] if region is None else [said, region]

    question, answer, rationale = (_replaced(_NUMBER, text, speak) for text in asked)
    return View(name="all", question=question, answer=answer, rationale=rationale)


def own_view(texts: Originals, names: Sequence[str], numbers: Sequence[int | None]) -> View | None:
    """Make the view whose question introduces its own region (or regions), if there is one.

    Args:
        texts: the question's texts.
        names: the objects' class names, in VCR's spelling.
        numbers: their region numbers in the record; None for one without a usable box.
    """
    in_question = _DIGITS.findall(texts.question)
    in_answer = set(_DIGITS.findall(texts.answer))
    if not in_answer or not in_answer <= set(in_question):
        return None
    regions: dict[int, int] = {}  # object's number to region's
    for digits in in_question:
        number = int(digits)
        region = numbers[number - 1] if 1 <= number <= len(numbers) else None
        if region is None:
            return None
        regions[number] = region
    is_single = len(in_question) == 1
    # Where there are several, only numbers that stand alone are replaced, but all are counted.
    pattern = _DIGITS if is_single else _NUMBER
    asked = _NUMBER.findall(texts.question)
    if not is_single and (len(asked) != len(in_question) or any(d[0] == "0" for d in asked)):
        return None

    def introduce(match: re.Match[str]) -> list[str | int]:
        return [regions[int(match[0])]]

    def speak(match: re.Match[str]) -> list[str | int]:
        number = int(match[0])
        if number not in regions:
            return [match[0]]
        return [f"{names[number - 1]} at ", regions[number]]

    rationale = None
    if set(_DIGITS.findall(texts.rationale)) <= set(in_question):
        rationale = _replaced(pattern, texts.rationale, speak)
    return View(
        name="single" if is_single else "multi",
        question=_replaced(pattern, texts.question, introduce),
        answer=_replaced(pattern, texts.answer, speak),
        rationale=rationale,
    )


def _replaced(pattern: re.Pattern[str], text: str, speak: _Speak) -> str:
    """Put what `speak` says in the place of each match; everything else is escaped."""
    text = " ".join(text.split())
    parts: list[str | int] = []
    position = 0
    for match in pattern.finditer(text):
        parts += [text[position : match.start()], *speak(match)]
        position = match.end()
    return join_mentions([*parts, text[position:]])
