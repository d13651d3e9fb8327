import json
from itertools import count
from pathlib import Path

import pytest

from roikit.errors import RoikitError, UsageError
from shards.claim import check_claim, claim_extension, claim_split
from shards.commit import (
    commit_dataset,
    is_whole,
    list_datasets,
    list_readable,
    load_dataset,
    tidy_index,
)
from shards.index import open_index
from shards.layout import split_dir
from shards.read import iter_samples, open_split
from shards.sidecar import write_sidecar
from shards.verify import verify
from shards.writer import write_shard


def recommit(root, **changes):
    keywords = {"num_shards": 2, "plan_hash": "plan-1", "settings": {}} | changes
    return commit_dataset(root, "made", "train", **keywords)


def test_without_a_commit_there_is_no_dataset(tmp_path, make_split):
    info = make_split(tmp_path)
    make_split(tmp_path, "other")
    assert load_dataset(tmp_path, "made", "train") == info
    (tmp_path / "made" / "train" / "dataset.json").unlink()
    assert [(i.dataset, i.split) for i in list_datasets(tmp_path)] == [("other", "train")]
    with pytest.raises(UsageError, match="unfinished") as caught:
        load_dataset(tmp_path, "made", "train")
    assert "`other@train`" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no such dataset"):
        load_dataset(tmp_path, "made", "val")


def test_a_commit_counts_what_the_shards_hold(tmp_path, make_split):
    info = make_split(tmp_path, shard_sizes=(4, 3))
    assert (info.samples, info.regions, info.conversations, info.exchanges) == (7, 7, 21, 14)
    assert info.tasks == {"caption": 14, "choice": 7}
    assert info.rejections == {"E_BOX_OUTSIDE": 2}
    assert [shard.samples for shard in info.shards] == [4, 3]
    text = json.loads((tmp_path / "made" / "train" / "dataset.json").read_text())
    assert text["settings"]["seed"] == 0
    assert text["merkle_root"] == info.merkle_root


def test_the_same_samples_give_the_same_root_and_files_wherever_they_are_made(tmp_path, make_split):
    one, two = tmp_path / "one", tmp_path / "two"
    first, second = make_split(one), make_split(two)
    assert first == second
    files = sorted(p.name for p in split_dir(one, "made", "train").iterdir())
    assert len(files) >= 7
    for name in files:
        in_one, in_two = (split_dir(root, "made", "train") / name for root in (one, two))
        assert in_one.read_bytes() == in_two.read_bytes(), name
    assert make_split(tmp_path / "three", shard_sizes=(3, 4)).merkle_root != first.merkle_root


def test_a_missing_foreign_or_cut_shard_is_not_committed(tmp_path, make_split):
    make_split(tmp_path)
    folder = tmp_path / "made" / "train"
    with pytest.raises(RoikitError, match="made-train-000002: this shard is not finished"):
        recommit(tmp_path, num_shards=3)
    with pytest.raises(RoikitError, match="another plan"):
        recommit(tmp_path, plan_hash="plan-2")
    tar = folder / "made-train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:-1])
    with pytest.raises(RoikitError, match=r"expected \d+ bytes"):
        recommit(tmp_path)


def test_a_folder_with_another_plan_s_shards_is_refused_unless_told(tmp_path, make_split):
    make_split(tmp_path)
    folder = tmp_path / "made" / "train"
    claim_split(tmp_path, "made", "train", plan_hash="plan-1")
    assert (folder / "dataset.json").exists()
    with pytest.raises(UsageError, match="another plan") as caught:
        claim_split(tmp_path, "made", "train", plan_hash="plan-2")
    assert "--overwrite" in str(caught.value.hint)
    assert (folder / "made-train-000000.tar").exists()
    claim_split(tmp_path, "made", "train", plan_hash="plan-2", overwrite=True)
    assert not list(folder.glob("made-*"))
    assert not (folder / "dataset.json").exists()


@pytest.mark.parametrize(
    "left", ["made-train-000000.tar", "made-train-000000.parquet", "dataset.json"]
)
def test_each_trace_of_another_plan_is_enough_to_refuse(tmp_path, make_split, left):
    make_split(tmp_path)
    for path in split_dir(tmp_path, "made", "train").iterdir():
        if path.name != left:
            path.unlink()
    with pytest.raises(UsageError, match="plan"):
        claim_split(tmp_path, "made", "train", plan_hash="plan-2")


def test_what_interrupted_runs_left_is_gone_after_the_commit(tmp_path, make_split):
    make_split(tmp_path)
    folder = tmp_path / "made" / "train"
    strays = [folder / ".made-train-000001.tar.tmp-99", folder / "made-train-000002.tar"]
    for stray in strays:
        stray.write_bytes(b"half")
    recommit(tmp_path)
    assert not any(stray.exists() for stray in strays)


