"""A mixture: which conversations are trained on, and how often an epoch passes over them.

Written `vcr:reasoning-single=2,vg=1`: dataset, `@split` where it is not `train`, `:task` where it
is not every task but `choice`, `=weight` where it is not 1. The weight is the number of passes an
epoch: with all at 1, every conversation comes once.
"""

import math
import re
from dataclasses import dataclass

from roikit.errors import UsageError
from roikit.sample import TASKS

_ENTRY = re.compile(
    r"(?P<dataset>[^@:=\s]+)(@(?P<split>[^@:=\s]+))?(:(?P<task>[^@:=\s]+))?(=(?P<weight>[^@:=\s]+))?"
)

#: What an entry without a task stands for: whatever has an answer to learn.
TRAINING_TASKS = tuple(task for task in TASKS if task != "choice")


@dataclass(frozen=True)
class MixEntry:
    """One source of a mixture."""

    dataset: str
    split: str = "train"
    task: str | None = None  #: None: every task but `choice`
    weight: float = 1.0  #: passes an epoch

    @property
    def name(self) -> str:
        """The entry without its weight, as it is written: `vcr:reasoning-single`, `vcr@val`."""
        split = "" if self.split == "train" else f"@{self.split}"
        task = "" if self.task is None else f":{self.task}"
        return f"{self.dataset}{split}{task}"

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks it takes."""
        return TRAINING_TASKS if self.task is None else (self.task,)


def parse_mix(text: str) -> tuple[MixEntry, ...]:
    """Read a mixture as it is written in recipes and options.

    Raises:
        UsageError: an entry is not of the form, names an unknown task, weighs nothing, or comes
            twice.
    """
    entries: list[MixEntry] = []
    for part in text.split(","):
        match = _ENTRY.fullmatch(part.strip())
        if match is None:
            raise UsageError(
                f"mix: expected `DATASET[@SPLIT][:TASK][=WEIGHT]`, got `{part.strip()}`",
                hint="for example `vcr:reasoning-single=2,vg=1`",
            )
        task, weight = match["task"], match["weight"]
        if task is not None and task not in TASKS:
            raise UsageError(
                f"mix: `{part.strip()}`: unknown task `{task}`", hint=f"tasks: {', '.join(TASKS)}"
            )
        entry = MixEntry(
            dataset=match["dataset"],
            split=match["split"] or "train",
            task=task,
            weight=1.0 if weight is None else _weight(weight, part.strip()),
        )
        if entry.name in {other.name for other in entries}:
            raise UsageError(
                f"mix: `{entry.name}` stands twice", hint="give it once, with a weight"
            )
        entries.append(entry)
    return tuple(entries)


def _weight(text: str, entry: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise UsageError(f"mix: `{entry}`: expected a positive weight, got `{text}`")
    return weight
