"""What all benchmarks have in common: the machine in words, tables, and where they are kept."""

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from roikit import render

_HERE = Path(__file__).resolve().parent
_PAGE = _HERE / "README.md"

#: A title, the columns' names, the rows, and lines that explain them.
Table = tuple[str, tuple[str, ...], list[tuple[Any, ...]], list[str]]


def machine(packages: tuple[str, ...]) -> dict[str, Any]:
    """Describe the machine, without names and places; packages that are missing are left out."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in _lines("/proc/cpuinfo")
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "processor": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "packages": {name: version for name in packages if (version := _version(name))},
    }


def show(results: dict[str, Any], tables: list[Table], *, as_json: bool) -> None:
    """Print the results: tables, or one JSON document."""
    if as_json:
        print(json.dumps(results, indent=1))
        return
    for title, columns, rows, remarks in tables:
        render.line(f"\n{title}")
        render.table(columns, rows)
        for remark in remarks:
            render.line(remark)


def keep(name: str, command: str, results: dict[str, Any], tables: list[Table]) -> None:
    """Write `results/NAME.json`, and the tables between their marks in the page."""
    path = _HERE / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    about = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    lines = [
        begin,
        f"`{command}` on {about['cores']} cores ({about['processor']}),",
        f"{about['memory_bytes'] / 1e9:.0f} GB, {about['system']}, Python {about['python']},",
        f"{versions}; {_how_often(results['repeats'])}."
        + (f" **{results['remark']}**" if "remark" in results else ""),
    ]
    for title, columns, rows, remarks in tables:
        lines += ["", f"### {title}", "", "| " + " | ".join(columns) + " |"]
        lines.append("|" + " --- |" * len(columns))
        lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
        if remarks:
            lines += ["", *(f"- {remark}" for remark in remarks)]
    page = _PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    after = rest.partition(end)[2]
    _PAGE.write_text(before + "\n".join([*lines, end]) + after, encoding="utf-8")


def _how_often(repeats: int) -> str:
    return "one run of each" if repeats == 1 else f"medians of {repeats} runs"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
