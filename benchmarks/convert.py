"""How fast conversion is, and how much memory it takes: one command measures it all.

    python benchmarks/convert.py --all

makes the full-scale trees where they are missing (2 GB, two minutes), measures, prints tables and
writes `benchmarks/results/convert.json` and the tables in `benchmarks/README.md`. One part alone:
`writing`, `conversion` or `plans`; `--json` prints one document instead of tables.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.convert_reading import CONVERTED, PLAN_LIMITS, measure_conversion, measure_plans
from benchmarks.convert_writing import WRITERS, measure_writing
from pipelines.full_scale import make_full_scale
from roikit import render

PARTS = ("writing", "conversion", "plans")
_HERE = Path(__file__).resolve().parent
_RESULTS = _HERE / "results" / "convert.json"
_PAGE = _HERE / "README.md"
_BEGIN, _END = "<!-- convert: begin -->", "<!-- convert: end -->"

Table = tuple[str, tuple[str, ...], list[tuple[Any, ...]]]


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}")
    parser.add_argument(
        "--all", action="store_true", help="measure everything and keep the results"
    )
    parser.add_argument("--full", type=Path, default=Path("data/full"), help="full-scale trees")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each; the median counts")
    parser.add_argument(
        "--shard-mib", type=int, default=8, help="largest shard of the part `conversion`, MiB"
    )
    parser.add_argument(
        "--coco", type=int, help="COCO's pictures alone in the part `conversion`, so many"
    )
    parser.add_argument("--remark", help="kept with the results, such as `preliminary`")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    parts = PARTS if arguments.all else tuple(arguments.parts)
    if not parts or set(parts) - set(PARTS):
        parser.error(f"expected `--all` or some of {', '.join(PARTS)}")
    results: dict[str, Any] = {"machine": machine(), "repeats": arguments.repeats}
    if arguments.remark:
        results["remark"] = arguments.remark
    if set(parts) - {"writing"}:
        render.note("making the full-scale trees, where they are missing")
        make_full_scale(arguments.full, datasets=tuple(PLAN_LIMITS))
    arguments.full.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".measuring-", dir=arguments.full) as folder:
        work = Path(folder)
        for part in parts:
            render.note(f"measuring: {part}")
            if part == "writing":
                results[part] = measure_writing(work, arguments.repeats)
            elif part == "conversion":
                counts = {"coco": arguments.coco} if arguments.coco else CONVERTED
                shard_bytes = arguments.shard_mib * 2**20
                results[part] = measure_conversion(
                    arguments.full, work, arguments.repeats, shard_bytes, counts
                )
            else:
                results[part] = measure_plans(arguments.full, work, arguments.repeats)
    if arguments.json:
        print(json.dumps(results, indent=1))
    else:
        for title, columns, rows in tables(results):
            render.line(f"\n{title}")
            render.table(columns, rows)
    if arguments.all:
        _RESULTS.parent.mkdir(exist_ok=True)
        _RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        _write_page(results)


def machine() -> dict[str, Any]:
    """Describe the machine, without names and places."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in _lines("/proc/cpuinfo")
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    packages = ("webdataset", "pyarrow", "msgspec", "pycocotools", "numpy")
    return {
        "processor": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
    }


def tables(results: dict[str, Any]) -> list[Table]:
    """Return the parts that were measured as titles, columns and rows."""
    made: list[Table] = []
    if "writing" in results:
        rows: list[tuple[Any, ...]] = [
            (
                row["pictures"],
                row["writer"],
                f"{row['samples_per_s']:,.0f}",
                f"{row['mb_per_s']:,.0f}",
                f"{row['against_shard_writer']:.2f}",
                f"{row['against_one_core']:.2f}" if row["against_one_core"] else "",
            )
            for row in results["writing"]
        ]
        columns: tuple[str, ...] = (
            "pictures",
            "writer",
            "samples/s",
            "MB/s",
            "× ShardWriter",
            "× one core",
        )
        made.append(("Writing the same samples, in memory, to the same disk", columns, rows))
    if "conversion" in results:
        rows = [
            (
                row["what"],
                row["workers"],
                f"{row['images']:,}",
                f"{row['records']:,}",
                f"{row['images_per_s']:,.0f}",
                f"{row['records_per_s']:,.0f}",
                f"{row['against_one_worker']:.2f}",
            )
            for row in results["conversion"]
        ]
        columns = ("what", "workers", "images", "records", "images/s", "records/s", "× one worker")
        made.append(("Making shards from a plan, start of the workers included", columns, rows))
    if "plans" in results:
        rows = [
            (
                row["what"],
                f"{row['images']:,}",
                f"{row['records']:,}",
                f"{row['seconds']:.1f}",
                row["allowed_seconds"] or "",
                f"{row['peak_bytes'] / 1e9:.2f}",
                f"{row['allowed_bytes'] / 1e9:.0f}" if row["allowed_bytes"] else "",
            )
            for row in results["plans"]
        ]
        columns = ("what", "images", "records", "seconds", "allowed", "peak GB", "allowed GB")
        made.append(("Plans at full size, one process", columns, rows))
    return made


def _write_page(results: dict[str, Any]) -> None:
    """Put the tables between their marks in the page."""
    about = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    lines = [
        _BEGIN,
        f"`python benchmarks/convert.py --all` on {about['cores']} cores ({about['processor']}),",
        f"{about['memory_bytes'] / 1e9:.0f} GB, {about['system']}, Python {about['python']},",
        f"{versions}; medians of {results['repeats']} runs."
        + (f" **{results['remark']}**" if "remark" in results else ""),
    ]
    for title, columns, rows in tables(results):
        lines += ["", f"### {title}", "", "| " + " | ".join(columns) + " |"]
        lines.append("|" + " --- |" * len(columns))
        lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
        if title.startswith("Writing"):
            lines.append("")
            lines += [f"- *{name}* {does}." for name, (_, does) in WRITERS.items()]
    lines.append(_END)
    page = _PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(_BEGIN)
    after = rest.partition(_END)[2]
    _PAGE.write_text(before + "\n".join(lines) + after, encoding="utf-8")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    main()
