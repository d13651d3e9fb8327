"""What tables, documents and progress look like where nobody watches."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from roikit import render
from roikit.train.metrics import HeldOutReport, StepReport


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
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def report(step: int, **changes: float) -> StepReport:
    values = {"loss": 0.5, "lr": 1e-3, "seconds": 0.5, "data_wait": 0.05, "tokens": 1000}
    return StepReport(
        step=step, steps=1000, lr_share=1.0, grad_norm=1.0, labels=10, padding=0.0, epoch=2,
        memory_bytes=1_500_000_000, skipped=0, **(values | changes),  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_log_gets_a_line_of_training_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(render.time, "monotonic", lambda: now[0])
    with render.training("tiny stage1", every_s=30) as live:
        live.start(0, 1000)
        for step in range(1, 1001):
            live.step(report(step))
            now[0] += 0.5
            if step == 500:
                live.held_out(HeldOutReport(step=500, held_out=0.75, labels=3, seconds=1))
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == (
        "tiny stage1: step 1 of 1,000  loss 0.500  lr 1.0e-03  2,000 tokens/s  data 10%  "
        "memory 1.5 GB  epoch 2"
    )
    assert [line for line in lines if "held-out" in line] == [
        "tiny stage1: step 500  held-out loss 0.7500"
    ]
    assert lines[1].endswith("epoch 2  0:07:50 left")  # 939 steps at half a second
    # 500 s at a line in 30 s, with the first, the last and the evaluation
    assert len(lines) == 1 + 16 + 1 + 1
    assert lines[-1].startswith("tiny stage1: step 1,000 of 1,000")


def test_a_terminal_gets_a_bar_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(render.sys, "stderr", terminal)
    with render.training("tiny stage1") as live:
        live.start(0, 1000)
        live.step(report(10, loss=1.25))
        live.held_out(HeldOutReport(step=10, held_out=0.75, labels=3, seconds=1))
    drawn = terminal.getvalue()
    assert "10/1000" in drawn
    assert "loss 1.250  lr 1.0e-03  2,000 tokens/s  data 10%  memory 1.5 GB" in drawn
    assert "held-out loss 0.7500" in drawn


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
