import hashlib
import os
import signal
import tarfile

import pytest
import webdataset

from roikit.errors import ValidationError
from roikit.sample import decode_sample, encode_sample
from shards.atomic import leftovers
from shards.writer import member_header, write_shard


def entries(make_sample, num_samples=5):
    return [make_sample("made", "train", number) for number in range(num_samples)]


def test_a_shard_is_plain_ustar_with_nobody_s_name_or_time_in_it(tmp_path, make_sample):
    path = tmp_path / "made-train-000000.tar"
    made = entries(make_sample)
    rows = write_shard(path, made)
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        for info in members:
            assert (info.mtime, info.uid, info.gid, info.uname, info.gname) == (0, 0, 0, "", "")
            assert (info.type, info.mode, info.pax_headers) == (tarfile.REGTYPE, 0o644, {})
        names = [name for row in rows for name in (row.image_name, row.json_name)]
        assert [info.name for info in members] == names
        offsets = [offset for row in rows for offset in (row.image_offset, row.json_offset)]
        assert [info.offset_data for info in members] == offsets
    content = path.read_bytes()
    assert content[257:265] == b"ustar\x0000"
    assert len(content) % tarfile.RECORDSIZE == 0
    for row, (sample, image_bytes, _) in zip(rows, made, strict=True):
        assert content[row.image_offset :][: row.image_length] == image_bytes
        json_bytes = content[row.json_offset :][: row.json_length]
        assert decode_sample(json_bytes) == sample
        assert row.json_sha256 == hashlib.sha256(json_bytes).hexdigest()


def test_a_plain_webdataset_reads_the_same_keys_and_bytes(tmp_path, make_split, make_sample):
    make_split(tmp_path, shard_sizes=(4, 3))
    pattern = str(tmp_path / "made" / "train" / "made-train-{000000..000001}.tar")
    read = list(webdataset.WebDataset(pattern, shardshuffle=False))
    made = entries(make_sample, 7)
    assert [item["__key__"] for item in read] == [sample.key for sample, _, _ in made]
    for item, (sample, image_bytes, extension) in zip(read, made, strict=True):
        fields = {name for name in item if not name.startswith("__")}
        assert fields == {extension, "json"}
        assert item[extension] == image_bytes
        assert item["json"] == encode_sample(sample)


def test_a_writer_killed_in_the_middle_leaves_no_shard_and_a_rerun_gives_the_same_bytes(
    tmp_path, make_sample
):
    made = entries(make_sample)
    whole, path = tmp_path / "whole.tar", tmp_path / "made-train-000000.tar"
    write_shard(whole, made)

    def dying():
        for i, entry in enumerate(made):
            if i == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            yield entry

    child = os.fork()
    if child == 0:
        write_shard(path, dying())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert not path.exists()
    assert len(leftovers(tmp_path)) == 1
    write_shard(path, made)
    assert path.read_bytes() == whole.read_bytes()


def test_an_empty_shard_is_a_valid_tar(tmp_path):
    path = tmp_path / "made-train-000000.tar"
    assert write_shard(path, []) == []
    with tarfile.open(path) as tar:
        assert tar.getnames() == []


def test_keys_that_do_not_ascend_and_impossible_extensions_are_refused(tmp_path, make_sample):
    first, second = entries(make_sample, 2)
    path = tmp_path / "a.tar"
    with pytest.raises(ValidationError, match="expected one after"):
        write_shard(path, [second, first])
    with pytest.raises(ValidationError, match="no picture's extension"):
        write_shard(path, [(first[0], first[1], "json")])
    with pytest.raises(ValidationError, match="no picture's extension"):
        write_shard(path, [(first[0], first[1], "seg.png")])
    assert not path.exists()


@pytest.mark.parametrize("length", [0, 1, 511, 512, 123_456_789, 8**11 - 1])
@pytest.mark.parametrize(
    "name", ["a", "refcoco+-train-000000042.json", "x" * 100, "x" * 80 + "/" + "y" * 60, "ü.jpg"]
)
def test_a_header_is_the_one_that_tarfile_writes(name, length):
    info = tarfile.TarInfo(name)
    info.size = length
    assert member_header(name, length) == info.tobuf(tarfile.USTAR_FORMAT)


def test_a_member_too_large_for_ustar_is_refused():
    with pytest.raises(ValueError, match="overflow"):
        member_header("a.jpg", 8**11)


def test_a_shard_written_in_many_pieces_reads_back_whole(tmp_path, make_sample):
    path = tmp_path / "made-train-000000.tar"
    made = []
    for number, num_bytes in enumerate((3_000_000, 10, 700_000, 700_000, 1)):
        sample, _, _ = make_sample("made", "train", number)
        data = bytes([number]) * num_bytes
        made.append((sample, data, "jpg"))
    rows = write_shard(path, made)
    with tarfile.open(path) as tar:
        pictures = [tar.extractfile(m).read() for m in tar if m.name.endswith(".jpg")]
        assert pictures == [data for _, data, _ in made]
        assert [m.offset_data for m in tar if m.name.endswith(".json")] == [
            row.json_offset for row in rows
        ]
    assert path.stat().st_size % tarfile.RECORDSIZE == 0
