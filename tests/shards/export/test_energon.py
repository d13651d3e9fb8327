import json
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roikit.errors import UsageError
from shards.commit import DatasetInfo
from shards.export.energon import export_energon
from shards.read import iter_samples
from shards.remote import local_side
from shards.selection import named_splits


@pytest.fixture
def exported(tmp_path: Path, make_split: Callable[..., DatasetInfo]) -> Path:
    root = tmp_path / "shards"
    make_split(root, split="train", shard_sizes=(4, 3))
    make_split(root, split="val", shard_sizes=(2,))
    export_energon(root, named_splits(root), tmp_path / "out")
    return tmp_path / "out" / "made"


def test_shards_behind_a_url_are_not_linked(
    tmp_path: Path, make_split: Callable[..., DatasetInfo]
) -> None:
    root = local_side("memory://energon", tmp_path)
    make_split(root)
    with pytest.raises(UsageError, match="memory://energon: links to tars in a folder"):
        export_energon(root, named_splits(root), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_offsets_lead_to_every_sample(exported: Path) -> None:
    tar = exported / "train/made-train-000000.tar"
    data = tar.read_bytes()
    index = tar.with_suffix(".tar.idx").read_bytes()
    offsets = struct.unpack(f"<{len(index) // 8}Q", index)
    names = [data[offset : offset + 100].rstrip(b"\0") for offset in offsets[:-1]]
    # make_split makes every third picture a PNG
    extensions = ("jpg", "jpg", "png", "jpg")
    assert names == [f"made-train-{i:09d}.{e}".encode() for i, e in enumerate(extensions)]
    assert not data[offsets[-1] :].strip(b"\0")


def test_the_database_finds_each_part(exported: Path) -> None:
    sql = """
    SELECT s.sample_key, p.part_name, p.content_byte_offset, p.content_byte_size, s.tar_file_id
    FROM sample_parts p JOIN samples s USING (tar_file_id, sample_index)
    """
    with sqlite3.connect(exported / ".nv-meta/index.sqlite") as index:
        rows = index.execute(sql).fetchall()
    tars = list(json.loads((exported / ".nv-meta/.info.json").read_text())["shard_counts"])
    assert len(rows) == 2 * 9
    for key, part, offset, length, tar in rows:
        data = (exported / tars[tar]).read_bytes()[offset : offset + length]
        assert data[:1] == {"json": b"{", "jpg": b"\xff", "png": b"\x89"}[part]
        assert part != "json" or json.loads(data)["key"] == key


def test_the_shards_are_linked_not_copied(exported: Path, tmp_path: Path) -> None:
    tar = "train/made-train-000000.tar"
    assert (exported / tar).samefile(tmp_path / "shards/made" / tar)


def test_the_same_shards_give_the_same_files(exported: Path, tmp_path: Path) -> None:
    files = {
        path.relative_to(exported): path.read_bytes()
        for path in exported.rglob("*")
        if path.is_file() and path.suffix != ".sqlite"
    }
    root = tmp_path / "shards"
    with pytest.raises(UsageError, match="holds an export"):
        export_energon(root, named_splits(root), tmp_path / "out")
    export_energon(root, named_splits(root), tmp_path / "out", overwrite=True)
    assert files == {name: (exported / name).read_bytes() for name in files}
    assert len(list(iter_samples(root, "made", "train"))) == 7


def test_energon_itself_finds_the_same(exported: Path) -> None:
    """What `energon prepare` makes of the same tars."""
    pytest.importorskip("megatron.energon")
    from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator

    def rows() -> list[list[tuple[object, ...]]]:
        with sqlite3.connect(exported / ".nv-meta/index.sqlite") as index:
            tables = ("samples", "sample_parts")
            return [index.execute(f"SELECT * FROM {t} ORDER BY 1, 2, 3").fetchall() for t in tables]

    info = json.loads((exported / ".nv-meta/.info.json").read_text())
    tars = list(info["shard_counts"])
    ours = rows(), [(exported / f"{tar}.idx").read_bytes() for tar in tars]
    WebdatasetPreparator.prepare_dataset(
        exported,
        tars,
        split_parts_patterns=[("train", "train/.*"), ("val", "val/.*")],
        workers=1,
    )
    theirs = rows(), [(exported / f"{tar}.idx").read_bytes() for tar in tars]
    assert ours == theirs
    made = json.loads((exported / ".nv-meta/.info.json").read_text())
    assert made["shard_counts"] == info["shard_counts"]


@pytest.mark.slow
def test_energons_loader_reads_every_sample(exported: Path, tmp_path: Path) -> None:
    energon = pytest.importorskip("megatron.energon")

    @energon.stateless
    def cook(sample: dict[str, Any]) -> Any:
        picture = next(value for name, value in sample.items() if name in ("jpg", "png"))
        record = sample["json"]
        record = record if isinstance(record, dict) else json.loads(record)
        text = f"{record['key']} {len(picture) > 0}"
        return energon.TextSample(**energon.basic_sample_keys(sample), text=text)

    class Encoder(energon.DefaultTaskEncoder):  # type: ignore[misc, name-defined]
        cookers = [energon.Cooker(cook)]  # noqa: RUF012
        decoder = None  # bytes as they lie in the tar

    for split, count in (("train", 7), ("val", 2)):
        dataset = energon.get_val_dataset(
            exported,
            split_part=split,
            worker_config=energon.WorkerConfig(rank=0, world_size=1, num_workers=0),
            batch_size=1,
            task_encoder=Encoder(),
        )
        found = {text for batch in energon.get_loader(dataset) for text in batch.text}
        samples = iter_samples(tmp_path / "shards", "made", split)
        assert found == {f"{sample.key} True" for sample, _ in samples}
        assert len(found) == count
