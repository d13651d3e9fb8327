"""What each optimiser step needs, read ahead of the step loop.

A step's batches are a pure function of its number, so they may be made in the caller's thread, in a
thread beside it or in processes of their own, and what was read ahead is not lost on a stop.
"""

import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from types import FrameType
from typing import Any, Protocol, TypeVar

import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from roikit.batch import Batch, Rephrase, Row, collate, encode_example
from roikit.config import StageRecipe
from roikit.errors import RoikitError
from roikit.model.processing import RoikitProcessor
from roikit.sample import Example

T = TypeVar("T")

#: After SIGTERM a reading process goes on for so long: the trainer may want to finish its step.
_GRACE_S = 60


class StepSource(Protocol):
    """What training asks of its data: which conversations a step holds, and what they are."""

    @property
    def epoch_length(self) -> int:
        """Conversations an epoch."""
        ...

    @property
    def quarantined(self) -> Mapping[str, str]:
        """Samples that this process could not read, by key: why."""
        ...

    def state(self, step: int) -> dict[str, Any]:
        """Return the position after so many steps, JSON-encodable."""
        ...

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuse a position of other data."""
        ...

    def micro_batches(self, step: int, *, rank: int, world_size: int) -> list[list[list[int]]]:
        """Return a rank's micro-batches of rows of places: equally many on every rank."""
        ...

    def read(self, place: int, use: Callable[[Example], T]) -> T:
        """Return what `use` makes of the example at a place."""
        ...

    def held_out(self, limit: int) -> list[Example]:
        """Return at most so many conversations that are never trained on."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Feeding:
    """One rank's part of an optimiser step, and where the data stands after the step."""

    batches: tuple[Batch | None, ...]  #: micro-batches; None where nothing is to learn from one
    state: dict[str, Any]
    epoch: int  #: that the step begins in
    skipped: int  #: conversations of this part with nothing to learn
    quarantined: dict[str, str]  #: samples found unreadable meanwhile, by key: why


