import shutil

import pyarrow.ipc
import pytest

from roikit.errors import UsageError
from shards.sidecar import read_rows
from shards.verify import verify


@pytest.fixture
def folder(tmp_path, make_split):
    make_split(tmp_path)
    return tmp_path / "made" / "train"


def problems(root):
    return [str(problem) for problem in verify(root, workers=1).problems]


def test_a_good_dataset_has_no_problems(tmp_path, folder):
    seen = []
    report = verify(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert report.is_good
    assert (report.splits, report.shards, report.samples) == (1, 2, 7)
    assert report.tar_bytes == sum(path.stat().st_size for path in folder.glob("*.tar"))
    assert seen == [(1, 2), (2, 2)]


def test_a_changed_byte_anywhere_in_a_shard_is_found(tmp_path, folder):
    tar = folder / "made-train-000000.tar"
    whole = tar.read_bytes()
    member = "made-train-000000001"
    header = whole.index(f"{member}.jpg".encode())
    for offset, expected in [
        (header + 600, f"member `{member}.jpg`: its bytes have changed"),
        (header + 100, f"member `{member}.jpg`: its header is not the one"),
        (whole.index(b"thing 1 "), f"member `{member}.json`: its bytes have changed"),
        (whole.index(f"{member}.json".encode()) - 1, f"`{member}.jpg`: its padding is not empty"),
        (len(whole) - 1, "holds more than the sidecar lists"),
    ]:
        damaged = bytearray(whole)
        damaged[offset] ^= 1
        tar.write_bytes(damaged)
        (found,) = [line for line in problems(tmp_path) if "no picture" not in line][:1]
        assert found.startswith(f"{tar}: ")
        assert expected in found
    tar.write_bytes(whole)
    assert problems(tmp_path) == []


def test_truncated_missing_and_swapped_shards_are_found(tmp_path, folder):
    first, second = folder / "made-train-000000.tar", folder / "made-train-000001.tar"
    whole = first.read_bytes()
    rows = read_rows(first.with_suffix(".parquet"), ("key", "image_offset")).to_pylist()
    cut = rows[1]["image_offset"] + 10
    first.write_bytes(whole[:cut])
    assert problems(tmp_path) == [
        f"{first}: expected {len(whole)} bytes, found {cut}",
        f"{first}: ends before sample `{rows[1]['key']}` does: 3 of 4 samples are lost",
    ]
    first.write_bytes(whole[:-512])  # of the archive's end alone
    assert problems(tmp_path) == [f"{first}: expected {len(whole)} bytes, found {len(whole) - 512}"]
    first.unlink()
    assert any(line.startswith(f"{first}: cannot read") for line in problems(tmp_path))
    shutil.copy(second, first)
    assert any(line.startswith(f"{first}: ") for line in problems(tmp_path))


def test_missing_or_foreign_sidecars_are_found(tmp_path, folder):
    sidecar, other = folder / "made-train-000000.parquet", folder / "made-train-000001.parquet"
    shutil.copy(other, sidecar)
    assert f"{sidecar}: is not the one that was committed" in problems(tmp_path)
    sidecar.unlink()
    found = problems(tmp_path)
    assert any(line.startswith(f"{sidecar}: cannot read this sidecar") for line in found)


def test_files_that_do_not_belong_are_found(tmp_path, folder):
    (folder / "made-train-000009.tar").write_bytes(b"")
    (folder / ".made-train-000001.tar.tmp-1").write_bytes(b"")
    unfinished = tmp_path / "made" / "val"
    unfinished.mkdir()
    (unfinished / "made-val-000000.tar").write_bytes(b"")
    found = problems(tmp_path)
    assert any("does not list this file" in line for line in found)
    assert any("left by an interrupted run" in line for line in found)
    assert any(line.startswith(f"{unfinished}: holds shards and no") for line in found)
    assert len(found) == 3


def test_a_changed_commit_is_found(tmp_path, folder):
    commit = folder / "dataset.json"
    text = commit.read_text()
    commit.write_text(text.replace('"samples": 7', '"samples": 8', 1))
    assert any("samples: 8 is not the shards' sum" in line for line in problems(tmp_path))
    root = text.split('"merkle_root": "')[1][:64]
    commit.write_text(text.replace(root, "0" * 64, 1))
    assert any("merkle_root is not that of the shards" in line for line in problems(tmp_path))


def test_an_index_that_says_something_else_is_found(tmp_path, folder):
    path = folder / "conversations.arrow"
    batch = pyarrow.ipc.open_file(str(path)).get_batch(0)
    swapped = batch.take(pyarrow.array([1, 0, *range(2, batch.num_rows)]))
    with pyarrow.ipc.new_file(str(path), batch.schema) as writer:
        writer.write_batch(swapped)
    found = problems(tmp_path)
    assert found == [
        f"{path}: `conversation_ordinal` differs from the sidecars; "
        "`roikit manifest rebuild` makes it again"
    ]


def test_only_what_was_asked_for_is_checked(tmp_path, folder, make_split):
    make_split(tmp_path, "other")
    (folder / "made-train-000000.tar").unlink()
    assert verify(tmp_path, "other").is_good
    assert not verify(tmp_path, split="train").is_good
    with pytest.raises(UsageError, match="no committed split of `third`"):
        verify(tmp_path, "third")
    with pytest.raises(UsageError, match="no such dataset and split"):
        verify(tmp_path, "made", "val")
    with pytest.raises(UsageError, match="no committed dataset"):
        verify(tmp_path / "nowhere")
