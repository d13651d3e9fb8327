"""The list of what could not be read is the whole run's, however often it was stopped."""

from pathlib import Path

import pytest

from roikit.errors import CorruptSampleError
from roikit.json_lines import read_lines
from roikit.train.quarantine import QUARANTINE_NAME, Quarantine


def test_the_list_and_its_limit_outlast_a_kill(tmp_path: Path) -> None:
    file = tmp_path / QUARANTINE_NAME
    Quarantine(tmp_path, max_bad=2).add({"a": "torn"}, step=1)
    with file.open("a", encoding="utf-8") as cut:
        cut.write('{"key": "b", "st')
    again = Quarantine(tmp_path, max_bad=2)
    again.add({"a": "torn", "c": "torn"}, step=2)
    assert [line["key"] for line in read_lines(file)] == ["a", "c"]
    with pytest.raises(CorruptSampleError, match="3 samples cannot be read, the limit is 2"):
        again.add({"d": "torn"}, step=3)


def test_processes_that_write_nothing_count_alike(tmp_path: Path) -> None:
    other = Quarantine(tmp_path, max_bad=1, writes=False)
    other.add({"a": "torn"}, step=1)
    with pytest.raises(CorruptSampleError):
        other.add({"b": "torn"}, step=1)
    assert not list(tmp_path.iterdir())
