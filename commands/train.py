"""Train one stage."""

from pathlib import Path
from typing import Annotated

import typer

from commands.options import Device, Json, Overwrite, Settings, Shards, Stage
from commands.quiet import quiet_transformers
from roikit import paths


def train(
    stage: Annotated[Stage, typer.Argument(help="Which step.", show_default=False)],
    shards: Shards,
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or a TOML file.")] = "small",
    settings: Settings = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Run or model to start from.", show_default="the stage before, in runs/"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run.", show_default="runs/STAGE")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of data and weights.", show_default="the recipe's")
    ] = None,
    device: Device = "auto",
    dtype: Annotated[
        str | None, typer.Option(help="auto, bf16 or fp32.", show_default="the recipe's")
    ] = None,
    overwrite: Overwrite = False,
    track: Annotated[
        str,
        typer.Option(
            metavar="NAME,…",
            help="Also write to tensorboard, wandb or both.",
            show_default="neither",
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Train one step; run again after an interruption, it goes on from its last checkpoint.

    align trains the image projector on captions, stage1 the region encoder on short texts, stage2
    all but the vision tower on long texts. Each starts from the one before.

    Several GPUs of one machine, then of two (the same line on each, with its own --node-rank):

    torchrun --standalone --nproc-per-node 2 -m roikit train stage2 --recipe small

    torchrun --nnodes 2 --node-rank 0 --nproc-per-node 8 --rdzv-backend c10d
    --rdzv-endpoint HOST:29500 -m roikit train stage2 --recipe small

    Example: roikit train stage1 --recipe tiny --set stage1.steps=300 --seed 1
    """
    from pipelines.stages import run_stage
    from roikit import render, runs
    from roikit.config import load_recipe

    quiet_transformers()
    overrides = list(settings or ())
    if seed is not None:
        overrides += [f"seed={seed}", f"model.seed={seed}"]
    if dtype is not None:
        overrides.append(f"{stage.value}.dtype={dtype}")
    resolved = load_recipe(recipe, stage=stage.value, overrides=overrides)
    if start is None:
        start = runs.default_start(paths.runs_dir(), stage.value)
    with render.training(f"{resolved.name} {stage.value}") as live:
        result = run_stage(
            resolved,
            shards=shards,
            out=out or paths.runs_dir() / stage.value,
            start=start,
            device=device,
            overwrite=overwrite,
            track=tuple(name.strip() for name in track.split(",") if name.strip()),
            on_start=live.start,
            on_step=live.step,
            on_held_out=live.held_out,
        )
    if not runs.is_main_process():
        return
    if as_json:
        return render.document(result)
    if result.last_loss is None:
        render.note("this run was finished before; --overwrite starts it anew")
    else:
        render.line(f"loss {result.last_loss:.4f} after {result.steps:,} steps")
    render.line(str(result.model))
