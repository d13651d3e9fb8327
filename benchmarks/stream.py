"""How fast samples are read in shuffled order beside other libraries; how soon a stream starts.

    python -m pip install mosaicml-streaming litdata
    python benchmarks/stream.py --all

compares roikit's stream with webdataset, MosaicML streaming and litdata on the same samples (those
that are not installed are left out, and it says so), prints tables and writes
`benchmarks/results/stream.json` and the tables in `benchmarks/README.md`. One part alone: `raw`,
`decoded` or `start`; `--json` prints one document instead of tables. Takes 4 GB of disk and about
ten minutes. Tables are medians.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.fresh_process import prepare
from benchmarks.report import Table, keep, machine, show
from benchmarks.stream_reading import READERS, measure_reading, present
from benchmarks.stream_start import measure_start
from roikit import render

PARTS = ("raw", "decoded", "start")
_PACKAGES = ("webdataset", "mosaicml-streaming", "litdata", "torch", "numpy", "simplejpeg")
_DONE = {"raw": "bytes", "checked": "bytes, hashed; record decoded", "decoded": "decoded to 224 px"}


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}")
    parser.add_argument(
        "--all", action="store_true", help="measure everything and keep the results"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each; the median counts")
    parser.add_argument("--work", type=Path, default=Path("data"), help="where samples are written")
    parser.add_argument("--remark", help="kept with the results, such as `preliminary`")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    parts = PARTS if arguments.all else tuple(arguments.parts)
    if not parts or set(parts) - set(PARTS):
        parser.error(f"expected `--all` or some of {', '.join(PARTS)}")
    for name, package in READERS.items():
        if name not in present():
            render.note(f"{name}: left out, `{package}` is not installed")
    prepare(["benchmarks.stream_start", "benchmarks.stream_reading", "torch", *present().values()])
    results: dict[str, Any] = {"machine": machine(_PACKAGES), "repeats": arguments.repeats}
    if arguments.remark:
        results["remark"] = arguments.remark
    arguments.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".measuring-", dir=arguments.work) as folder:
        work = Path(folder)
        for part in parts:
            render.note(f"measuring: {part}")
            if part == "start":
                results[part] = measure_start(work / "start", arguments.repeats)
            else:
                results[part] = measure_reading(work, arguments.repeats, part)
    made = tables(results)
    show(results, made, as_json=arguments.json)
    if arguments.all:
        keep("stream", "python benchmarks/stream.py --all", results, made)


def tables(results: dict[str, Any]) -> list[Table]:
    """Return the parts that were measured as titles, columns, rows and remarks."""
    made: list[Table] = []
    if "raw" in results:
        title = "Reading bytes in shuffled order"
        made.append((title, *_reading(results["raw"]), _RAW_REMARKS))
    if "decoded" in results:
        title = "Reading in shuffled order and decoding to 224 pixels"
        made.append((title, *_reading(results["decoded"]), []))
    if "start" in results:
        rows: list[tuple[Any, ...]] = [
            (
                row["mix"],
                f"{row['excluded']:,}",
                row["batch"],
                f"{row['seconds_to_open']:.2f}",
                f"{row['seconds']:.2f}",
                f"{row['cpu_seconds']:.2f}",
                f"{row['seconds_cold']:.2f}",
                f"{row['private_bytes'] / 1e6:,.0f}",
            )
            for row in results["start"]
        ]
        columns: tuple[str, ...] = ("mixture", "pictures excluded", "batch of 32", "opened after s")
        columns += ("batch after s", "of it CPU s", "cold s", "own MB")
        title = "Start over 10 million samples with 30 million conversations"
        made.append((title, columns, rows, _START_REMARKS))
    return made


def _reading(measured: list[dict[str, Any]]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    rows: list[tuple[Any, ...]] = []
    for row in measured:
        others = [
            other
            for other in measured
            if not other["reader"].startswith("roikit")
            and (other["pictures"], other["workers"]) == (row["pictures"], row["workers"])
        ]
        does = row["use"] if row["reader"] != "roikit" or row["use"] != "raw" else "checked"
        rows.append(
            (
                row["pictures"],
                row["workers"],
                row["reader"],
                _DONE[does],
                *_beside(row, others, "samples_per_s"),
                *(("", "") if row["workers"] else _beside(row, others, "samples_per_cpu_s")),
                f"{row['private_bytes'] / 1e6:,.0f}" if row["workers"] else "",
                f"{row['pss_bytes'] / 1e6:,.0f}" if row["workers"] else "",
            )
        )
    columns: tuple[str, ...] = ("pictures", "workers", "reader", "hands out")
    columns += ("samples/s", "× best of the others", "samples/CPU s", "× best of the others")
    return (*columns, "own MB a worker", "PSS MB a worker"), rows


def _beside(row: dict[str, Any], others: list[dict[str, Any]], name: str) -> tuple[str, str]:
    """Return a speed in words, and how many times the best of the others it is."""
    best = max((other[name] for other in others), default=0)
    return f"{row[name]:,.0f}", f"{row[name] / best:.2f}" if best else ""


_RAW_REMARKS = [
    "All files are in the page cache before a run. Everybody's batches of 32 end in the worker.",
    "roikit's stream hashes picture and record with SHA-256, compares, and decodes the record;"
    " *hashed; record decoded* lets the others do the same with the same functions.",
    "*roikit, unhashed* has its hash function taken away: the difference is what checking costs.",
    "litdata goes through one chunk of 64 MB after the other, shuffled inside; webdataset through a"
    " buffer of 1,000. roikit and MosaicML streaming draw from all shards or many at once.",
]
_START_REMARKS = [
    "*batch after* counts from opening the stream to 32 decoded pictures; imports (numpy, pyarrow,"
    " msgspec) and making the exclusion list are not in it. *middle* is a resume at half of an"
    " epoch.",
    "The index is made up, the tars are sparse: `benchmarks/stream_start.py` says how.",
]


if __name__ == "__main__":
    main()
