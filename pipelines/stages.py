"""Put one training stage together: shards become its stream, and its text for a new tokenizer.

In: a resolved recipe and the shards' folder. Out: a trained run. This is where training meets the
shards, for `roikit train` and for whatever trains several stages in a row.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipelines.lengths import draw_lengths
from pipelines.phrasing import families, rephrase, version
from pipelines.token_counts import TokenizerCounter
from roikit.config import Recipe
from roikit.errors import UsageError
from roikit.mentions import plain
from roikit.prompt import as_dialogue
from roikit.runs import excluded_sha256, is_main_process, said_once_a_machine
from shards.commit import list_datasets, load_dataset
from shards.kept_clean import KeptClean, resolve
from shards.mix import parse_mix
from shards.read import iter_samples
from shards.remote import pull_all, url_of
from shards.selection import choose_conversations
from shards.steps import Steps
from shards.stream import Stream

log = logging.getLogger(__name__)

if TYPE_CHECKING:  # training imports torch, which conversion must not
    from roikit.model.processing import RoikitProcessor
    from roikit.train.metrics import HeldOutReport, StepReport
    from roikit.train.run import TrainResult


def run_stage(
    recipe: Recipe,
    *,
    shards: Path,
    out: Path,
    start: Path | None = None,
    device: str = "auto",
    workers: int = 0,
    on_bad: Literal["raise", "quarantine"] = "raise",
    max_bad: int = 100,
    overwrite: bool = False,
    track: Sequence[str] = (),
    on_step: "Callable[[StepReport], None] | None" = None,
    on_start: Callable[[int, int], None] | None = None,
    on_held_out: "Callable[[HeldOutReport], None] | None" = None,
    on_signal: Callable[[int], None] | None = None,
) -> "TrainResult":
    """Train one stage on the shards below `shards`; run again, it goes on from its last checkpoint.

    Args:
        recipe: the stage's, resolved.
        shards: root of the shards that the recipe's mixture names.
        out: the run's folder.
        start: the run or model to start from; None builds a new model.
        device: `auto` or a torch device.
        workers: processes that read ahead; 0 reads in this one.
        on_bad: `raise` where a sample cannot be read, or `quarantine`: put the next one of its
            source in its place.
        max_bad: samples that may be quarantined.
        overwrite: throw an earlier run in `out` away.
        track: `tensorboard`, `wandb`.
        on_step: called after each step.
        on_start: called once with (steps taken before, steps of the whole run).
        on_held_out: called after each evaluation on the pictures held out.
        on_signal: called with a SIGINT or SIGTERM that arrives while steps are taken. It ends the
            run after its step, unless that was the last one or something fails before.

    Raises:
        UsageError: the mixture names what is not converted, its benchmarks leave nothing of it,
            or `out` holds another run.
        Interrupted: SIGINT or SIGTERM; a checkpoint of the last step is saved.
    """
    from roikit.train.run import train_stage

    with said_once_a_machine():
        stream, kept = open_stream(recipe, shards, on_bad=on_bad, max_bad=max_bad)
        steps = open_steps(recipe, stream)
    if kept.unresolved and is_main_process():
        log.warning("%s", unresolved_text(kept))
    excluded = kept.identities

    def plan(processor: "RoikitProcessor") -> None:
        steps.lengths = draw_lengths(recipe, stream, TokenizerCounter(processor.tokenizer))

    return train_stage(
        recipe,
        source=steps,
        plan=plan if recipe.run.layout != "plain" else None,
        out=out,
        start=start,
        texts=lambda: training_texts(shards, frozenset(excluded)),
        rephrase=rephrase if recipe.run.redraw_wording else None,
        data={
            "mix": recipe.run.mix,
            "where": recipe.run.where,
            "where_sha256": stream.chosen_sha256,
            "held_out": recipe.run.held_out,
            "wordings": version(families()) if recipe.run.redraw_wording else None,
            "splits": stream.roots,
            "sources": stream.source_quotas,
            "licences": _licences(shards, stream),
            "kept_clean": {
                "sha256": excluded_sha256(excluded),
                "unresolved": list(kept.unresolved),
            },
        },
        excluded=excluded,
        device=device,
        workers=workers,
        max_bad=max_bad,
        overwrite=overwrite,
        track=track,
        on_step=on_step,
        on_start=on_start,
        on_held_out=on_held_out,
        on_signal=on_signal,
    )


def open_steps(recipe: Recipe, stream: Stream) -> Steps:
    """Cut a stream into a recipe's steps; layouts by length are still to be given the lengths."""
    run = recipe.run
    return Steps(
        stream,
        batch_size=run.batch_size,
        micro_batch=run.micro_batch,
        layout=run.layout,
        max_tokens=run.max_tokens,
    )


def _licences(shards: Path, stream: Stream) -> dict[str, str | None]:
    """Return what each split's commit says of its terms."""
    splits = {(one.entry.dataset, one.entry.split) for one in stream.sources}
    return {f"{d}/{s}": load_dataset(shards, d, s).licence for d, s in sorted(splits)}


def open_stream(
    recipe: Recipe,
    shards: Path,
    *,
    on_bad: Literal["raise", "quarantine"] = "raise",
    max_bad: int = 100,
) -> tuple[Stream, KeptClean]:
    """Open a recipe's mixture without the pictures of the benchmarks that it keeps clean.

    Raises:
        UsageError: the mixture names what is not converted, or the benchmarks leave nothing of it.
        RemoteError: the shards lie in a store that does not answer.
    """
    if not recipe.run.mix:
        raise UsageError(
            f"{recipe.stage}.mix: recipe `{recipe.name}` names no training data",
            hint=f"give it: --set {recipe.stage}.mix=vcr:reasoning-single=2,vg=1",
        )
    if url_of(shards) is not None:
        pull_all(shards)  # sidecars, too: benchmarks that are kept clean are known from them
    kept = resolve(shards, recipe.keep_clean)
    mix = parse_mix(recipe.run.mix)
    where = recipe.run.where
    splits = {(entry.dataset, entry.split) for entry in mix}
    stream = Stream(
        shards,
        mix,
        seed=recipe.seed,
        on_bad=on_bad,
        max_bad=max_bad,
        chosen=choose_conversations(shards, splits, where) if where else None,
        held_out=recipe.run.held_out,
        exclude_native_ids=kept.native_ids,
        exclude_sha256s=kept.sha256s,
    )
    return stream, kept


def unresolved_text(kept: KeptClean) -> str:
    """Say in one line which benchmarks cannot be kept clean, and what would help."""
    return (
        f"not kept clean, since neither converted nor listed: {', '.join(kept.unresolved)} "
        "(`roikit list-pictures NAME` lists their pictures from the annotation files alone)"
    )


def training_texts(shards: Path, excluded: Collection[str] = ()) -> Iterator[str]:
    """Yield every turn of every training split, as a person reads it, in the shards' order.

    A tokenizer learned when the first stage begins must know the words of the later ones.

    Args:
        shards: root of the shards.
        excluded: pictures to pass over, by native id or SHA-256.
    """
    for info in list_datasets(shards):
        if info.split != "train" and not info.split.startswith("train-first"):
            continue
        for sample, _ in iter_samples(shards, info.dataset, info.split):
            if sample.image.native_id in excluded or sample.image.sha256 in excluded:
                continue
            for conversation in sample.conversations:
                dialogue = as_dialogue(conversation)
                if dialogue is not None:
                    yield from (plain(turn.text) for turn in dialogue.turns)
