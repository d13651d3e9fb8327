"""Which conversations an optimiser step trains on, and how they lie in rows.

Step s takes the places s * batch_size to (s + 1) * batch_size - 1 of the stream, counted through
all epochs; with the layout `grouped`, places within a window of steps are sorted by length first.
So what a step holds depends on the stream and the batch size alone. How many ranks share it, and
how much a device takes at once, only decides who reads what.
"""

import hashlib
import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, TypeVar

from roikit.errors import UsageError
from roikit.sample import Example
from shards.order import permute
from shards.stream import Draw, Stream

T = TypeVar("T")

#: Conversations of a window of the layout `grouped`, about, and the fewest steps it holds.
_WINDOW_PLACES, _WINDOW_STEPS = 4096, 8
#: A packed row may always be this long, tokens: short conversations share it.
_SHORT_ROW = 512
#: Share of packed rows that may stay empty before longer ones are tried.
_EMPTY = 0.05
#: Bins are even enough where they differ by this share.
_EVEN = 0.01


class Steps:
    """A stream cut into optimiser steps, micro-batches and rows.

    Args:
        stream: where the conversations come from.
        batch_size: conversations a step, over all ranks.
        micro_batch: conversations that one device takes at once; 0: all of its share of a step.
        layout: `plain`: each conversation in a row of its own, as drawn. `packed`: short ones share
            a row, and micro-batches hold about equally many tokens. `grouped`: a row each, and a
            step holds conversations of about one length.
        lengths: tokens of the conversation that a draw stands for; an estimate will do. Needed by
            `packed` and `grouped` before the first step; may be set later.
        max_tokens: no packed row is planned longer.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        batch_size: int,
        micro_batch: int = 0,
        layout: Literal["plain", "packed", "grouped"] = "plain",
        lengths: Callable[[Draw], int] | None = None,
        max_tokens: int = 2048,
    ) -> None:
        self.stream = stream
        self.batch_size = batch_size
        self.micro_batch = micro_batch
        self.layout = layout
        self.max_tokens = max_tokens
        self.lengths = lengths
        self._window_steps = max(_WINDOW_STEPS, _WINDOW_PLACES // batch_size)
        self._window = lru_cache(maxsize=2)(self._plan_window)

    @property
    def epoch_length(self) -> int:
        """Conversations an epoch."""
        return self.stream.epoch_length

    @property
    def quarantined(self) -> Mapping[str, str]:
        """What was quarantined by this process, by sample key: the error's message."""
        return self.stream.quarantined

    def state(self, step: int) -> dict[str, Any]:
        """Return where the stream stands after `step` steps; equal on every rank."""
        epoch, position = divmod(step * self.batch_size, self.epoch_length)
        return {
            "seed": self.stream.seed,
            "epoch": epoch,
            "position": position,
            "fingerprint": self.stream.fingerprint,
        }

    def check(self, state: Mapping[str, Any]) -> None:
        """Check that a state is of this very data.

        Raises:
            UsageError: it was taken over other shards, another mixture, seed or other exclusions.
        """
        ours = self.state(0)
        if any(state[name] != ours[name] for name in ("seed", "fingerprint")):
            raise UsageError(
                "stream: this state is of other shards, another mixture, seed or other exclusions",
                hint="resume with the recipe and the shards that the run was begun with",
            )

    def places(self, step: int) -> list[int]:
        """Return the places of the stream that a step trains on."""
        if self.layout == "grouped":
            window, number = divmod(step, self._window_steps)
            return [place for place, _ in self._window(window)[number]]
        return list(range(step * self.batch_size, (step + 1) * self.batch_size))

    def micro_batches(
        self, step: int, *, rank: int = 0, world_size: int = 1
    ) -> list[list[list[int]]]:
        """Return one rank's share of a step.

        Returns:
            Micro-batches of rows of places. Every rank has equally many micro-batches, one of which
            may be empty; all ranks together have each of the step's places once.
        """
        share = math.ceil(self.batch_size / world_size)
        rounds = math.ceil(share / (self.micro_batch or share))
        count = rounds * world_size
        if self.layout == "plain":
            places = self.places(step)
            return [
                [[place] for place in places[number::count]]
                for number in range(rank, count, world_size)
            ]
        if self.layout == "grouped":
            window, number = divmod(step, self._window_steps)
            # neighbours in length are computed at the same time, by all ranks
            chunks = _chunks(self._window(window)[number], count)
            mine = chunks[rank::world_size]
            return [[[place] for place, _ in chunk] for chunk in mine]
        placed = self._placed(self.places(step))
        most = math.ceil(self.batch_size / count)
        bins = balanced(placed, count, most=most)
        return [pack(bins[number], self.max_tokens) for number in range(rank, count, world_size)]

    def read(self, place: int, use: Callable[[Example], T]) -> T:
        """Return what `use` makes of the example at a place; see `Stream.read`."""
        return self.stream.read(place, use)

    def held_out(self, limit: int) -> list[Example]:
        """Read conversations of the pictures held out; see `Stream.held_out_examples`."""
        return self.stream.held_out_examples(limit)

    def _placed(self, places: Sequence[int]) -> list[tuple[int, int]]:
        """Return (place, tokens) of places, which ascend."""
        if self.lengths is None:
            raise UsageError(f"layout `{self.layout}`: expected the lengths of draws, got none")
        return [(draw.place, self.lengths(draw)) for draw in self.stream.draws(places)]

    def _plan_window(self, window: int) -> list[list[tuple[int, int]]]:
        """Return the (place, tokens) of each step of a window."""
        size = self._window_steps * self.batch_size
        placed = self._placed(range(window * size, (window + 1) * size))
        placed.sort(key=lambda one: one[1])
        steps = _chunks(placed, self._window_steps)
        name = f"window/{self.stream.seed}/{window}".encode()
        key = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")
        return [steps[permute(i, len(steps), key)] for i in range(len(steps))]


