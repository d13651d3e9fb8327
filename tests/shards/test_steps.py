"""Steps: every place once, in an order that ranks, stops and micro-batches do not change."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roikit.errors import UsageError
from shards.steps import Steps, balanced, pack
from shards.stream import Stream

MIXTURES = ("made", "made=2,other:choice", "made:caption=0.5,other=3")
LAYOUTS = ("plain", "packed", "grouped")


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_split):
    root = tmp_path_factory.mktemp("shards")
    make_split(root, "made", shard_sizes=(4, 3))
    make_split(root, "other", shard_sizes=(9,), first_number=100)
    return root


def tokens(draw):
    """Lengths as uneven as real ones."""
    return 40 + random.Random(draw.row * 31 + draw.passes).randrange(300)


def make_steps(root, mix, **how):
    layout = how.pop("layout", "plain")
    lengths = None if layout == "plain" else tokens
    return Steps(Stream(root, mix, seed=3), layout=layout, lengths=lengths, **how)


def conversation(steps, place):
    def name(example):
        return (example.source, example.conversation.id, example.passes)

    return steps.read(place, name)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mix", MIXTURES)
@settings(max_examples=12, deadline=None)
@given(
    batch_size=st.sampled_from([1, 3, 8, 16]),
    legs=st.lists(
        st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([0, 1, 2, 5]), st.integers(0, 12)),
        min_size=1,
        max_size=4,
    ),
)
def test_any_ranks_micro_batches_and_stops_train_on_the_same_steps(
    root, mix, layout, batch_size, legs
):
    whole = make_steps(root, mix, layout=layout, batch_size=batch_size)
    num_steps = -(-2 * whole.epoch_length // batch_size)
    step = 0
    for world_size, micro_batch, length in [*legs, (1, 0, num_steps)]:  # each leg begins anew
        steps = make_steps(root, mix, layout=layout, batch_size=batch_size, micro_batch=micro_batch)
        if step:
            steps.check(whole.state(step))
        for _ in range(min(length, num_steps - step)):
            ranks = [
                steps.micro_batches(step, rank=rank, world_size=world_size)
                for rank in range(world_size)
            ]
            assert len({len(micro_batches) for micro_batches in ranks}) == 1
            for micro_batch_rows in (rows for rank in ranks for rows in rank):
                held = sum(map(len, micro_batch_rows))
                assert held <= (micro_batch or -(-batch_size // world_size))
            shared = [p for rank in ranks for rows in rank for row in rows for p in row]
            assert sorted(shared) == sorted(whole.places(step))
            step += 1
    assert step == num_steps


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_epochs_hold_each_place_once(root, layout):
    steps = make_steps(root, MIXTURES[1], layout=layout, batch_size=2)
    window = 2048 if layout == "grouped" else 1  # of steps: within one, places change their step
    num_steps = -(-2 * steps.epoch_length // 2 // window) * window
    places = [place for step in range(num_steps) for place in steps.places(step)]
    assert sorted(places) == list(range(2 * num_steps))
    names = Counter(conversation(steps, place) for place in range(2 * steps.epoch_length))
    quotas = steps.stream.source_quotas
    for source, quota in quotas.items():
        assert sum(count for name, count in names.items() if name[0] == source) == 2 * quota
    assert set(names.values()) == {1}  # a conversation comes once in each pass


def test_grouped_steps_hold_conversations_of_about_one_length(root):
    steps = make_steps(root, "made=9", layout="grouped", batch_size=8)
    assert padding(steps, range(40), micro_batch_of=1) < 0.05
    assert steps.places(0) != list(range(8))
    lengths = [max(tokens(steps.stream.draw(p)) for p in steps.places(s)) for s in range(20)]
    assert lengths != sorted(lengths)


@pytest.mark.parametrize("world_size", [1, 2])
def test_packed_rows_leave_little_empty(root, world_size):
    steps = make_steps(root, "made=9,other", layout="packed", batch_size=32, micro_batch=8)
    assert padding(steps, range(40), world_size) < 0.05
    plain = make_steps(root, "made=9,other", batch_size=32, micro_batch=8)
    assert padding(plain, range(40), world_size) > 0.2


def padding(steps, which, world_size=1, micro_batch_of=None):
    """Share of token places that hold nothing."""
    used = there = 0
    for step in which:
        for rank in range(world_size):
            for rows in steps.micro_batches(step, rank=rank, world_size=world_size):
                lengths = [sum(tokens(steps.stream.draw(p)) for p in row) for row in rows]
                used += sum(lengths)
                there += max(lengths) * len(lengths)
    return 1 - used / there


@given(lengths=st.lists(st.integers(1, 900), min_size=1, max_size=40), count=st.integers(1, 9))
def test_bins_are_balanced_and_bounded(lengths, count):
    most = -(-len(lengths) // count)
    bins = balanced(list(enumerate(lengths)), count, most=most)
    assert sorted(place for one in bins for place, _ in one) == list(range(len(lengths)))
    assert max(map(len, bins)) <= most


@given(
    lengths=st.lists(st.integers(1, 900), min_size=1, max_size=40),
    max_tokens=st.sampled_from([600, 2048]),
)
def test_a_packed_row_is_long_only_where_too_much_would_stay_empty(lengths, max_tokens):
    rows = pack(list(enumerate(lengths)), max_tokens)
    assert sorted(place for row in rows for place in row) == list(range(len(lengths)))
    longest = max(sum(lengths[place] for place in row) for row in rows)
    assert longest <= max(max_tokens, *lengths)
    short = max(2 * max(lengths), 512)
    if longest > short:
        bins = balanced(list(enumerate(lengths)), len(rows) + 1, most=len(lengths))
        length = max(sum(tokens for _, tokens in one) for one in bins)
        assert 1 - sum(lengths) / (len(bins) * length) > 0.05


@pytest.mark.parametrize("micro_batch", [4, 8, 0])
@pytest.mark.parametrize("batch_size", [8, 16, 64])
def test_few_conversations_of_about_one_length_leave_little_empty_too(batch_size, micro_batch):
    rng = random.Random(batch_size + micro_batch)
    used = there = 0
    for _ in range(20):
        placed = [(i, rng.randrange(180, 360)) for i in range(batch_size)]
        lengths = dict(placed)
        at_once = micro_batch or batch_size
        for one in balanced(placed, batch_size // at_once, most=at_once):
            widths = [sum(lengths[place] for place in row) for row in pack(one, 2048)]
            used += sum(widths)
            there += max(widths) * len(widths)
    assert 1 - used / there < 0.05


@given(lengths=st.lists(st.integers(1, 900), min_size=4, max_size=40), count=st.integers(2, 4))
def test_no_swap_with_the_emptiest_bin_would_even_bins_out(lengths, count):
    bins = balanced(list(enumerate(lengths)), count, most=len(lengths))
    totals = [sum(tokens for _, tokens in one) for one in bins]
    full, empty = totals.index(max(totals)), totals.index(min(totals))
    gap = totals[full] - totals[empty]
    if gap > 0.01 * totals[full]:
        swaps = [a - b for _, a in bins[full] for _, b in bins[empty]]
        assert not [swap for swap in swaps if 0 < swap < gap]


def test_a_layout_by_length_asks_for_lengths(root):
    with pytest.raises(UsageError, match="`packed`: expected the lengths of draws"):
        Steps(Stream(root, "made"), batch_size=2, layout="packed").micro_batches(0)


def test_a_state_of_other_data_is_refused(root):
    steps = make_steps(root, "made", batch_size=2)
    steps.check(steps.state(3))
    for other in (steps.state(3) | {"seed": 4}, make_steps(root, "made=2", batch_size=2).state(3)):
        with pytest.raises(UsageError, match="other shards, another mixture, seed"):
            steps.check(other)
