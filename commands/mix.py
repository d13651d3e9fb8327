"""What a training mixture comes to."""

from typing import Annotated

import typer

from commands.options import Json, Settings, Shards, Stage, Where, stage_overrides
from commands.quiet import quiet_transformers


def explain(
    shards: Shards,
    mix: Annotated[
        str | None,
        typer.Argument(help="DATASET[@SPLIT][:TASK][=WEIGHT],…", show_default="the recipe's"),
    ] = None,
    recipe: Annotated[str, typer.Option(help="Name or TOML file.")] = "small",
    stage: Annotated[Stage, typer.Option(help="Whose mixture of the recipe.")] = Stage.STAGE2,
    where: Where = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Say what an epoch of a mixture takes from each source, before training on it.

    Exchanges and tokens are those of the recipe's caps (max_exchanges, max_tokens). The lengths of
    a split's conversations are measured once and kept; a tokenizer that is not there yet is
    replaced by an estimate from words, and a line says so.

    The second table says what each source loses to the benchmarks that the recipe keeps clean
    (its key keep_clean): their pictures are left out of training.

    Example: roikit mix explain vcr:reasoning-single=2,vg=1
    """
    from pipelines.mixture import find_counter, mixture_totals
    from pipelines.stages import open_stream, unresolved_text
    from roikit import render
    from roikit.config import load_recipe
    from shards.kept_clean import drops

    quiet_transformers()
    overrides = [*(settings or ()), *stage_overrides(stage.value, mix=mix, where=where)]
    resolved = load_recipe(recipe, stage=stage.value, overrides=overrides)
    stream, kept = open_stream(resolved, shards)
    counter, counted_with = find_counter(resolved)
    with render.progress("measuring lengths", "shards") as report:
        sources = mixture_totals(resolved, stream, counter, progress=report)
    dropped = drops(shards, stream.mix, kept)
    if as_json:
        return render.document(
            {"mix": resolved.run.mix, "epoch": stream.epoch_length, "sources": sources}
            | {"tokens_estimated": counter.is_estimate, "tokens_counted": counted_with}
            | {"dropped": dropped, "not_kept_clean": kept.unresolved}
        )
    render.table(
        ("source", "pictures", "conversations", "an epoch takes", "passes", "exchanges", "tokens",
         "share of tokens"),
        [
            (one.source, one.samples, one.conversations, one.positions, one.passes, one.exchanges,
             one.tokens, one.share)
            for one in sources
        ],
    )  # fmt: skip
    tokens = sum(one.tokens for one in sources)
    render.line(f"an epoch has {stream.epoch_length:,} conversations and {tokens:,} tokens")
    render.line(counted_with)
    for one in sources:
        if one.unlearnable:
            render.line(
                f"{one.source}: {one.unlearnable:,} conversations are longer than "
                f"{resolved.run.max_tokens:,} tokens with a single exchange: nothing is learned "
                "from them"
            )
    if any(one.conversations for one in dropped):
        render.line("")
        render.table(
            ("source", "left out for", "pictures", "conversations"),
            [
                (one.source, one.benchmark or "all of them", one.pictures, one.conversations)
                for one in dropped
            ],
        )
    elif kept.benchmarks:
        clean = ", ".join(one.name for one in kept.benchmarks)
        render.line(f"no picture is left out: none stands in {clean}")
    if kept.unresolved:
        render.note(unresolved_text(kept))
