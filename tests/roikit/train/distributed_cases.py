"""What test_distributed.py runs under torchrun: `python distributed_cases.py NAME FOLDER`."""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from msgspec import structs
from torch import distributed
from torch.distributed.checkpoint import state_dict_saver

from roikit.errors import RoikitError
from roikit.sample import Example, Turn
from roikit.train.loop import Interrupted
from tests.roikit.conftest import TINY, ToySource
from tests.roikit.train.test_train import make_recipe, run

T = TypeVar("T")

#: Pictures with regions have tiles, the others none: processes differ in how many.
TILED = replace(TINY, max_tiles=4)
#: Three conversations a step: two processes never have equally many, and with one at a time, one
#: process has an empty micro-batch.
CASES: dict[str, dict[str, Any]] = {
    "ddp": {"parallel": "ddp"},
    "ddp-accumulated": {"parallel": "ddp", "micro_batch": 1},
    "ddp-frozen": {"parallel": "ddp", "train": ("projector", "region_encoder"), "micro_batch": 1},
    "ddp-tiled": {"parallel": "ddp", "model": TILED, "micro_batch": 1},
    "fsdp": {"parallel": "fsdp", "gradient_checkpointing": True},
    "fsdp-accumulated": {"parallel": "fsdp", "micro_batch": 1, "weight_decay": 0.1},
    "fsdp-tiled": {"parallel": "fsdp", "model": TILED, "micro_batch": 1},
    "fsdp-muon": {"parallel": "fsdp", "optimizer": "muon", "lr_muon": 0.02},
    "fsdp-lora": {"parallel": "fsdp", "lora_rank": 4},
    "fsdp-held-out": {
        "parallel": "fsdp",
        "micro_batch": 1,
        "held_out": 0.1,
        "eval_every": 2,
        "eval_size": 3,
        "keep": 0,
        "keep_best": 1,
    },
}
NEEDS_START = ("ddp-frozen", "fsdp-lora")


class MixedSource(ToySource):
    """Every other conversation speaks of no region; notes the places that are read."""

    def __init__(self, *, micro_batch: int = 0, bad_place: int | None = None) -> None:
        super().__init__(batch_size=3, micro_batch=micro_batch)
        self.examples = [
            without_regions(example) if i % 2 else example
            for i, example in enumerate(self.examples)
        ]
        self.bad_place = bad_place
        self.places: list[int] = []

    def read(self, place: int, use: Callable[[Example], T]) -> T:
        if place == self.bad_place:
            raise RoikitError(f"place {place} cannot be read")
        self.places.append(place)
        return super().read(place, use)


def without_regions(example: Example) -> Example:
    turns = (Turn("user", "Describe the picture."), Turn("assistant", "red green"))
    conversation = structs.replace(example.conversation, turns=turns)
    sample = structs.replace(example.sample, regions=(), conversations=(conversation,))
    return structs.replace(example, sample=sample, conversation=conversation)


def train(out: Path, *, bad_place: int | None = None, **arguments: Any) -> list[int]:
    """Run a case and return the places that this process has read."""
    changes = {"batch_size": 3, "steps": 4, "save_every": 2} | arguments.pop("changes", {})
    source = MixedSource(micro_batch=changes.get("micro_batch", 0), bad_place=bad_place)
    run(out, make_recipe(**changes), source=source, **arguments)
    return source.places


def fail(report: Any) -> None:
    """As the main process does when its disk is full, in a step after which all evaluate."""
    if report.step == 2:
        raise RoikitError("the disk is full")


def all_cases(folder: Path, rank: int) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, changes in CASES.items():
        start = folder.parent / "start" if name in NEEDS_START else None
        told[name] = train(folder / name, changes=changes, start=start)
    told["from-one"] = train(folder.parent / "from-one", changes={"parallel": "fsdp", "steps": 6})
    failing: tuple[tuple[str, dict[str, Any]], ...] = (
        ("bad-data", {"bad_place": 4}),  # of the second step, and not the main process's
        ("no-number", {"changes": {"lr": 1e30, "warmup": 0, "grad_clip": 0.0}}),
        ("not-noted", {"changes": CASES["fsdp-held-out"], "on_step": fail}),
    )
    for name, arguments in failing:
        try:
            train(folder / name, **arguments)
        except RoikitError as error:
            told[name] = [type(error).__name__, str(error)]
    return told


def stopped(folder: Path, rank: int) -> dict[str, Any]:
    """A signal to one process; then, in the run that goes on, a kill of it while both save."""

    class Stopping(MixedSource):
        # `on_step` is the main process's: the other one stops itself when it reads
        def read(self, place: int, use: Callable[[Example], T]) -> T:
            if rank == 1 and place // 3 == 3:
                signal.raise_signal(signal.SIGTERM)
            return super().read(place, use)

    def killed(*args: Any, **kwargs: Any) -> Any:
        writing(*args, **kwargs)
        if rank == 1:  # its part is written, and the whole not yet
            os.kill(os.getpid(), signal.SIGKILL)

    told: dict[str, Any] = {}
    recipe = make_recipe(batch_size=3, steps=6, save_every=2)
    try:
        run(folder / "stopped", recipe, source=Stopping())
    except Interrupted as error:
        told["stopped"] = str(error)
    (folder / f"stopped-{rank}.json").write_text(json.dumps(told), encoding="utf-8")
    writing, state_dict_saver.save = state_dict_saver.save, killed
    run(folder / "stopped", recipe, source=MixedSource())
    return told


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    told = {"all": all_cases, "stopped": stopped}[name](folder, rank)
    (folder / f"{name}-{rank}.json").write_text(json.dumps(told), encoding="utf-8")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
