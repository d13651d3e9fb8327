"""How results look on a terminal: tables and JSON on stdout, progress on stderr.

Knows rich and plain values, not what they mean: `cli.py` turns results into rows.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
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

#: Called with how many units are done, and how many there are (None while that is not known).
Report = Callable[[int, int | None], None]


def document(value: Any) -> None:
    """Print `value` as one JSON document; dataclasses and structs become objects, paths text."""
    plain = msgspec.to_builtins(value, enc_hook=_as_text, str_keys=True)
    print(json.dumps(plain, indent=2, ensure_ascii=False))


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None) -> None:
    """Print rows under their column names; columns of numbers stand to the right.

    Where stdout is not a terminal the table is as wide as its content, so that nothing is cut off.
    """
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        is_number = any(isinstance(row[i], int | float) for row in rows)
        shown.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell_text(cell)) for cell in row))
    console().print(shown)


def line(text: str) -> None:
    """Print one line of a result."""
    print(text)


def note(text: str) -> None:
    """Say something beside the result: it goes to stderr."""
    print(text, file=sys.stderr)


def console() -> Console:
    """Return the console on stdout."""
    return Console() if sys.stdout.isatty() else Console(width=10_000)


def cell_text(value: Any) -> str:
    """Return a value as a table shows it: thousands apart, four digits of a fraction, `-` for None."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return str(value)


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

        def report(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        yield report


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
