import hashlib
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roikit.errors import UsageError
from shards.order import BLOCK, Order, permute, permute_many

sources = st.lists(
    st.tuples(st.integers(1, 90), st.sampled_from([0.1, 0.5, 1.0, 1.7, 3.0])),
    min_size=1,
    max_size=4,
)
seeds = st.integers(0, 2**63)

GOLDEN = [
    [(1, 1), (1, 2), (0, 2), (1, 1), (0, 0), (1, 0), (1, 0), (0, 1), (1, 2), (0, 3), (0, 4)],
    [(0, 4), (1, 1), (0, 2), (1, 0), (0, 3), (1, 0), (0, 1), (1, 2), (0, 0), (1, 2), (1, 1)],
]

GOLDEN_DIGEST = "59fca8b452d5d4fcf612901ee26115a4e3bfa1737f2b34a6d9a6dee405769f19"


def make(drawn, seed):
    return Order([length for length, _ in drawn], [weight for _, weight in drawn], seed)


@settings(max_examples=30, deadline=None)
@given(sources, seeds)
def test_every_row_comes_once_a_pass_and_quotas_are_exact_in_every_epoch(drawn, seed):
    order = make(drawn, seed)
    taken = [[] for _ in drawn]
    for epoch in range(4):
        counts = Counter()
        for position in range(len(order)):
            source, row = order.locate(epoch, position)
            counts[source] += 1
            taken[source].append(order.draw(epoch, position)[1])
            assert 0 <= row < order.lengths[source]
        assert [counts[i] for i in range(len(drawn))] == list(order.quotas)
    for source, draws in enumerate(taken):
        # No draw is made twice or left out, over all epochs ...
        assert sorted(draws) == list(range(4 * order.quotas[source]))
        # ... and the draws of a pass are all its rows, each once.
        length = order.lengths[source]
        for start in range(0, len(draws) - length + 1, length):
            rows = [order.row(source, start + i) for i in range(length)]
            assert sorted(rows) == list(range(length))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=6), seeds, st.data())
def test_the_proportions_hold_in_any_stretch(lengths, seed, data):
    order = Order(lengths, [1.0] * len(lengths), seed)
    start = data.draw(st.integers(0, len(order) - 1))
    stretch = range(start, min(len(order), start + 5 * BLOCK))
    counts = Counter(order.draw(0, position)[0] for position in stretch)
    for source, quota in enumerate(order.quotas):
        share = quota / len(order)
        # Whole blocks are right to one draw; the two cut ones may hold any part of their quota.
        slack = 2 + 2 * (share * (BLOCK + len(lengths)) + 1)
        assert abs(counts[source] - share * len(stretch)) <= slack


def test_every_block_of_a_long_epoch_holds_its_quota_to_one():
    order = Order([100_000, 3_000_000, 777], [1.0, 0.5, 2.0], 3)
    per_block = np.array(order.quotas) / order.num_blocks
    for block in (0, 1, 2, 1000, 11_111, order.num_blocks - 1):
        before, after = order._draws_before(block), order._draws_before(block + 1)
        taken = np.subtract(after, before)
        assert (np.abs(taken - per_block) < 1).all()
        # and so do all blocks up to here together
        assert (np.abs(after - per_block * (block + 1)) <= 1).all()


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_permute_is_a_permutation(length, key):
    assert sorted(permute(i, length, key) for i in range(length)) == list(range(length))


def test_small_permutations_are_all_about_equally_likely():
    counts = Counter(
        tuple(permute(i, 4, key * 0x9E3779B97F4A7C15 & (2**64 - 1)) for i in range(4))
        for key in range(4800)
    )
    assert set(counts) == set(permutations(range(4)))
    # 24 outcomes, 200 expected of each, standard deviation 14
    assert all(130 < count < 270 for count in counts.values())


