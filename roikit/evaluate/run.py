"""Run one benchmark over evaluation samples: items, answers with every control, scores.

The samples, the leak counts and the answering system are handed in: nothing here opens shards or
loads models. Memory holds one batch of decoded pictures.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from roikit.errors import UsageError
from roikit.evaluate import benchmarks, normalise, scoring
from roikit.evaluate.benchmarks import Benchmark
from roikit.evaluate.bootstrap import LEVEL, RESAMPLES
from roikit.evaluate.captions import CaptionScorer
from roikit.evaluate.controls import CONTROLS, blank, derange, same_place, swap_places
from roikit.evaluate.items import (
    ChoiceStep,
    Item,
    Question,
    RegionItem,
    image_id,
    read_items,
    regions_of,
)
from roikit.evaluate.predictions import Predictions
from roikit.evaluate.predictor import Answerer, ModelAnswerer, Oracle, Predictor
from roikit.evaluate.result import RESULT_VERSION, Leak, Result, ResultRecord, rows_table
from roikit.evaluate.scoring import Case, ExtraMetrics, Scorer
from roikit.images import decode_rgb
from roikit.prompt import Prompt
from roikit.sample import Region, Sample, Turn

log = logging.getLogger(__name__)

T = TypeVar("T")

FEW_REGIONS = "the picture has fewer than two regions"
SAME_BOX = "the box it would be given is its own"


class LeakCounts(Protocol):
    """How many of the benchmark's images a training set contains."""

    @property
    def found(self) -> int:
        """Images of the benchmark that were trained on."""

    @property
    def total(self) -> int:
        """Images of the benchmark."""

    @property
    def compared(self) -> tuple[str, ...]:
        """Kinds of identity that were looked at."""

    @property
    def similar(self) -> int | None:
        """Further images that merely look like one that was trained on; None: not compared."""


class _Pending:
    """A case on its way through a batch, with what its prompts are made of."""

    def __init__(
        self, case: Case, places: dict[int, int], image: npt.NDArray[np.uint8] | None
    ) -> None:
        self.case = case
        self.image = image
        self.places = places  # region to the one whose box it is given, where swapped

    def prompt(self, turns: tuple[Turn, ...], control: str) -> Prompt:
        regions: tuple[Region, ...] = self.case.item.sample.regions
        image = self.image
        if image is None:  # the answers are there already: the prompt is never looked at
            image = np.zeros((1, 1, 3), dtype=np.uint8)
        if control == "swapped":
            regions = swap_places(regions, self.places)
        if control == "blank":
            image = blank(image)
        return Prompt(image=image, regions=regions, turns=turns)


