from collections.abc import Callable
from pathlib import Path

import pytest

from roikit.errors import UsageError
from shards.commit import DatasetInfo
from shards.manifest import rebuild
from shards.selection import choose_samples, named_splits


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