def test_neighbours_are_not_kept_together():
    order = Order([5000], [1.0], 0)
    rows = np.array([order.locate(0, position)[1] for position in range(5000)])
    assert abs(np.corrcoef(rows[:-1], rows[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(rows, np.arange(5000))[0, 1]) < 0.05
    second = np.array([order.locate(1, position)[1] for position in range(5000)])
    assert np.mean(rows == second) < 0.005


def test_the_order_is_frozen():
    # Changing these breaks the resume of every run: raise ORDER_VERSION and say ORDER in the notes.
    order = Order([5, 3], [1.0, 2.0], 7)
    assert order.quotas == (5, 6)
    epochs = [[order.locate(epoch, position) for position in range(11)] for epoch in (0, 1)]
    assert epochs == GOLDEN


def test_the_order_of_long_and_uneven_mixtures_is_frozen():
    mixtures = [
        ([100_000, 3_000_000, 777], [1.0, 0.5, 2.0], 3),
        ([64] * 9, [1.0] * 9, 1),
        ([20_000_017], [0.3], 2**63),
        ([10, 1000, 5], [3.3, 0.1, 0.7], 5),
    ]
    digest = hashlib.sha256()
    for lengths, weights, seed in mixtures:
        order = Order(lengths, weights, seed)
        for epoch in (0, 7):
            for position in range(0, len(order), len(order) // 100 + 1):
                digest.update(repr(order.locate(epoch, position)).encode())
    assert digest.hexdigest() == GOLDEN_DIGEST


@settings(max_examples=40, deadline=None)
@given(sources, seeds, st.integers(0, 3), st.data())
def test_many_positions_at_once_are_the_same_as_one_by_one(drawn, seed, epoch, data):
    order = make(drawn, seed)
    places = st.sets(st.integers(0, len(order) - 1), min_size=1)
    assert_many_are_as_one_by_one(order, epoch, sorted(data.draw(places)))
    assert_many_are_as_one_by_one(order, epoch, range(len(order)))


@pytest.mark.parametrize("stride", [1, 7, 1000, 5000])
def test_many_positions_of_long_mixtures_are_the_same_as_one_by_one(stride):
    for lengths, weights, seed in [
        ([100_000, 3_000_000, 777], [1.0, 0.5, 2.0], 3),
        ([2**32 - 1], [2.0], 2**64 - 1),
    ]:
        order = Order(lengths, weights, seed)
        end = len(order)
        for start in (0, end // 2, end - 100 * stride):
            assert_many_are_as_one_by_one(order, 5, range(start, start + 100 * stride, stride))


def assert_many_are_as_one_by_one(order, epoch, positions):
    chosen, draws = order.draws(epoch, positions)
    one_by_one = [order.draw(epoch, position) for position in positions]
    assert list(zip(chosen.tolist(), draws.tolist(), strict=True)) == one_by_one
    assert order.rows(chosen, draws).tolist() == [order.row(*one) for one in one_by_one]


@given(
    st.lists(
        st.integers(1, 2**40).flatmap(
            lambda n: st.tuples(st.integers(0, n - 1), st.just(n), st.integers(0, 2**64 - 1))
        ),
        max_size=60,
    )
)
@settings(max_examples=60, deadline=None)
def test_many_values_are_permuted_as_one_by_one(asked):
    values, lengths, keys = np.array(asked, dtype=np.uint64).reshape(-1, 3).T
    found = permute_many(values, lengths, keys)
    assert found.tolist() == [permute(*one) for one in asked]


def test_seeds_and_epochs_give_different_orders():
    def first(seed, epoch):
        order = Order([1000, 1000], [1.0, 1.0], seed)
        return [order.locate(epoch, position) for position in range(50)]

    assert first(0, 0) == first(0, 0)
    assert first(0, 0) != first(1, 0)
    assert first(0, 0) != first(0, 1)


def test_impossible_mixtures_and_positions_are_refused():
    with pytest.raises(UsageError, match="source 1 has no rows"):
        Order([3, 0], [1.0, 1.0])
    with pytest.raises(UsageError, match="positive weight"):
        Order([3], [0.0])
    with pytest.raises(UsageError, match="a weight a source"):
        Order([], [])
    with pytest.raises(IndexError, match="position 3 of epoch 0"):
        Order([3], [1.0]).locate(0, 3)
    with pytest.raises(IndexError, match="position 3 of epoch 0"):
        Order([3], [1.0]).draws(0, range(4))
