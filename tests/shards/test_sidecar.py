import json

import msgspec
import pyarrow.parquet as pq
import pytest

from roikit.errors import CorruptSampleError
from roikit.sample import Rejection, Source
from shards.sidecar import is_done, read_info, read_rejections, read_rows, write_sidecar
from shards.writer import write_shard


@pytest.fixture
def shard(tmp_path, make_sample):
    tar = tmp_path / "made-train-000000.tar"
    rows = write_shard(tar, [make_sample("made", "train", number) for number in range(3)])
    rejections = [
        Rejection(code=code, message="no", source=Source(file="a.json", record=str(i)))
        for i, code in enumerate(["E_BOX_OUTSIDE", "E_IMAGE_MISSING", "E_BOX_OUTSIDE"])
    ]
    keywords = {"dataset": "made", "split": "train", "plan_hash": "p", "rejections": rejections}
    write_sidecar(tar, rows, **keywords)
    return tar, rows, rejections, keywords


def test_a_sidecar_says_everything_of_its_shard(shard):
    tar, rows, rejections, _ = shard
    sidecar = tar.with_suffix(".parquet")
    info = read_info(sidecar)
    assert (info.samples, info.regions, info.conversations, info.exchanges) == (3, 3, 9, 6)
    assert info.tasks == {"caption": 6, "choice": 3}
    assert info.rejections == {"E_BOX_OUTSIDE": 2, "E_IMAGE_MISSING": 1}
    assert info.tar_bytes == tar.stat().st_size
    assert read_rejections(sidecar) == rejections
    first = read_rows(sidecar).to_pylist()[0]
    assert first["key"] == "made-train-000000000"
    assert first["image_sha256"] == rows[0].sample.image.sha256
    assert first["regions"][0]["x1"] == 8.5
    talk, choice = first["conversations"][0], first["conversations"][2]
    assert talk["turns"][0]["text"] == "What is <region1>?"
    # "What is region1?" and "thing 0 <region9>", as a person reads them
    assert (talk["num_exchanges"], talk["words"], talk["answer_words"]) == (1, 6, 3)
    assert (choice["options"], choice["answer"], choice["step"]) == (["a", "b"], 0, "answer")


def test_any_parquet_reader_finds_the_plan_and_the_rejections(shard):
    metadata = pq.read_metadata(shard[0].with_suffix(".parquet")).metadata
    assert json.loads(metadata[b"roikit"])["plan_hash"] == "p"
    assert len(json.loads(metadata[b"roikit.rejections"])) == 3


def test_writing_a_sidecar_twice_gives_the_same_bytes(shard):
    tar, rows, _, keywords = shard
    before = tar.with_suffix(".parquet").read_bytes()
    write_sidecar(tar, rows, **keywords)
    assert tar.with_suffix(".parquet").read_bytes() == before


def test_a_task_is_done_only_with_its_plan_and_a_whole_tar(shard):
    tar = shard[0]
    sidecar = tar.with_suffix(".parquet")
    assert is_done(tar, sidecar, "p")
    assert not is_done(tar, sidecar, "another plan")
    content = tar.read_bytes()
    tar.write_bytes(content[:-512])
    assert not is_done(tar, sidecar, "p")
    tar.write_bytes(b"x" + content[1:])  # another member's name
    assert not is_done(tar, sidecar, "p")
    tar.write_bytes(content)
    assert is_done(tar, sidecar, "p")
    sidecar.write_bytes(sidecar.read_bytes()[:-100])
    assert not is_done(tar, sidecar, "p")
    tar.unlink()
    assert not is_done(tar, sidecar, "p")


def test_a_file_that_is_no_sidecar_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    with pytest.raises(CorruptSampleError, match=r"a\.parquet"):
        read_info(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(CorruptSampleError, match=r"a\.parquet"):
        read_rows(path)


def test_nested_columns_follow_the_samples_where_lists_are_empty_or_fields_missing(
    tmp_path, make_sample
):
    tar = tmp_path / "made-train-000000.tar"
    entries = [make_sample("made", "train", number) for number in range(4)]
    bare = msgspec.structs.replace(entries[1][0], regions=(), conversations=())
    marked = msgspec.structs.replace(
        entries[2][0].regions[0], label=None, score=0.5, point_xy=(1.0, 2.0), native_id=None
    )
    two = msgspec.structs.replace(entries[2][0], regions=(marked, *entries[2][0].regions))
    entries[1] = (bare, *entries[1][1:])
    entries[2] = (two, *entries[2][1:])
    rows = write_shard(tar, entries)
    write_sidecar(tar, rows, dataset="made", split="train", plan_hash="p")
    read = read_rows(tar.with_suffix(".parquet")).to_pylist()
    assert [row["key"] for row in read] == [sample.key for sample, _, _ in entries]
    for row, (sample, _, _) in zip(read, entries, strict=True):
        assert len(row["regions"]) == len(sample.regions)
        for found, region in zip(row["regions"], sample.regions, strict=True):
            assert tuple(found[side] for side in ("x0", "y0", "x1", "y1")) == region.box_xyxy
            assert found["label"] == region.label and found["score"] == region.score
            assert found["has_point"] == (region.point_xy is not None) and not found["has_mask"]
        for found, said in zip(row["conversations"], sample.conversations, strict=True):
            assert found["turns"] == [msgspec.structs.asdict(turn) for turn in said.turns]
            assert found["options"] == (list(said.choice.options) if said.choice else None)
            assert (found["question_id"] is None) == (said.choice is None)
