"""What tables, documents and progress look like where nobody watches."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from roikit import render


@dataclass
class Found:
    path: Path
    counts: dict[str, int]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (True, "yes"), (12345, "12,345"), (0.123456, "0.1235"), ("[red]", "[red]")],
)
def test_cells_read_well(value: object, text: str) -> None:
    assert render.cell_text(value) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2e12, "2.0 TB")]
)
def test_sizes_read_well(num_bytes: float, text: str) -> None:
    assert render.bytes_text(num_bytes) == text


def test_a_table_keeps_every_character_and_puts_numbers_right(
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = "x" * 300
    render.table(("name", "n", "size"), [("[bold]a", 7, "1.5 kB"), (long, 1234, "12.0 MB")])
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["name", "n", "size"]
    assert first.split() == ["[bold]a", "7", "1.5", "kB"]
    assert second.startswith(long)
    assert first.rstrip().endswith("     7   1.5 kB")


def test_a_document_holds_paths_and_numpy_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    render.document([Found(path=Path("a/b"), counts={"é": 1}), {"x": np.float32(0.5)}])
    said = capsys.readouterr().out
    assert json.loads(said) == [{"path": "a/b", "counts": {"é": 1}}, {"x": 0.5}]
    assert "é" in said


def test_progress_says_nothing_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with render.progress("reading", "files") as report:
        report(1, None)
        report(2, 4, "writing")
    with render.training("stage1") as live:
        live.start(0, 2)
        live.step(1, 0.5, 100, 0.1)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_phases_name_themselves_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with render.Phases() as phases:
        phases.phase("convert", "coco")
        phases.count(1, 2)
        phases.phase("train")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "convert coco\ntrain\n")


def test_control_characters_are_spelled_out(capsys: pytest.CaptureFixture[str]) -> None:
    text = "a \x1b[31mred\x1b]0;title\x07 caf\u00e9\ttab\x9b1m"
    shown = "a \\x1b[31mred\\x1b]0;title\\x07 caf\u00e9\ttab\\x9b1m"
    render.line(text)
    render.table(("text",), [(text,)])
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert printed.splitlines()[0] == shown
