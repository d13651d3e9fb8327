from collections.abc import Callable
from pathlib import Path

import pytest

from roikit.errors import UsageError
from roikit.sample import Conversation, Region, Source, Turn
from shards.compare import Change, compare_roots, compare_splits
from shards.manifest import rebuild

REGIONS = [[Region(box_xyxy=(1, 2, 9, 9))]]


def said(id: str, question: str, answer: str) -> Conversation:
    return Conversation(
        id=id,
        task="caption",
        independent=True,
        source=Source(file="a.json", record=id),
        turns=(Turn(role="user", text=question), Turn(role="assistant", text=answer)),
    )


@pytest.fixture
def both(tmp_path: Path, put_split: Callable[..., None]) -> tuple[Path, Path]:
    """One conversation stays, one is asked otherwise, one answered so, one goes, one comes."""
    before = [
        said("stays", "What is <region1>?", "a cup"),
        said("asked", "What is <region1>?", "a cup"),
        said("answered", "What is <region1>?", "a cup"),
        said("goes", "What is <region1>?", "a blue cup"),
    ]
    after = [
        before[0],
        said("asked", "And <region1>?", "a cup"),
        said("answered", "What is <region1>?", "the cup over there"),
        said("comes", "What is <region1>?", "tea"),
    ]
    roots = tmp_path / "before", tmp_path / "after"
    for root, conversations in zip(roots, (before, after), strict=True):
        put_split(root, "train", REGIONS, conversations)
        rebuild(root)
    return roots


def test_counts_and_fates(both: tuple[Path, Path]) -> None:
    (task,) = compare_roots(*both).tasks
    assert (task.pair, task.task) == ("made@train", "caption")
    assert task.samples == Change(before=1, after=1, difference=0)
    assert task.conversations == Change(before=4, after=4, difference=0)
    assert task.answer_words == Change(before=9, after=9, difference=0)
    assert task.words == Change(before=21, after=20, difference=-1)
    fates = (task.only_before, task.only_after, task.other_text, task.other_answers)
    assert fates == (1, 1, 2, 1)


def test_changed_conversations_come_with_both_texts(both: tuple[Path, Path]) -> None:
    found = {one.id: one for one in compare_roots(*both, num_changed=9).changed}
    assert found.keys() == {"asked", "answered", "goes", "comes"}
    assert found["answered"].native_id == "native:0"
    assert found["answered"].before[1] == ("assistant", "a cup")
    assert found["answered"].after[1] == ("assistant", "the cup over there")
    assert (found["comes"].before, found["goes"].after) == ((), ())
    (first,) = compare_roots(*both, num_changed=1).changed
    assert first.id == "answered"  # other answers come before other questions


def test_shards_are_the_same_as_themselves(both: tuple[Path, Path]) -> None:
    assert compare_roots(both[0], both[0]).is_same
    assert not compare_roots(*both).is_same


def test_two_splits_of_one_root(tmp_path: Path, put_split: Callable[..., None]) -> None:
    put_split(tmp_path, "train", REGIONS, [said("a", "What?", "a cup")])
    put_split(tmp_path, "val", REGIONS, [said("a", "What?", "a red cup")])
    rebuild(tmp_path)
    found = compare_splits(tmp_path, "made@train", "made@val")
    (task,) = found.tasks
    assert task.pair == "made@train, made@val"
    assert (task.other_answers, task.answer_words.difference) == (1, 1)
    with pytest.raises(UsageError, match="expected one split, as in `made@train`"):
        compare_splits(tmp_path, "made", "made@val")


def test_splits_of_one_side_are_named(
    both: tuple[Path, Path], put_split: Callable[..., None]
) -> None:
    put_split(both[1], "val", REGIONS)
    rebuild(both[1])
    assert compare_roots(*both).unpaired == ("made@val",)
    assert compare_roots(*both, ["made@train"]).unpaired == ()
    with pytest.raises(UsageError, match="expected a split of the same name"):
        compare_roots(both[1], both[0], ["made@val"])


def test_a_picture_that_stands_there_twice_is_paired_once_each(
    tmp_path: Path, put_split: Callable[..., None]
) -> None:
    for name in ("before", "after"):
        put_split(tmp_path / name, "train", [*REGIONS, *REGIONS], native_id="same")
        rebuild(tmp_path / name)
    found = compare_roots(tmp_path / "before", tmp_path / "after")
    assert found.is_same
    assert found.tasks[0].conversations == Change(before=2, after=2, difference=0)
