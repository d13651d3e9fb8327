"""Which row of which source stands at a position: a pure function, in constant memory.

Source i has `lengths[i]` rows and is to be passed `weights[i]` times an epoch, so an epoch holds
`quota[i] = round(lengths[i] * weights[i])` of its rows and `sum(quota)` positions.

- *Mixing.* The epoch is cut into `num_blocks` blocks of about `BLOCK` positions. Source i's draws
number
  `floor(b * quota[i] / num_blocks)` (shifted by a phase of its own) before block b: whole numbers
  that add up exactly, and never off by one draw from the exact proportion at any block's edge.
  Inside a block the draws stand in shuffled order.
- *Shuffling.* Source i's draws are counted on through the epochs. Draw d is row `permutation(d mod
length)`
  of pass `d div length`, with a permutation of its own for each pass: every row comes once a pass,
  whatever the weight. Half a weight means half a pass an epoch, the other half in the next.

Permutations are keyed Feistel networks over the next power of four, walked until they land inside.
They need no table, so any position of any epoch is found at once. One position takes about 15 us;
`draws`, `rows` and `permute_many` are the same functions over many at once: a thousand take a tenth
of the time each.
Changing anything here changes the ORDER of every run: raise `ORDER_VERSION` (runs begun before are
then refused, not continued wrongly) and say so in the change notes.
"""

import hashlib
import operator
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from roikit.errors import UsageError

#: Part of every key and of the stream's fingerprint: raised with any change of the order.
ORDER_VERSION = 1
#: Positions a block holds, about. Small enough for proportions to hold within any few batches.
BLOCK = 64
#: What tells the six rounds of a permutation apart.
_ROUND_BITS = tuple(i << 32 for i in range(6))
_MASK = (1 << 64) - 1
#: Fewer values than these are permuted one by one: an operation of numpy takes a microsecond.
_FEW = 16


