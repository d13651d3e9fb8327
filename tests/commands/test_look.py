"""`stats --compare`, `stats --html`, `show --html` and `export`, as a user calls them."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import roikit.__main__ as entry
from pipelines.draft import SourceOptions
from pipelines.miniature import make_miniature
from pipelines.run import convert


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with VCR's miniature converted twice, and Visual Genome's once."""
    folder = tmp_path_factory.mktemp("home")
    make_miniature(folder / "world", images=32, workers=1)
    shards = folder / "data" / "shards"
    convert("vcr", folder / "world" / "vcr", shards)
    convert("vg", folder / "world" / "vg", shards)
    faithful = SourceOptions(faithful=True)
    convert("vcr", folder / "world" / "vcr", folder / "faithful", options=faithful)
    return folder


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROIKIT_HOME", str(home))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["roikit", *arguments])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_compare_shows_what_faithful_changes(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(home / "faithful")
    assert run(monkeypatch, "stats", "vcr@train", "--compare", other, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    tasks = {task["task"]: task for task in found["tasks"]}
    every = tasks["reasoning-all"]
    assert every["conversations"]["difference"] == -every["only_before"] < 0
    assert every["other_answers"] > 0
    assert tasks["choice"]["other_text"] == 0
    (lost,) = found["rejections"]
    assert (lost["code"], lost["rejections"]["after"]) == ("E_NUMBER_LOST", every["only_before"])
    assert run(monkeypatch, "stats", "vcr@train", "--compare", other) == 0
    said = capsys.readouterr().out
    assert "\n  - assistant  region" in said and "\n  + assistant  " in said


def test_compare_takes_a_split_of_the_same_shards(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "stats", "vg@val", "--compare", "vg@test", "--json") == 0
    (task,) = json.loads(capsys.readouterr().out)["tasks"]
    assert task["pair"] == "vg@val, vg@test"


def test_stats_writes_a_page_beside_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "stats.html"
    assert run(monkeypatch, "stats", "vg", "--html", str(page)) == 0
    assert "caption" in capsys.readouterr().out
    assert "vg@train" in page.read_text() and "vcr@train" not in page.read_text()
    assert run(monkeypatch, "stats", "--html", str(page)) == 2
    assert run(monkeypatch, "stats", "--html", str(page), "--overwrite") == 0


def test_show_writes_a_sheet_of_drawn_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "sheet.html"
    arguments = ["show", "vcr@train", "--html", str(page), "--limit", "3", "--rejected"]
    assert run(monkeypatch, *arguments, "--task", "reasoning-all", "--json") == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 3
    assert page.read_text().count('<section class="sample"') == 3
    assert "reasoning-single" not in page.read_text()


def test_show_takes_several_keys_or_draws_one_sample(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["vg-val-000000000", "vg-test-000000000"]
    assert run(monkeypatch, "show", *keys, "--json") == 0
    assert [sample["key"] for sample in json.loads(capsys.readouterr().out)] == keys
    assert run(monkeypatch, "show", "vg", "--where", "num_regions > 1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["dataset"] == "vg"


def test_show_replaces_a_picture_on_request_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "mine.png"
    picture.write_bytes(b"mine")
    arguments = ["show", "vg-val-000000000", "--save", str(picture)]
    assert run(monkeypatch, *arguments) == 2
    assert "is there already" in capsys.readouterr().err
    assert picture.read_bytes() == b"mine"
    assert run(monkeypatch, *arguments, "--overwrite") == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_leaks_prints_what_is_found_and_counts_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["leaks", "--no-pixels"]
    assert run(monkeypatch, *arguments, "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    evaluations = {row["evaluation"] for row in rows}
    assert len(rows) == 3 * len(evaluations) and not any(row["any"] for row in rows)
    assert run(monkeypatch, *arguments) == 0
    _, *lines, last = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == evaluations
    assert len(lines) == len(evaluations) and all("all of them" in line for line in lines)
    assert last == f"{2 * len(evaluations)} further pairs share nothing"


@pytest.mark.parametrize("form", ["coco", "llava", "energon"])
def test_export_says_what_it_wrote(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(monkeypatch, "export", form, "vg", "--out", str(out), "--json") == 0
    splits: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["splits"]
    assert [one["split"] for one in splits] == ["test", "train", "val"]
    assert all((out / one["file"]).exists() for one in splits)
    assert run(monkeypatch, "export", form, "vg", "--out", str(out)) == 2
    assert "holds an export already" in capsys.readouterr().err
    assert run(monkeypatch, "export", form, "vg@val", "--out", str(out), "--overwrite") == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stats", "nothing"], "no `nothing` is committed"),
        (["stats", "--compare", "nowhere"], "expected a folder of shards, or DATASET@SPLIT"),
        (["stats", "--compare", "vg@val"], "expected a folder of shards, or DATASET@SPLIT"),
        (["stats", "vg@val", "--compare", "vg@no"], "no `vg@no` is committed"),
        (["show", "vg-val-000000000", "vg"], "`vg`: expected a sample's key"),
        (["show", "vg-val-000000000", "--limit", "2"], "`--limit`: draws from splits"),
        (["show", "vg", "--rejected"], "`--html FILE` is not given"),
        (["show", "vg", "--where", "num_regions > 9999"], "no sample fits"),
        (["show", "vg", "--where", "num_regionz > 1"], "`--where`: Binder Error"),
        (["show", "vg", "--task", "captions"], "`captions`: expected a task"),
        (["show", "vg", "--limit", "2", "--save", "x.png"], "`--save`: takes one sample"),
        (["show", "vg", "--html", "x.html", "--save", "x.png"], "`--html` is given"),
        (["show", "vg", "--save", "x.txt"], "`--save x.txt`: expected a name that ends in .png"),
        (["stats", "--examples", "1"], "`--examples`: prints what `--compare` found"),
        (["leaks", "--eval", "vg@val", "--train", "vg@val"], "nothing to compare: `vg@val`"),
        (["export", "coco", "nothing", "--out", "x"], "no `nothing` is committed"),
    ],
)
def test_what_the_user_got_wrong_is_one_error(
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err.splitlines()[0]
