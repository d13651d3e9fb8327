import errno
import shutil
from pathlib import Path

import duckdb
import pytest

from roikit.errors import CorruptSampleError, UsageError
from shards import manifest
from shards.commit import RunInfo, SourceFile, commit_dataset
from shards.read import open_split


def counts(root):
    return {
        table: manifest.query(root, f"SELECT count(*) FROM {table}")[1][0][0]
        for table in manifest.TABLES
    }


def test_the_tables_hold_what_the_shards_hold(tmp_path, make_split):
    make_split(tmp_path, "made", shard_sizes=(4, 3))
    make_split(tmp_path, "other", shard_sizes=(2,), first_number=5)
    commit_dataset(
        tmp_path,
        "made",
        "train",
        num_shards=2,
        plan_hash="plan-1",
        settings={"seed": 3},
        source_files=[SourceFile(path="a.json", bytes=7)],
        run=RunInfo(roikit="0", started="2026-01-01T00:00:00Z", seconds=1.5, workers=2),
    )
    manifest.rebuild(tmp_path)
    assert counts(tmp_path) == {
        "datasets": 2,
        "shards": 3,
        "samples": 9,
        "images": 7,  # two pictures stand in both
        "regions": 9,
        "conversations": 27,
        "rejections": 3,
        "source_files": 1,
        "runs": 1,
    }
    ask = manifest.query
    assert ask(tmp_path, "SELECT settings->>'seed' FROM datasets WHERE dataset = 'made'")[1] == [
        ("3",)
    ]
    sql = "SELECT shard, number, x1 FROM samples JOIN regions USING (key) ORDER BY key LIMIT 1"
    assert ask(tmp_path, sql) == (["shard", "number", "x1"], [("made-train-000000", 1, 8.5)])
    sql = "SELECT id, turns[1].text FROM conversations WHERE number = 2 ORDER BY key LIMIT 1"
    assert ask(tmp_path, sql)[1] == [("0/1", "What is <region1>?")]
    sql = "SELECT splits FROM images WHERE list_contains(native_ids, 'native:5')"
    assert ask(tmp_path, sql)[1] == [(["made/train", "other/train"],)]
    sql = "SELECT DISTINCT code, source_file, native_id FROM rejections"
    assert ask(tmp_path, sql)[1] == [("E_BOX_OUTSIDE", "a.json", "native:999")]


def test_an_update_gives_the_same_as_a_rebuild(tmp_path, make_split):
    make_split(tmp_path, "made")
    manifest.update(tmp_path, "made", "train")
    make_split(tmp_path, "other", first_number=50)
    manifest.update(tmp_path, "other", "train")
    manifest.update(tmp_path, "other", "train")
    updated = counts(tmp_path)
    manifest.rebuild(tmp_path)
    assert counts(tmp_path) == updated
    shutil.rmtree(tmp_path / "made")
    manifest.update(tmp_path, "other", "train")
    assert manifest.query(tmp_path, "SELECT DISTINCT dataset FROM samples")[1] == [("other",)]


def test_a_manifest_that_does_not_match_the_shards_is_refused(tmp_path, make_split):
    make_split(tmp_path)
    with pytest.raises(UsageError, match="no manifest") as caught:
        manifest.connect(tmp_path)
    assert "manifest rebuild" in str(caught.value.hint)
    manifest.rebuild(tmp_path)
    make_split(tmp_path, "other")
    with pytest.raises(UsageError, match="out of date for `other@train`"):
        manifest.connect(tmp_path)
    manifest.manifest_path(tmp_path).write_bytes(b"nonsense")
    with pytest.raises(UsageError, match="cannot read this manifest"):
        manifest.connect(tmp_path)
    manifest.rebuild(tmp_path)
    assert counts(tmp_path)["datasets"] == 2


