"""Collected answers into scores: the same code for true boxes, controls and every group."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from roikit.evaluate import choice, normalise
from roikit.evaluate.bootstrap import Measure, Resampler, mean_measure
from roikit.evaluate.captions import CaptionScorer
from roikit.evaluate.choice import ChoiceAnswer
from roikit.evaluate.items import Item, Question, RegionItem, image_id
from roikit.evaluate.result import ClassScore, Control, Score, Scores

#: More metrics of one answer, as from a generator that knows the scene: 0 to 1, None for no say.
#: Gets the item and the answer as plain text (for a question: the option picked, `""` for none).
ExtraMetrics = Callable[[Item, str], Mapping[str, float | None]]

#: What was answered: a text about a region, or an answer for each step of a question.
Answer = str | dict[str, ChoiceAnswer]

Rows = npt.NDArray[np.bool_]


@dataclass(kw_only=True, slots=True)
class Case:
    """One item with its answers under every control."""

    item: Item
    group: str | None
    given: RegionItem | None = None  #: swapped boxes: the item whose box it was given
    left_out: dict[str, str] = field(default_factory=dict)  #: control to the reason
    answers: dict[str, Answer] = field(
        default_factory=dict
    )  #: control to the answer; `true` always


class Scorer:
    """Scores cases of one benchmark.

    Args:
        kind: the benchmark's.
        captions: started once a run; used by benchmarks of captions only.
        seed: of the intervals.
        extra: further metrics, averaged like the others.
    """

    def __init__(
        self,
        kind: str,
        *,
        captions: CaptionScorer,
        seed: int,
        extra: ExtraMetrics | None = None,
    ) -> None:
        self._kind = kind
        self._captions = captions
        self._seed = seed
        self._extra = extra

    def measures(self, cases: Sequence[Case], control: str) -> dict[str, Measure]:
        """Score the answers under `control` against each case's own references."""
        answers = [case.answers[control] for case in cases]
        items = [case.item for case in cases]
        measures: dict[str, Measure]
        if self._kind == "choice":
            asked = [item for item in items if isinstance(item, Question)]
            by_step = [answer for answer in answers if isinstance(answer, dict)]
            measures = choice.measures(asked, by_step)
        elif self._kind == "category":
            measures = {"accuracy": self._exact(items, answers)}
        else:
            measures = self._captions.measures(
                [normalise.caption(_text(answer)) for answer in answers],
                [_references(item, "caption") for item in items],
            )
        return measures | self._extra_measures(items, answers)

    def scores(self, measures: Mapping[str, Measure], cases: Sequence[Case]) -> Scores:
        """Give measures their intervals, over all cases and by group."""
        return _scores(measures, self._parts(cases))

    def control(self, cases: Sequence[Case], measures: Mapping[str, Measure], name: str) -> Control:
        """Score one control beside the true boxes, over the cases that take part in both.

        Args:
            cases: all of them.
            measures: of all cases with true boxes; used again where no case is left out.
            name: of the control.
        """
        kept = [case for case in cases if name not in case.left_out]
        left_out: dict[str, int] = {}
        for case in cases:
            if name in case.left_out:
                reason = case.left_out[name]
                left_out[reason] = left_out.get(reason, 0) + 1
        true = measures if len(kept) == len(cases) else self.measures(kept, "true")
        changed = self.measures(kept, name)
        parts = self._parts(kept)
        shared = [metric for metric in true if metric in changed]
        follows = same = None
        if name == "swapped" and self._kind != "choice" and kept:
            follows = _scores(self._follows(kept, name), parts)
            same = parts.everything.score(mean_measure([self._agree(case) for case in kept]))
        return Control(
            items=len(kept),
            left_out=left_out,
            paired=_scores(true, parts),
            control=_scores(changed, parts),
            difference=parts.compute(
                lambda rows, sampler: {
                    metric: sampler.difference(true[metric].take(rows), changed[metric].take(rows))
                    for metric in shared
                }
            ),
            follows_box=follows,
            same_reference=same,
        )

    def _parts(self, cases: Sequence[Case]) -> "_Parts":
        return _Parts(cases, seed=self._seed)

    def _follows(self, cases: Sequence[Case], control: str) -> dict[str, Measure]:
        """Score answers against the item whose box was given: exact match, and further metrics."""
        given: list[Item] = [case.given for case in cases if case.given is not None]
        answers = [case.answers[control] for case in cases]
        name = "accuracy" if self._kind == "category" else "exact"
        return {name: self._exact(given, answers)} | self._extra_measures(given, answers)

    def _exact(self, items: Sequence[Item], answers: Sequence[Answer]) -> Measure:
        simplify = normalise.category if self._kind == "category" else normalise.caption
        return mean_measure(
            [
                simplify(_text(answer)) in _references(item, self._kind)
                for item, answer in zip(items, answers, strict=True)
            ]
        )

    def _agree(self, case: Case) -> bool:
        assert case.given is not None
        own = _references(case.item, self._kind)
        return not set(own).isdisjoint(_references(case.given, self._kind))

    def _extra_measures(
        self, items: Sequence[Item], answers: Sequence[Answer]
    ) -> dict[str, Measure]:
        if self._extra is None:
            return {}
        rows = [
            self._extra(item, picked_text(item, answer))
            for item, answer in zip(items, answers, strict=True)
        ]
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: mean_measure([row.get(name) for row in rows]) for name in names}


