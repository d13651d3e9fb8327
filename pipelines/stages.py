"""Put one training stage together: shards become its stream, and its text for a new tokenizer.

In: a resolved recipe and the shards' folder. Out: a trained run. This is where training meets the
shards, for `roikit train` and for whatever trains several stages in a row.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from roikit.config import Recipe
from roikit.errors import UsageError
from roikit.mentions import plain
from roikit.prompt import as_dialogue
from shards.commit import list_datasets
from shards.mix import parse_mix
from shards.read import iter_samples

if TYPE_CHECKING:  # training imports torch, which conversion must not
    from roikit.train.metrics import StepReport
    from roikit.train.run import TrainResult


def run_stage(
    recipe: Recipe,
    *,
    shards: Path,
    out: Path,
    start: Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    on_step: "Callable[[StepReport], None] | None" = None,
    on_start: Callable[[int, int], None] | None = None,
) -> "TrainResult":
    """Train one stage on the shards below `shards`; run again, it goes on from its last checkpoint.

    Args:
        recipe: the stage's, resolved.
        shards: root of the shards that the recipe's mixture names.
        out: the run's folder.
        start: the run or model to start from; None builds a new model.
        device: `auto` or a torch device.
        overwrite: throw an earlier run in `out` away.
        on_step: called after each step.
        on_start: called once with (steps taken before, steps of the whole run).

    Raises:
        UsageError: the mixture names what is not converted, or `out` holds another run.
        Interrupted: SIGINT or SIGTERM; a checkpoint of the last step is saved.
    """
    from roikit.train.run import train_stage
    from shards.stream import Stream

    if not recipe.run.mix:
        raise UsageError(
            f"{recipe.stage}.mix: recipe `{recipe.name}` names no training data",
            hint=f"give it: --set {recipe.stage}.mix=vcr:reasoning-single=2,vg=1",
        )
    mix = parse_mix(recipe.run.mix)
    stream = Stream(shards, mix, seed=recipe.seed)
    return train_stage(
        recipe,
        stream=stream,
        out=out,
        start=start,
        texts=lambda: training_texts(shards),
        data={"mix": recipe.run.mix, "splits": stream.roots},
        device=device,
        overwrite=overwrite,
        on_step=on_step,
        on_start=on_start,
    )


def training_texts(shards: Path) -> Iterator[str]:
    """Yield every turn of every training split, as a person reads it, in the shards' order.

    A tokenizer learned when the first stage begins must know the words of the later ones.
    """
    for info in list_datasets(shards):
        if info.split != "train" and not info.split.startswith("train-first"):
            continue
        for sample, _ in iter_samples(shards, info.dataset, info.split):
            for conversation in sample.conversations:
                dialogue = as_dialogue(conversation)
                if dialogue is not None:
                    yield from (plain(turn.text) for turn in dialogue.turns)
