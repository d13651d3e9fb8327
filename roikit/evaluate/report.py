"""Results as tables: one result with its controls, or several beside the published numbers.

Returns rich renderables; printing them is the command line's affair.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from roikit.evaluate import benchmarks
from roikit.evaluate.result import Result, Score, Scores

#: Heading of each metric; those missing here are shown by their own name.
HEADINGS = {
    "bleu_1": "BLEU@1",
    "bleu_2": "BLEU@2",
    "bleu_3": "BLEU@3",
    "bleu_4": "BLEU@4",
    "meteor": "METEOR",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr",
    "exact": "exact match",
    "accuracy": "accuracy",
    "accuracy_by_class": "accuracy, mean over classes",
    "q_a": "Q→A",
    "qa_r": "QA→R",
    "q_ar": "Q→AR",
    "likelihood": "likelihood",
    "likelihood_per_token": "likelihood per token",
    "letter": "letter generated",
    "choice": "choice",
    "unclear": "no pick",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """One row of a published table; scores in the benchmark's own scale, times 100."""

    benchmark: str
    split: str
    system: str
    scores: dict[str, float]  #: by metric; VCR's by step, however the option was picked
    source: str


_GPT4ROI = "GPT4RoI, arXiv 2307.03601"

#: Source: the papers named; VCR's test rows are leaderboard numbers that GPT4RoI's paper reports.
PUBLISHED: tuple[Published, ...] = (
    Published(
        benchmark="vg-caption",
        split="test",
        system="GRiT",
        scores={"meteor": 17.1, "cider": 142.0},
        source="GRiT",
    ),
    Published(
        benchmark="vg-caption",
        split="test",
        system="Shikra-7B",
        scores={"bleu_4": 8.9, "meteor": 15.2, "rouge_l": 30.3, "cider": 115.8},
        source=_GPT4ROI,
    ),
    Published(
        benchmark="vg-caption",
        split="test",
        system="GPT4RoI-7B, no task tuning",
        scores={"bleu_4": 10.5, "meteor": 16.5, "rouge_l": 33.4, "cider": 134.5},
        source=_GPT4ROI,
    ),
    Published(
        benchmark="vg-caption",
        split="test",
        system="GPT4RoI-7B",
        scores={"bleu_4": 11.5, "meteor": 17.4, "rouge_l": 35.0, "cider": 145.2},
        source=_GPT4ROI,
    ),
    Published(
        benchmark="vg-caption",
        split="test",
        system="GPT4RoI-13B",
        scores={"bleu_4": 11.7, "meteor": 17.6, "rouge_l": 35.2, "cider": 146.8},
        source=_GPT4ROI,
    ),
    Published(
        benchmark="vg-caption",
        split="test",
        system="ASMv2-13B",
        scores={"meteor": 17.9, "cider": 153.5},
        source="ASMv2",
    ),
    Published(
        benchmark="vg-caption",
        split="test",
        system="Groma-7B",
        scores={"meteor": 19.0, "cider": 158.4},
        source="Groma",
    ),
    Published(
        benchmark="vg-caption",
        split="test",
        system="GLaMM",
        scores={"meteor": 19.0, "cider": 163.9},
        source="re-scored by Groma's authors; its own 180.5 rests on a scorer fault",
    ),
    Published(
        benchmark="vg-caption",
        split="test",
        system="PixelRefer-7B",
        scores={"meteor": 19.7, "cider": 168.2},
        source="PixelRefer",
    ),
    Published(
        benchmark="vcr",
        split="val",
        system="GPT4RoI-7B",
        scores={"q_a": 87.4, "qa_r": 89.6, "q_ar": 78.6},
        source=_GPT4ROI,
    ),
    Published(
        benchmark="vcr",
        split="val",
        system="ASMv2-13B, tuned",
        scores={"q_a": 88.4, "qa_r": 89.9, "q_ar": 79.4},
        source="ASMv2",
    ),
    Published(
        benchmark="vcr",
        split="test",
        system="GPT4RoI-13B",
        scores={"q_a": 89.4, "qa_r": 91.0, "q_ar": 81.6},
        source=_GPT4ROI,
    ),
    Published(
        benchmark="vcr",
        split="test",
        system="best before GPT4RoI",
        scores={"q_a": 85.8, "qa_r": 88.0, "q_ar": 75.6},
        source=_GPT4ROI,
    ),
    Published(
        benchmark="vcr",
        split="test",
        system="people",
        scores={"q_a": 91.0, "qa_r": 93.0, "q_ar": 85.0},
        source=_GPT4ROI,
    ),
)


