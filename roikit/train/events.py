"""What happened to a run: `events.jsonl`, one line whenever a process begins or ends work on it.

A line has `event` (`started`, `trained`, `stopped`, `failed`), `at` (UTC) and what belongs to it.
A process that was killed leaves a `started` without an end.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from roikit.json_lines import append_line, read_lines

EVENTS_NAME = "events.jsonl"


def append_event(out: Path, event: str, **values: Any) -> None:
    """Append a line to a run's events.

    Args:
        out: the run's folder.
        event: what happened.
        values: anything JSON can hold.
    """
    line = {"event": event, "at": datetime.now(UTC).isoformat(timespec="seconds"), **values}
    append_line(out / EVENTS_NAME, line)


def read_events(out: Path) -> Iterator[dict[str, Any]]:
    """Events of a run, oldest first; lines that cannot be read are passed over."""
    return read_lines(out / EVENTS_NAME)