@pytest.mark.parametrize(
    "lost", ["made-train-000001.tar", "made-train-000000.parquet", "samples.arrow"]
)
def test_a_committed_split_that_lost_a_file_is_not_whole(tmp_path, make_split, lost):
    info = make_split(tmp_path)
    assert is_whole(tmp_path, info)
    (split_dir(tmp_path, "made", "train") / lost).unlink()
    assert not is_whole(tmp_path, info)


def test_a_commit_of_another_format_is_refused(tmp_path, make_split):
    make_split(tmp_path)
    path = tmp_path / "made" / "train" / "dataset.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(UsageError, match="format 1, found 99"):
        load_dataset(tmp_path, "made", "train")


def test_a_split_of_rejections_only_can_be_committed(tmp_path, make_split):
    info = make_split(tmp_path, shard_sizes=(0,))
    assert (info.samples, info.rejections) == (0, {"E_BOX_OUTSIDE": 1})


@pytest.mark.parametrize("text", ["{", '{"format": 99}'])
def test_a_commit_that_cannot_be_read_is_replaced_when_told(tmp_path, make_split, caplog, text):
    make_split(tmp_path)
    make_split(tmp_path, "other")
    path = tmp_path / "made" / "train" / "dataset.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"dataset\.json") as caught:
        claim_split(tmp_path, "made", "train", plan_hash="plan-1")
    assert "--overwrite" in str(caught.value.hint)
    with pytest.raises(UsageError, match=r"dataset\.json"):
        check_claim(tmp_path, "made", "train", plan_hash="plan-1")
    assert [info.dataset for info in list_readable(tmp_path)] == ["other"]
    assert str(path) in caplog.text
    claim_split(tmp_path, "made", "train", plan_hash="plan-1", overwrite=True)
    assert not path.exists()


class Killed(BaseException):
    pass


@pytest.fixture
def begin_extension(make_sample):
    """Make one further shard of two samples; return a call that commits it."""

    def begin(root):
        base = load_dataset(root, "made", "train")
        claim_extension(root, base, plan_hash="plan-2")
        number = len(base.shards)
        tar = split_dir(root, "made", "train") / f"made-train-{number:06d}.tar"
        first = 100 * number
        rows = write_shard(tar, (make_sample("made", "train", first + i) for i in range(2)))
        write_sidecar(tar, rows, dataset="made", split="train", plan_hash="plan-2")
        return lambda: recommit(root, num_shards=number + 1, plan_hash="plan-2", base=base)

    return begin


def num_readable(root):
    assert len(open_split(root, "made", "train")) == len(list(iter_samples(root, "made", "train")))
    return len(open_split(root, "made", "train"))


def test_killed_at_any_moment_an_extension_s_commit_leaves_a_readable_split(
    tmp_path, make_split, begin_extension, monkeypatch
):
    real = Path.replace
    found = []
    for kill_at in count():
        root = tmp_path / str(kill_at)
        before = make_split(root)
        commit = begin_extension(root)
        left = [kill_at]

        def replace(path, target, left=left):
            if not left[0]:
                raise Killed
            left[0] -= 1
            return real(path, target)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", replace)
            try:
                commit()
                break
            except Killed:
                pass
        found.append(num_readable(root))
        if found[-1] == 7:
            commit()
        else:
            tidy_index(root, load_dataset(root, "made", "train"))
        assert num_readable(root) == 9
        assert verify(root).is_good
        after = load_dataset(root, "made", "train")
        for name in ("samples", "conversations"):
            plain = (split_dir(root, "made", "train") / f"{name}.arrow").read_bytes()
            assert after.merkle_root.encode() in plain
        # Who read the commit before it was replaced still finds its index.
        assert len(open_index(root, "made", "train", before.merkle_root)) == 7
    assert set(found) == {7, 9}
    assert found.count(9) == 4


def test_an_index_of_two_commits_before_is_removed(tmp_path, make_split, begin_extension):
    make_split(tmp_path)
    begin_extension(tmp_path)()
    folder = split_dir(tmp_path, "made", "train")
    assert len(list(folder.glob("*.arrow"))) == 4
    info = load_dataset(tmp_path, "made", "train")
    (folder / ".plan-hash").write_text("gone")
    begin_extension(tmp_path)
    recommit(tmp_path, num_shards=4, plan_hash="plan-2", base=info)
    kept = {path.stem.rpartition("-")[2] for path in folder.glob("*-*.arrow")}
    assert kept == {info.merkle_root[:16]}
    claim_split(tmp_path, "made", "train", plan_hash="plan-3", overwrite=True)
    assert not list(folder.glob("*.arrow"))
