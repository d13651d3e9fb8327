"""What a training mixture comes to."""

from typing import Annotated

import typer

from commands.options import Json, Settings, Shards, Stage, Where, stage_overrides


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

    The second table says what each source loses to the benchmarks that the recipe keeps clean
    (its key keep_clean): their pictures are left out of training.

    Example: roikit mix explain vcr:reasoning-single=2,vg=1
    """
    from pipelines.stages import open_stream, unresolved_text
    from roikit import render
    from roikit.config import load_recipe
    from shards.kept_clean import drops

    overrides = [*(settings or ()), *stage_overrides(stage.value, mix=mix, where=where)]
    resolved = load_recipe(recipe, stage=stage.value, overrides=overrides)
    stream, kept = open_stream(resolved, shards)
    rows = [
        {"source": name, "conversations": stream.source_lengths[name], "positions": quota}
        | {"passes": quota / stream.source_lengths[name], "share": quota / stream.epoch_length}
        for name, quota in stream.source_quotas.items()
    ]
    dropped = drops(shards, stream.mix, kept)
    if as_json:
        return render.document(
            {"mix": resolved.run.mix, "epoch": stream.epoch_length, "sources": rows}
            | {"dropped": dropped, "not_kept_clean": kept.unresolved}
        )
    columns = ("source", "conversations", "an epoch takes", "passes", "share")
    render.table(columns, [tuple(row.values()) for row in rows])
    render.line(f"an epoch has {stream.epoch_length:,} conversations")
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
