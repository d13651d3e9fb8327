"""Samples of shards behind URLs: the same as from a folder, read once, whatever happens."""

import contextlib
import errno
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from roikit import remote
from roikit.errors import CorruptSampleError, UsageError
from roikit.remote import RemoteError
from roikit.urls import keep_login
from shards import range_cache
from shards import remote as store
from shards.commit import DatasetInfo
from shards.layout import split_dir
from shards.range_cache import RangeCache
from shards.read import ShardReader, iter_samples, open_split, read_sample
from shards.stream import Stream
from tests.stores import SECRET, Bucket, web_server

MakeSplit = Callable[..., DatasetInfo]
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROIKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ROIKIT_CACHE_GB", raising=False)
    monkeypatch.setattr(remote, "_PAUSES_S", (0.0, 0.0))
    return tmp_path / "cache"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every range that the store was asked for."""
    ranges: list[tuple[str, int]] = []
    real = remote.read_range

    def read_range(url: str, name: str, start: int, length: int) -> bytes:
        ranges.append((name, start))
        return real(url, name, start, length)

    monkeypatch.setattr(remote, "read_range", read_range)
    return ranges


@contextlib.contextmanager
def stored(kind: str, folder: Path, request: Any) -> Iterator[str]:
    if kind == "web":
        with web_server(folder) as host:
            yield f"http://{host}"
    else:
        yield request.getfixturevalue(kind).put_tree(folder, "shards")


@pytest.mark.parametrize("kind", ["memory", "s3", "web"])
def test_samples_are_those_of_a_folder_and_a_second_epoch_asks_nothing(
    kind: str, tmp_path: Path, make_split: MakeSplit, asked: list[Any], request: Any
) -> None:
    folder = tmp_path / "folder"
    make_split(folder, shard_sizes=(4, 3))
    with stored(kind, folder, request) as url:
        root = store.local_side(url, tmp_path / "here")
        assert read_sample(root, "made-train-000000005") == read_sample(
            folder, "made-train-000000005"
        )
        assert len(asked) == 1
        there, here = Stream(folder, "made", prefetch=0), Stream(root, "made", prefetch=4)
        assert here.fingerprint == there.fingerprint
        length = there.epoch_length
        examples, expected = iter(here), iter(there)
        first = [next(examples) for _ in range(length)]
        assert first == [next(expected) for _ in range(length)]
        assert len({example.sample.key for example in first}) == 7
        # Two threads may ask for one sample at the same moment; every sample is asked for.
        assert len(set(asked)) == 7
        before = len(asked)
        for _ in range(length):
            assert next(examples) == next(expected)
        assert list(iter_samples(root, "made", "train")) == list(
            iter_samples(folder, "made", "train")
        )
        assert len(asked) == before
        examples.close()
    assert not list(root.rglob("*.tar"))
    assert len(list(root.rglob("*.parquet"))) == 2, "all else is here, too"


def test_a_local_side_that_was_half_fetched_is_fetched_again(
    tmp_path: Path, make_split: MakeSplit, memory: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_split(tmp_path / "folder")
    root = store.local_side(memory.put_tree(tmp_path / "folder", "shards"), tmp_path / "here")
    real = remote.fetch
    with monkeypatch.context() as patch:
        patch.setattr(remote, "fetch", lambda url, names, folder: real(url, names[:-1], folder))
        with pytest.raises(UsageError, match="its shards are unfinished"):
            open_split(root, "made", "train")
    assert len(open_split(root, "made", "train")) == 7


def test_what_is_not_there_is_said_with_what_is(
    tmp_path: Path, make_split: MakeSplit, memory: Bucket
) -> None:
    make_split(tmp_path / "folder")
    url = memory.put_tree(tmp_path / "folder", "shards")
    root = store.local_side(url, tmp_path / "here")
    with pytest.raises(UsageError, match=f"{url}/made/val: no such dataset and split") as caught:
        open_split(root, "made", "val")
    assert "`made@train`" in str(caught.value.hint)
    with pytest.raises(UsageError, match=f"{url}: no sample `made-val-000000000`") as caught:
        read_sample(root, "made-val-000000000")
    assert "`made-train-…`" in str(caught.value.hint)


def test_the_store_decides_which_commit_is_read(
    tmp_path: Path, make_split: MakeSplit, memory: Bucket
) -> None:
    make_split(tmp_path / "a", shard_sizes=(2,))
    make_split(tmp_path / "b", shard_sizes=(3,), first_number=4)
    root = store.local_side(memory.put_tree(tmp_path / "a", "shards"), tmp_path / "here")
    old = open_split(root, "made", "train")
    reader = ShardReader()
    reader.read(old, 0)
    memory.put_tree(tmp_path / "b", "shards")
    # What was read before is still that of the old index, the rest is refused and not taken for
    # damage; whoever opens the split again finds what is there now.
    assert reader.read(old, 0)[0].key == "made-train-000000000"
    with pytest.raises(UsageError, match=r"000000\.tar: was made anew or removed"):
        reader.read(old, 1)
    assert [sample.key[-1] for sample, _ in iter_samples(root, "made", "train")] == ["4", "5", "6"]
    with pytest.raises(UsageError, match="made/train: was made anew or removed"):
        ShardReader().read(old, 0)
    memory.fs.rm_file(f"{memory.path}/shards/made/train/made-train-000000.tar")
    memory.fs.rm_file(f"{memory.path}/shards/made/train/dataset.json")
    with pytest.raises(UsageError, match="no such dataset and split"):
        open_split(root, "made", "train")


def test_an_extension_leaves_readers_of_the_commit_before_alone(
    tmp_path: Path, make_split: MakeSplit, memory: Bucket
) -> None:
    make_split(tmp_path / "a", shard_sizes=(2, 2))
    make_split(tmp_path / "b", shard_sizes=(2, 2, 3))  # the same, and one more
    root = store.local_side(memory.put_tree(tmp_path / "a", "shards"), tmp_path / "here")
    old = open_split(root, "made", "train")
    memory.put_tree(tmp_path / "b", "shards")
    assert len(open_split(root, "made", "train")) == 7
    assert ShardReader().read(old, 3)[0].key == "made-train-000000003"


CHILD = """
import os, signal, sys
from pathlib import Path
from shards.read import iter_samples
if sys.argv[2] == "killed":
    real, seen = os.pwrite, []
    def half(descriptor, data, offset):
        seen.append(offset)
        if len(seen) == 3:
            real(descriptor, data[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(descriptor, data, offset)
    os.pwrite = half
for sample, picture in iter_samples(Path(sys.argv[1]), "made", "train"):
    print(sample.key, len(picture), flush=True)
"""


def child(root: Path, how: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root), how],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_share_the_cache_and_a_killed_one_leaves_nothing_wrong(
    tmp_path: Path, make_split: MakeSplit, asked: list[Any]
) -> None:
    make_split(tmp_path / "folder", shard_sizes=(4, 3))
    samples = list(iter_samples(tmp_path / "folder", "made", "train"))
    with web_server(tmp_path / "folder") as host:
        root = store.local_side(f"http://{host}", tmp_path / "here")
        killed = child(root, "killed")
        said, _ = killed.communicate(timeout=60)
        assert (killed.returncode, len(said.splitlines())) == (-signal.SIGKILL, 2)
        # The half that it wrote is no sample: of three writes two are whole.
        reader, index = ShardReader(), open_split(root, "made", "train")
        assert [reader.read(index, row) for row in range(3)] == samples[:3]
        assert len(asked) == 1
        children = [child(root, "whole") for _ in range(2)]
        for one in children:
            said, _ = one.communicate(timeout=60)
            assert one.returncode == 0
            assert said.split() == [
                word for s, picture in samples for word in (s.key, str(len(picture)))
            ]
        asked.clear()
        assert list(iter_samples(root, "made", "train")) == samples
        assert not asked


def read_all(root: Path, answers: Any) -> None:
    answers.put([sample.key for sample, _ in iter_samples(root, "made", "train")])


def test_a_forked_process_reads_with_connections_of_its_own(
    tmp_path: Path, make_split: MakeSplit, s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROIKIT_CACHE_GB", "0")
    make_split(tmp_path / "folder", shard_sizes=(3,))
    root = store.local_side(s3.put_tree(tmp_path / "folder", "shards"), tmp_path / "here")
    reader, index = ShardReader(), open_split(root, "made", "train")
    expected = [reader.read(index, row)[0].key for row in range(3)]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    workers = [context.Process(target=read_all, args=(root, answers)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [answers.get(timeout=30) for _ in workers] == [expected] * 2
    for worker in workers:
        worker.join(timeout=30)
        assert worker.exitcode == 0
    assert reader.read(index, 1)[0].key == expected[1]


def test_flipped_bits_in_the_cache_are_healed(
    tmp_path: Path, cache: Path, make_split: MakeSplit, memory: Bucket, asked: list[Any]
) -> None:
    make_split(tmp_path / "folder", shard_sizes=(4, 3))
    root = store.local_side(memory.put_tree(tmp_path / "folder", "shards"), tmp_path / "here")
    samples = list(iter_samples(tmp_path / "folder", "made", "train"))
    assert list(iter_samples(root, "made", "train")) == samples
    index = open_split(root, "made", "train")
    (first, second) = sorted(cache.rglob("*.tar"))
    for place in (int(index.image_offset[1]) + 40, int(index.image_offset[2]) - 500):
        with first.open("r+b") as file:
            file.seek(place)
            old = file.read(1)[0]
            file.seek(place)
            file.write(bytes([old ^ 0x10]))
    second.write_bytes(second.read_bytes()[:700])
    asked.clear()
    assert list(iter_samples(root, "made", "train")) == samples
    assert len(asked) == 2 + 3
    asked.clear()
    assert list(iter_samples(root, "made", "train")) == samples
    assert not asked


def used_bytes(cache: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in cache.rglob("*.tar"))


def test_old_files_make_room_and_those_in_use_do_not(
    tmp_path: Path,
    cache: Path,
    make_split: MakeSplit,
    memory: Bucket,
    asked: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_split(tmp_path / "folder", shard_sizes=(4, 4, 4, 4))
    root = store.local_side(memory.put_tree(tmp_path / "folder", "shards"), tmp_path / "here")
    samples = list(iter_samples(tmp_path / "folder", "made", "train"))
    assert list(iter_samples(root, "made", "train")) == samples
    whole = used_bytes(cache)
    files = sorted(cache.rglob("*.tar"))
    for age, file in enumerate(files):
        os.utime(file, (0, time.time() - 10_000 + age))
    limit = whole * 3 // 4
    monkeypatch.setenv("ROIKIT_CACHE_GB", str(limit / 1e9))
    files[3].unlink()
    reader, index = ShardReader(), open_split(root, "made", "train")
    for row in (0, 12, 13, 14, 15):  # the oldest is used again, then the removed one
        assert reader.read(index, row) == samples[row]
    assert used_bytes(cache) <= limit
    assert files[0].is_file() and files[3].is_file() and not files[1].is_file()
    # Now all that fits is in use: the rest comes from the store each time, and is right.
    assert list(iter_samples(root, "made", "train")) == samples
    with caplog.at_level(logging.WARNING):
        assert list(iter_samples(root, "made", "train")) == samples
    assert used_bytes(cache) <= limit
    kept = {file: file.stat().st_ino for file in cache.rglob("*.tar")}
    asked.clear()
    assert list(iter_samples(root, "made", "train")) == samples
    assert 0 < len(asked) < 16
    assert {file: file.stat().st_ino for file in cache.rglob("*.tar")} == kept
    assert [r.message for r in caplog.records if "raises the limit" in r.message]


def test_a_full_disk_costs_the_cache_and_not_the_run(
    tmp_path: Path,
    make_split: MakeSplit,
    memory: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_split(tmp_path / "folder")
    root = store.local_side(memory.put_tree(tmp_path / "folder", "shards"), tmp_path / "here")

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    expected = list(iter_samples(tmp_path / "folder", "made", "train"))
    assert list(iter_samples(root, "made", "train")) == expected
    said = [record.message for record in caplog.records if "going on without" in record.message]
    assert len(said) == 1 and "No space left on device" in said[0]


def test_without_a_cache_everything_is_read_from_the_store(
    tmp_path: Path,
    cache: Path,
    make_split: MakeSplit,
    memory: Bucket,
    asked: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_split(tmp_path / "folder")
    root = store.local_side(memory.put_tree(tmp_path / "folder", "shards"), tmp_path / "here")
    monkeypatch.setenv("ROIKIT_CACHE_GB", "0")
    for _ in range(2):
        assert len(list(iter_samples(root, "made", "train"))) == 7
    assert len(asked) == 14 and not cache.exists()
    monkeypatch.setenv("ROIKIT_CACHE_GB", "much")
    with pytest.raises(UsageError, match="ROIKIT_CACHE_GB: expected a number of GB, got `much`"):
        read_sample(root, "made-train-000000001")


def test_half_of_the_free_disk_is_the_limit_however_much_is_held(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 1_000_000
    monkeypatch.setattr(
        "shards.range_cache.shutil.disk_usage", lambda _: type("Usage", (), {"free": free})
    )
    empty = range_cache.cache_of_this_node()
    assert empty is not None and empty.limit_bytes == 500_000
    empty.write("a/b", 0, b"x" * 100_000)
    held = used_bytes(tmp_path) or sum(p.stat().st_blocks * 512 for p in cache.rglob("b"))
    free -= held
    again = range_cache.cache_of_this_node()
    assert again is not None and again.limit_bytes == 500_000


def test_a_store_that_goes_away_ends_the_run_with_one_line_and_no_quarantine(
    tmp_path: Path, make_split: MakeSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROIKIT_URL_LOGINS", "{}")
    make_split(tmp_path / "folder")
    with web_server(tmp_path / "folder", f"me:{SECRET}") as host:
        url = keep_login(f"http://me:{SECRET}@{host}")
        stream = Stream(
            store.local_side(url, tmp_path / "here"), "made", prefetch=2, on_bad="quarantine"
        )
        seen = next(iter(stream))
    with pytest.raises(RemoteError) as caught:
        for position in range(stream.epoch_length):
            stream.example(0, position)
    assert not stream.quarantined
    message = f"{caught.value} {caught.value.hint}"
    assert f"`{url}/made/train/made-train-00000" in message
    assert "\n" not in message and SECRET not in message
    assert stream.example(0, seen.position) == seen, "what was read is kept"


def test_a_store_that_says_nothing_is_given_up(
    tmp_path: Path, make_split: MakeSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_RANGE_TIMEOUT_S", 0.2)
    make_split(tmp_path / "folder")
    with web_server(tmp_path / "folder", pause_s=3.0) as host:
        root = store.local_side(f"http://{host}", tmp_path / "here")
        with pytest.raises(RemoteError, match="the connection failed"):
            read_sample(root, "made-train-000000001")


def test_what_is_damaged_in_the_store_is_named_and_may_be_quarantined(
    tmp_path: Path, make_split: MakeSplit, memory: Bucket, asked: list[Any]
) -> None:
    make_split(tmp_path / "folder")
    url = memory.put_tree(tmp_path / "folder", "shards")
    root = store.local_side(url, tmp_path / "here")
    index = open_split(root, "made", "train")
    tar = f"{memory.path}/shards/made/train/made-train-000000.tar"
    data = bytearray(memory.fs.cat_file(tar))
    data[int(index.image_offset[1]) + 30] ^= 1
    memory.fs.pipe_file(tar, bytes(data))
    where = f"{url}/made/train/made-train-000000.tar: member `made-train-000000001.jpg`"
    with pytest.raises(CorruptSampleError, match=where):
        ShardReader().read(index, 1)
    assert len(asked) == 2, "once more, since it may have been damaged on the way"
    stream = Stream(root, "made", prefetch=0, on_bad="quarantine")
    keys = {stream.example(0, p).sample.key for p in range(stream.epoch_length)}
    assert set(stream.quarantined) == {"made-train-000000001"}
    assert "made-train-000000001" not in keys and len(keys) == 6
    memory.fs.pipe_file(tar, bytes(data[: int(index.image_offset[1]) + 30]))
    with pytest.raises(CorruptSampleError, match="the shard ends before it"):
        ShardReader().read(index, 1)


def test_a_tar_that_is_gone_is_no_damaged_sample(
    tmp_path: Path, make_split: MakeSplit, s3: Bucket
) -> None:
    make_split(tmp_path / "folder")
    root = store.local_side(s3.put_tree(tmp_path / "folder", "shards"), tmp_path / "here")
    stream = Stream(root, "made", prefetch=0, on_bad="quarantine")
    for tar in split_dir(tmp_path / "folder", "made", "train").glob("*.tar"):
        s3.fs.rm_file(f"{s3.path}/shards/made/train/{tar.name}")
    with pytest.raises(UsageError, match=r"made-train-00000\d\.tar`: found nothing there"):
        next(iter(stream))
    assert not stream.quarantined


def test_a_server_that_sends_whole_files_is_refused(tmp_path: Path, make_split: MakeSplit) -> None:
    make_split(tmp_path / "folder")
    with web_server(tmp_path / "folder", reads_ranges=False) as host:
        root = store.local_side(f"http://{host}", tmp_path / "here")
        with pytest.raises(UsageError, match="it does not read by ranges"):
            read_sample(root, "made-train-000000001")


@pytest.mark.parametrize("kind", ["memory", "s3", "web"])
def test_a_range_past_the_end_is_short(kind: str, tmp_path: Path, request: Any) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.tar").write_bytes(b"0123456789")
    with stored(kind, tmp_path / "folder", request) as url:
        parts = [remote.read_range(url, "a.tar", start, 4) for start in (0, 8, 10, 50)]
        assert parts == [b"0123", b"89", b"", b""]


def test_what_was_read_is_touched_now_and_then(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 10**9)
    cache.write("a/b.tar", 5000, b"whole")
    file = tmp_path / "a" / "b.tar"
    assert cache.read("a/b.tar", 5000, 5) == b"whole"
    assert cache.read("a/b.tar", 0, 3) == b"\0\0\0"  # a hole: the reader's check refuses it
    assert cache.read("a/b.tar", 5003, 5) is None
    assert cache.read("a/c.tar", 0, 1) is None
    os.utime(file, (0, 1000))
    cache.read("a/b.tar", 5000, 5)
    assert time.time() - file.stat().st_mtime < 100
