"""Splits as Megatron-Energon reads them: linked shards, an index beside each, and `.nv-meta/`.

`OUT/<dataset>/` is one dataset of Energon's, with every split as a split part of its own name. The
tars are linked, not copied; what `energon prepare` would find by reading them is taken from the
sidecars: offsets (`.tar.idx`, `index.sqlite`) and counts (`.info.json`). Samples come as they lie
in the shards (`CrudeWebdataset`): the picture by its extension, and `json`, the record.

Source: megatron-energon 7.4, `flavors/webdataset/{prepare,itar,indexing,metadata}.py`.
"""

import os
import sqlite3
import struct
import uuid
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from roikit.errors import UsageError
from shards.commit import DatasetInfo
from shards.export.folder import (
    ExportedSplit,
    ExportReport,
    Progress,
    export_folder,
    write_report,
)
from shards.layout import shard_stem, sidecar_path, tar_path
from shards.remote import url_of
from shards.sidecar import read_rows
from shards.writer import BLOCK_BYTES, padded

_COLUMNS = ("key", "extension", "image_offset", "image_length", "json_offset", "json_length")
_DATASET_YAML = "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
_TABLES = """
CREATE TABLE samples (
    tar_file_id INTEGER NOT NULL, sample_key TEXT NOT NULL UNIQUE, sample_index INTEGER NOT NULL,
    byte_offset INTEGER, byte_size INTEGER);
CREATE TABLE sample_parts (
    tar_file_id INTEGER, sample_index INTEGER, part_name TEXT,
    content_byte_offset INTEGER, content_byte_size INTEGER);
"""
_INDEXES = """
CREATE INDEX idx_samples_by_tar_and_idx ON samples(tar_file_id, sample_index);
CREATE INDEX idx_sample_parts_seq
    ON sample_parts(tar_file_id, sample_index, content_byte_offset);
CREATE INDEX idx_sample_parts_full ON sample_parts(
    tar_file_id, sample_index, part_name, content_byte_offset, content_byte_size);
"""


def export_energon(
    root: Path | str,
    splits: Sequence[DatasetInfo],
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> ExportReport:
    """Lay `splits` out below `out` as Energon's datasets.

    Tars are hard links where `out` is on the shards' file system, else symbolic ones.

    Args:
        root: the shards' root folder.
        splits: what to export.
        out: the folder to make.
        overwrite: replace an older export.
        progress: told how many shards are done.

    Raises:
        UsageError: `out` holds something else, or an export and `overwrite` is false; or the shards
            lie behind a URL.
        CorruptSampleError: a sidecar is missing or cannot be read.
    """
    url = url_of(root)
    if url is not None:
        raise UsageError(
            f"{url}: links to tars in a folder are made, these lie behind a URL",
            hint="copy the shards here and give that folder: docs/remote.md shows how",
        )
    total = sum(len(info.shards) for info in splits)
    done = 0
    exported: list[ExportedSplit] = []
    links: set[str] = set()
    with export_folder(out, overwrite=overwrite) as folder:
        for dataset, group in groupby(splits, key=lambda info: info.dataset):
            infos = list(group)
            meta = folder / dataset / ".nv-meta"
            meta.mkdir(parents=True)
            counts: dict[str, int] = {}
            parts: dict[str, list[str]] = {}
            with sqlite3.connect(meta / "index.sqlite") as index:
                index.executescript(_TABLES)
                for info in infos:
                    (folder / dataset / info.split).mkdir()
                    parts[info.split] = []
                    for number, shard in enumerate(info.shards):
                        # Energon takes a shard without a sample for a damaged one.
                        if shard.samples:
                            name = f"{info.split}/{shard_stem(dataset, info.split, number)}.tar"
                            source = tar_path(root, dataset, info.split, number)
                            links.add(_link(source, folder / dataset / name))
                            rows = read_rows(
                                sidecar_path(root, dataset, info.split, number), _COLUMNS
                            ).to_pylist()
                            _write_offsets(folder / dataset / name, rows)
                            _index(index, len(counts), rows)
                            counts[name] = shard.samples
                            parts[info.split].append(name)
                        done += 1
                        progress(done, total)
                    exported.append(_exported(info))
                index.executescript(_INDEXES)
            index.close()
            _write_meta(meta, infos, counts, parts)
        report = ExportReport(
            format="energon",
            out=out,
            settings={"links": sorted(links)},
            splits=tuple(exported),
        )
        write_report(folder, report)
    return report


def _exported(info: DatasetInfo) -> ExportedSplit:
    return ExportedSplit(
        dataset=info.dataset,
        split=info.split,
        merkle_root=info.merkle_root,
        file=info.dataset,
        samples=info.samples,
        records=info.samples,
        left_out={},
    )


def _link(source: Path, target: Path) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        target.symlink_to(source.resolve())
        return "symbolic"
    return "hard"


def _write_offsets(tar: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write where each sample starts and where the last one ends, eight bytes each."""
    spans = list(_spans(rows))
    offsets = [*(start for start, _ in spans), sum(spans[-1])]
    tar.with_suffix(".tar.idx").write_bytes(struct.pack(f"<{len(offsets)}Q", *offsets))


def _index(index: sqlite3.Connection, tar: int, rows: Sequence[dict[str, Any]]) -> None:
    index.executemany(
        "INSERT INTO samples VALUES (?, ?, ?, ?, ?)",
        [
            (tar, row["key"], i, *span)
            for i, (row, span) in enumerate(zip(rows, _spans(rows), strict=True))
        ],
    )
    index.executemany(
        "INSERT INTO sample_parts VALUES (?, ?, ?, ?, ?)",
        [
            (tar, i, part, row[f"{kind}_offset"], row[f"{kind}_length"])
            for i, row in enumerate(rows)
            for part, kind in ((row["extension"], "image"), ("json", "json"))
        ],
    )


def _spans(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """Yield a sample's first byte, its first header's, and how many bytes it takes."""
    for row in rows:
        start = row["image_offset"] - BLOCK_BYTES
        yield start, row["json_offset"] + padded(row["json_length"]) - start


def _write_meta(
    meta: Path,
    infos: Sequence[DatasetInfo],
    counts: dict[str, int],
    parts: dict[str, list[str]],
) -> None:
    (meta / ".info.json").write_bytes(msgspec.json.encode({"shard_counts": counts}))
    (meta / "dataset.yaml").write_text(_DATASET_YAML, encoding="utf-8")
    lines = ["split_parts:"]
    for split, names in parts.items():
        lines.append(f"  {split}:" if names else f"  {split}: []")
        lines += [f"    - {name}" for name in names]
    lines.append("exclude: []")
    (meta / "split.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    # Energon's caches are named by it: the same content, the same name.
    content = " ".join(f"{info.dataset}@{info.split} {info.merkle_root}" for info in infos)
    name = str(uuid.uuid5(uuid.NAMESPACE_OID, content))
    (meta / "index.uuid").write_text(name, encoding="utf-8")
