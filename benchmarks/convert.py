"""How fast conversion is, and how much memory it takes: one command measures it all.

    python benchmarks/convert.py --all

makes the full-scale trees where they are missing (2 GB, two minutes), measures, prints tables and
writes `benchmarks/results/convert.json` and the tables in `benchmarks/README.md`. One part alone:
`writing`, `conversion` or `plans`; `--json` prints one document instead of tables.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.convert_reading import CONVERTED, PLAN_LIMITS, measure_conversion, measure_plans
from benchmarks.convert_writing import WRITERS, measure_writing
from benchmarks.report import Table, keep, machine, show
from pipelines.full_scale import make_full_scale
from roikit import render

PARTS = ("writing", "conversion", "plans")
_PACKAGES = ("webdataset", "pyarrow", "msgspec", "pycocotools", "numpy")


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
    results: dict[str, Any] = {"machine": machine(_PACKAGES), "repeats": arguments.repeats}
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
    made = tables(results)
    show(results, made, as_json=arguments.json)
    if arguments.all:
        keep("convert", "python benchmarks/convert.py --all", results, made)


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
        remarks = [f"*{name}* {does}." for name, (_, does) in WRITERS.items()]
        made.append(
            ("Writing the same samples, in memory, to the same disk", columns, rows, remarks)
        )
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
        made.append(("Making shards from a plan, start of the workers included", columns, rows, []))
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
        made.append(("Plans at full size, one process", columns, rows, []))
    return made


if __name__ == "__main__":
    main()
