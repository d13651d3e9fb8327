"""The list of samples that could not be read: over stops, over processes, and up to its limit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from roikit.errors import CorruptSampleError
from roikit.json_lines import read_lines
from roikit.sample import Example
from roikit.train.quarantine import Quarantine
from tests.roikit.conftest import ToySource
from tests.roikit.train.test_train import make_recipe, run

T = TypeVar("T")


def listed(out: Path) -> list[str]:
    return [line["key"] for line in read_lines(out / "quarantined.jsonl")]


def test_a_sample_is_noted_and_told_once_over_all_stops(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Quarantine(tmp_path, max_bad=5)
    first.add({"a": "torn"}, step=3)
    first.add({"a": "torn", "b": "short"}, step=4)
    Quarantine(tmp_path, max_bad=5).add({"b": "short", "c": "gone"}, step=5)
    assert listed(tmp_path) == ["a", "b", "c"]
    assert json.loads((tmp_path / "quarantined.jsonl").read_text().splitlines()[1]) == {
        "key": "b",
        "step": 4,
        "why": "short",
    }
    assert [record.getMessage()[:12] for record in caplog.records] == [
        "left out `a`",
        "left out `b`",
        "left out `c`",
    ]


def test_the_limit_counts_what_was_found_before_a_stop(tmp_path: Path) -> None:
    Quarantine(tmp_path, max_bad=2).add({"a": "torn", "b": "short"}, step=1)
    after = Quarantine(tmp_path, max_bad=2)
    after.add({"a": "torn"}, step=2)
    with pytest.raises(CorruptSampleError, match=r"3 samples .* limit is 2; the last: gone"):
        after.add({"c": "gone"}, step=2)


def test_starting_again_does_not_get_round_the_limit(tmp_path: Path) -> None:
    with pytest.raises(CorruptSampleError):
        Quarantine(tmp_path, max_bad=1).add({"a": "torn", "b": "short"}, step=1)
    again = Quarantine(tmp_path, max_bad=1)
    again.add({}, step=1)  # what is damaged may have been mended since
    with pytest.raises(CorruptSampleError, match="limit is 1"):
        again.add({"a": "torn"}, step=1)
    Quarantine(tmp_path, max_bad=2).add({"a": "torn"}, step=1)


def test_a_line_that_a_kill_cut_short_spoils_no_other(tmp_path: Path) -> None:
    Quarantine(tmp_path, max_bad=5).add({"a": "torn"}, step=1)
    with (tmp_path / "quarantined.jsonl").open("a") as file:
        file.write('{"key": "b", "st')
    Quarantine(tmp_path, max_bad=5).add({"b": "short"}, step=2)
    assert listed(tmp_path) == ["a", "b"]


def test_a_process_that_does_not_write_counts_alike(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quiet = Quarantine(tmp_path, max_bad=1, writes=False)
    quiet.add({"a": "torn"}, step=1)
    assert not (tmp_path / "quarantined.jsonl").exists() and not caplog.records
    with pytest.raises(CorruptSampleError):
        quiet.add({"b": "short"}, step=1)


class Damaged(ToySource):
    """Finds another sample unreadable at every place."""

    def __init__(self) -> None:
        super().__init__()
        self.quarantined: dict[str, str] = {}

    def read(self, place: int, use: Callable[[Example], T]) -> T:
        self.quarantined[f"toy-{place}"] = "torn"
        return super().read(place, use)


def test_a_run_ends_at_its_own_limit(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(CorruptSampleError, match="the limit is 7"):
        run(out, make_recipe(save_every=1), source=Damaged(), max_bad=7)
    assert len(listed(out)) == 8
    result = run(out, make_recipe(save_every=1), source=Damaged(), max_bad=16)
    assert result.resumed_from == 3 and len(listed(out)) == 16
