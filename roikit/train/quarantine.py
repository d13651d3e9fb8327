"""Samples that a run could not read and left out, over all its processes and stops.

OUT/quarantined.jsonl has one line each. Another sample of the same source stood in its place.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from roikit.errors import CorruptSampleError
from roikit.train.metrics import read_lines

log = logging.getLogger(__name__)

QUARANTINE_NAME = "quarantined.jsonl"


class Quarantine:
    """The list of a run, and its limit.

    Args:
        out: the run's folder.
        max_bad: different samples that may be on it.
        writes: False for processes that keep the list in memory alone.
    """

    def __init__(self, out: Path, *, max_bad: int, writes: bool = True) -> None:
        self._file = out / QUARANTINE_NAME
        self._max_bad = max_bad
        self._writes = writes
        self._keys = {line["key"] for line in read_lines(self._file)}

    def add(self, found: Mapping[str, str], *, step: int) -> None:
        """Note samples found unreadable, each once a run.

        Args:
            found: why, by sample key.
            step: that was being read for.

        Raises:
            CorruptSampleError: there are more than the limit.
        """
        for key, why in found.items():
            if key in self._keys:
                continue
            self._keys.add(key)
            if self._writes:
                with self._file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, "step": step, "why": why}) + "\n")
                log.warning("left out `%s`: %s", key, why)
            if len(self._keys) > self._max_bad:
                raise CorruptSampleError(
                    f"{self._file}: {len(self._keys)} samples cannot be read, the limit is "
                    f"{self._max_bad}; the last: {why}",
                    hint="`roikit verify` lists what is damaged; delete that and convert again, or "
                    "raise --max-bad",
                )
