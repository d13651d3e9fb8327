import hashlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from roikit.errors import CorruptSampleError, UsageError
from shards.index import native_hashes, rows_where, short_hashes
from shards.mix import TRAINING_TASKS
from shards.read import iter_samples, open_split


def test_the_index_says_where_each_sample_and_conversation_is(tmp_path, make_split):
    make_split(tmp_path, shard_sizes=(2, 0, 1))
    index = open_split(tmp_path, "made", "train")
    samples = [sample for sample, _ in iter_samples(tmp_path, "made", "train")]
    assert index.shard.tolist() == [0, 0, 2]
    assert index.number.tolist() == [0, 1, 2]
    # 64-bit hashes must not lose bits on their way through the arrays
    assert index.image_hash.tolist() == [int(s.image.sha256[:16], 16) for s in samples]
    assert index.native_hash.tolist() == [
        int(hashlib.sha256(s.image.native_id.encode()).hexdigest()[:16], 16) for s in samples
    ]
    assert short_hashes(s.image.sha256 for s in samples).tolist() == index.image_hash.tolist()
    assert native_hashes(s.image.native_id for s in samples).tolist() == index.native_hash.tolist()
    assert len(short_hashes([])) == len(native_hashes([])) == 0
    assert index.conversation_sample.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert index.conversation_ordinal.tolist() == [0, 1, 2] * 3
    assert index.is_task(["choice"]).tolist() == [False, False, True] * 3


def test_the_index_is_mapped_and_small(tmp_path, make_split):
    make_split(tmp_path, shard_sizes=(40,))
    index = open_split(tmp_path, "made", "train")
    assert not index.image_hash.flags.owndata
    assert not index.image_hash.flags.writeable
    columns = [value for value in vars_of(index) if isinstance(value, np.ndarray)]
    assert sum(column.nbytes for column in columns) == 40 * 48 + 120 * 7


def vars_of(index):
    return [getattr(index, name) for name in index.__dataclass_fields__]


def test_an_index_of_other_shards_or_none_is_refused(tmp_path, make_split):
    make_split(tmp_path / "one")
    make_split(tmp_path / "two", first_number=50)
    one, two = (tmp_path / root / "made" / "train" / "samples.arrow" for root in ("one", "two"))
    one.write_bytes(two.read_bytes())
    with pytest.raises(UsageError, match="other shards") as caught:
        open_split(tmp_path / "one", "made", "train")
    assert "manifest rebuild" in str(caught.value.hint)
    one.write_bytes(b"nonsense")
    with pytest.raises(CorruptSampleError, match=r"samples\.arrow"):
        open_split(tmp_path / "one", "made", "train")
    one.unlink()
    with pytest.raises(UsageError, match="missing"):
        open_split(tmp_path / "one", "made", "train")


def test_any_arrow_reader_opens_it(tmp_path, make_split):
    info = make_split(tmp_path)
    path = tmp_path / "made" / "train" / "conversations.arrow"
    table = pa.ipc.open_file(str(path)).read_all()
    assert table.num_rows == info.conversations
    assert table.schema.metadata[b"merkle_root"].decode() == info.merkle_root


def test_pictures_are_found_among_many_hashes(tmp_path, make_split):
    make_split(tmp_path)
    index = open_split(tmp_path, "made", "train")
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 600_000, dtype=np.uint64)
    hashes[[0, 1]] = 0, 2**64 - 1
    # hits, misses with the same first bits as an entry, and numbers that lie outside all entries
    wanted = np.concatenate([hashes[::1000], hashes[5::3000] ^ np.uint64(1), hashes[:2]])
    many = replace(index, native_hash=hashes, image_hash=hashes[::-1])
    nothing = np.zeros(0, dtype=np.uint64)
    by_id, by_bytes = many.is_any_of(wanted, nothing), many.is_any_of(nothing, wanted)
    assert (by_id == np.isin(hashes, wanted)).all()
    assert (by_bytes == by_id[::-1]).all()
    assert (many.is_any_of(wanted, wanted) == by_id | by_bytes).all()
    assert not many.is_any_of(nothing, nothing).any()


def test_rows_of_a_mask_are_numpys():
    rng = np.random.default_rng(0)
    for length in (0, 1, 600_000):
        mask = rng.random(length) < 0.3
        rows = rows_where(mask)
        assert rows.dtype == np.uint32
        assert (rows == np.flatnonzero(mask)).all()


def test_each_choice_of_tasks_finds_what_it_names(tmp_path, make_split):
    make_split(tmp_path)
    index = open_split(tmp_path, "made", "train")
    names = np.array(index.tasks)[index.conversation_task]
    for tasks in (("choice",), TRAINING_TASKS, index.tasks, (), ("dialogue", "caption")):
        assert (index.is_task(tasks) == np.isin(names, tasks)).all()