def balanced(
    placed: Sequence[tuple[int, int]], count: int, *, most: int
) -> list[list[tuple[int, int]]]:
    """Share (place, tokens) out so that every bin holds about equally many tokens.

    Args:
        placed: places and their tokens.
        count: bins.
        most: places a bin may hold; count * most is enough for all.

    Returns:
        The bins; in each, longer ones come first.
    """
    bins: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    totals = [(0, i) for i in range(count)]  # a heap of the bins that are not full
    # longest first, each into the emptiest bin (Graham's LPT rule)
    for place, tokens in sorted(placed, key=lambda one: (-one[1], one[0])):
        total, i = heapq.heappop(totals)
        bins[i].append((place, tokens))
        if len(bins[i]) < most:
            heapq.heappush(totals, (total + tokens, i))
    _even_out(bins)
    return [sorted(one, key=lambda placed: (-placed[1], placed[0])) for one in bins]


def _even_out(bins: list[list[tuple[int, int]]]) -> None:
    """Let the fullest bin swap with emptier ones, in place, until little is left to gain.

    With two or three conversations a bin, the LPT rule alone leaves some percent of it empty.
    """
    totals = [sum(tokens for _, tokens in one) for one in bins]
    for _ in range(sum(map(len, bins))):
        full = max(range(len(bins)), key=totals.__getitem__)
        if totals[full] - min(totals) <= _EVEN * totals[full]:
            return
        for other in sorted(range(len(bins)), key=totals.__getitem__):
            gap = totals[full] - totals[other]
            swaps = [
                (abs(gap - 2 * (mine - theirs)), i, j)
                for i, (_, mine) in enumerate(bins[full])
                for j, (_, theirs) in enumerate(bins[other])
                if 0 < mine - theirs < gap
            ]
            if swaps:
                break
        else:
            return
        _, i, j = min(swaps)
        given = bins[full][i][1] - bins[other][j][1]
        bins[full][i], bins[other][j] = bins[other][j], bins[full][i]
        totals[full] -= given
        totals[other] += given


def pack(placed: Sequence[tuple[int, int]], max_tokens: int) -> list[list[int]]:
    """Lay (place, tokens) out in rows that leave little of the longest row's length empty.

    A row is at most about twice as long as the longest conversation (or a few hundred tokens):
    attention costs grow with the square of it where there is no kernel for packed rows. It is
    longer, up to `max_tokens`, only where more than a twentieth would stay empty otherwise.

    Returns:
        Rows of places.
    """
    if not placed:
        return []
    total = sum(tokens for _, tokens in placed)
    longest = max(1, *(tokens for _, tokens in placed))
    most = max(longest, max_tokens)
    usual = max(longest, min(max_tokens, max(2 * longest, _SHORT_ROW)))
    # with more rows than these, one is as long as the longest, and more stays empty
    count = min(len(placed), total // longest + 1)
    best, length = _rows(placed, count)
    while length > most:
        count += 1
        best, length = _rows(placed, count)
    least = count * length
    for fewer in range(count - 1, 0, -1):
        rows, length = _rows(placed, fewer)
        is_good = least * (1 - _EMPTY) <= total
        if length > most or (length > usual and is_good):
            break
        if fewer * length < least:
            best, least = rows, fewer * length
    return [[place for place, _ in row] for row in best]


def _rows(placed: Sequence[tuple[int, int]], count: int) -> tuple[list[list[tuple[int, int]]], int]:
    rows = balanced(placed, count, most=len(placed))
    return rows, max(sum(tokens for _, tokens in row) for row in rows)


def _chunks(items: Sequence[Any], count: int) -> list[list[Any]]:
    """Cut into `count` runs whose lengths differ by one at most."""
    edges = [len(items) * i // count for i in range(count + 1)]
    return [list(items[a:b]) for a, b in pairwise(edges)]