class StepReader(Dataset[Feeding]):
    """Makes the batches of any step.

    Args:
        source: the data.
        processor: the model's.
        run: batch sizes and limits.
        seed: of what is drawn from a conversation.
        rephrase: says questions in other words; None keeps the stored ones.
        rank: whose part is made.
        world_size: of how many.
    """

    def __init__(
        self,
        source: StepSource,
        processor: RoikitProcessor,
        run: StageRecipe,
        *,
        seed: int,
        rephrase: Rephrase | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.source = source
        self.processor = processor
        self.run = run
        self.seed = seed
        self.rephrase = rephrase
        self.rank = rank
        self.world_size = world_size
        self._told: set[str] = set()

    def __getitem__(self, step: int) -> Feeding:
        """Return what `step` (from 0) needs."""
        batches: list[Batch | None] = []
        skipped = 0
        for micro_batch in self.source.micro_batches(
            step, rank=self.rank, world_size=self.world_size
        ):
            rows = []
            for places in micro_batch:
                found = [self.source.read(place, self._encode) for place in places]
                skipped += found.count(None)
                rows.append([one for one in found if one is not None])
            rows = [row for row in rows if row]
            batches.append(
                collate(rows, pad_token_id=self.processor.pad_token_id) if rows else None
            )
        new = {k: v for k, v in self.source.quarantined.items() if k not in self._told}
        self._told.update(new)
        return Feeding(
            batches=tuple(batches),
            state=self.source.state(step + 1),
            epoch=step * self.run.batch_size // self.source.epoch_length,
            skipped=skipped,
            quarantined=new,
        )

    def _encode(self, example: Example) -> Row | None:
        return encode_example(
            example,
            self.processor,
            max_tokens=self.run.max_tokens,
            max_exchanges=self.run.max_exchanges,
            asked_together=self.run.asked_together,
            flip=self.run.flip,
            crop=self.run.crop,
            colour=self.run.colour,
            rephrase=self.rephrase,
            seed=self.seed,
        )


def feed(
    reader: StepReader, *, first: int, steps: int, workers: int = 0, ahead: int = 0
) -> Generator[Feeding, None, None]:
    """Yield what each of the steps `first` to `steps` - 1 needs, in order.

    Args:
        reader: makes the batches.
        first: the step to begin with, from 0.
        steps: all steps of the run.
        workers: processes that read ahead, two steps each; 0 reads in this process.
        ahead: without workers, steps to read ahead in a thread; 0 reads in the caller's thread,
            which is faster where the model itself computes on the CPU (a step of `tiny` on two
            cores: 0.37 s against 0.50 s).

    Raises:
        RoikitError: a worker was killed; or whatever reading raises.
    """
    if workers:
        return _from_processes(reader, first, steps, workers)
    if ahead:
        return _from_thread(reader, first, steps, ahead)
    return (reader[step] for step in range(first, steps))


def _from_thread(
    reader: StepReader, first: int, steps: int, ahead: int
) -> Generator[Feeding, None, None]:
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
            for step in range(first, steps):
                put(reader[step])
                if closing.is_set():
                    return
        except BaseException as error:  # handed to the consumer, which raises it
            put(error)

    thread = threading.Thread(target=work, name="roikit-feed", daemon=True)
    thread.start()
    try:
        for _ in range(first, steps):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closing.set()
        thread.join()


def _from_processes(
    reader: StepReader, first: int, steps: int, workers: int
) -> Generator[Feeding, None, None]:
    # forked, so that the index stays mapped once for all; they compute nothing on a device
    methods = multiprocessing.get_all_start_methods()
    loader = DataLoader(
        _Parcels(reader),
        batch_size=None,
        sampler=range(first, steps),
        num_workers=workers,
        worker_init_fn=_outlive_signals,
        multiprocessing_context="fork" if "fork" in methods else None,
    )
    parcels: Iterator[_Parcel | RoikitError] = iter(loader)
    for _ in range(first, steps):
        try:
            parcel = next(parcels)
        except (RuntimeError, OSError, EOFError) as error:
            # a reader that ends while it hands a tensor over breaks their connection
            if isinstance(error, RuntimeError) and "worker" not in str(error):
                raise
            said = (str(error) or type(error).__name__).splitlines()[0]
            raise RoikitError(
                f"a process that reads training data ended: {said}",
                hint="if the system killed it for memory, take fewer: --workers 2, or 0",
            ) from error
        if isinstance(parcel, RoikitError):
            raise parcel
        yield parcel.opened()


class _Parcels(Dataset["_Parcel | RoikitError"]):
    """Steps as they travel between processes: errors are handed over whole, not as tracebacks."""

    def __init__(self, reader: StepReader) -> None:
        self.reader = reader

    def __getitem__(self, step: int) -> "_Parcel | RoikitError":
        try:
            return _Parcel.of(self.reader[step])
        except RoikitError as error:
            return error


@dataclass(frozen=True, slots=True)
class _Parcel:
    """A feeding whose small tensors are numpy arrays.

    A tensor that is sent takes a file descriptor, and many micro-batches would use them up.
    """

    feeding: Feeding
    small: tuple[dict[str, npt.NDArray[Any]], ...]

    @classmethod
    def of(cls, feeding: Feeding) -> "_Parcel":
        small: list[dict[str, npt.NDArray[Any]]] = []
        batches: list[Batch | None] = []
        for batch in feeding.batches:
            tensors = {} if batch is None else _small_tensors(batch)
            small.append({name: tensor.numpy() for name, tensor in tensors.items()})
            empty: dict[str, Any] = dict.fromkeys(tensors)
            batches.append(None if batch is None else replace(batch, **empty))
        return cls(replace(feeding, batches=tuple(batches)), tuple(small))

    def opened(self) -> Feeding:
        batches: list[Batch | None] = []
        for batch, arrays in zip(self.feeding.batches, self.small, strict=True):
            tensors: dict[str, Any] = {name: torch.from_numpy(a) for name, a in arrays.items()}
            batches.append(None if batch is None else replace(batch, **tensors))
        return replace(self.feeding, batches=tuple(batches))


def _small_tensors(batch: Batch) -> dict[str, Tensor]:
    values = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "pixels"}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _outlive_signals(worker: int) -> None:
    """Leave Ctrl-C and the scheduler's SIGTERM to the trainer, which ends its readers itself."""

    def give_grace(signum: int, frame: FrameType | None) -> None:
        signal.alarm(_GRACE_S)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, give_grace)
