"""What training takes from the shards: pictures it must not see, and its mixture."""

from typing import Annotated

import typer

from commands.options import Json, Shards, Stage
from roikit.errors import UsageError


def leaks(
    shards: Shards,
    evaluation: Annotated[
        list[str] | None,
        typer.Option(
            "--eval",
            metavar="DATASET@SPLIT",
            help="An evaluation split; may be given several times.",
            show_default="every split that is not for training",
        ),
    ] = None,
    training: Annotated[
        list[str] | None,
        typer.Option(
            "--train",
            metavar="DATASET@SPLIT",
            help="A training split; may be given several times.",
            show_default="every split whose name starts with train",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Count the evaluation pictures that stand in the training splits too.

    Compared are the datasets' own ids (COCO's, as Visual Genome and others give them) and the
    bytes; resized copies under another name are not found.

    Example: roikit leaks --eval vg@test --train coco@train
    """
    from roikit import render
    from shards.commit import list_datasets
    from shards.identity import overlap

    all_splits = [(info.dataset, info.split) for info in list_datasets(shards)]
    asked = [_dataset_and_split(name) for name in evaluation or ()]
    asked = asked or [name for name in all_splits if not name[1].startswith("train")]
    trained = [_dataset_and_split(name) for name in training or ()]
    trained = trained or [name for name in all_splits if name[1].startswith("train")]
    if not asked or not trained:
        raise UsageError(
            f"{shards}: expected a split for evaluation and one for training",
            hint="convert them first, or name them with --eval and --train",
        )
    counts = [
        {"evaluation": "@".join(one), "training": "@".join(other)}
        | {"found": count.found, "total": count.total}
        for one in asked
        for other in trained
        if (count := overlap(shards, eval=one, train=[other]))
    ]
    if as_json:
        return render.document(counts)
    rows = [tuple(count.values()) for count in counts]
    render.table(("evaluation", "training", "also in training", "of pictures"), rows)


def explain(
    shards: Shards,
    mix: Annotated[
        str | None,
        typer.Argument(help="DATASET[@SPLIT][:TASK][=WEIGHT],…", show_default="the recipe's"),
    ] = None,
    recipe: Annotated[str, typer.Option(help="Name or TOML file.")] = "small",
    stage: Annotated[Stage, typer.Option(help="Whose mixture of the recipe.")] = Stage.STAGE2,
    as_json: Json = False,
) -> None:
    """Say what an epoch of a mixture takes from each source, before training on it.

    Example: roikit mix explain vcr:reasoning-single=2,vg=1
    """
    from roikit import render
    from roikit.config import load_recipe
    from shards.stream import Stream

    text = mix or load_recipe(recipe, stage=stage.value).run.mix
    stream = Stream(shards, text, prefetch=0)
    rows = [
        {"source": name, "conversations": stream.source_lengths[name], "positions": quota}
        | {"passes": quota / stream.source_lengths[name], "share": quota / stream.epoch_length}
        for name, quota in stream.source_quotas.items()
    ]
    if as_json:
        return render.document({"mix": text, "epoch": stream.epoch_length, "sources": rows})
    columns = ("source", "conversations", "an epoch takes", "passes", "share")
    render.table(columns, [tuple(row.values()) for row in rows])
    render.line(f"an epoch has {stream.epoch_length:,} conversations")


def _dataset_and_split(name: str) -> tuple[str, str]:
    dataset, separator, split = name.partition("@")
    if not separator or not split:
        raise UsageError(f"`{name}`: expected DATASET@SPLIT, e.g. `vg@test`")
    return dataset, split
