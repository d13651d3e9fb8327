import shutil

import pytest

from roikit.runs import TrainedOn
from shards.commit import load_dataset
from shards.fingerprints import compute_fingerprints
from shards.identity import LeakCount, identities
from shards.kept_clean import resolve
from shards.manifest import rebuild
from shards.seen import seen_in_training
from shards.selection import choose_conversations
from shards.stream import Stream

VAL = ("made", "val")


@pytest.fixture
def root(tmp_path, make_split):
    """Training holds pictures 0 to 6, the benchmark 4 to 9."""
    make_split(tmp_path / "shards", "made", "train", shard_sizes=(4, 3))
    make_split(tmp_path / "shards", "made", "val", shard_sizes=(6,), first_number=4)
    return tmp_path / "shards"


@pytest.fixture
def trained(root):
    def make(mix="made", excluded=(), **changes):
        merkle_root = load_dataset(root, "made", "train").merkle_root
        told = {"run": root / "runs", "mix": mix, "splits": {"made/train": merkle_root}}
        return TrainedOn(**(told | {"excluded": frozenset(excluded)} | changes))

    return make


def test_pictures_of_what_was_trained_on_are_counted(root, trained):
    assert seen_in_training(root, eval=VAL, trained=[trained()]) == LeakCount(3, 6)
    assert seen_in_training(root, eval=VAL, trained=[trained("made:choice")]).found == 3


def test_what_a_condition_or_a_share_held_out_was_not_trained_on(root, trained):
    rebuild(root)
    split = {("made", "train")}
    where = "key <= 'made-train-000000004'"
    sha256 = choose_conversations(root, split, where).sha256
    asked = trained(where=where, where_sha256=sha256)
    assert seen_in_training(root, eval=VAL, trained=[asked]).found == 1
    aside = Stream(root, "made", held_out=0.4).sources[0]
    left = {int(n) for n in aside.index.number[aside.index.conversation_sample[aside.rows]]}
    held_out = seen_in_training(root, eval=VAL, trained=[trained(held_out=0.4)])
    assert held_out.found == len(left & {4, 5, 6}) < 3
    other = seen_in_training(root, eval=VAL, trained=[trained(where=where, where_sha256="0")])
    assert "holds for others now" in other


def test_pictures_without_a_conversation_of_the_mixture_were_not_trained_on(root, trained):
    assert seen_in_training(root, eval=VAL, trained=[trained("made:dialogue")]).found == 0


def test_pictures_left_out_were_not_trained_on(root, trained):
    ids = identities(root, *VAL)
    for excluded, found in (
        (["native:4"], 2),
        (ids.sha256s[:2], 1),
        (resolve(root, ["made@val"]).identities, 0),
    ):
        count = seen_in_training(root, eval=VAL, trained=[trained(excluded=excluded)])
        assert (count.found, count.total) == (found, 6)


def test_what_one_stage_left_out_another_may_have_seen(root, trained):
    runs = [trained(excluded=["native:4", "native:5"]), trained(excluded=["native:5", "native:6"])]
    assert seen_in_training(root, eval=VAL, trained=runs).found == 2


def test_a_split_that_was_converted_anew_or_is_gone_makes_it_unknown(root, trained):
    run = trained(splits={"made/train": "another root"})
    said = seen_in_training(root, eval=VAL, trained=[trained(), run])
    assert isinstance(said, str) and "`made@train` was converted anew" in said
    run = trained()
    shutil.rmtree(root / "made" / "train")
    said = seen_in_training(root, eval=VAL, trained=[run])
    assert isinstance(said, str) and "`made@train`, which" in said and "is not in" in said


def test_a_lost_list_or_an_unknown_model_makes_it_unknown(root, trained):
    lost = TrainedOn(run=root, mix="made", splits={}, excluded=None)
    assert "missing or was changed" in str(seen_in_training(root, eval=VAL, trained=[lost]))
    assert "no run of ours" in str(seen_in_training(root, eval=VAL, trained=None))


def test_pixels_and_looks_are_compared_where_both_sides_were_hashed(
    tmp_path, make_pictures, make_scene, encode
):
    copies = [encode(make_scene(1), compress_level=1), encode(make_scene(2), "JPEG", quality=60)]
    info = make_pictures(tmp_path, "a", "train", [("a:1", copies[0]), ("a:2", copies[1])])
    make_pictures(
        tmp_path, "b", "val", [("b:1", encode(make_scene(1))), ("b:2", encode(make_scene(2)))]
    )
    run = TrainedOn(
        run=tmp_path, mix="a", splits={"a/train": info.merkle_root}, excluded=frozenset()
    )

    def seen():
        return seen_in_training(tmp_path, eval=("b", "val"), trained=[run])

    assert seen() == LeakCount(0, 2, ("ids", "bytes"), None)
    compute_fingerprints(tmp_path, [("a", "train")])
    assert seen() == LeakCount(0, 2, ("ids", "bytes"), None)
    compute_fingerprints(tmp_path, [("b", "val")])
    assert seen() == LeakCount(1, 2, ("ids", "bytes", "pixels", "looks"), 1)