def heading(metric: str) -> str:
    """Return a metric's name as tables print it."""
    return ", ".join(HEADINGS.get(part, part) for part in metric.split("/"))


def incomparable(result: Result) -> list[str]:
    """Return why a result does not compare with published numbers; empty where it does."""
    record = result.record
    benchmark = benchmarks.get(record.benchmark)
    reasons = []
    if record.benchmark_version != benchmark.version:
        reasons.append(f"version {record.benchmark_version}, this roikit has {benchmark.version}")
    if record.dataset != benchmark.dataset:
        reasons.append(f"data of `{record.dataset}` instead of `{benchmark.dataset}`")
    if record.split != benchmark.split:
        reasons.append(f"split {record.split} instead of {benchmark.split}")
    if record.limit is not None:
        reasons.append(f"limited to {record.limit:,} items")
    if benchmark.num_items is not None and record.items != benchmark.num_items:
        reasons.append(f"{record.items:,} items instead of {benchmark.num_items:,}")
    return reasons + record.caveats


def render(result: Result) -> Table:
    """Return one result as a table: each score with its interval, and beside it the controls."""
    record = result.record
    who = f" · {record.system}" if record.system else ""
    table = Table(
        title=escape(f"{record.benchmark} · {record.dataset} {record.split}{who}"),
        caption=Text(_caption(result)),
        caption_justify="left",
    )
    table.add_column("metric")
    table.add_column("score", justify="right")
    for name in record.controls:
        table.add_column(f"{name} {'boxes' if name == 'swapped' else 'picture'}", justify="right")
    has_follows = any(control.follows_box for control in record.controls.values())
    if has_follows:
        table.add_column("follows the box", justify="right")
    headline = benchmarks.get(record.benchmark).headline
    parts = {"": record.scores.overall, **record.scores.groups}
    for group, scores in parts.items():
        for metric in [m for m in headline if m in scores] + [
            m for m in scores if m not in headline
        ]:
            row = [Text(heading(metric), style="bold" if metric in headline else "")]
            row.append(Text(_with_interval(scores[metric])))
            follows = Text("")
            for control in record.controls.values():
                row.append(Text(_number(_part(control.control, group).get(metric))))
                if control.follows_box is not None:
                    follows = Text(_number(_part(control.follows_box, group).get(metric)))
            table.add_row(*row, *([follows] if has_follows else []))
        if group != list(parts)[-1]:
            table.add_section()
            following = list(parts)[list(parts).index(group) + 1]
            table.add_row(Text(following, style="italic"))
    return table


def _part(scores: Scores, group: str) -> dict[str, Score]:
    return scores.groups.get(group, {}) if group else scores.overall


def _caption(result: Result) -> str:
    record = result.record
    lines = [f"{record.items:,} items in {record.images:,} images, seed {record.seed}"]
    if record.limit is not None:
        lines[0] += f", limited to {record.limit:,} items"
    lines += [f"left out: {reason}: {n:,}" for reason, n in record.skipped.items()]
    for name, control in record.controls.items():
        for reason, n in control.left_out.items():
            lines.append(f"not in `{name}`: {reason}: {n:,}")
        if control.left_out:
            pairs = [
                f"{heading(metric)} {_number(score)}"
                for metric, score in control.paired.overall.items()
                if metric in benchmarks.get(record.benchmark).headline
            ]
            lines.append(f"score on the {control.items:,} items of `{name}`: {', '.join(pairs)}")
        if control.same_reference is not None:
            share = _number(control.same_reference)
            lines.append(f"both boxes call for the same answer: {share} % of `{name}`")
    return "\n".join([*lines, result.seen_in_training, *record.caveats, *record.notes])


