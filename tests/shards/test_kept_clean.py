import pytest

from roikit.errors import UsageError
from shards.identity import identities
from shards.kept_clean import Dropped, drops, list_path, resolve, write_list
from shards.mix import parse_mix


def test_pictures_come_from_the_converted_split_the_list_or_both(tmp_path, make_split):
    make_split(tmp_path, "made", "val", shard_sizes=(2,))
    write_list(tmp_path, "listed@test", ["native:7", "native:8"], origin="a.json")
    kept = resolve(tmp_path, ["made@val", "listed@test", "neither@val"])
    assert kept.unresolved == ("neither@val",)
    there = identities(tmp_path, "made", "val")
    assert set(kept.native_ids) == {*there.native_ids, "native:7", "native:8"}
    assert set(kept.sha256s) == set(there.sha256s)
    write_list(tmp_path, "made@val", ["native:9"], origin="a.json")
    assert "native:9" in resolve(tmp_path, ["made@val"]).native_ids


def test_a_limited_conversion_does_not_stand_for_the_whole_split(tmp_path, make_split):
    make_split(tmp_path, "made", "val-first2", shard_sizes=(2,))
    assert resolve(tmp_path, ["made@val"]).unresolved == ("made@val",)


def test_the_order_of_names_changes_nothing(tmp_path, make_split):
    make_split(tmp_path, "made", "val")
    make_split(tmp_path, "made", "test", first_number=20)
    one, other = (
        resolve(tmp_path, names) for names in (["made@val", "made@test"], ["made@test", "made@val"])
    )
    assert one.identities == other.identities == tuple(sorted(one.identities))


def test_what_each_source_loses_is_counted_for_each_benchmark(tmp_path, make_split):
    make_split(tmp_path, "made", "train", shard_sizes=(4, 3))  # 0 to 6, two captions, one choice
    make_split(tmp_path, "other", "train", shard_sizes=(2,), first_number=50)
    write_list(tmp_path, "a@val", ["native:0", "native:1"], origin="x")
    write_list(tmp_path, "b@val", ["native:1", "native:2", "native:77"], origin="x")
    write_list(tmp_path, "c@val", ["native:999"], origin="x")
    kept = resolve(tmp_path, ["a@val", "b@val", "c@val"])

    def row(source, benchmark, pictures, conversations):
        return Dropped(
            source=source, benchmark=benchmark, pictures=pictures, conversations=conversations
        )

    assert drops(tmp_path, parse_mix("made,made:choice=2,other"), kept) == [
        row("made", "a@val", 2, 4),
        row("made", "b@val", 2, 4),
        row("made", None, 3, 6),  # one picture stands in both
        row("made:choice", "a@val", 2, 2),
        row("made:choice", "b@val", 2, 2),
        row("made:choice", None, 3, 3),
        row("other", None, 0, 0),
    ]


def test_a_list_reads_comments_ids_and_hashes_and_refuses_all_else(tmp_path):
    path = list_path(tmp_path, "vg@test")
    path.parent.mkdir(parents=True)
    path.write_text(f"# a comment\n\ncoco:9\n{'ab' * 32}\n")
    kept = resolve(tmp_path, ["vg@test"])
    assert (kept.native_ids, kept.sha256s) == (["coco:9"], ["ab" * 32])
    path.write_text("coco:9\n000000000009.jpg\n")
    with pytest.raises(UsageError, match=r"vg@test\.txt: line 2: expected a native id"):
        resolve(tmp_path, ["vg@test"])
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot read this list"):
        resolve(tmp_path, ["vg@test"])


@pytest.mark.parametrize("name", ["vg", "@test", "vg@", "../x@test", "vg@../../x"])
def test_a_name_is_a_dataset_and_a_split(tmp_path, name):
    with pytest.raises(UsageError):
        resolve(tmp_path, [name])
