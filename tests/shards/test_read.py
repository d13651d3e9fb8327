import tarfile

import pytest

from roikit.errors import CorruptSampleError, UsageError
from shards import read
from shards.read import ShardReader, iter_samples, open_split, read_sample


def test_samples_come_back_as_they_were_written(tmp_path, make_split, make_sample):
    make_split(tmp_path, shard_sizes=(4, 3), first_number=5)
    made = [make_sample("made", "train", number) for number in range(5, 12)]
    assert list(iter_samples(tmp_path, "made", "train")) == [entry[:2] for entry in made]
    assert len(list(iter_samples(tmp_path, "made", "train", limit=2))) == 2
    assert read_sample(tmp_path, "made-train-000000009") == made[4][:2]


def test_samples_are_chosen_by_task(tmp_path, make_split):
    make_split(tmp_path, num_conversations=0)
    assert len(list(iter_samples(tmp_path, "made", "train", tasks=["choice"]))) == 7
    assert list(iter_samples(tmp_path, "made", "train", tasks=["caption"])) == []


@pytest.mark.parametrize("key", ["made-train-000000099", "made-val-000000001", "nonsense"])
def test_a_key_that_is_not_there_says_what_keys_look_like(tmp_path, make_split, key):
    make_split(tmp_path)
    with pytest.raises(UsageError) as caught:
        read_sample(tmp_path, key)
    assert "made-train-" in f"{caught.value} {caught.value.hint}" or "vcr-train-" in str(
        caught.value
    )


def damage(tar, offset, data):
    content = bytearray(tar.read_bytes())
    content[offset : offset + len(data)] = data
    tar.write_bytes(content)


def test_damage_anywhere_in_a_sample_is_an_error_that_names_shard_and_member(tmp_path, make_split):
    make_split(tmp_path)
    index = open_split(tmp_path, "made", "train")
    tar = index.tar_path(1)
    whole = tar.read_bytes()
    start = int(index.image_offset[1])
    for offset, message in [
        (start + 5, "made-train-000000.tar: member `made-train-000000001.jpg`"),
        (start - 512, "made-train-000000.tar: expected the picture of `made-train-000000001`"),
        (whole.index(b"thing 1"), "made-train-000000.tar: member `made-train-000000001.json`"),
    ]:
        damage(tar, offset, b"?")
        with pytest.raises(CorruptSampleError, match=message):
            ShardReader().read(index, 1)
        tar.write_bytes(whole)
    tar.write_bytes(whole[: start + 10])
    with pytest.raises(CorruptSampleError, match="the shard ends before it"):
        ShardReader().read(index, 1)
    tar.unlink()
    with pytest.raises(CorruptSampleError, match=r"made-train-000000\.tar: .*cannot read"):
        ShardReader().read(index, 1)


def test_more_shards_than_may_be_open_are_read_all_the_same(tmp_path, make_split, monkeypatch):
    monkeypatch.setattr(read, "_MAX_OPEN", 2)
    make_split(tmp_path, shard_sizes=(1, 1, 1, 1, 1))
    index = open_split(tmp_path, "made", "train")
    reader = ShardReader()
    for row in [0, 1, 2, 3, 4, 0, 2]:
        assert reader.read(index, row)[0].key == f"made-train-00000000{row}"
        assert len(reader._open) <= 2


def test_a_header_that_another_writer_of_tars_made_is_read(tmp_path, make_split):
    make_split(tmp_path)
    tar = tmp_path / "made" / "train" / "made-train-000000.tar"
    expected = list(iter_samples(tmp_path, "made", "train"))
    content = tar.read_bytes()
    info = tarfile.TarInfo.frombuf(content[:512], "utf-8", "strict")
    info.mtime, info.uname = 1_700_000_000, "someone"
    damage(tar, 0, info.tobuf(tarfile.USTAR_FORMAT))
    assert tar.read_bytes() != content
    assert list(iter_samples(tmp_path, "made", "train")) == expected
