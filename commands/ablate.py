"""Compare variations of a recipe on the same data and seeds."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.options import Device, Json, Limit, Settings, Shards, given
from commands.quiet import quiet_transformers
from roikit import paths
from roikit.errors import ChecksFailedError, UsageError

if TYPE_CHECKING:
    from pipelines.ablate import Plan


def ablate(
    shards: Shards,
    study: Annotated[
        str | None,
        typer.Argument(
            help="encoders, or a TOML file with variations.",
            show_default="the recipe and every --vary",
        ),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME: TABLE.KEY=VALUE, …",
            help="A further variation; may be given several times.",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Name of a recipe, or a TOML file.", show_default="the study's, else tiny"
        ),
    ] = None,
    settings: Settings = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="N,…",
            help="Seeds of weights and order.",
            show_default="the study's, else 1,2,3",
        ),
    ] = None,
    stages: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE,…",
            help="Stages to train, in order.",
            show_default="the study's, else the recipe's",
        ),
    ] = None,
    benchmarks: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,…",
            help="What `roikit eval` measures.",
            show_default="the study's, else coco-category,vg-caption",
        ),
    ] = None,
    limit: Limit = None,
    miniature_world: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the miniature world that the shards were made from: answers are then "
            "checked against its scenes, too.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of everything.", show_default="runs/ablate")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at once, in evaluation.")] = 16,
    workers: Annotated[
        int,
        typer.Option(
            min=0, help="Processes that read ahead; 0: a thread on a GPU, nothing on a CPU."
        ),
    ] = 0,
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the runs that there would be, and train none.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train variations of a recipe with several seeds, evaluate them, and print a table.

    Run again after an interruption, it goes on where it stood; what is finished is not done again.
    A variation that fails is a row that says why, and ends the command with exit code 3.

    Example: roikit ablate encoders --seeds 1,2 --limit 500

    Example: roikit ablate --recipe tiny --vary "no box: model.box_embedding=false" --dry-run
    """
    from pipelines.ablate import Settings as How
    from pipelines.ablate import plan_ablation, run_ablation
    from pipelines.ablation_study import load_study
    from pipelines.ablation_table import PAGE_NAME, tables
    from pipelines.demo import Watcher
    from roikit import render

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "ablate: expected one process, torchrun started several",
            hint="run it without torchrun, or train the variations one by one with `roikit train`",
        )
    quiet_transformers()
    found = load_study(
        study,
        vary or (),
        settings or (),
        **given(
            recipe=recipe,
            stages=None if stages is None else tuple(_names(stages)),
            seeds=None if seeds is None else _whole_numbers(seeds),
            benchmarks=None if benchmarks is None else tuple(_names(benchmarks)),
        ),
    )
    how = How(
        shards=shards,
        out=out or paths.runs_dir() / "ablate",
        limit=limit,
        world=miniature_world,
        batch_size=batch_size,
        workers=workers,
        device=device,
    )
    if dry_run:
        plan = plan_ablation(found, how)
        if as_json:
            render.document(plan)
        else:
            _show_plan(plan)
        if plan.refused:
            raise ChecksFailedError(f"{len(plan.refused):,} variations cannot be")
        return

    class Shown(render.Phases, Watcher):
        """Shows on stderr what the ablation is at."""

    with Shown() as watcher:
        ablation = run_ablation(found, how, watcher=watcher)
    if as_json:
        render.document(ablation)
    else:
        for table in tables(ablation):
            render.table(table.columns, table.rows, title=table.title)
            render.line("")
        for remark in ablation.remarks:
            render.note(remark)
        render.note(f"wrote {how.out / PAGE_NAME}")
    failed = [one.name for one in ablation.variations if one.failed]
    if failed:
        raise ChecksFailedError(
            f"failed: {'; '.join(failed)}", hint="the table says why; the same command tries again"
        )


def _show_plan(plan: "Plan") -> None:
    from roikit import render

    rows = [
        (one.run, one.stage, one.steps, "yes" if one.is_done else "no", "; ".join(one.used_by))
        for one in plan.runs
    ]
    render.table(("run", "stage", "steps", "done", "for"), rows)
    left = [one for one in plan.runs if not one.is_done]
    steps = sum(one.steps for one in left)
    render.line(f"{len(plan.runs):,} runs, {len(left):,} of them to do: {steps:,} steps")
    for name, why in plan.refused.items():
        render.line(f"{name}: cannot be: {why}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(one) for one in _names(text))
    except ValueError:
        raise UsageError(f"--seeds: expected whole numbers like `1,2,3`, got `{text}`") from None