def evaluate(
    name: str,
    samples: Iterable[tuple[Sample, bytes]],
    *,
    predictor: Predictor | Predictions | Oracle,
    batch_size: int = 8,
    limit: int | None = None,
    seed: int = 0,
    controls: Sequence[str] = CONTROLS,
    leak: LeakCounts | str | None = None,
    data_root: str | None = None,
    system: str | None = None,
    system_hash: str | None = None,
    subset: Callable[[Item], str | None] | None = None,
    extra_metrics: ExtraMetrics | None = None,
    caveats: Sequence[str] = (),
    use_java: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Result:
    """Evaluate a system on one benchmark.

    Args:
        name: of the benchmark, see `benchmarks.BENCHMARKS`.
        samples: one split of an evaluation dataset, with the pictures' bytes.
        predictor: a model, a file of another system's answers, or the oracle; only a model has
            controls.
        batch_size: prompts handed to the model at once.
        limit: items (regions or questions) at most; None for all.
        seed: of the swapped boxes and of the intervals.
        controls: of `swapped` and `blank`, those to run.
        leak: benchmark images found in the training data, or why that is not known.
        data_root: hash of the evaluation shards.
        system: what the predictor is, for the record.
        system_hash: of its bytes.
        subset: gives an item's group, for scores by group as well; None puts it in no group.
        extra_metrics: more metrics of one answer, 0 to 1, averaged and given times 100.
        caveats: what forbids comparing the result with published ones, e.g. `miniature data`.
        use_java: False leaves METEOR and PTB's tokenizer out even where Java is there.
        progress: called with the number of items answered so far.

    Returns:
        The record and one row an item, control and step; the same for the same arguments.

    Raises:
        UsageError: no such benchmark or control, samples without its items or of two splits, a
            file of predictions that does not answer them.
        CorruptSampleError: a picture that cannot be decoded.
    """
    benchmark = benchmarks.get(name)
    unknown = [control for control in controls if control not in CONTROLS]
    if unknown:
        raise UsageError(f"controls: expected some of {', '.join(CONTROLS)}, got `{unknown[0]}`")
    if batch_size < 1:
        raise UsageError(f"batch size: expected 1 or more, got {batch_size}")
    if limit is not None and limit < 1:
        raise UsageError(f"limit: expected 1 or more, got {limit}")
    answerer: Answerer
    if isinstance(predictor, Predictions | Oracle):
        answerer = predictor
        controls = ()
    else:
        answerer = ModelAnswerer(predictor)

    skipped: Counter[str] = Counter()
    seen = _Seen()
    stream = read_items(benchmark, seen.watch(samples), limit=limit, skipped=skipped)
    cases: list[Case] = []
    with CaptionScorer(use_java=use_java) as captions:
        if benchmark.kind == "caption":
            captions.start()
        for batch in _chunks(_pending(stream, answerer.needs_pictures, subset, seed), batch_size):
            for control in ("true", *controls):
                _answer(benchmark, answerer, batch, control, batch_size)
            cases += [pending.case for pending in batch]
            if progress is not None:
                progress(len(cases))
        if not cases:
            raise UsageError(_nothing_to_do(benchmark, seen, skipped))
        scorer = Scorer(benchmark.kind, captions=captions, seed=seed, extra=extra_metrics)
        record = _score(benchmark, cases, controls, scorer, captions)
    notes: list[str] = []
    if isinstance(predictor, Predictions):
        notes.append("scored from a file of predictions: no controls")
        if predictor.num_unused:
            notes.append(f"{predictor.num_unused:,} predictions answered no item")
        system = system or predictor.path.name
        system_hash = system_hash or predictor.sha256
    return Result(
        record=ResultRecord(
            result_version=RESULT_VERSION,
            benchmark=benchmark.name,
            benchmark_version=benchmark.version,
            dataset=seen.dataset,
            split=seen.split,
            data_root=data_root,
            system=system,
            system_hash=system_hash,
            settings={
                "prompt": benchmark.prompt,
                "max_new_tokens": benchmark.max_new_tokens,
                "resamples": RESAMPLES,
                "interval": LEVEL,
            },
            seed=seed,
            limit=limit,
            images=len({image_id(case.item) for case in cases}),
            items=len(cases),
            skipped=dict(sorted(skipped.items())),
            leak=_leak(leak),
            leak_unknown=leak if isinstance(leak, str) else None,
            predictions=None,
            caveats=[*caveats, *(captions.caveats if benchmark.kind == "caption" else ())],
            notes=notes,
            **record,
        ),
        predictions=rows_table([row for case in cases for row in _rows(case)]),
    )


def _leak(counts: LeakCounts | str | None) -> Leak | None:
    if counts is None or isinstance(counts, str):
        return None
    return Leak(
        found=counts.found,
        total=counts.total,
        compared=counts.compared,
        similar=counts.similar,
    )


def _score(
    benchmark: Benchmark,
    cases: list[Case],
    controls: Sequence[str],
    scorer: Scorer,
    captions: CaptionScorer,
) -> dict[str, Any]:
    """Return the record's fields that come from scoring."""
    log.info("scoring %d items of %s", len(cases), benchmark.name)
    measures = scorer.measures(cases, "true")
    scores = scorer.scores(measures, cases)
    classes = scoring.per_class(cases) if benchmark.kind == "category" else {}
    if classes:
        scores.overall["accuracy_by_class"] = scoring.mean_over_classes(classes)
    versions = {"normalisation": f"{benchmark.name}@{benchmark.version}"}
    is_caption = benchmark.kind == "caption"
    return {
        "scores": scores,
        "per_class": classes,
        "controls": {name: scorer.control(cases, measures, name) for name in controls},
        "metric_versions": versions | (captions.versions if is_caption else {}),
    }


class _Seen:
    """Watches the samples go by: one dataset and split a result."""

    def __init__(self) -> None:
        self.dataset = self.split = ""
        self.samples = 0
        self.tasks: Counter[str] = Counter()

    def watch(self, samples: Iterable[tuple[Sample, bytes]]) -> Iterator[tuple[Sample, bytes]]:
        for sample, image_bytes in samples:
            if self.samples and (sample.dataset, sample.split) != (self.dataset, self.split):
                raise UsageError(
                    f"expected samples of one split, got {self.dataset} {self.split} "
                    f"and {sample.dataset} {sample.split}"
                )
            self.dataset, self.split = sample.dataset, sample.split
            self.samples += 1
            self.tasks.update(conversation.task for conversation in sample.conversations)
            yield sample, image_bytes


def _nothing_to_do(benchmark: Benchmark, seen: _Seen, skipped: Counter[str]) -> str:
    if not seen.samples:
        return f"{benchmark.name}: expected samples, got none"
    found = ", ".join(f"{n:,} {task}" for task, n in sorted(seen.tasks.items())) or "none"
    why = "".join(f"; {reason}: {n:,}" for reason, n in sorted(skipped.items()))
    return (
        f"{benchmark.name}: expected `{benchmark.task}` conversations in "
        f"{seen.dataset} {seen.split}, found {found}{why}"
    )


def _pending(
    stream: Iterable[tuple[Item, tuple[RegionItem, ...], bytes]],
    needs_pictures: bool,
    subset: Callable[[Item], str | None] | None,
    seed: int,
) -> Iterator[_Pending]:
    """Attach to each item its group, its decoded picture and its partner for swapped boxes."""
    image: npt.NDArray[np.uint8] | None = None
    decoded = ""
    for item, beside, image_bytes in stream:
        case = Case(item=item, group=subset(item) if subset is not None else None)
        places = _places(item, beside, seed)
        if isinstance(item, RegionItem) and places:
            other = places[item.region]
            case.given = next(candidate for candidate in beside if candidate.region == other)
        regions = item.sample.regions
        if not places:
            case.left_out["swapped"] = FEW_REGIONS
        elif all(same_place(regions[a - 1], regions[b - 1]) for a, b in places.items()):
            case.left_out["swapped"] = SAME_BOX
        if needs_pictures and decoded != item.sample.key:
            image, decoded = decode_rgb(image_bytes), item.sample.key
        yield _Pending(case, places, image if needs_pictures else None)


def _places(item: Item, beside: Sequence[RegionItem], seed: int) -> dict[int, int]:
    """Return which region's box each region of the item's prompt is given under `swapped`.

    A region to describe takes the place of another one that is an item too, so that what is in the
    box it was given is known. A question's regions change places among themselves.
    """
    if isinstance(item, Question):
        return derange(regions_of(item), item.id, seed=seed)
    places = derange([other.region for other in beside], item.sample.key, seed=seed)
    return {item.region: places[item.region]} if places else {}


def _chunks(stream: Iterable[T], count: int) -> Iterator[list[T]]:
    iterator = iter(stream)
    while chunk := list(islice(iterator, count)):
        yield chunk


def _answer(
    benchmark: Benchmark,
    answerer: Answerer,
    batch: Sequence[_Pending],
    control: str,
    batch_size: int,
) -> None:
    """Ask for the batch's answers under one control, and keep them in its cases."""
    taking_part = [pending for pending in batch if control not in pending.case.left_out]
    if not taking_part:
        return
    limit = benchmark.max_new_tokens
    if benchmark.kind != "choice":
        regions = [p.case.item for p in taking_part if isinstance(p.case.item, RegionItem)]
        prompts = [
            p.prompt(item.turns, control) for p, item in zip(taking_part, regions, strict=True)
        ]
        texts = answerer.describe(regions, prompts, limit)
        for pending, text in zip(taking_part, texts, strict=True):
            pending.case.answers[control] = text
        return
    asked: list[tuple[_Pending, Question, ChoiceStep]] = [
        (p, p.case.item, step)
        for p in taking_part
        if isinstance(p.case.item, Question)
        for step in p.case.item.steps
    ]
    for chunk in _chunks(asked, batch_size):
        answers = answerer.choose(
            [(question, step) for _, question, step in chunk],
            [pending.prompt(step.turns, control) for pending, _, step in chunk],
            limit,
        )
        for (pending, _, step), answer in zip(chunk, answers, strict=True):
            by_step = pending.case.answers.setdefault(control, {})
            assert isinstance(by_step, dict)
            by_step[step.step] = answer


def _rows(case: Case) -> Iterator[dict[str, Any]]:
    """Yield one row a control and step, in `PREDICTIONS_SCHEMA`."""
    item = case.item
    common = {
        "item": item.id,
        "native_id": item.native_id,
        "key": item.sample.key,
        "image": image_id(item),
        "group": case.group,
    }
    for control, answer in case.answers.items():
        row = common | {"control": control}
        if isinstance(item, RegionItem):
            assert isinstance(answer, str)
            given = case.given if control == "swapped" and case.given is not None else item
            yield row | {
                "prompt": normalise.clean(item.turns[-1].text),
                "references": list(item.references),
                "given_item": given.id if given is not item else None,
                "box_xyxy": list(item.sample.regions[given.region - 1].box_xyxy),
                "answer": normalise.clean(answer),
            }
            continue
        assert isinstance(answer, dict)
        for step in item.steps:
            said = answer[step.step]
            yield row | {
                "step": step.step,
                "prompt": "\n".join(normalise.clean(turn.text) for turn in step.turns),
                "references": [normalise.clean(option) for option in step.options],
                "answer": said.letter,
                "right_option": step.answer,
                "picks": list(said.picks(len(step.options)).items()),
                "log_probs": said.log_probs,
                "num_tokens": said.num_tokens,
            }
