"""Samples into evaluation items: one region to name or describe, or one multiple-choice question.

In goes an iterable of (Sample, image bytes), out come items with the same bytes. What cannot become
an item is counted with its reason. Nothing here decodes pictures or knows models.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from roikit.evaluate import normalise
from roikit.evaluate.benchmarks import Benchmark
from roikit.mentions import mentioned
from roikit.sample import Choice, Sample, Turn, exchanges

Step = Literal["answer", "rationale"]
STEPS: tuple[Step, ...] = ("answer", "rationale")


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionItem:
    """One region of one picture, and what is right to say about it."""

    id: str  #: `<sample key>#<region number>`
    native_id: str | None  #: the dataset's own id of the region
    sample: Sample
    region: int  #: 1-based number of the region in the sample
    turns: tuple[Turn, ...]  #: one user turn
    references: tuple[str, ...]  #: plain text, as stored


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceStep:
    """One step of a question: what was said so far, and what could follow."""

    step: Step
    turns: tuple[Turn, ...]  #: ends with the user
    choice: Choice  #: with a known answer

    @property
    def options(self) -> tuple[str, ...]:
        """What could follow, record text."""
        return self.choice.options

    @property
    def answer(self) -> int:
        """Index of the right option."""
        assert self.choice.answer is not None
        return self.choice.answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A multiple-choice question with its answer step, its rationale step, or both."""

    id: str  #: the dataset's own id of the question
    sample: Sample
    steps: tuple[ChoiceStep, ...]  #: in the order of `STEPS`, at least one

    @property
    def native_id(self) -> str:
        """The question's own id: `id` is the dataset's already."""
        return self.id


Item = RegionItem | Question


def image_id(item: Item) -> str:
    """Return the identity of the item's photograph; intervals are drawn over these."""
    return item.sample.image.native_id


def regions_of(item: Item) -> tuple[int, ...]:
    """Return the numbers of the regions an item's prompts and options speak of, ascending."""
    if isinstance(item, RegionItem):
        return (item.region,)
    texts = [turn.text for step in item.steps for turn in step.turns]
    texts += [option for step in item.steps for option in step.options]
    return tuple(sorted({number for text in texts for number in mentioned(text)}))


def region_items(sample: Sample, task: str, skipped: Counter[str]) -> list[RegionItem]:
    """Return one item a region, in order of mention; a region's further answers are references too.

    Args:
        sample: of any dataset; conversations of other tasks are passed over.
        task: `caption` or `category`.
        skipped: counts, by reason, the exchanges that give no item; added to.
    """
    turns: dict[int, Turn] = {}
    references: dict[int, list[str]] = {}
    for conversation in sample.conversations:
        if conversation.task != task:
            continue
        for user, assistant in exchanges(conversation):
            numbers = set(mentioned(user.text))
            if len(numbers) != 1:
                skipped["the question is not about one region"] += 1
                continue
            reference = normalise.clean(assistant.text)
            if not normalise.caption(reference):
                skipped["the reference is empty"] += 1
                continue
            (number,) = numbers
            turns.setdefault(number, user)
            references.setdefault(number, []).append(reference)
    return [
        RegionItem(
            id=f"{sample.key}#{number}",
            native_id=sample.regions[number - 1].native_id,
            sample=sample,
            region=number,
            turns=(turn,),
            references=tuple(references[number]),
        )
        for number, turn in turns.items()
    ]


def questions(sample: Sample, skipped: Counter[str]) -> list[Question]:
    """Return one item a question id, its steps joined; steps without a known answer are counted."""
    steps: dict[str, dict[str, ChoiceStep]] = {}
    for conversation in sample.conversations:
        choice = conversation.choice
        if choice is None:
            continue
        if choice.answer is None:
            skipped["the answer is not published"] += 1
            continue
        step = ChoiceStep(step=choice.step, turns=conversation.turns, choice=choice)
        steps.setdefault(choice.question_id, {})[choice.step] = step
    return [
        Question(
            id=question_id,
            sample=sample,
            steps=tuple(found[name] for name in STEPS if name in found),
        )
        for question_id, found in steps.items()
    ]


def read_items(
    benchmark: Benchmark,
    samples: Iterable[tuple[Sample, bytes]],
    *,
    limit: int | None,
    skipped: Counter[str],
) -> Iterator[tuple[Item, tuple[RegionItem, ...], bytes]]:
    """Yield (item, all region items of its picture, the picture's bytes) in the samples' order.

    Args:
        benchmark: says which task and kind of item.
        samples: evaluation samples.
        limit: at most so many items; no further sample is read then.
        skipped: counts what gave no item, by reason; added to.
    """
    count = 0
    if limit is not None and limit <= count:
        return
    for sample, image_bytes in samples:
        items: list[Item]
        beside: tuple[RegionItem, ...] = ()
        if benchmark.kind == "choice":
            items = [*questions(sample, skipped)]
        else:
            beside = tuple(region_items(sample, benchmark.task, skipped))
            items = [*beside]
        for item in items:
            yield item, beside, image_bytes
            count += 1
            if limit is not None and count >= limit:
                return
