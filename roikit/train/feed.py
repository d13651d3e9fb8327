"""Batches ahead of the step loop, each with the stream's state after it.

A thread decodes and encodes while the model computes. What it has read ahead is not lost on a stop:
the state that is saved is the one that came with the last batch trained on.
"""

import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from roikit.batch import Batch, Row, collate, encode_example
from roikit.config import StageRecipe
from roikit.errors import RoikitError
from roikit.model.processing import RoikitProcessor
from roikit.sample import Example


class ExampleStream(Protocol):
    """What training asks of its data: examples without end, and a position to come back to."""

    @property
    def epoch_length(self) -> int:
        """Examples an epoch."""
        ...

    def __iter__(self) -> Iterator[Example]:
        """Examples from the current position on."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position after the last example handed out."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a position; refuses one of other data."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Feeding:
    """One optimiser step's batches and where the stream stood after them."""

    batches: tuple[Batch, ...]
    state: dict[str, Any]
    epoch: int  #: of the last example
    skipped: int  #: examples with nothing to learn, so far in this run's process


def feed(
    stream: ExampleStream,
    processor: RoikitProcessor,
    run: StageRecipe,
    *,
    seed: int,
    steps: int,
    ahead: int = 4,
) -> Generator[Feeding, None, None]:
    """Yield what each of the next `steps` optimiser steps needs.

    Errors of the reading thread are raised here. Closing the iterator ends the thread.
    """
    ready: queue.Queue[Feeding | BaseException] = queue.Queue(maxsize=ahead)
    closing = threading.Event()

    def put(item: Feeding | BaseException) -> None:
        while not closing.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            examples = iter(stream)
            skipped = 0
            for _ in range(steps):
                if closing.is_set():
                    return
                item = _next_feeding(examples, stream, processor, run, seed, skipped)
                skipped = item.skipped
                put(item)
        except BaseException as error:  # handed to the consumer, which raises it
            put(error)

    thread = threading.Thread(target=work, name="roikit-feed", daemon=True)
    thread.start()
    try:
        for _ in range(steps):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closing.set()
        thread.join()


def _next_feeding(
    examples: Iterator[Example],
    stream: ExampleStream,
    processor: RoikitProcessor,
    run: StageRecipe,
    seed: int,
    skipped: int,
) -> Feeding:
    batches = []
    epoch = 0
    for _ in range(run.accumulation):
        rows: list[Row] = []
        misses = 0
        while len(rows) < run.batch_size:
            example = next(examples)
            row = encode_example(
                example,
                processor,
                max_tokens=run.max_tokens,
                max_exchanges=run.max_exchanges,
                seed=seed,
            )
            epoch = example.epoch
            if row is None:
                skipped += 1
                misses += 1
                if misses > 1000:
                    raise RoikitError(
                        f"{example.sample.key}: 1000 conversations in a row gave nothing to learn",
                        hint="raise max_tokens, or look at the mixture with `roikit show KEY`",
                    )
                continue
            rows.append(row)
        batches.append(collate(rows, pad_token_id=processor.pad_token_id))
    return Feeding(batches=tuple(batches), state=stream.state_dict(), epoch=epoch, skipped=skipped)
