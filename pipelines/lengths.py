"""How long any draw of any conversation of a split is in tokens, without its text.

In: what `pipelines/measure_lengths.py` keeps, which is mapped, not read, and a recipe's limits.
Out: tokens of a draw, for steps planned by length, `mix explain` and the cost card alike.

A length is exact where a conversation is asked as it stands, but for names of regions that are
tokenised otherwise in other places; for lists asked in one turn it is an estimate, within some
percent. Rewording is not followed: questions count as they are stored.
"""

import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.measure_lengths import MOST_NAMES, measure_lengths
from pipelines.token_counts import TokenCounter
from roikit.config import Recipe
from roikit.draws import Place, drawn_exchanges
from roikit.exchanges import can_be_asked_together, is_asked_together, kept_exchanges
from shards.index import SplitIndex
from shards.layout import sample_key
from shards.stream import Draw, Stream

log = logging.getLogger(__name__)


def open_lengths(
    recipe: Recipe,
    index: SplitIndex,
    counter: TokenCounter,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> "Lengths":
    """Open the lengths of a split for a recipe's model, measured first unless that has been done.

    Args:
        recipe: whose picture and regions take their tokens.
        index: the split's.
        counter: of its tokens.
        progress: called with (shards measured, shards).
    """
    return Lengths(
        measure_lengths(index, counter, progress=progress),
        index,
        num_image_tokens=recipe.model.num_image_tokens,
        num_region_tokens=recipe.model.num_region_tokens,
    )


def recipe_tokens(recipe: Recipe, lengths: "Lengths") -> Callable[[int, int], int]:
    """Return what says the tokens of (conversation row, passes) under a recipe's limits."""
    run = recipe.run
    return partial(
        lengths.tokens,
        seed=recipe.seed,
        max_exchanges=run.max_exchanges,
        asked_together=run.asked_together,
        max_tokens=run.max_tokens,
    )


def draw_lengths(recipe: Recipe, stream: Stream, counter: TokenCounter) -> Callable[[Draw], int]:
    """Return what says how many tokens a draw of a stream takes.

    Args:
        recipe: whose limits hold.
        stream: whose draws they are.
        counter: of their tokens.
    """
    by_root: dict[str, Callable[[int, int], int]] = {}
    for source in stream.sources:
        index = source.index
        if index.merkle_root not in by_root:
            log.info("measuring the lengths of `%s@%s`", index.dataset, index.split)
            by_root[index.merkle_root] = recipe_tokens(recipe, open_lengths(recipe, index, counter))
    by_source = [by_root[source.index.merkle_root] for source in stream.sources]
    return lambda draw: by_source[draw.source](draw.row, draw.passes)


class Lengths:
    """Lengths of a split's conversations, by their rows in its index.

    Args:
        path: what `measure_lengths` returned.
        index: the split's.
        num_image_tokens: tokens of a picture.
        num_region_tokens: tokens of a region.
    """

    def __init__(
        self, path: Path, index: SplitIndex, *, num_image_tokens: int, num_region_tokens: int
    ) -> None:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        constants = json.loads(batch.schema.metadata[b"constants"])
        exchanges = batch.column("exchanges")
        values = exchanges.values
        regions = values.field("regions")
        self._index = index
        self._independent = batch.column("independent").to_numpy()
        self._starts = exchanges.offsets.to_numpy()
        self._question = values.field("question").to_numpy()
        self._answer = values.field("answer").to_numpy()
        self._asked = values.field("asked").to_numpy()
        self._region_starts = regions.offsets.to_numpy()
        self._regions = regions.values.to_numpy()
        self._num_image_tokens = num_image_tokens
        self._num_region_tokens = num_region_tokens
        self._names: list[int] = constants["names"]
        self._lists: list[int] = constants["lists"]
        self._separator: int = constants["separator"]
        self._frame: int = constants["question"] + constants["answer"]
        #: Tokens of a conversation in which nothing is said, the picture's included. The frame of
        #: the first question is the head's.
        self.fixed_tokens: int = (
            constants["head"] + constants["tail"] - constants["question"] + num_image_tokens
        )

    def __len__(self) -> int:
        return len(self._independent)

    @property
    def num_exchanges(self) -> npt.NDArray[np.int32]:
        """(len,) exchanges of each conversation; 0 where nothing can be learned."""
        counts: npt.NDArray[np.int32] = np.diff(self._starts)
        return counts

    def drawn_exchanges(self, max_exchanges: int) -> npt.NDArray[np.float64]:
        """(len,) exchanges that a pass takes of each conversation, on the average of a cycle."""
        counts = self.num_exchanges
        if not max_exchanges:
            return counts.astype(np.float64)
        parts = np.maximum(1, -(-counts // max_exchanges))
        drawn: npt.NDArray[np.float64] = np.where(self._independent, counts / parts, counts)
        return drawn

    def is_unlearnable(self, max_tokens: int) -> npt.NDArray[np.bool_]:
        """(len,) True where not even one exchange fits: a dialogue's first, any of a list."""
        own = self._frame + self._question.astype(np.int64) + self._answer
        own += self._num_region_tokens * np.diff(self._region_starts)
        unlearnable = np.ones(len(self), dtype=bool)
        some = np.flatnonzero(self.num_exchanges)
        if len(some):
            shortest = np.where(
                self._independent[some],
                np.minimum.reduceat(own, self._starts[some]),
                own[self._starts[some]],
            )
            unlearnable[some] = self.fixed_tokens + shortest > max_tokens
        return unlearnable

    def tokens(
        self,
        conversation_row: int,
        passes: int,
        *,
        seed: int,
        max_exchanges: int = 0,
        asked_together: float = 0.0,
        max_tokens: int,
    ) -> int:
        """Return the length of one draw as `roikit.batch.encode_example` makes it.

        Args:
            conversation_row: in the split's index.
            passes: how often its source was gone through before.
            seed: the run's.
            max_exchanges: drawn from an independent list; 0: all.
            asked_together: share of those lists asked in one turn.
            max_tokens: of a row; what is longer loses trailing exchanges.

        Returns:
            0 where nothing can be learned.
        """
        start, end = int(self._starts[conversation_row]), int(self._starts[conversation_row + 1])
        place: Place = {
            "seed": seed,
            "key": self._key(conversation_row),
            "ordinal": int(self._index.conversation_ordinal[conversation_row]),
            "passes": passes,
        }
        order: Sequence[int] = range(end - start)
        is_list = bool(self._independent[conversation_row]) and len(order) > 1
        if is_list:
            order = drawn_exchanges(len(order), max_exchanges, **place)
            if asked_together:
                together = self._together(start, order)
                if 0 < together <= max_tokens and is_asked_together(asked_together, **place):
                    return together
        lengths = self._prefixes(start, order, is_list=is_list)
        kept = kept_exchanges(len(order), max_tokens, lambda count: lengths[count - 1])
        return lengths[kept - 1] if kept else 0

    def _key(self, conversation_row: int) -> str:
        index = self._index
        number = int(index.number[index.conversation_sample[conversation_row]])
        return sample_key(index.dataset, index.split, number)

    def _prefixes(self, start: int, order: Sequence[int], *, is_list: bool) -> list[int]:
        """Return the lengths of the first exchange, the first two, and so on."""
        lengths = []
        total = self.fixed_tokens
        introduced: dict[int, int] = {}
        for i in order:
            at = start + i
            total += self._frame + int(self._question[at]) + int(self._answer[at])
            regions = self._regions[self._region_starts[at] : self._region_starts[at + 1]].tolist()
            for alone, region in enumerate(regions, 1):
                if region not in introduced:
                    introduced[region] = len(introduced) + 1
                    total += self._num_region_tokens
                if is_list:  # it was measured as if nothing stood before it
                    total += self._name(introduced[region]) - self._name(alone)
            lengths.append(total)
        return lengths

    def _together(self, start: int, order: Sequence[int]) -> int:
        """Return about what these exchanges take in one turn; 0 where they cannot be put so."""
        asked = [int(self._asked[start + i]) for i in order]
        if not can_be_asked_together([[n] if n else [] for n in asked]):
            return 0
        count = len(order)
        listed = self._lists[min(count, len(self._lists) + 1) - 2]
        introduced = {
            int(region)
            for i in order
            for at in [start + i]
            for region in self._regions[self._region_starts[at] : self._region_starts[at + 1]]
        }
        answers = sum(int(self._answer[start + i]) for i in order)
        names = sum(map(self._name, range(1, count + 1)))
        question = int(self._question[start + order[0]]) - self._name(1) + 2 * listed - 1
        named = answers + names + self._separator * count - 1
        regions = self._num_region_tokens * len(introduced)
        return self.fixed_tokens + self._frame + question + named + regions

    def _name(self, number: int) -> int:
        return self._names[min(number, MOST_NAMES) - 1]