class _Parts:
    """All cases, and each group of them, with the resamples that their scores share."""

    def __init__(self, cases: Sequence[Case], *, seed: int) -> None:
        images = np.array([image_id(case.item) for case in cases], dtype=str)
        groups = np.array([case.group or "" for case in cases], dtype=str)
        self.everything = Resampler(images.tolist(), seed=seed)
        self._all = np.ones(len(cases), dtype=bool)
        self._groups: dict[str, tuple[Rows, Resampler]] = {}
        for name in sorted(set(groups.tolist()) - {""}):
            rows = groups == name
            self._groups[name] = (rows, Resampler(images[rows].tolist(), seed=seed))

    def compute(self, score: Callable[[Rows, Resampler], dict[str, Score]]) -> Scores:
        """Call `score` for everything and for each group."""
        return Scores(
            overall=score(self._all, self.everything),
            groups={name: score(rows, sampler) for name, (rows, sampler) in self._groups.items()},
        )


def _scores(measures: Mapping[str, Measure], parts: _Parts) -> Scores:
    return parts.compute(
        lambda rows, sampler: {
            name: sampler.score(measure.take(rows)) for name, measure in measures.items()
        }
    )


def per_class(cases: Sequence[Case]) -> dict[str, ClassScore]:
    """Return accuracy by class, the item's first reference naming its class; sorted by name."""
    totals: dict[str, list[int]] = {}
    for case in cases:
        references = _references(case.item, "category")
        tally = totals.setdefault(references[0], [0, 0])
        tally[0] += 1
        tally[1] += normalise.category(_text(case.answers["true"])) in references
    return {
        name: ClassScore(n=n, right=right, accuracy=100 * right / n)
        for name, (n, right) in sorted(totals.items())
    }


def mean_over_classes(classes: Mapping[str, ClassScore]) -> Score:
    """Return accuracy averaged over classes rather than items; it has no interval."""
    value = sum(entry.accuracy for entry in classes.values()) / len(classes) if classes else None
    return Score(value=value, low=None, high=None, n=len(classes))


def picked_text(item: Item, answer: Answer) -> str:
    """Return an answer as plain text; of a question, the option picked at its first step."""
    if isinstance(answer, str):
        return normalise.clean(answer)
    assert isinstance(item, Question)
    step = item.steps[0]
    picks = answer[step.step].picks(len(step.options))
    ways = ("likelihood_per_token", "choice", "letter")
    pick = next((picks[way] for way in ways if way in picks), None)
    return "" if pick is None else normalise.clean(step.options[pick])


def _text(answer: Answer) -> str:
    assert isinstance(answer, str)
    return answer


def _references(item: Item, kind: str) -> list[str]:
    assert isinstance(item, RegionItem)
    simplify = normalise.category if kind == "category" else normalise.caption
    return [simplify(text) for text in item.references]
