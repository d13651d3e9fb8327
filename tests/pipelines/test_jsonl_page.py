"""docs/your-own-data.md does what it says: its script, its lines and its commands run."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

import cli
from pipelines.detections_table import DetectedBox, write_detections
from pipelines.rejections import CODES
from pipelines.run import convert
from roikit.config import load_recipe
from shards.mix import parse_mix

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "your-own-data.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line]
RUN = ("convert", "query", "stats", "show", "mix explain")


def parse(command: str) -> dict[str, Any]:
    """Return what the command line makes of a command, options by name."""
    program, name, *arguments = shlex.split(command)
    assert program == "roikit"
    found = typer.main.get_command(cli.app).commands[name]  # type: ignore[attr-defined]
    if hasattr(found, "commands"):
        name, *arguments = arguments
        found = found.commands[name]
    params: dict[str, Any] = found.make_context(name, arguments).params
    return params


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's table, pictures for it, and its script, which has run."""
    from tests.pipelines.conftest import picture_bytes

    place = tmp_path_factory.mktemp("own")
    (table,), (script,) = blocks("csv"), blocks("python")
    (place / "boxes.csv").write_text(table, encoding="utf-8")
    (place / "boxes_to_jsonl.py").write_text(script, encoding="utf-8")
    (place / "photos").mkdir()
    for i, row in enumerate(csv.DictReader(table.splitlines())):
        (place / "photos" / row["image"]).write_bytes(picture_bytes(160, 120, seed=i))
    assert "`python boxes_to_jsonl.py`" in PAGE
    done = subprocess.run(
        [sys.executable, "boxes_to_jsonl.py"], cwd=place, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return place


def test_a_detectors_table_becomes_the_pages_table(tmp_path: Path) -> None:
    (block,) = blocks("sh")
    labelling, rewriting = block.splitlines()
    assert parse(labelling)["out"] == Path("found.parquet")
    box = DetectedBox("kitchen.jpg", 12, 30, 96, 110.25, 160, 120, 0.9, 'a cat, "big"', "d")
    write_detections(tmp_path / "found.parquet", [box])
    _, *arguments = shlex.split(rewriting)
    subprocess.run([sys.executable, *arguments], cwd=tmp_path, check=True)
    (row,) = csv.DictReader((tmp_path / "boxes.csv").read_text(encoding="utf-8").splitlines())
    (table,) = blocks("csv")
    assert list(row) == table.splitlines()[0].split(",")
    assert list(row.values()) == ["kitchen.jpg", "12", "30", "96", "110.25", 'a cat, "big"']


def test_the_script_is_short_and_keeps_every_box(folder: Path) -> None:
    (script,) = blocks("python")
    assert len([line for line in script.splitlines() if line.strip()]) <= 15
    lines = {
        name: [json.loads(line) for line in (folder / "mine" / name).read_text().splitlines()]
        for name in ("train.jsonl", "val.jsonl")
    }
    assert [line["image"] for line in lines["val.jsonl"]] == ["garden.jpg"]
    assert lines["train.jsonl"][0] == {
        "image": "kitchen.jpg",
        "regions": [
            {"box": [12, 30, 96, 110], "label": "cat"},
            {"box": [100, 15.5, 140, 60], "label": "kettle"},
        ],
    }


def test_the_commands_that_need_no_model_run_as_they_stand(folder: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for command in COMMANDS:
        if command.removeprefix("roikit ").startswith(RUN):
            arguments = shlex.split(command)[1:]
            done = subprocess.run(
                [sys.executable, "-m", "roikit", *arguments],
                cwd=folder, env=env, capture_output=True, text=True,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}: {done.stderr}"
            if "show" in command:
                assert "jsonl:kitchen.jpg" in done.stdout or "jsonl:street.jpg" in done.stdout
    assert (folder / "first.png").is_file()


def test_every_command_parses_and_trains_on_these_shards() -> None:
    assert {shlex.split(command)[1] for command in COMMANDS} == {
        "convert", "query", "stats", "show", "mix", "train", "chat",
    }  # fmt: skip
    mixes = re.findall(r"--set ((?:align|stage1|stage2)\.\w+=[^\s`]+)", PAGE)
    for command in COMMANDS:
        parsed = parse(command)
        if " train " in command:
            stage = str(parsed["stage"])
            recipe = load_recipe(parsed["recipe"], stage=stage, overrides=parsed["settings"])
            assert [entry.dataset for entry in parse_mix(recipe.run.mix)] == ["jsonl"]
    for setting in mixes:
        load_recipe("small", stage=setting.partition(".")[0], overrides=[setting])
    for name in re.findall(r"--[a-z][a-z-]*", re.sub(r"```.*?```", "", PAGE, flags=re.S)):
        assert name in ("--images", "--set"), name


def test_the_chat_asks_the_model_that_was_trained() -> None:
    trained = [command for command in COMMANDS if "train stage2" in command]
    (chat,) = [command for command in COMMANDS if " chat " in command]
    assert all(str(parse(command)["out"]) == parse(chat)["model"] for command in trained)
    assert parse(chat)["box"] == ["12,30,96,110"]


def test_every_line_shown_converts_without_a_rejection(tree: Any, shards: Any) -> None:
    lines = [line for block in blocks("json") for line in block.splitlines()]
    assert len(lines) >= 4
    tree.put("train.jsonl", "\n".join(lines).encode())
    for name in ("kitchen.jpg", "street.jpg", "garden.jpg"):
        tree.picture(name, 160, 120)
    reports = convert("jsonl", tree.root, shards.root)
    assert [(r.split, r.rejections) for r in reports] == [("train", {}), ("test", {})]


def test_codes_and_fields_on_the_page_exist() -> None:
    assert set(re.findall(r"E_[A-Z_]+", PAGE)) <= set(CODES)
    fields = re.findall(r"^\| `(\w+)`", PAGE, re.M)
    assert fields == [
        *("image", "regions", "conversations", "box_format", "split", "id", "native_id"),
        *("box", "point", "mask", "label", "caption"),
    ]
