"""The loss on pictures that training never sees.

The conversations are drawn once, so that every evaluation of a run, and of runs on the same split
with the same seed, reads the same ones. Each process measures its share; sum and count of all are
put together.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from roikit.batch import Batch, Row, collate, encode_example
from roikit.config import StageRecipe
from roikit.errors import UsageError
from roikit.model.processing import RoikitProcessor
from roikit.sample import Example
from roikit.train.metrics import HeldOutReport

#: Adds up a list of numbers over all processes; called by all of them at once.
AddUp = Callable[[list[float]], list[float]]


def one_process(values: list[float]) -> list[float]:
    """Add up over one process."""
    return values


class HeldOut:
    """Held-out conversations as batches, kept in memory: about 150 kB each at 224 px.

    They are encoded as training encodes them, with exchanges drawn by the run's seed, but never
    mirrored, cropped or coloured. Rows of a batch have about the same length.

    Args:
        examples: all of them, the same on every process.
        processor: the model's.
        run: limits, and how many conversations a batch takes.
        seed: the run's.
        rank: this process.
        world_size: processes.

    Raises:
        UsageError: as `first_row` does.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        processor: RoikitProcessor,
        run: StageRecipe,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        size = run.micro_batch or -(-run.batch_size // world_size)
        share = examples[rank::world_size]
        rows = sorted(_rows(share, processor, run, seed), key=lambda row: len(row.input_ids))
        # A share without a row still takes part: under FSDP every forward is everybody's.
        spare = rows[:1] or [first_row(examples, processor, run, seed=seed)]

        def make_batch(some: list[Row]) -> Batch:
            return collate([[row] for row in some], pad_token_id=processor.pad_token_id)

        self._batches = [make_batch(rows[i : i + size]) for i in range(0, len(rows), size)]
        self._spare = make_batch(spare)
        # No share is larger than this; it depends on nothing that only one process knows.
        largest_share = -(-len(examples) // world_size)
        self._num_forwards = -(-largest_share // size)

    def measure(
        self,
        model: nn.Module,
        summed_loss: Callable[[Batch], Tensor],
        *,
        step: int,
        add_up: AddUp = one_process,
    ) -> HeldOutReport:
        """Return the mean loss over the assistant tokens; the model's state stays as it is.

        Args:
            model: put into evaluation mode meanwhile.
            summed_loss: a batch's loss, summed over its labels.
            step: optimiser steps taken.
            add_up: puts the processes' sums together.
        """
        started = time.perf_counter()
        total, count = 0.0, 0
        with _evaluating(model), torch.no_grad():
            for i in range(self._num_forwards):
                if i < len(self._batches):
                    total += float(summed_loss(self._batches[i]))
                    count += self._batches[i].num_labels
                else:
                    summed_loss(self._spare)
        total, labels = add_up([total, float(count)])
        return HeldOutReport(
            step=step,
            held_out=total / max(1.0, labels),
            labels=int(labels),
            seconds=time.perf_counter() - started,
        )


def first_row(
    examples: Sequence[Example], processor: RoikitProcessor, run: StageRecipe, *, seed: int
) -> Row:
    """Return the first held-out conversation that anything can be learned from.

    Raises:
        UsageError: no example, or none that anything can be learned from.
    """
    if not examples:
        raise UsageError(
            "held_out: no picture of the mixture is held out",
            hint="hold more out (held_out), or leave out evaluation (eval_every=0)",
        )
    row = next(_rows(examples, processor, run, seed), None)
    if row is None:
        raise UsageError(
            f"held_out: nothing can be learned from any of {len(examples)} conversations",
            hint="raise max_tokens, or look at the mixture with `roikit show`",
        )
    return row


def _rows(
    examples: Sequence[Example], processor: RoikitProcessor, run: StageRecipe, seed: int
) -> Iterator[Row]:
    for example in examples:
        row = encode_example(
            example,
            processor,
            max_tokens=run.max_tokens,
            max_exchanges=run.max_exchanges,
            asked_together=run.asked_together,
            seed=seed,
        )
        if row is not None:
            yield row


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for all modules, each put back as it was: frozen parts rest in training."""
    were_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in were_training:
            module.training = True
