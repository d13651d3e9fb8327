"""What happened to a run: `events.jsonl`, one line whenever a process begins or ends work on it.

A line has `event` (`started`, `trained`, `stopped`, `failed`), `at` (UTC) and what belongs to it.
A process that was killed leaves a `started` without an end.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

EVENTS_NAME = "events.jsonl"


def append_event(out: Path, event: str, **values: Any) -> None:
    """Append a line to a run's events.

    Args:
        out: the run's folder.
        event: what happened.
        values: anything JSON can hold.
    """
    line = {"event": event, "at": datetime.now(UTC).isoformat(timespec="seconds"), **values}
    path = out / EVENTS_NAME
    # a line that a kill cut short must not swallow this one
    is_cut = path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * is_cut + json.dumps(line) + "\n")


def read_events(out: Path) -> Iterator[dict[str, Any]]:
    """Events of a run, oldest first; lines that cannot be read are passed over."""
    path = out / EVENTS_NAME
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue
