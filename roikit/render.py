"""How results look on a terminal: tables and JSON on stdout, progress on stderr.

Knows rich and plain values, not what they mean: `commands/` turns results into rows.
"""

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import msgspec
from rich.console import Console, JustifyMethod
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

#: C0 and C1 but for tab and line feed.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
#: What stands to the right in a table: `12`, `+1,234.5`, `98.2 %`, `1.5 MB`.
_NUMBER = re.compile(r"[+-]?[\d,]+(\.\d+)?( (%|[kMGT]?B))?$")


class Report(Protocol):
    """Told how far something is."""

    def __call__(self, done: int, total: int | None, title: str | None = None, /) -> None:
        """So many units are done, of so many (None: not known yet); perhaps a new title."""


def document(value: Any) -> None:
    """Print `value` as one JSON document; dataclasses and structs become objects, paths text."""
    plain = msgspec.to_builtins(value, enc_hook=_as_text, str_keys=True)
    print(json.dumps(plain, indent=2, ensure_ascii=False))


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str = "") -> None:
    """Print rows under their column names; columns of numbers stand to the right.

    Where stdout is not a terminal the table is as wide as its content, so that nothing is cut off.
    """
    shown = Table(
        title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold"
    )
    for i, column in enumerate(columns):
        cells = [row[i] for row in rows if row[i] is not None]
        are_numbers = all(
            isinstance(cell, int | float) or _NUMBER.match(str(cell)) for cell in cells
        )
        justify: JustifyMethod = "right" if cells and are_numbers else "left"
        shown.add_column(column, justify=justify, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell_text(cell)) for cell in row))
    console().print(shown)


def line(text: str) -> None:
    """Print one line of a result."""
    print(printable(text))


def note(text: str) -> None:
    """Say something beside the result: it goes to stderr."""
    print(printable(text), file=sys.stderr)


def printable(text: str) -> str:
    """Spell out control characters: texts come from strangers, and a terminal obeys them.

    Half surrogates are spelled out, too: no stream can write them.
    """
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


def console() -> Console:
    """Return the console on stdout."""
    return Console() if sys.stdout.isatty() else Console(width=10_000)


def cell_text(value: Any) -> str:
    """Return a value as a table shows it: `1,234`, `0.1235`, `yes`, and `-` for None."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return printable(str(value))


def bytes_text(num_bytes: float) -> str:
    """Return a size as a person reads it: `1.5 GB`, powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(num_bytes) < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


@contextmanager
def progress(title: str, unit: str) -> Iterator[Report]:
    """Show a bar with rate and time left on stderr while the block runs; on a terminal only."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as bar:
        task = bar.add_task(title, total=None)

        def report(done: int, total: int | None, said: str | None = None, /) -> None:
            if said is not None and said != bar.tasks[0].description:
                bar.reset(task, description=said, total=total, completed=done)
            bar.update(task, completed=done, total=total)

        yield report


class Live:
    """A training run as it goes: step, loss, learning rate, speed, memory, time left.

    Args:
        title: what runs.
        bar: where to draw; None writes a line every `every_s` seconds instead.
        every_s: seconds between two lines.
    """

    def __init__(self, title: str, bar: Progress | None, *, every_s: float) -> None:
        self._title = title
        self._bar = bar
        self._task = bar.add_task(title, total=None, said="") if bar is not None else None
        self._every_s = every_s
        self._said_at: float | None = None
        self._first: tuple[int, float] | None = None
        self._loss: float | None = None
        self._rate: float | None = None

    def start(self, done: int, total: int) -> None:
        """Begin at step `done` of `total`."""
        if self._bar is not None and self._task is not None:
            self._bar.reset(self._task, total=total, completed=done)

    def step(self, report: Any) -> None:
        """Show a finished step (a `StepReport`); loss and speed are smoothed over some 20 steps."""
        now = time.monotonic()
        if self._first is None:
            self._first = (report.step, now)
        rate = report.tokens_per_s
        self._loss = report.loss if self._loss is None else 0.95 * self._loss + 0.05 * report.loss
        self._rate = rate if self._rate is None else 0.95 * self._rate + 0.05 * rate
        said = (
            f"loss {self._loss:.3f}  lr {report.lr:.1e}  {self._rate:,.0f} tokens/s  "
            f"data {report.data_wait / max(report.seconds, 1e-9):.0%}  "
            f"memory {bytes_text(report.memory_bytes)}  epoch {report.epoch}"
        )
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=report.step, said=said)
            return
        is_last = report.step == report.steps
        if self._said_at is None or is_last or now - self._said_at >= self._every_s:
            self._said_at = now
            left = self._left(report, now)
            ends = f"  {_duration(left)} left" if left is not None and not is_last else ""
            note(f"{self._title}: step {report.step:,} of {report.steps:,}  {said}{ends}")

    def held_out(self, report: Any) -> None:
        """Show an evaluation on the pictures held out (a `HeldOutReport`)."""
        text = f"{self._title}: step {report.step:,}  held-out loss {report.held_out:.4f}"
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            note(text)

    def _left(self, report: Any, now: float) -> float | None:
        """Seconds to go, at the pace since the first step; saving and evaluating count in it."""
        if self._first is None or report.step == self._first[0]:
            return None
        step, at = self._first
        seconds: float = (now - at) / (report.step - step) * (report.steps - report.step)
        return seconds


@contextmanager
def training(title: str, *, every_s: float = 30.0) -> Iterator[Live]:
    """Show a training run on stderr while the block runs.

    On a terminal it is a bar. Elsewhere, as in a cluster's log, it is a line at the first step, at
    the last, and every `every_s` seconds between them.
    """
    if not sys.stderr.isatty():
        yield Live(title, None, every_s=every_s)
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        yield Live(title, bar, every_s=every_s)


def _duration(seconds: float) -> str:
    """Return a time as `0:01:05`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


class Phases:
    """Steps of something long, each with a line of its own and, on a terminal, a bar; on stderr."""

    def __init__(self) -> None:
        self._bars = ExitStack()
        self._count: Report | None = None
        self._live: Live | None = None
        self._title = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.close()

    def phase(self, title: str, detail: str = "") -> None:
        """Begin a step; the one before is over."""
        self._bars.close()
        self._count = self._live = None
        self._title = f"{title} {detail}".strip()
        note(self._title)

    def count(self, done: int, total: int | None) -> None:
        """So many units of the current step are done."""
        if self._count is None:
            self._count = self._bars.enter_context(progress(self._title, "items"))
        self._count(done, total)

    def training(self, done: int, steps: int) -> None:
        """Training begins at step `done` of `steps`."""
        self._live = self._bars.enter_context(training(self._title))
        self._live.start(done, steps)

    def step(self, report: Any) -> None:
        """One optimiser step is taken; `report` is a `StepReport`."""
        if self._live is not None:
            self._live.step(report)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {self.unit}/s")


def _as_text(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):  # a numpy scalar
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")
