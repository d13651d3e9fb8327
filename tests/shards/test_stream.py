import gc
import json
import threading
from collections import Counter
from itertools import islice

import pytest

import shards.stream
from roikit.errors import CorruptSampleError, UsageError
from shards.stream import Stream

MIX = "made=2,other:choice"


def place(example):
    return (example.epoch, example.position, example.source, example.conversation.id)


def take(stream, count):
    iterator = iter(stream)
    places = [place(example) for example in islice(iterator, count)]
    iterator.close()
    return places


def stream_threads():
    return [t for t in threading.enumerate() if t.name.startswith("roikit-stream")]


@pytest.fixture
def root(tmp_path, make_split):
    make_split(tmp_path, "made", shard_sizes=(4, 3))  # 14 captions, 7 choices
    make_split(tmp_path, "other", shard_sizes=(9,), first_number=100)
    return tmp_path


def test_an_epoch_holds_every_conversation_as_often_as_the_mixture_says(root):
    stream = Stream(root, MIX)
    assert stream.source_quotas == {"made": 28, "other:choice": 9}
    assert stream.epoch_length == 37
    for epoch in range(2):
        counts = Counter((e.source, e.conversation.id) for e in epoch_of(stream, epoch))
        assert len(counts) == 14 + 9
        for (source, _), count in counts.items():
            assert count == (2 if source == "made" else 1)


def epoch_of(stream, epoch):
    return [stream.example(epoch, position) for position in range(stream.epoch_length)]


