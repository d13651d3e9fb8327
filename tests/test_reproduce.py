"""docs/reproduce.md: every command in it exists, with these options, keys, names and mixtures."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import cli
from pipelines.registry import DATASETS
from roikit.config import load_recipe
from roikit.evaluate.benchmarks import BENCHMARKS
from shards.mix import parse_mix

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "reproduce.md").read_text(encoding="utf-8")
ROOT_COMMAND = typer.main.get_command(cli.app)


def roikit_lines(page: str) -> Iterator[list[str]]:
    """The arguments of every `roikit` call, in blocks of commands and between backticks."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.S | re.M)
    text = re.sub(r"^```.*?^```", "", page, flags=re.S | re.M)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(roikit [^`]*)`", text)
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] == ["torchrun"] and "-m" in words:
            words = words[words.index("-m") + 1 :]
        while words and re.match(r"[A-Z_]+=", words[0]):  # environment
            words = words[1:]
        if words[:1] == ["roikit"]:
            yield words[1:]


LINES = list(dict.fromkeys(map(tuple, roikit_lines(PAGE))))


def parsed(arguments: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """The command's full name and its parameters, as Typer reads them; nothing is run."""
    command: Any = ROOT_COMMAND
    rest = list(arguments)
    names: list[str] = []
    while rest and rest[0] in (getattr(command, "commands", None) or {}):
        names.append(rest.pop(0))
        command = command.commands[names[-1]]
    assert names, f"roikit {arguments[0]}: no such command"
    context = command.make_context(" ".join(names), rest)
    return " ".join(names), context.params


def test_the_page_shows_the_whole_way() -> None:
    commands = {parsed(line)[0] for line in LINES}
    assert {"convert", "verify", "leaks", "import-gpt4roi", "train", "eval", "report"} <= commands


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_every_line_parses_and_names_what_exists(line: tuple[str, ...]) -> None:
    command, given = parsed(line)
    if command in ("convert", "list-pictures"):
        assert given["name"] in DATASETS
    if command == "eval":
        assert given["name"] in BENCHMARKS
    if command in ("train", "mix explain"):
        stage = getattr(given["stage"], "value", given["stage"])
        name = given["recipe"]
        if name.startswith("runs/"):  # a run's own, here always one of this recipe
            name = "gpt4roi-7b"
        recipe = load_recipe(name, stage=stage, overrides=given["settings"] or ())
        for entry in parse_mix(given["mix"] or recipe.run.mix):
            assert entry.dataset in DATASETS, entry
