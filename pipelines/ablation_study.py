"""What an ablation compares: a recipe with its variations, seeds and benchmarks.

A study is a TOML file with `recipe`, `set` (overrides for all variations), `stages`, `benchmarks`,
`seeds` (each may be left out) and a table `[variations]`: a name and a list of overrides each,
`table.key=value` as `--set` takes them. The first variation is the base that the others are
compared with. Knows no torch.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import roikit
from roikit.errors import UsageError

STUDIES = Path(roikit.__file__).parent / "studies"
#: Where runs go that several variations start from, beside the variations' own folders.
SHARED = "shared"
#: A study's lists: the field of `Study` that each becomes, and what it holds.
_LISTS = {
    "set": ("overrides", str),
    "stages": ("stages", str),
    "benchmarks": ("benchmarks", str),
    "seeds": ("seeds", int),
}
_KEYS = ("recipe", *_LISTS, "variations")
#: A comma ends an override only where another one begins: lists and mixtures hold commas, too.
_NEXT_OVERRIDE = re.compile(
    r",\s*(?=(?:(?:model|align|stage1|stage2)\.\w+|seed|keep_clean|name)\s*=)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Variation:
    """A name, and what it changes in the recipe."""

    name: str
    overrides: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """Its folder's name."""
        return re.sub(r"[^a-z0-9+]+", "-", self.name.lower()).strip("-")


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """What is compared."""

    name: str
    variations: tuple[Variation, ...]  #: the first one is the base
    recipe: str = "tiny"  #: name or file
    overrides: tuple[str, ...] = ()  #: of the recipe, for all variations; a variation's own win
    stages: tuple[str, ...] = ()  #: to train; none: all that the recipe has
    benchmarks: tuple[str, ...] = ("coco-category", "vg-caption")
    seeds: tuple[int, ...] = (1, 2, 3)

    @property
    def base(self) -> Variation:
        """What the others are compared with."""
        return self.variations[0]


def study_names() -> list[str]:
    """Names of the studies inside the package."""
    return sorted(path.stem for path in STUDIES.glob("*.toml"))


def load_study(
    name: str | None,
    vary: Sequence[str] = (),
    overrides: Sequence[str] = (),
    **changes: Any,
) -> Study:
    """Read a study by name or path, and add variations and overrides to it.

    Args:
        name: a study's name (`encoders`) or a path to a TOML file; None: the recipe as it is is the
            base, and `vary` alone gives the others.
        vary: further variations, `NAME: table.key=value, table.key=value`.
        overrides: for all variations, after the study's own: of one key the last counts.
        **changes: `recipe`, `stages`, `benchmarks`, `seeds` in place of the study's own.

    Raises:
        UsageError: no such study, an unknown key or a value of the wrong type, nothing to compare,
            or two variations of one name.
    """
    known: dict[str, Any] = {"name": "ablation", "variations": (Variation(name="base"),)}
    if name is not None:
        known = _read(name)
    known["variations"] += tuple(parse_variation(text) for text in vary)
    last = {one.partition("=")[0].strip(): one for one in (*known.get("overrides", ()), *overrides)}
    known["overrides"] = tuple(last.values())
    study = Study(**{**known, **changes})
    _check(study)
    return study


def parse_variation(text: str) -> Variation:
    """Read `NAME: table.key=value, table.key=value`.

    Raises:
        UsageError: there is no name, or nothing that it changes.
    """
    name, colon, rest = text.partition(":")
    overrides = tuple(one.strip() for one in _NEXT_OVERRIDE.split(rest) if one.strip())
    if not colon or not name.strip() or not all("=" in one for one in overrides) or not overrides:
        raise UsageError(
            f"--vary `{text}`: expected `NAME: table.key=value, table.key=value`",
            hint='for example: --vary "no box: model.box_embedding=false"',
        )
    return Variation(name=name.strip(), overrides=overrides)


def _read(name: str) -> dict[str, Any]:
    path = Path(name) if name.endswith(".toml") else STUDIES / f"{name}.toml"
    if not path.is_file():
        raise UsageError(
            f"study `{name}`: no such file, and no study of that name",
            hint=f"there are: {', '.join(study_names())}; a TOML file's name ends in .toml",
        )
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}") from error
    for key in told:
        if key not in _KEYS:
            raise UsageError(f"{path}: `{key}`: expected one of {', '.join(_KEYS)}")
    variations = told.pop("variations", None)
    if not isinstance(variations, dict) or not variations:
        raise UsageError(f"{path}: expected a table `[variations]` with a list of overrides each")
    found = []
    for one, overrides in variations.items():
        _check_list(overrides, str, f"{path}: variations.{one}")
        found.append(Variation(name=one, overrides=tuple(overrides)))
    known: dict[str, Any] = {"name": path.stem, "variations": tuple(found)}
    if "recipe" in told:
        if not isinstance(told["recipe"], str):
            raise UsageError(f"{path}: recipe: expected text, got `{told['recipe']}`")
        known["recipe"] = told["recipe"]
    for key, (field, kind) in _LISTS.items():
        if key in told:
            _check_list(told[key], kind, f"{path}: {key}")
            known[field] = tuple(told[key])
    return known


def _check_list(value: Any, kind: type, where: str) -> None:
    fits = isinstance(value, list) and all(type(item) is kind for item in value)
    if not fits:
        what = "whole numbers" if kind is int else "texts"
        raise UsageError(f"{where}: expected a list of {what}, got `{value}`")


def _check(study: Study) -> None:
    for what, found in (("seeds", study.seeds), ("benchmarks", study.benchmarks)):
        if not found or len(set(found)) != len(found):
            raise UsageError(
                f"{what}: expected one or more, each once, got `{', '.join(map(str, found))}`"
            )
    if len(study.variations) < 2:
        raise UsageError(
            "expected two or more variations to compare, got one",
            hint=f'name a study ({", ".join(study_names())}), or add --vary "NAME: key=value"',
        )
    slugs: dict[str, str] = {SHARED: SHARED}
    for one in study.variations:
        if not one.slug:
            raise UsageError(f"variation `{one.name}`: expected a name with letters or digits")
        if one.slug in slugs:
            raise UsageError(
                f"variation `{one.name}`: `{slugs[one.slug]}` has the same folder, `{one.slug}`",
                hint="give it another name",
            )
        slugs[one.slug] = one.name
