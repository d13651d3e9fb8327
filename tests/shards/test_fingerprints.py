import logging

import pytest

from roikit.errors import CorruptSampleError
from roikit.fingerprint import fingerprint
from shards import fingerprints
from shards.commit import load_dataset
from shards.fingerprints import compute_fingerprints, read_fingerprints
from shards.read import iter_samples

MADE = ("made", "train")


def hash_split(root, **options):
    return compute_fingerprints(root, [MADE], **options)


def test_hashes_stand_in_the_shards_order_and_are_computed_once(tmp_path, make_split):
    info = make_split(tmp_path, shard_sizes=(4, 3))
    assert read_fingerprints(tmp_path, info) is None
    seen = []
    assert hash_split(tmp_path, progress=lambda *state: seen.append(state)) == 7
    assert seen[-1] == (7, 7, "hashing made train")
    found = read_fingerprints(tmp_path, info)
    expected = [fingerprint(data) for _, data in iter_samples(tmp_path, *MADE)]
    assert [int(one).to_bytes(8, "big") for one in found.pixels] == [
        one.pixels[:8] for one in expected
    ]
    assert [b"".join(int(word).to_bytes(8, "big") for word in row) for row in found.looks] == [
        one.look for one in expected
    ]
    assert found.has_look.all()
    assert hash_split(tmp_path) == 0


def test_a_stopped_run_goes_on_with_the_next_shard(tmp_path, make_split, monkeypatch):
    info = make_split(tmp_path, shard_sizes=(4, 3))

    def stop(done, total, title):
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hash_split(tmp_path, progress=stop)
    assert read_fingerprints(tmp_path, info) is None
    assert hash_split(tmp_path) == 3
    assert len(read_fingerprints(tmp_path, info).pixels) == 7


def test_hashes_of_other_shards_or_another_version_are_not_taken(
    tmp_path, make_pictures, make_scene, encode, monkeypatch
):
    first, second = (encode(make_scene(seed)) for seed in (1, 2))
    make_pictures(tmp_path, *MADE, [("a:1", first)])
    hash_split(tmp_path)
    info = make_pictures(tmp_path, *MADE, [("a:1", second)], plan_hash="another")
    assert not list(tmp_path.rglob("*.fingerprints.arrow"))  # went with the shards
    assert hash_split(tmp_path) == 1
    monkeypatch.setattr(fingerprints, "FINGERPRINT_VERSION", 99)
    assert read_fingerprints(tmp_path, info) is None


def test_hashes_copied_from_another_shard_are_not_taken(tmp_path, make_split):
    info = make_split(tmp_path, shard_sizes=(3, 3))
    hash_split(tmp_path)
    one, other = sorted(tmp_path.rglob("*.fingerprints.arrow"))
    other.write_bytes(one.read_bytes())
    assert read_fingerprints(tmp_path, info) is None
    other.write_bytes(b"no arrow file")
    assert hash_split(tmp_path) == 3


def test_a_picture_that_cannot_be_decoded_loses_nothing_else(
    tmp_path, make_pictures, make_scene, encode, caplog
):
    good = encode(make_scene(1))
    cut = encode(make_scene(2), "JPEG")[:-400]
    info = make_pictures(tmp_path, *MADE, [("a:1", good), ("a:2", cut)])
    with caplog.at_level(logging.WARNING):
        hash_split(tmp_path)
    assert "made-train-000000: 1 pictures cannot be decoded" in caplog.text
    found = read_fingerprints(tmp_path, info)
    assert found.pixels[0] != 0 and found.pixels[1] == 0
    assert found.has_look.tolist() == [True, False]


def test_stored_bytes_that_changed_are_an_error_that_names_the_member(tmp_path, make_split):
    make_split(tmp_path, shard_sizes=(2,))
    tar = next(tmp_path.rglob("*.tar"))
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    with pytest.raises(CorruptSampleError, match=r"member `made-train-000000000\.jpg`"):
        hash_split(tmp_path)
    assert read_fingerprints(tmp_path, load_dataset(tmp_path, *MADE)) is None
