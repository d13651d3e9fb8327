"""Conversations for training, in a reproducible order, for ever.

In: committed shards and a mixture. Out: `Example`s, one conversation each, with the picture's bytes
as they are stored. The state is (seed, epoch, position) and nothing else; position p of an epoch is
the same example whatever the number of ranks, threads or interruptions. Does not decode pictures
and knows no model.
"""

import hashlib
import json
import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from roikit.errors import CorruptSampleError, UsageError
from roikit.sample import Example
from shards.index import SplitIndex, native_hashes, rows_where, short_hashes
from shards.mix import MixEntry, parse_mix
from shards.order import ORDER_VERSION, Order, permute
from shards.read import ShardReader, open_split
from shards.selection import Chosen

__all__ = ["MixEntry", "Order", "Stream", "parse_mix"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: What to do about samples that cannot be read.
_DAMAGED = "`roikit verify` lists what is damaged; delete that and convert again"
#: Draws planned at once when a stream begins, so that its first example comes soon, and later.
_PLANNED_FIRST, _PLANNED = 32, 1024


@dataclass(frozen=True, slots=True)
class MixSource:
    """One entry of the mixture: the conversations it stands for."""

    entry: MixEntry
    index: SplitIndex
    rows: npt.NDArray[np.uint32]  #: conversations, as rows of the index
    held_out: npt.NDArray[np.uint32]  #: those of pictures that are held out

    def __len__(self) -> int:
        return len(self.rows)


class Draw(msgspec.Struct, frozen=True, gc=False):
    """Which conversation stands at a place; known without reading it."""

    place: int  #: counted through all epochs
    source: int  #: index into the stream's sources
    row: int  #: of the split's conversations
    passes: int  #: how often its source was gone through before
    number: int  #: draws made from the source before this one


class Stream:
    """Iterates examples over all epochs; `iter` goes on from the current state.

    One iterator at a time: the state follows what has been handed out, not what has been read
    ahead.

    Args:
        root: the shards' root folder.
        mix: what to draw from, as text or entries.
        seed: of the order.
        rank: which of `world_size` ranks this is.
        world_size: ranks that share the work: rank r fetches every `world_size`-th position from r
            on. All must hand out equally many examples between two saved states.
        prefetch: threads reading ahead; 0 reads in the caller's thread.
        on_bad: `raise` a `CorruptSampleError`, or `quarantine`: record it and take the next
            readable conversation of the same source in its place.
        max_bad: how many different samples may be quarantined before an error is raised after all.
        exclude_native_ids: pictures to leave out, by native id.
        exclude_sha256s: pictures to leave out, by the SHA-256 of their bytes, in hex.
        chosen: the conversations to draw from, where not all; see `shards/selection.py`.
        held_out: share of the pictures that never comes, 0 to below 1; see
            `SplitIndex.is_held_out`.

    Raises:
        UsageError: no such committed split, an entry without conversations, or impossible ranks.
    """

    def __init__(
        self,
        root: Path | str,
        mix: str | Sequence[MixEntry],
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        prefetch: int = 8,
        on_bad: Literal["raise", "quarantine"] = "raise",
        max_bad: int = 100,
        exclude_native_ids: Collection[str] = (),
        exclude_sha256s: Collection[str] = (),
        chosen: Chosen | None = None,
        held_out: float = 0.0,
    ) -> None:
        if not 0 <= rank < world_size:
            raise UsageError(f"stream: expected 0 <= rank < {world_size}, got {rank}")
        if on_bad not in ("raise", "quarantine"):
            raise UsageError(f"stream: on_bad: expected `raise` or `quarantine`, got `{on_bad}`")
        self.mix = parse_mix(mix) if isinstance(mix, str) else tuple(mix)
        self.rank = rank
        self.world_size = world_size
        self.prefetch = prefetch
        self.on_bad = on_bad
        self.max_bad = max_bad
        #: Merkle roots of the splits read from, by `dataset/split`.
        self.roots: dict[str, str] = {}
        #: What was quarantined, by sample key: the error's message.
        self.quarantined: dict[str, str] = {}
        self._quarantine_lock = Lock()
        self._reader = ShardReader()
        natives = native_hashes(exclude_native_ids)
        sha256s = short_hashes(exclude_sha256s)
        self.sources = self._open_sources(Path(root), natives, sha256s, chosen, held_out)
        excluded = sorted({*exclude_native_ids, *exclude_sha256s})
        #: Hash of the conversations chosen; None where all are.
        self.chosen_sha256 = chosen.sha256 if chosen is not None else None
        left_out = [held_out, self.chosen_sha256]
        self.fingerprint = _fingerprint(self.roots, self.mix, excluded, left_out)
        self._seed = seed
        self._order = self._make_order()
        #: Positions handed out by all ranks together since the run began.
        self._handed_out = 0

    @property
    def seed(self) -> int:
        """The order's seed."""
        return self._seed

    @property
    def epoch_length(self) -> int:
        """Positions an epoch, over all ranks."""
        return len(self._order)

    def source_rows(self, name: str) -> tuple[SplitIndex, npt.NDArray[np.uint32]]:
        """Return the index of an entry's split, and the rows of its conversations there."""
        source = next(source for source in self.sources if source.entry.name == name)
        return source.index, source.rows

    @property
    def source_quotas(self) -> dict[str, int]:
        """Positions an epoch gives to each entry of the mixture, by its name."""
        names = (source.entry.name for source in self.sources)
        return dict(zip(names, self._order.quotas, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state, JSON-encodable; equal on ranks that handed out equally many."""
        epoch, position = divmod(self._handed_out, self.epoch_length)
        return {
            "seed": self._seed,
            "epoch": epoch,
            "position": position,
            "fingerprint": self.fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. The seed becomes the state's.

        Ranks and threads may differ from those it was taken with.

        Raises:
            UsageError: the state was taken over other shards, another mixture or other exclusions.
        """
        if state["fingerprint"] != self.fingerprint:
            raise UsageError(
                "stream: this state is of other shards, another mixture or other exclusions",
                hint="resume with the recipe and the shards that the run was begun with",
            )
        self._seed = int(state["seed"])
        self._order = self._make_order()
        self._handed_out = int(state["epoch"]) * self.epoch_length + int(state["position"])

    def example(self, epoch: int, position: int) -> Example:
        """Return the example at a position of an epoch; changes no state.

        Raises:
            CorruptSampleError: its bytes are damaged (and `on_bad` is `raise`, or `max_bad` is
                spent).
        """
        return self.read(epoch * self.epoch_length + position, _as_it_is)

    def draw(self, place: int) -> Draw:
        """Return which conversation stands at a place, counted through all epochs."""
        source, number = self._order.draw(*divmod(place, self.epoch_length))
        return self._draw(place, source, number)

    def draws(self, places: Sequence[int]) -> list[Draw]:
        """Return what `draw` returns for each of many places, several times as fast.

        Args:
            places: they ascend; may be none.
        """
        found: list[Draw] = []
        while len(found) < len(places):
            epoch = places[len(found)] // self.epoch_length
            start = epoch * self.epoch_length
            end = bisect_left(places, start + self.epoch_length, lo=len(found))
            here = places[len(found) : end]
            sources, numbers = self._order.draws(epoch, [place - start for place in here])
            rows = self._order.rows(sources, numbers)
            for i, source in enumerate(self.sources):
                rows[sources == i] = source.rows[rows[sources == i]]
            found += [
                Draw(place, source, row, number // len(self.sources[source]), number)
                for place, source, row, number in zip(
                    here, sources.tolist(), rows.tolist(), numbers.tolist(), strict=True
                )
            ]
        return found

    def _draw(self, place: int, source: int, number: int) -> Draw:
        rows = self.sources[source].rows
        row = int(rows[self._order.row(source, number)])
        return Draw(place, source, row, number // len(rows), number)

    def read(self, place: int, use: Callable[[Example], T]) -> T:
        """Return what `use` makes of the example at a place, counted through all epochs.

        Args:
            place: any, from 0.
            use: may raise `CorruptSampleError` itself, as for a picture that does not decode.

        Raises:
            CorruptSampleError: it is damaged (and `on_bad` is `raise`, or `max_bad` is spent).
        """
        return self._read_draw(self.draw(place), use)

    def _read_draw(self, first: Draw, use: Callable[[Example], T]) -> T:
        draw = first
        source = self.sources[first.source]
        while draw.number - first.number < len(source):
            try:
                return use(self._example(draw))
            except CorruptSampleError as error:
                sample_row = int(source.index.conversation_sample[draw.row])
                self._quarantine(source, sample_row, error)
            draw = self._draw(first.place, draw.source, draw.number + 1)
        raise CorruptSampleError(f"`{source.entry.name}`: no readable sample is left")

    def _example(self, draw: Draw) -> Example:
        source = self.sources[draw.source]
        epoch, position = divmod(draw.place, self.epoch_length)
        return self._read(source, draw.row, epoch=epoch, position=position, passes=draw.passes)

    def _read(
        self, source: MixSource, row: int, *, epoch: int, position: int, passes: int
    ) -> Example:
        index = source.index
        sample, image_bytes = self._reader.read(index, int(index.conversation_sample[row]))
        ordinal = int(index.conversation_ordinal[row])
        return Example(
            sample=sample,
            conversation=sample.conversations[ordinal],
            image_bytes=image_bytes,
            position=position,
            epoch=epoch,
            source=source.entry.name,
            ordinal=ordinal,
            passes=passes,
        )

    def held_out_examples(self, limit: int) -> list[Example]:
        """Read conversations of the pictures held out: the same ones whatever the seed.

        Args:
            limit: at most so many, shared among the sources as an epoch is.

        Raises:
            CorruptSampleError: one is damaged.
        """
        found: list[Example] = []
        for source, quota in zip(self.sources, self._order.quotas, strict=True):
            rows = source.held_out
            count = min(len(rows), max(1, limit * quota // self.epoch_length))
            for i in range(count):
                row = int(rows[permute(i, len(rows), 0)])
                found.append(self._read(source, row, epoch=0, position=i, passes=0))
        return found[:limit]

    def __iter__(self) -> Iterator[Example]:
        draws = self._draws()
        if self.prefetch < 1:
            for draw in draws:
                example = self._read_draw(draw, _as_it_is)
                self._handed_out += self.world_size
                yield example
            return
        executor = ThreadPoolExecutor(self.prefetch, thread_name_prefix="roikit-stream")
        pending: deque[Future[Example]] = deque()
        try:
            while True:
                while len(pending) < 2 * self.prefetch:
                    pending.append(executor.submit(self._read_draw, next(draws), _as_it_is))
                example = pending.popleft().result()
                self._handed_out += self.world_size
                yield example
        finally:
            # Runs when the iterator is closed or dropped: nothing waits but reads under way.
            executor.shutdown(wait=True, cancel_futures=True)

    def _draws(self) -> Iterator[Draw]:
        """Yield this rank's draws from the current state on, planning more and more at once."""
        place = self._handed_out + self.rank
        many = _PLANNED_FIRST
        while True:
            places = range(place, place + many * self.world_size, self.world_size)
            yield from self.draws(places)
            place = places[-1] + self.world_size
            many = min(2 * many, _PLANNED)

    def _open_sources(
        self,
        root: Path,
        natives: npt.NDArray[np.uint64],
        sha256s: npt.NDArray[np.uint64],
        chosen: Chosen | None,
        held_out: float,
    ) -> list[MixSource]:
        indexes: dict[tuple[str, str], SplitIndex] = {}
        allowed: dict[tuple[str, str], npt.NDArray[np.bool_]] = {}
        aside: dict[tuple[str, str], npt.NDArray[np.bool_]] = {}
        sources: list[MixSource] = []
        for entry in self.mix:
            split = (entry.dataset, entry.split)
            if split not in indexes:
                index = indexes[split] = open_split(root, *split)
                self.roots["/".join(split)] = index.merkle_root
                if len(natives) or len(sha256s):
                    is_allowed = ~index.is_any_of(natives, sha256s)
                    allowed[split] = is_allowed[index.conversation_sample]
                if chosen is not None:
                    is_chosen = chosen.of(index)
                    allowed[split] = is_chosen & allowed.get(split, is_chosen)
                if held_out:
                    aside[split] = index.is_held_out(held_out)[index.conversation_sample]
            index = indexes[split]
            is_kept = index.is_task(entry.tasks)
            if split in allowed:
                is_kept &= allowed[split]
            rests = np.zeros(0, dtype=np.uint32)
            if held_out:
                rests = rows_where(is_kept & aside[split])
                is_kept &= ~aside[split]
            rows = rows_where(is_kept)
            if not len(rows):
                there = sorted({index.tasks[code] for code in np.unique(index.conversation_task)})
                raise UsageError(
                    f"mix: `{entry.name}`: no conversation is left to train on",
                    hint=f"its tasks: {', '.join(there) or 'none'}; exclusions, `where` and "
                    "`held_out` count too",
                )
            sources.append(MixSource(entry, index, rows, rests))
        return sources

    def _make_order(self) -> Order:
        lengths = [len(source) for source in self.sources]
        return Order(lengths, [source.entry.weight for source in self.sources], self._seed)

    def _quarantine(self, source: MixSource, sample_row: int, error: CorruptSampleError) -> None:
        """Record a bad sample; raise its error if asked to, or once the budget is spent."""
        if self.on_bad == "raise":
            error.hint = error.hint or f"{_DAMAGED}; --on-bad quarantine trains without it"
            raise error
        key = f"{source.index.dataset}-{source.index.split}-{source.index.number[sample_row]:09d}"
        with self._quarantine_lock:
            if key not in self.quarantined:
                if len(self.quarantined) >= self.max_bad:
                    raise CorruptSampleError(
                        f"{error} (and {self.max_bad} samples before it were quarantined)",
                        hint=f"{_DAMAGED}; or raise --max-bad",
                    ) from error
                self.quarantined[key] = str(error)
                # any number of readers of one run meet the same sample: who keeps the list warns
                logger.info("quarantined `%s`: %s", key, error)


def _as_it_is(example: Example) -> Example:
    return example


def _fingerprint(
    roots: dict[str, str],
    mix: Sequence[MixEntry],
    excluded: Sequence[str],
    left_out: Sequence[Any],
) -> str:
    """Return a hash of everything but the seed that the order depends on."""
    entries = [[entry.name, entry.weight] for entry in mix]
    parts = [ORDER_VERSION, sorted(roots.items()), entries, list(excluded), *left_out]
    text = json.dumps(parts)
    return hashlib.sha256(text.encode()).hexdigest()
