from collections.abc import Callable
from pathlib import Path

import pytest

from roikit.errors import UsageError
from shards.commit import DatasetInfo
from shards.manifest import rebuild
from shards.mix import parse_mix
from shards.selection import choose_conversations, choose_samples, named_splits
from shards.stream import Stream


@pytest.fixture
def root(tmp_path: Path, make_split: Callable[..., DatasetInfo]) -> Path:
    make_split(tmp_path, split="train", shard_sizes=(20,))
    make_split(tmp_path, split="val", shard_sizes=(5,))
    make_split(tmp_path, dataset="other", split="val", shard_sizes=(3,))
    rebuild(tmp_path)
    return tmp_path


def names(splits: list[DatasetInfo]) -> list[str]:
    return [f"{info.dataset}@{info.split}" for info in splits]


def test_a_name_is_a_dataset_or_one_of_its_splits(root: Path) -> None:
    assert names(named_splits(root)) == ["made@train", "made@val", "other@val"]
    assert names(named_splits(root, ["other", "made@val"])) == ["made@val", "other@val"]
    for wrong in ("mad", "made@", "made@test", "other@train"):
        with pytest.raises(UsageError, match=f"no `{wrong}` is committed"):
            named_splits(root, [wrong])


def test_the_seed_draws_and_the_limit_only_cuts(root: Path) -> None:
    splits = named_splits(root, ["made"])
    every = choose_samples(root, splits, limit=100)
    assert len(set(every)) == 25
    assert choose_samples(root, splits, limit=4) == every[:4]
    assert choose_samples(root, splits, limit=100, seed=1) != every
    assert sorted(choose_samples(root, splits, limit=100, seed=1)) == sorted(every)


def test_tasks_and_conditions_narrow(root: Path) -> None:
    splits = named_splits(root)
    assert choose_samples(root, splits, tasks=["dialogue"], limit=9) == []
    assert len(choose_samples(root, splits, tasks=["choice"], limit=99)) == 28
    tall = choose_samples(root, splits, where="height = 28 -- a comment", limit=99)
    assert {int(key[-9:]) % 5 for key in tall} == {4}
    where = "key IN (SELECT key FROM conversations WHERE id = '2/choice')"
    found = choose_samples(root, named_splits(root, ["made@val"]), where=where, limit=9)
    assert found == ["made-val-000000002"]


@pytest.mark.parametrize("where", ["colour = 1", "1 = 1); DELETE FROM samples; --", "1", "x ("])
def test_a_wrong_condition_is_one_clear_error(root: Path, where: str) -> None:
    if where == "1":
        assert len(choose_samples(root, named_splits(root), where=where, limit=99)) == 28
        return
    with pytest.raises(UsageError, match="--where"):
        choose_samples(root, named_splits(root), where=where, limit=9)


def test_an_unknown_task_is_named(root: Path) -> None:
    with pytest.raises(UsageError, match="`captions`: expected a task"):
        choose_samples(root, named_splits(root), tasks=["captions"], limit=9)


def chosen_ids(root: Path, mix: str, where: str) -> set[tuple[str, str]]:
    splits = {(entry.dataset, entry.split) for entry in parse_mix(mix)}
    stream = Stream(root, mix, chosen=choose_conversations(root, splits, where))
    examples = (stream.example(0, position) for position in range(stream.epoch_length))
    return {(e.sample.key, e.conversation.id) for e in examples}


def test_a_condition_chooses_conversations_by_what_they_and_their_samples_are(root: Path) -> None:
    found = chosen_ids(root, "made@val,other@val:choice", "id LIKE '%/1' OR task = 'choice'")
    val = {(f"made-val-{n:09d}", f"{n}/1") for n in range(5)}
    assert found == val | {(f"other-val-{n:09d}", f"{n}/choice") for n in range(3)}
    tall = chosen_ids(root, "made@val", "height = 28 AND id LIKE '%/0' -- the lower ones are not")
    assert tall == {("made-val-000000004", "4/0")}


def test_what_was_chosen_is_part_of_the_stream_s_identity(root: Path) -> None:
    split = {("made", "val")}
    one, same, other = (
        choose_conversations(root, split, where)
        for where in ("width > 0", "height > 0", "height = 28")
    )
    assert one.sha256 == same.sha256 != other.sha256
    prints = [Stream(root, "made@val", chosen=c).fingerprint for c in (one, same, other, None)]
    assert len(set(prints)) == 3


def test_a_condition_that_leaves_nothing_or_is_none_is_refused(root: Path) -> None:
    with pytest.raises(UsageError, match="no conversation is left"):
        chosen_ids(root, "made@val", "width > 9000")
    for wrong in ("colour = 1", "1 = 1); DELETE FROM samples; --", "x ("):
        with pytest.raises(UsageError, match="--where"):
            chosen_ids(root, "made@val", wrong)