def test_an_example_is_the_conversation_its_sample_and_picture(root, make_sample):
    for example in islice(Stream(root, MIX, prefetch=0), 10):
        number = int(example.sample.key[-9:])
        sample, image_bytes, _ = make_sample(example.sample.dataset, "train", number)
        assert (example.sample, example.image_bytes) == (sample, image_bytes)
        assert example.conversation in sample.conversations
        assert (example.conversation.task == "choice") == (example.source == "other:choice")


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("before", [0, 1, 36, 37, 60])
def test_a_resumed_stream_goes_on_exactly_where_the_state_was_taken(root, prefetch, before):
    whole = take(Stream(root, MIX, seed=4), 100)
    stream = Stream(root, MIX, seed=4, prefetch=prefetch)
    iterator = iter(stream)
    assert [place(example) for example in islice(iterator, before)] == whole[:before]
    state = json.loads(json.dumps(stream.state_dict()))
    assert (state["seed"], state["epoch"], state["position"]) == (4, before // 37, before % 37)
    resumed = Stream(root, MIX, seed=0, prefetch=2)
    resumed.load_state_dict(state)
    assert take(resumed, 100 - before) == whole[before:]


def test_iterating_again_goes_on_from_what_was_handed_out(root):
    whole = take(Stream(root, MIX), 20)
    stream = Stream(root, MIX)
    assert take(stream, 8) + take(stream, 12) == whole


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_positions_and_a_run_resumes_with_another_number_of_them(root, world_size):
    whole = take(Stream(root, MIX), 90)
    ranks = [Stream(root, MIX, rank=r, world_size=world_size) for r in range(world_size)]
    shares = [take(rank, 15) for rank in ranks]
    together = [places for step in zip(*shares, strict=True) for places in step]
    assert together == whole[: 15 * world_size]
    states = [rank.state_dict() for rank in ranks]
    assert all(state == states[0] for state in states)
    alone = Stream(root, MIX)
    alone.load_state_dict(states[0])
    assert take(alone, 30) == whole[15 * world_size :][:30]


def test_a_state_of_other_data_or_another_mixture_is_refused(root, make_split):
    state = Stream(root, MIX).state_dict()
    for other in [Stream(root, "made"), Stream(root, MIX, exclude_native_ids=["native:3"])]:
        with pytest.raises(UsageError, match="other shards, another mixture"):
            other.load_state_dict(state)
    make_split(root, "more")
    Stream(root, MIX).load_state_dict(state)  # a further dataset beside them changes nothing


def test_roots_name_the_content_that_is_read(tmp_path, make_split):
    info = make_split(tmp_path)
    assert Stream(tmp_path, "made").roots == {"made/train": info.merkle_root}


def test_excluded_pictures_never_come(root, make_sample):
    sha256 = make_sample("made", "train", 5)[0].image.sha256
    stream = Stream(root, "made", exclude_native_ids=["native:3"], exclude_sha256s=[sha256])
    numbers = {int(example.sample.key[-9:]) for example in epoch_of(stream, 0)}
    assert numbers == {0, 1, 2, 4, 6}
    assert stream.epoch_length == 10


def test_pictures_held_out_never_come_whatever_dataset_shows_them(tmp_path, make_split):
    make_split(tmp_path, "made", shard_sizes=(200,))
    make_split(tmp_path, "other", shard_sizes=(100,), first_number=100)  # half are made's
    whole = {name: numbers_of(Stream(tmp_path, name), "rows") for name in ("made", "other")}
    streams = {name: Stream(tmp_path, name, held_out=0.2) for name in ("made", "other")}
    trained = {name: numbers_of(stream, "rows") for name, stream in streams.items()}
    aside = {name: numbers_of(stream, "held_out") for name, stream in streams.items()}
    for name in streams:
        assert trained[name] | aside[name] == whole[name]
        assert not trained[name] & aside[name]
    assert 25 < len(aside["made"]) < 55
    assert aside["made"] & whole["other"] == aside["other"] & whole["made"]
    assert streams["made"].fingerprint != Stream(tmp_path, "made").fingerprint


def numbers_of(stream, which):
    (source,) = stream.sources
    rows = getattr(source, which)
    return set(source.index.number[source.index.conversation_sample[rows]].tolist())


def test_examples_held_out_are_the_same_for_every_seed(tmp_path, make_split):
    make_split(tmp_path, "made", shard_sizes=(60,))
    make_split(tmp_path, "other", shard_sizes=(60,), first_number=100)
    streams = [Stream(tmp_path, "made=3,other:choice", seed=s, held_out=0.3) for s in (0, 1)]
    names = [[(e.sample.key, e.ordinal) for e in s.held_out_examples(20)] for s in streams]
    assert names[0] == names[1]
    assert len(set(names[0])) == len(names[0]) <= 20
    assert {key.partition("-")[0] for key, _ in names[0]} == {"made", "other"}
    whole = streams[0].held_out_examples(10_000)
    assert len(whole) == sum(len(source.held_out) for source in streams[0].sources)


def test_a_place_tells_its_pass_and_conversation_before_it_is_read(root):
    stream = Stream(root, "made=2.5", prefetch=0)
    for place in range(2 * stream.epoch_length):
        draw = stream.draw(place)
        example = stream.read(place, lambda example: example)
        assert (example.passes, example.epoch) == (draw.passes, place // stream.epoch_length)
        index = stream.sources[draw.source].index
        assert example.ordinal == index.conversation_ordinal[draw.row]
        assert example.sample.conversations[example.ordinal] == example.conversation
    assert draw.passes == 4


@pytest.mark.parametrize("stride", [1, 5, 40])
def test_draws_of_many_places_are_those_of_each_across_epochs(root, stride):
    stream = Stream(root, "made=2.5,other:choice", prefetch=0)
    places = range(3, 4 * stream.epoch_length, stride)
    assert stream.draws(places) == [stream.draw(place) for place in places]
    assert stream.draws([]) == []


def test_iterating_plans_on_without_a_gap(root, monkeypatch):
    monkeypatch.setattr(shards.stream, "_PLANNED_FIRST", 3)
    monkeypatch.setattr(shards.stream, "_PLANNED", 8)
    for prefetch in (0, 3):
        stream = Stream(root, MIX, rank=1, world_size=2, prefetch=prefetch)
        there = [place(stream.example(*divmod(p, 37))) for p in range(1, 101, 2)]
        assert take(stream, 50) == there


def test_a_picture_that_does_not_decode_is_quarantined_like_bytes_that_changed(root):
    bad = Stream(root, "made").example(0, 3)

    def decode(example):
        if example.sample.key == bad.sample.key:
            raise CorruptSampleError(f"`{example.sample.key}`: no picture")
        return example

    with pytest.raises(CorruptSampleError, match="no picture"):
        Stream(root, "made").read(3, decode)
    stream = Stream(root, "made", on_bad="quarantine")
    assert stream.read(3, decode).sample.key != bad.sample.key
    assert list(stream.quarantined) == [bad.sample.key]


def damage(root, number):
    tar = root / "made" / "train" / f"made-train-00000{0 if number < 4 else 1}.tar"
    content = bytearray(tar.read_bytes())
    content[content.index(f"thing {number} ".encode())] = ord("?")
    tar.write_bytes(content)


@pytest.mark.parametrize("prefetch", [0, 4])
def test_a_corrupt_sample_raises_and_names_shard_and_member(root, prefetch):
    damage(root, 2)
    with pytest.raises(
        CorruptSampleError, match=r"000000\.tar: member `made-train-000000002\.json`"
    ):
        list(islice(Stream(root, "made", prefetch=prefetch), 14))
    assert stream_threads() == []


@pytest.mark.parametrize("prefetch", [0, 4])
def test_quarantine_puts_the_next_readable_of_the_same_source_in_its_place(root, prefetch):
    whole = take(Stream(root, MIX), 37)
    bad_keys = {"made-train-000000002", "made-train-000000005"}
    for number in (2, 5):
        damage(root, number)
    stream = Stream(root, MIX, on_bad="quarantine", prefetch=prefetch)
    iterator = iter(stream)
    examples = list(islice(iterator, 37))
    iterator.close()
    assert set(stream.quarantined) == bad_keys
    assert "member `made-train-000000002.json`" in stream.quarantined["made-train-000000002"]
    for example, before in zip(examples, whole, strict=True):
        assert example.sample.key not in bad_keys
        assert example.source == before[2]
        if before[3].split("/")[0] not in ("2", "5"):
            assert place(example) == before


def test_quarantine_ends_at_its_budget_and_where_nothing_is_left(root):
    for number in (2, 5):
        damage(root, number)
    stream = Stream(root, "made", on_bad="quarantine", max_bad=1)
    with pytest.raises(CorruptSampleError, match="1 samples before it were quarantined"):
        list(islice(stream, 14))
    for number in (0, 1, 3, 4, 6):
        damage(root, number)
    with pytest.raises(CorruptSampleError, match="no readable sample is left"):
        next(iter(Stream(root, "made", on_bad="quarantine", prefetch=0)))


def test_no_thread_outlives_its_iterator(root):
    stream = Stream(root, MIX, prefetch=4)
    iterator = iter(stream)
    next(iterator)
    assert stream_threads()
    iterator.close()
    assert stream_threads() == []
    for _ in islice(stream, 3):  # dropped without being closed
        pass
    gc.collect()
    assert stream_threads() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mix": "nothing"}, "no such dataset"),
        ({"mix": "made:dialogue"}, "`made:dialogue`: no conversation is left"),
        ({"mix": "made", "rank": 2, "world_size": 2}, "0 <= rank < 2"),
        ({"mix": "made", "on_bad": "ignore"}, "expected `raise` or `quarantine`"),
        (
            {"mix": "made", "exclude_native_ids": [f"native:{i}" for i in range(7)]},
            "no conversation is left",
        ),
    ],
)
def test_impossible_streams_are_refused(root, arguments, message):
    with pytest.raises(UsageError, match=message):
        Stream(root, **arguments)
