"""`roikit ablate`: what it prints and how it ends; the work itself is tests/pipelines'."""

import json
import signal
import sys
from pathlib import Path

import pytest

import roikit.__main__ as entry
from pipelines.miniature import make_miniature
from pipelines.run import convert


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ablate")
    make_miniature(folder / "world", images=32, datasets=("coco",), evaluation=0.3, workers=1)
    convert("coco", folder / "world" / "coco", folder / "shards")
    return folder / "shards"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(monkeypatch: pytest.MonkeyPatch, shards: Path, out: Path, *arguments: str) -> int:
    common = ["--shards", str(shards), "--out", str(out), "--benchmarks", "coco-category"]
    monkeypatch.setattr(sys, "argv", ["roikit", "ablate", *arguments, *common])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_dry_run_prints_the_plan_and_trains_nothing(
    shards: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--vary", "k1: model.region_grid=1", "--seeds", "1", "--dry-run"]
    assert run(monkeypatch, shards, out, *asked) == 0
    assert "5 runs, 5 of them to do: 2,320 steps" in capsys.readouterr().out
    assert run(monkeypatch, shards, out, *asked, "--stages", "align,stage1", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["stage"] for one in told["runs"]] == ["align", "stage1", "stage1"]
    assert told["runs"][0]["used_by"] == ["base", "k1"]
    assert not out.exists()


def test_a_variation_that_cannot_be_ends_with_3(
    shards: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--vary", "none: model.region_grid=0", "--seeds", "1", "--dry-run"]
    assert run(monkeypatch, shards, out, *asked) == 3
    assert "none: cannot be: model.region_grid: expected 1 or more" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encoders", "--seeds", "1,two"], "--seeds: expected whole numbers"),
        (["encoders", "--stages", "stage3"], "stages: expected some of align, stage1, stage2"),
        (["no-such-study"], "no study of that name"),
        (["encoders", "--set", "model.region_gird=1"], "model.region_gird"),
    ],
)
def test_what_the_user_got_wrong_ends_with_2(
    arguments: list[str],
    message: str,
    shards: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, shards, out, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_torchrun_is_told_that_one_process_is_enough(
    shards: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(monkeypatch, shards, out, "encoders") == 2
    assert "expected one process" in capsys.readouterr().err
