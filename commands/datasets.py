"""List the datasets that can be converted."""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from commands.options import Json, Shards

if TYPE_CHECKING:
    from pipelines.draft import OfficialCounts

#: Widths that let the table stand in a terminal of 100 columns.
_FILES_WIDTH, _TERMS_WIDTH = 28, 24

_SPLIT = re.compile(r"(?<![A-Za-z])(?:minival|train|val|test[AB]?)(?![A-Za-z])")


def datasets(shards: Shards, as_json: Json = False) -> None:
    """List the datasets: stage of the recipe, files, terms, published counts, what is converted.

    Stage says where GPT4RoI's recipe trains on a dataset; `eval` is for measuring. Counts are
    pictures and records (boxes, captions, regions or questions), as far as they are published.

    Example: roikit datasets
    """
    from pipelines.catalogue import list_catalogue
    from roikit import render

    found = list_catalogue(shards)
    if as_json:
        return render.document(found)
    stages = {"evaluation": "eval", "own data": "own"}
    rows = [
        (
            one.name,
            stages.get(one.stage, one.stage),
            _folded(map(_breakable, _short_names(one.expects)), _FILES_WIDTH, indent="  "),
            _folded(
                (
                    f"annotations: {one.licence.annotations}",
                    f"pictures: {one.licence.pictures}",
                    f"registration: {one.registration or 'none'}",
                ),
                _TERMS_WIDTH,
                indent="  ",
            ),
            "\n".join((*_published(one.published), *_converted(one.converted))),
        )
        for one in found
    ]
    columns = ("name", "stage", "official files", "licence, registration")
    render.table((*columns, "pictures / records"), rows)


def _published(counts: "Mapping[str, OfficialCounts]") -> list[str]:
    def text(count: int | None) -> str:
        return "-" if count is None else f"{count:,}"

    return [
        line
        for name, one in counts.items()
        for line in (
            f"{name} {text(one.images)} / {text(one.records)}",
            *(f" {count:,} {kind}" for kind, count in one.kinds.items()),
        )
    ]


def _converted(samples: Mapping[str, int]) -> list[str]:
    if not samples:
        return ["converted: none"]
    return ["converted:", *(f"  {split} {count:,}" for split, count in samples.items())]


def _short_names(names: Sequence[str]) -> list[str]:
    """Put the files of different splits together, and leave their folder out.

    `annotations/captions_train2017.json` and its sister become `captions_*2017.json`.
    """
    splits: dict[tuple[str, str], list[str]] = {}
    for name in names:
        base = name.rstrip("/").rpartition("/")[2] + "/" * name.endswith("/")
        split = _SPLIT.search(base)
        around = (base[: split.start()], base[split.end() :]) if split else (base, "")
        splits.setdefault(around, []).append(split[0] if split else "")
    short = []
    for (before, after), words in splits.items():
        listed = words[0] if len(words) == 1 else "*" if before else f"{{{','.join(words)}}}"
        short.append(f"{before}{listed}{after}")
    return short


def _breakable(name: str) -> str:
    """Let a name that is wider than its column be cut behind an underscore."""
    cut = name.rfind("_", 0, _FILES_WIDTH) + 1
    return f"{name[:cut]} {name[cut:]}" if len(name) > _FILES_WIDTH else name


def _folded(texts: Iterable[str], width: int, indent: str = "") -> str:
    lines = [
        line
        for text in texts
        for line in textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False)
    ]
    return "\n".join(lines)
