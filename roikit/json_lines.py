"""Files of one JSON object a line that grow while a run works, and outlive its being killed."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append a line; one that a kill cut short does not swallow it."""
    with path.open("a+b") as file:
        end = file.tell()
        file.seek(max(0, end - 1))
        is_cut = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * is_cut + json.dumps(dict(line)).encode() + b"\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines, oldest first; one that was cut short is passed over, no file has none."""
    if not path.is_file():
        return
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line