class Order:
    """The order of all epochs of a mixture.

    Args:
        lengths: rows of each source; at least one source, each with at least one row.
        weights: passes over each source an epoch; positive, not necessarily whole.
        seed: another seed, another order.

    Raises:
        UsageError: no source, an empty source, or a weight that is not positive.
    """

    def __init__(self, lengths: Sequence[int], weights: Sequence[float], seed: int = 0) -> None:
        if not lengths or len(lengths) != len(weights):
            raise UsageError(
                f"order: expected a weight a source, got {len(lengths)} and {len(weights)}"
            )
        for i, (length, weight) in enumerate(zip(lengths, weights, strict=True)):
            if length < 1:
                raise UsageError(f"order: source {i} has no rows")
            if not 0 < weight < float("inf"):
                raise UsageError(f"order: source {i}: expected a positive weight, got {weight}")
        self.lengths = tuple(lengths)
        self.seed = seed
        #: draws from each source an epoch
        self.quotas = tuple(
            max(1, round(length * weight)) for length, weight in zip(lengths, weights, strict=True)
        )
        self._num_positions = sum(self.quotas)
        self.num_blocks = -(-self._num_positions // BLOCK)
        # Without a phase of their own, sources with equal quotas would all draw in the same blocks.
        self._phases = tuple(
            _key("phase", seed, i) % self.num_blocks for i in range(len(self.lengths))
        )

    def __len__(self) -> int:
        """Return the positions of an epoch."""
        return self._num_positions

    def locate(self, epoch: int, position: int) -> tuple[int, int]:
        """Return (source, row) at `position` (0 to len - 1) of `epoch` (from 0).

        Raises:
            IndexError: `position` lies outside the epoch.
        """
        source, draw = self.draw(epoch, position)
        return source, self.row(source, draw)

    def draw(self, epoch: int, position: int) -> tuple[int, int]:
        """Return (source, how many draws of that source came before, in all epochs)."""
        if not 0 <= position < self._num_positions or epoch < 0:
            raise IndexError(f"position {position} of epoch {epoch}: an epoch has {len(self)}")
        block = self._block_of(position)
        starts, counts = self._draws_of(block)
        slot = permute(position - sum(starts), sum(counts), _key("block", self.seed, epoch, block))
        for source, count in enumerate(counts):
            if slot < count:
                return source, epoch * self.quotas[source] + starts[source] + slot
            slot -= count
        raise AssertionError("a block's counts add up to its size")

    def row(self, source: int, draw: int) -> int:
        """Return the row that draw number `draw` of `source` takes."""
        length = self.lengths[source]
        number, place = divmod(draw, length)
        return permute(place, length, _key("pass", self.seed, source, number))

    def draws(
        self, epoch: int, positions: Sequence[int]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return what `draw` returns for many positions of an epoch, as two arrays.

        Args:
            epoch: from 0.
            positions: at least one; they ascend.
        """
        for position in (positions[0], positions[-1]):
            if not 0 <= position < self._num_positions or epoch < 0:
                raise IndexError(f"position {position} of epoch {epoch}: an epoch has {len(self)}")
        lengths: list[int] = []  # of the blocks, with the next five
        keys: list[int] = []
        firsts: list[int] = []
        ends: list[list[int]] = []  # by source: slots up to its last one
        offsets: list[list[int]] = []  # by source: a slot's draw, less the slot
        shares: list[int] = []  # how many of `positions` lie in it
        done = 0
        while done < len(positions):
            block = self._block_of(positions[done])
            starts, counts = self._draws_of(block)
            lengths.append(sum(counts))
            keys.append(_key("block", self.seed, epoch, block))
            firsts.append(sum(starts))
            ends.append(list(accumulate(counts)))
            offsets.append(
                [
                    epoch * quota + start - end + count
                    for quota, start, end, count in zip(
                        self.quotas, starts, ends[-1], counts, strict=True
                    )
                ]
            )
            inside = bisect_left(positions, firsts[-1] + lengths[-1], lo=done)
            shares.append(inside - done)
            done = inside
        blocks = np.repeat(np.arange(len(shares)), shares)
        slots = permute_many(
            np.asarray(positions, dtype=np.uint64) - np.array(firsts, dtype=np.uint64)[blocks],
            np.array(lengths, dtype=np.uint64)[blocks],
            np.array(keys, dtype=np.uint64)[blocks],
        ).astype(np.int64)
        sources = (np.array(ends)[blocks] <= slots[:, None]).sum(axis=1)
        return sources, np.array(offsets)[blocks, sources] + slots

    def rows(
        self, sources: npt.NDArray[np.int64], draws: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Return what `row` returns for many draws."""
        lengths = np.array(self.lengths, dtype=np.int64)[sources]
        passes, places = np.divmod(draws, lengths)
        keys = [
            _key("pass", self.seed, source, number)
            for source, number in zip(sources.tolist(), passes.tolist(), strict=True)
        ]
        values = (
            places.astype(np.uint64),
            lengths.astype(np.uint64),
            np.array(keys, dtype=np.uint64),
        )
        return permute_many(*values).astype(np.int64)

    def _draws_of(self, block: int) -> tuple[list[int], list[int]]:
        """Return how many draws of each source come before `block`, and how many in it."""
        starts, ends = self._draws_before(block), self._draws_before(block + 1)
        return starts, list(map(operator.sub, ends, starts))

    def _draws_before(self, block: int) -> list[int]:
        """Return how many draws of each source the epoch makes before `block`."""
        num_blocks = self.num_blocks
        return [
            (block * quota + phase) // num_blocks
            for quota, phase in zip(self.quotas, self._phases, strict=True)
        ]

    def _block_of(self, position: int) -> int:
        """Return the block that `position` lies in: the last that starts at or before it."""
        # Blocks are about equally long, so this is off by few; phases shift the starts.
        block = min(position * self.num_blocks // self._num_positions, self.num_blocks - 1)
        while block and sum(self._draws_before(block)) > position:
            block -= 1
        while block + 1 < self.num_blocks and sum(self._draws_before(block + 1)) <= position:
            block += 1
        return block


def permute(value: int, length: int, key: int) -> int:
    """Return where a permutation of 0 to length - 1, chosen by the 64-bit `key`, takes `value`.

    Source: the scrambling of a half is the finaliser of SplitMix64 (Steele, Lea, Flood: Fast
    splittable pseudorandom number generators, 2014). It is written out here, since calling it took
    half of the time.
    """
    half_bits = max(1, ((length - 1).bit_length() + 1) // 2)
    half_mask = (1 << half_bits) - 1
    while True:
        left, right = value >> half_bits, value & half_mask
        for round_bits in _ROUND_BITS:
            mixed = ((right + round_bits ^ key) + 0x9E3779B97F4A7C15) & _MASK
            mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & _MASK
            mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & _MASK
            left, right = right, left ^ ((mixed ^ mixed >> 31) & half_mask)
        value = left << half_bits | right
        if value < length:
            return value


def permute_many(
    values: npt.NDArray[np.uint64], lengths: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Return `permute` of each value with its length and key."""
    found = values.copy()
    # an exponent of a float is the number of bits, exactly, below 2**53
    bits = np.frexp((lengths - np.uint64(1)).astype(np.float64))[1]
    half_bits = np.maximum(1, (bits + 1) // 2).astype(np.uint64)
    outside = np.arange(len(values))
    while len(outside) > _FEW:
        value, key, shift = found[outside], keys[outside], half_bits[outside]
        half_mask = (np.uint64(1) << shift) - np.uint64(1)
        left, right = value >> shift, value & half_mask
        for round_bits in _ROUND_BITS:
            mixed = (right + np.uint64(round_bits) ^ key) + np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ mixed >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ mixed >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
            left, right = right, left ^ ((mixed ^ mixed >> np.uint64(31)) & half_mask)
        value = left << shift | right
        found[outside] = value
        outside = outside[value >= lengths[outside]]
    for i in outside.tolist():  # a walk goes on from wherever it stands
        found[i] = permute(int(found[i]), int(lengths[i]), int(keys[i]))
    return found


@lru_cache(maxsize=1024)
def _key(*parts: int | str) -> int:
    """Return 64 bits that depend on all of `parts`."""
    text = "/".join(str(part) for part in (f"roikit-order-{ORDER_VERSION}", *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