def report(results: Sequence[Result]) -> RenderableType:
    """Return results beside published numbers, one table a benchmark.

    What does not compare (another split, a limit, other data) carries a mark, and the reasons stand
    below its table.
    """
    tables: list[RenderableType] = []
    for name in dict.fromkeys(result.record.benchmark for result in results):
        tables.append(_table(name, [r for r in results if r.record.benchmark == name]))
    return Group(*tables) if tables else Text("no results")


def _table(name: str, results: Sequence[Result]) -> Table:
    published = [row for row in PUBLISHED if row.benchmark == name]
    metrics = _shown_metrics(name)
    table = Table(title=name, caption_justify="left")
    table.add_column("system")
    table.add_column("split")
    for metric in metrics:
        table.add_column(heading(metric), justify="right")
    table.add_column("source")
    for row in published:
        cells = [f"{row.scores[m]:.1f}" if m in row.scores else "–" for m in metrics]
        table.add_row(row.system, row.split, *cells, row.source)
    if published:
        table.add_section()
    footnotes: list[str] = []
    for result in results:
        record = result.record
        mark = ""
        if reasons := incomparable(result):
            mark = f" [{len(footnotes) + 1}]"
            footnotes.append(f"[{len(footnotes) + 1}] does not compare: {'; '.join(reasons)}")
        for way, scores in _ways(result).items():
            system = Text(
                (record.system or "this run") + (f", {heading(way)}" if way else "") + mark
            )
            cells = [_with_interval(scores[m]) if m in scores else "–" for m in metrics]
            table.add_row(system, record.split, *map(Text, cells), Text(_trained_on(result)))
    table.caption = Text("\n".join(footnotes)) if footnotes else None
    return table


def card_row(result: Result) -> dict[str, str]:
    """Return what a model's card says of a result: scores, items, what a reader must know."""
    scores = [
        f"{heading(metric)}{f' ({heading(way)})' if way else ''} {_with_interval(score)}"
        for way, shown in _ways(result).items()
        for metric, score in shown.items()
    ]
    reasons = incomparable(result)
    remarks = [f"does not compare with published numbers: {'; '.join(reasons)}"] if reasons else []
    return {
        "scores": "; ".join(scores),
        "items": f"{result.record.items:,}",
        "remarks": ". ".join([*remarks, result.seen_in_training]),
    }


def _shown_metrics(name: str) -> list[str]:
    benchmark = benchmarks.get(name)
    return ["q_a", "qa_r", "q_ar"] if benchmark.kind == "choice" else list(benchmark.headline)


def _ways(result: Result) -> dict[str, dict[str, Score]]:
    """Return the shown scores by way of picking; one unnamed way where nothing is picked."""
    metrics = _shown_metrics(result.record.benchmark)
    if benchmarks.get(result.record.benchmark).kind != "choice":
        return {"": {m: result.scores[m] for m in metrics if m in result.scores}}
    ways: dict[str, dict[str, Score]] = {}
    for name, score in result.scores.items():
        step, _, way = name.partition("/")
        if step in metrics and way and "/" not in way:
            ways.setdefault(way, {})[step] = score
    return ways


def _trained_on(result: Result) -> str:
    leak = result.record.leak
    if leak is None:
        unknown = result.record.leak_unknown is not None
        return f"images trained on: {'unknown' if unknown else 'not counted'}"
    return f"images trained on: {leak.found:,} of {leak.total:,}"


def _number(score: Score | None) -> str:
    return "–" if score is None or score.value is None else f"{score.value:.1f}"


def _with_interval(score: Score) -> str:
    text = _number(score)
    if score.low is None or score.high is None:
        return text
    return f"{text} [{score.low:.1f}, {score.high:.1f}]"
