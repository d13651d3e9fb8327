"""The table, on pictures whose copies are known."""

import pytest

from roikit.errors import UsageError
from shards.contact_sheet import write_contact_sheet
from shards.identity import read_pictures
from shards.kept_clean import resolve
from shards.leaks import find_leaks
from shards.mix import parse_mix
from shards.stream import Stream

TRAIN, EVAL = ("big", "train"), ("small", "val")


@pytest.fixture
def root(tmp_path, make_pictures, make_scene, encode):
    """Five evaluation pictures, of which training holds one by each kind of identity."""
    scenes = [make_scene(seed) for seed in range(8)]
    half = scenes[3].resize((80, 60))
    make_pictures(
        tmp_path,
        *TRAIN,
        [
            ("coco:0", encode(make_scene(100))),  # the id alone: another file of that name
            ("big:1", encode(scenes[1])),
            ("big:2", encode(scenes[2], compress_level=1)),
            ("big:3", encode(half, "JPEG", quality=70)),
            ("big:5", encode(scenes[5])),
            ("big:6", encode(scenes[6])),
        ],
    )
    make_pictures(
        tmp_path,
        *EVAL,
        [
            ("coco:0", encode(scenes[0])),
            ("small:1", encode(scenes[1])),
            ("small:2", encode(scenes[2], compress_level=9)),
            ("small:3", encode(scenes[3])),
            ("small:4", encode(scenes[4])),
        ],
    )
    return tmp_path


def leaks(root, **options):
    return find_leaks(root, evaluations=[EVAL], training=[TRAIN], **options)


def test_each_kind_of_copy_is_found_and_named(root):
    found = leaks(root)
    (row,) = found.rows
    assert (row.evaluation, row.training, row.total) == ("small@val", "big@train", 5)
    # equal bytes have equal pixels
    assert (row.by_id, row.by_bytes, row.by_pixels, row.similar) == (1, 1, 2, 1)
    assert (row.found, row.any) == (3, 4)
    (pair,) = found.look_alikes
    assert (pair.evaluation, pair.training) == ("small-val-000000003", "big-train-000000003")
    assert 0 <= pair.distance <= 31
    assert found.hashed == 11
    assert leaks(root).hashed == 0


def test_without_pixels_no_picture_is_opened(root):
    tar = next((root / "big" / "train").glob("*.tar"))
    tar.write_bytes(b"")
    (row,) = leaks(root, with_pixels=False).rows
    assert (row.by_id, row.by_bytes, row.by_pixels, row.similar) == (1, 1, None, None)
    assert (row.found, row.any) == (2, 2)


def test_several_training_splits_are_counted_together_too(root, make_pictures, make_scene, encode):
    make_pictures(root, "more", "train", [("m:1", encode(make_scene(1)))])
    found = find_leaks(root, evaluations=[EVAL], training=[TRAIN, ("more", "train")])
    by_training = {row.training: row for row in found.rows}
    assert list(by_training) == ["big@train", "more@train", None]
    assert [row.found for row in found.rows] == [3, 1, 3]
    assert by_training[None].any == 4


def test_a_split_is_no_leak_of_itself(root):
    found = find_leaks(root, evaluations=[TRAIN], training=[TRAIN, EVAL])
    assert [row.training for row in found.rows] == ["small@val"]


def test_the_lists_it_writes_keep_copies_of_the_same_pixels_out_of_training(root):
    assert set(read_pictures(root, *TRAIN).numbers.tolist()) == {0, 1, 2, 3, 4, 5}
    kept = resolve(root, ["small@val"])
    (path,) = leaks(root, write_lists=True).lists
    listed = resolve(root, ["small@val"])
    assert set(kept.identities) < set(listed.identities)

    def trained_on(kept):
        stream = Stream(
            root,
            parse_mix("big"),
            exclude_native_ids=kept.native_ids,
            exclude_sha256s=kept.sha256s,
            prefetch=0,
        )
        examples = (stream.example(0, i) for i in range(stream.epoch_length))
        return {example.sample.image.native_id for example in examples}

    assert trained_on(kept) == {"big:2", "big:3", "big:5", "big:6"}
    assert trained_on(listed) == {"big:3", "big:5", "big:6"}  # what merely looks alike stays
    leaks(root, write_lists=True)  # the same list may stand there
    path.write_text("coco:9\n")
    with pytest.raises(UsageError, match="another list"):
        leaks(root, write_lists=True)
    leaks(root, write_lists=True, overwrite=True)


def test_the_contact_sheet_shows_both_pictures_of_a_pair(root, tmp_path):
    page = tmp_path / "alike.html"
    assert write_contact_sheet(root, leaks(root).look_alikes, page) == 1
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 2
    assert "small-val-000000003" in text and "big-train-000000003" in text
    with pytest.raises(UsageError, match="exists"):
        write_contact_sheet(root, (), page)


def test_names_from_strangers_cannot_break_out_of_the_page(
    tmp_path, make_pictures, make_scene, encode
):
    scene = make_scene(1)
    make_pictures(tmp_path, *TRAIN, [("x:<script>alert(1)</script>", encode(scene))])
    make_pictures(tmp_path, *EVAL, [("y:1", encode(scene, "JPEG", quality=60))])
    page = tmp_path / "alike.html"
    write_contact_sheet(tmp_path, leaks(tmp_path).look_alikes, page)
    assert "&lt;script&gt;" in page.read_text() and "<script>" not in page.read_text()