def test_terms_stand_beside_their_dataset(tmp_path, make_split):
    make_split(tmp_path, "made", shard_sizes=(1,))
    make_split(tmp_path, "other", shard_sizes=(1,))
    commit_dataset(
        tmp_path,
        "made",
        "train",
        num_shards=1,
        plan_hash="plan-1",
        settings={},
        licence="annotations: CC BY 4.0; pictures: the same",
        registration="a form",
    )
    manifest.rebuild(tmp_path)
    sql = "SELECT dataset, licence, registration FROM datasets ORDER BY dataset"
    assert manifest.query(tmp_path, sql)[1] == [
        ("made", "annotations: CC BY 4.0; pictures: the same", "a form"),
        ("other", None, None),
    ]


def test_a_manifest_of_an_older_version_is_made_anew_by_the_next_update(tmp_path, make_split):
    make_split(tmp_path, "made")
    make_split(tmp_path, "other")
    path = manifest.rebuild(tmp_path)
    before = counts(tmp_path)
    with duckdb.connect(str(path)) as connection:
        connection.execute("ALTER TABLE datasets DROP COLUMN licence")
    with pytest.raises(UsageError, match=r"another version.*columns") as caught:
        manifest.connect(tmp_path)
    assert "manifest rebuild" in (caught.value.hint or "")
    manifest.update(tmp_path, "made", "train")
    assert counts(tmp_path) == before


def test_readers_keep_what_they_opened_and_cannot_write(tmp_path, make_split):
    make_split(tmp_path)
    manifest.rebuild(tmp_path)
    with manifest.connect(tmp_path) as reader:
        make_split(tmp_path, "other")
        manifest.update(tmp_path, "other", "train")
        assert reader.execute("SELECT count(*) FROM datasets").fetchall() == [(1,)]
        with pytest.raises(duckdb.Error, match="read-only"):
            reader.execute("DELETE FROM datasets")
    assert counts(tmp_path)["datasets"] == 2
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {"manifest.duckdb", ".manifest.duckdb.lock"}


def test_a_wrong_statement_names_the_tables(tmp_path, make_split):
    make_split(tmp_path)
    manifest.rebuild(tmp_path)
    with pytest.raises(UsageError, match="nowhere") as caught:
        manifest.query(tmp_path, "SELECT * FROM nowhere")
    assert "conversations" in str(caught.value.hint)


def test_a_rebuild_makes_lost_indexes_again(tmp_path, make_split):
    make_split(tmp_path)
    path = tmp_path / "made" / "train" / "samples.arrow"
    before = path.read_bytes()
    path.unlink()
    manifest.rebuild(tmp_path)
    assert path.read_bytes() == before
    assert len(open_split(tmp_path, "made", "train")) == 7


def test_a_rebuild_says_how_a_lost_sidecar_is_made_again(tmp_path, make_split):
    make_split(tmp_path)
    next((tmp_path / "made" / "train").glob("*.parquet")).unlink()
    with pytest.raises(CorruptSampleError, match="cannot read this sidecar") as error:
        manifest.rebuild(tmp_path)
    assert "`roikit convert` again that made `made@train`" in error.value.hint


def test_a_manifest_that_may_not_be_read_is_not_called_damaged(tmp_path, make_split, monkeypatch):
    make_split(tmp_path)
    path = manifest.rebuild(tmp_path)

    really_open = Path.open

    def refuse(opened, *args, **options):
        if opened == path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return really_open(opened, *args, **options)

    with monkeypatch.context() as patched, pytest.raises(UsageError) as error:
        patched.setattr(Path, "open", refuse)
        manifest.connect(tmp_path)
    assert str(error.value) == f"{path}: this manifest cannot be opened: Permission denied"
    assert "permissions" in error.value.hint
    path.write_bytes(b"no database")
    with pytest.raises(UsageError, match="cannot read this manifest") as error:
        manifest.connect(tmp_path)
    assert "manifest rebuild" in error.value.hint


def test_an_empty_folder_is_refused(tmp_path):
    for function in (manifest.rebuild, manifest.connect):
        with pytest.raises(UsageError, match="no committed dataset"):
            function(tmp_path)
