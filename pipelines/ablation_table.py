"""An ablation as tables: columns and rows for a terminal, a page of Markdown, a JSON document."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pipelines.ablation_results import Ablation, VariationResult
from pipelines.ablation_scores import Estimate, MetricScore

JSON_NAME, PAGE_NAME = "ablation.json", "ablation.md"
_CONTROLS = {"swapped": "swapped boxes", "follows": "follows the box", "blank": "blank picture"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table of texts and numbers; None is an empty cell."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def tables(found: Ablation) -> list[Table]:
    """Return all tables: all scores side by side, costs, then each metric with its controls."""
    shown = [_overview(found)]
    if any(one.cost is not None for one in found.variations):
        shown.append(_costs(found))
    return [*shown, *(_metric(found, metric) for metric in found.metrics)]


def write_tables(found: Ablation, out: Path) -> None:
    """Write OUT/ablation.json and OUT/ablation.md, each by rename."""
    document = msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"
    for name, data in ((JSON_NAME, document), (PAGE_NAME, markdown(found).encode())):
        temporary = out / f".{name}.partial"
        temporary.write_bytes(data)
        temporary.replace(out / name)


def markdown(found: Ablation) -> str:
    """Return the page: what was compared and on what, then every table."""
    parts = [f"# Ablation: {found.study}", "\n".join(f"- {line}" for line in found.remarks)]
    for table in tables(found):
        parts += [f"## {table.title}", _markdown_table(table)]
    changes = [
        (one.name, ", ".join(f"`{text}`" for text in one.overrides) or "nothing")
        for one in found.variations
    ]
    told = Table(title="", columns=("variation", "changes"), rows=tuple(changes))
    return "\n\n".join([*parts, "## Variations", _markdown_table(told)]) + "\n"


def _overview(found: Ablation) -> Table:
    has_failed = found.has_failed
    rows = []
    for one in found.variations:
        scores = [_with_mark(one.metrics.get(metric)) for metric in found.metrics]
        tokens = one.cost.tokens if one.cost is not None else None
        rows.append((one.name, tokens, *scores, *([_failures(one)] if has_failed else [])))
    columns = ("variation", "tokens a region", *found.metrics)
    return Table(
        title="Scores",
        columns=(*columns, *(["failed"] if has_failed else [])),
        rows=tuple(rows),
    )


def _costs(found: Ablation) -> Table:
    rows = []
    for one in found.variations:
        cost = one.cost
        if cost is None:
            continue
        rows.append(
            (
                one.name,
                cost.tokens,
                cost.encoder_parameters,
                cost.model_parameters,
                _million(cost.flops_picture),
                _million(cost.flops_region),
                f"{cost.ms_region:.3f}",
                None if one.train_seconds is None else f"{one.train_seconds:.0f}",
            )
        )
    return Table(
        title="Costs",
        columns=(
            "variation",
            "tokens a region",
            "parameters, encoder",
            "parameters, model",
            "MFLOP a picture",
            "MFLOP a region",
            "ms a region",
            "training, s",
        ),
        rows=tuple(rows),
    )


def _metric(found: Ablation, metric: str) -> Table:
    scored = [(one, one.metrics[metric]) for one in found.variations if metric in one.metrics]
    controls = [name for name in _CONTROLS if any(name in score.controls for _, score in scored)]
    rows = [
        (
            one.name,
            f"{score.score.mean:.1f}",
            _interval(score.score),
            None if score.difference is None else f"{score.difference.mean:+.1f}",
            None if score.difference is None else _interval(score.difference),
            *(_number(score.controls.get(name)) for name in controls),
            ", ".join(f"{seed.value:.1f}" for seed in score.seeds.values()),
        )
        for one, score in scored
    ]
    base = found.variations[0].name
    return Table(
        title=metric,
        columns=(
            "variation",
            "score",
            "95 %",
            f"to `{base}`",
            "95 %",
            *(_CONTROLS[name] for name in controls),
            "each seed",
        ),
        rows=tuple(rows),
    )


def _with_mark(score: MetricScore | None) -> str | None:
    """Return `98.5 ±0.4 *`: half the interval, and a star where it differs from the base."""
    if score is None:
        return None
    text = f"{score.score.mean:.1f}"
    if score.score.low is not None and score.score.high is not None:
        text += f" ±{(score.score.high - score.score.low) / 2:.1f}"
    return f"{text} *" if score.difference is not None and _leaves_0_out(score.difference) else text


def _leaves_0_out(difference: Estimate) -> bool:
    if difference.low is None or difference.high is None:
        return False
    return difference.low > 0 or difference.high < 0


def _interval(estimate: Estimate) -> str | None:
    if estimate.low is None or estimate.high is None:
        return None
    return f"[{estimate.low:.1f}, {estimate.high:.1f}]"


def _failures(one: VariationResult) -> str | None:
    """Name the seeds that failed, each reason once."""
    seeds: dict[str, list[str]] = {}
    for seed, why in one.failed.items():
        seeds.setdefault(why, []).append(str(seed))
    return "; ".join(f"seed {', '.join(who)}: {why}" for why, who in seeds.items()) or None


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f}"


def _million(count: int) -> str:
    return f"{count / 1e6:,.2f}"


def _markdown_table(table: Table) -> str:
    def line(cells: Sequence[Any]) -> str:
        return f"| {' | '.join(map(_cell, cells))} |"

    return "\n".join(
        [line(table.columns), line(["---"] * len(table.columns)), *map(line, table.rows)]
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return " ".join(text.replace("|", "\\|").split())
