"""What a run leaves to look at: `metrics.jsonl`, one line a step, and plots of the loss.

Between the steps' lines stand those of the evaluations on the pictures held out: they have
`held_out` where a step's line has `loss`. Knows no torch, so that `roikit runs` starts at once.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

METRICS_NAME = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """One optimiser step, over all processes unless it says otherwise."""

    step: int  #: from 1
    steps: int  #: of the whole run
    loss: float  #: mean over the step's assistant tokens, natural logarithm
    lr: float  #: learning rate of the first optimiser's first group
    lr_share: float  #: learning rate as a share of its peak
    grad_norm: float  #: before clipping
    tokens: int  #: padding not counted
    labels: int  #: tokens the loss counts
    padding: float  #: share of the batches' places that hold padding, 0 to 1; of this process
    epoch: int
    seconds: float  #: of this step
    data_wait: float  #: of those, spent waiting for the batch
    memory_bytes: int  #: peak of the accelerator's memory, else what the process holds
    skipped: int  #: conversations passed over since the start: too long, or without an answer

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second."""
        return self.tokens / max(self.seconds, 1e-9)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutReport:
    """One evaluation on the pictures held out."""

    step: int  #: optimiser steps taken before it
    held_out: float  #: mean loss over the assistant tokens, natural logarithm
    labels: int  #: tokens the loss counts
    seconds: float


class MetricsWriter:
    """Appends to `metrics.jsonl`; on a resume, drops the lines after the checkpoint.

    Args:
        path: the file.
        after_step: steps the checkpoint has taken; later lines were of work that was lost.
    """

    def __init__(self, path: Path, *, after_step: int) -> None:
        kept = [line for line in read_lines(path) if line["step"] <= after_step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        temporary.replace(path)
        self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, report: StepReport | HeldOutReport) -> None:
        """Append one step or one evaluation."""
        self._file.write(json.dumps(asdict(report)) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Steps of a run, oldest first; a last line cut short by a kill is left out.

    Runs of before have lines without some of `StepReport`'s fields.
    """
    return (line for line in read_lines(path) if "loss" in line)


def read_held_out(path: Path) -> Iterator[dict[str, Any]]:
    """Evaluations of a run on the pictures held out, oldest first."""
    return (line for line in read_lines(path) if "held_out" in line)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a file of JSON lines; none where it is missing, and none after one cut short."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


def plot_loss(metrics: Path, out: Path, *, title: str) -> None:
    """Draw a run's loss against the step, and the held-out loss where there is one, as a PNG."""
    if next(read_metrics(metrics), None) is not None:
        plot_losses({"training": metrics}, out, title=title)


def plot_losses(runs: Mapping[str, Path], out: Path, *, title: str = "") -> None:
    """Draw the losses of several runs in one picture: each step pale, a running mean over it.

    Args:
        runs: `metrics.jsonl` by the name to show; a run without a step takes no line.
        out: a PNG.
        title: above the picture.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for i, (name, metrics) in enumerate(runs.items()):
        colour = f"C{i}"
        lines = list(read_metrics(metrics))
        steps, losses = [line["step"] for line in lines], [line["loss"] for line in lines]
        window = max(1, len(losses) // 50)
        axes.plot(steps, losses, color=colour, alpha=0.2, linewidth=0.8)
        mean = "" if window == 1 else f", mean of {window} steps"
        axes.plot(steps, running_mean(losses, window), color=colour, label=f"{name}{mean}")
        held_out = list(read_held_out(metrics))
        if held_out:
            axes.plot(
                [line["step"] for line in held_out],
                [line["held_out"] for line in held_out],
                color=colour,
                linestyle="--",
                marker="o",
                markersize=3,
                label="held out" if len(runs) == 1 else f"{name}, held out",
            )
    axes.set(xlabel="optimiser step", ylabel="loss (nats a token)", title=title)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(LogFormatter())  # 0.2 and 3, not powers of ten
    axes.yaxis.set_minor_formatter(LogFormatter())
    axes.grid(visible=True, which="both", color="0.93")
    axes.legend()
    figure.savefig(out, dpi=110, format="png")


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return for each value the mean of it and up to `window - 1` values before it."""
    return [
        sum(values[max(0, i - window + 1) : i + 1]) / min(window, i + 1) for i in range(len(values))
    ]
