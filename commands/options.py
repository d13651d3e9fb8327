"""Options that mean the same in every command."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from roikit import paths
from roikit.config import toml_value


class Stage(StrEnum):
    """The steps of training, in order."""

    ALIGN = "align"
    STAGE1 = "stage1"
    STAGE2 = "stage2"


class OnBad(StrEnum):
    """What to do about a sample that cannot be read."""

    RAISE = "raise"
    QUARANTINE = "quarantine"


def _shards_folder(text: str | Path) -> Path:
    """Return the folder of the shards: for a URL, the one on this machine that stands for it."""
    from roikit.urls import place

    found = place(str(text))
    if isinstance(found, Path):
        return found
    from shards.remote import local_side

    return local_side(found, paths.remote_dir() / "shards")


Shards = Annotated[
    Path,
    typer.Option(
        "--shards",
        default_factory=paths.shards_dir,
        show_default="data/shards",
        parser=_shards_folder,
        metavar="PATH",
        help="Folder or URL of the shards.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what stands there from before.")
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Items a benchmark at most.", show_default="all")
]
Seed = Annotated[int, typer.Option(help="Seed of everything drawn at random.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes working at once.", show_default="one a core")
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Folder of a run or model.", show_default="the newest of runs/stage2, runs/stage1"
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="TABLE.KEY=VALUE",
        help="Override the recipe; may be given several times.",
    ),
]


Mix = Annotated[
    str | None,
    typer.Option(
        "--mix",
        metavar="MIX",
        help="DATASET[@SPLIT][:TASK][=WEIGHT],… in place of the recipe's mixture.",
        show_default="the recipe's",
    ),
]
Where = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="SQL",
        help="Only conversations for which this condition on the manifest holds.",
        show_default="the recipe's",
    ),
]


def stage_overrides(stage: str, **values: str | None) -> list[str]:
    """Return the values that were given as overrides of a stage's keys, text whatever they hold."""
    return [
        f"{stage}.{key}={toml_value(value)}" for key, value in values.items() if value is not None
    ]


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were given: what is None keeps the library's default."""
    return {name: value for name, value in options.items() if value is not None}
