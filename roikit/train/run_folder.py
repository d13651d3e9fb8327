"""A run's folder: what makes a run this very run, and who may write there."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from roikit.config import FREE_KEYS, Recipe
from roikit.errors import UsageError
from roikit.model.processing import RoikitProcessor
from roikit.runs import EXCLUDED_NAME, excluded_text, weights_sha256
from roikit.train.claim import claimed
from roikit.train.world import World

log = logging.getLogger(__name__)


@contextmanager
def held_folder(out: Path, world: World) -> Iterator[None]:
    """Hold a run's folder for the processes of one run while the block runs.

    Raises:
        UsageError: another run's process holds it.
    """
    with ExitStack() as stack:
        world.on_main(lambda: stack.enter_context(claimed(out)))
        yield


def identity_of(recipe: Recipe, start: Path | None, data: Mapping[str, Any]) -> dict[str, Any]:
    """What makes this run this run, as JSON gives it back."""
    identity = {
        "recipe": recipe.name,
        "stage": recipe.stage,
        "resolved": recipe.to_toml(),
        "start": str(start.resolve()) if start is not None else None,
        "start_sha256": weights_sha256(start) if start is not None else None,
        "data": dict(data),
    }
    restored: dict[str, Any] = json.loads(json.dumps(identity))
    return restored


def check_folder(
    out: Path, identity: Mapping[str, Any], start: Path | None, *, overwrite: bool
) -> bool:
    """Whether `out` holds this very run, to go on with; anything in the way is refused."""
    file = out / "run.json"
    if overwrite:
        if out.exists() and any(out.iterdir()) and not file.is_file():
            raise UsageError(
                f"{out}: is not a training run, so --overwrite leaves it alone",
                hint="name another folder with --out",
            )
        if start is not None and start.resolve().is_relative_to(out.resolve()):
            raise UsageError(
                f"{out}: the run starts from this folder, so --overwrite leaves it alone",
                hint="name another folder with --out",
            )
        return False
    if not file.is_file():
        if out.exists() and any(out.iterdir()):
            raise UsageError(
                f"{out}: expected an empty folder or a run of ours", hint="name another --out"
            )
        return False
    found = json.loads(file.read_text(encoding="utf-8"))
    for key, value in identity.items():
        if key == "resolved":
            _tell_free(out, str(found.get(key)), str(value))
            if is_same_recipe(str(found.get(key)), str(value)):
                continue
        if found.get(key) != value:
            raise UsageError(
                f"{out}: holds a run with another {_difference(key, found.get(key), value)}",
                hint="finish it with its own settings, name another --out, or start over with "
                "--overwrite",
            )
    return True


def is_same_recipe(resolved: str, other: str) -> bool:
    """Whether two resolved recipes are one run's: what differs may change on its way."""
    return _bound_lines(resolved) == _bound_lines(other)


def make_folder(
    out: Path,
    identity: Mapping[str, Any],
    recipe: Recipe,
    processor: RoikitProcessor,
    excluded: Sequence[str],
) -> None:
    """Make the run's folder, whole or not at all; an earlier run in it goes.

    Args:
        out: the folder.
        identity: what makes it this run, and what else `run.json` is to tell of its start.
        recipe: saved resolved.
        processor: saved with its tokenizer.
        excluded: the pictures it leaves out.
    """
    fresh = out.with_name(f".{out.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    (fresh / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
    # a tokenizer that was learned must be the same after a stop, whatever was converted since
    processor.save_pretrained(fresh / "processor")
    (fresh / "run.json").write_text(json.dumps(identity, indent=1), encoding="utf-8")
    (fresh / EXCLUDED_NAME).write_text(excluded_text(excluded), encoding="utf-8")
    if out.exists():
        shutil.rmtree(out)
    fresh.rename(out)


def _difference(key: str, found: Any, expected: Any) -> str:
    if isinstance(found, dict) and isinstance(expected, dict):  # name what differs, not the whole
        names = [n for n in {**found, **expected} if found.get(n) != expected.get(n)]
        if key == "data.splits":
            return f"state of the shards: {'; '.join(_roots(n, found, expected) for n in names)}"
        return "; ".join(_difference(f"{key}.{n}", found.get(n), expected.get(n)) for n in names)
    if key != "resolved":
        return f"{key}: it has `{found}`, asked for was `{expected}`"
    had, asked = (_bound_keys(str(recipe)) for recipe in (found, expected))
    names = [name for name in {**had, **asked} if had.get(name) != asked.get(name)]
    said = (
        f"{n}: it has {had.get(n, 'none')}, asked for was {asked.get(n, 'none')}" for n in names
    )
    return f"recipe: {'; '.join(said)}"


def _roots(split: str, found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    had, has = (str(roots.get(split, "none"))[:16] for roots in (found, expected))
    return f"`{split}` had Merkle root `{had}` when it began, has `{has}` now"


def _bound_keys(resolved: str) -> dict[str, str]:
    """Keys of a resolved recipe, with their table, that a run which goes on may not change."""
    keys, table = {}, ""
    for line in _bound_lines(resolved):
        if line.startswith("["):
            table = f"{line.strip('[]')}."
        elif " = " in line:
            key, _, value = line.partition(" = ")
            keys[table + key] = value
    return keys


def _bound_lines(resolved: str) -> list[str]:
    """Lines of a resolved recipe that a run which goes on may not change."""
    return [line for line in resolved.splitlines() if not _is_free(line)]


def _is_free(line: str) -> bool:
    return line.partition(" = ")[0] in FREE_KEYS


def _tell_free(out: Path, found: str, asked: str) -> None:
    before = set(found.splitlines())
    changed = [line for line in asked.splitlines() if _is_free(line) and line not in before]
    if changed:
        log.info("%s: goes on with other settings: %s", out, "; ".join(changed))
