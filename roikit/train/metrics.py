"""What a run leaves to look at: `metrics.jsonl`, one line a step, and a plot of the loss."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """One optimiser step."""

    step: int  #: from 1
    steps: int  #: of the whole run
    loss: float  #: mean over the step's assistant tokens, natural logarithm
    lr_share: float  #: learning rate as a share of its peak
    grad_norm: float  #: before clipping
    tokens: int  #: padding not counted
    labels: int  #: tokens the loss counts
    epoch: int
    seconds: float  #: of this step
    data_wait: float  #: of those, spent waiting for the batch
    skipped: int  #: conversations passed over since the start: too long, or without an answer


class MetricsWriter:
    """Appends to `metrics.jsonl`; on a resume, drops the lines after the checkpoint.

    Args:
        path: the file.
        after_step: steps the checkpoint has taken; later lines were of work that was lost.
    """

    def __init__(self, path: Path, *, after_step: int) -> None:
        kept = [line for line in read_metrics(path) if line["step"] <= after_step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        temporary.replace(path)
        self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, report: StepReport) -> None:
        """Append one step."""
        self._file.write(json.dumps(asdict(report)) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a run, oldest first; a last line cut short by a kill is left out."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


def plot_loss(metrics: Path, out: Path, *, title: str) -> None:
    """Draw loss against step (each step, and a running mean) as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    lines = list(read_metrics(metrics))
    if not lines:
        return
    steps = [line["step"] for line in lines]
    losses = [line["loss"] for line in lines]
    window = max(1, len(losses) // 50)
    smooth = [
        sum(losses[max(0, i - window + 1) : i + 1]) / min(window, i + 1) for i in range(len(losses))
    ]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="0.8", linewidth=0.8, label="each step")
    axes.plot(steps, smooth, color="tab:blue", label=f"mean of {window} steps")
    axes.set(xlabel="optimiser step", ylabel="loss (nats a token)", title=title)
    axes.set_yscale("log")
    axes.grid(visible=True, which="both", color="0.93")
    axes.legend()
    figure.savefig(out, dpi=110)
