"""Train one stage."""

from pathlib import Path
from typing import Annotated, Any

import typer

from commands.options import (
    Device,
    Json,
    Mix,
    OnBad,
    Overwrite,
    Settings,
    Shards,
    Stage,
    Where,
    given,
    stage_overrides,
)
from commands.quiet import quiet_transformers
from roikit import paths
from roikit.errors import UsageError

#: How the options of `--estimate` stand together in the help.
_PANEL: Any = {"rich_help_panel": "Cost card"}


def train(
    stage: Annotated[Stage, typer.Argument(help="Which step.", show_default=False)],
    shards: Shards,
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or a TOML file.")] = "small",
    mix: Mix = None,
    where: Where = None,
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
    workers: Annotated[
        int,
        typer.Option(
            min=0, help="Processes that read ahead; 0: a thread on a GPU, nothing on a CPU."
        ),
    ] = 0,
    on_bad: Annotated[
        OnBad,
        typer.Option(
            help="Stop at a sample that cannot be read, or take the next of its source instead."
        ),
    ] = OnBad.RAISE,
    max_bad: Annotated[
        int, typer.Option(min=1, help="Samples that may be quarantined before training stops.")
    ] = 100,
    overwrite: Overwrite = False,
    track: Annotated[
        str,
        typer.Option(
            metavar="NAME,…",
            help="Also write to tensorboard, wandb or both.",
            show_default="neither",
        ),
    ] = "",
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate", help="Print what the step would cost, and do not train.", **_PANEL
        ),
    ] = False,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="GPUs it would run on.", show_default="1", **_PANEL)
    ] = None,
    gpu_memory: Annotated[
        float | None, typer.Option(help="GiB of each.", show_default="80", **_PANEL)
    ] = None,
    gpu_tflops: Annotated[
        float | None,
        typer.Option(
            help="TFLOP/s of each at its peak, dense bf16.",
            show_default="989, an H100's",
            **_PANEL,
        ),
    ] = None,
    mfu: Annotated[
        float | None,
        typer.Option(help="Share of the peak that is reached.", show_default="0.35", **_PANEL),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train one step; run again after an interruption, it goes on from its last checkpoint.

    align trains the image projector on captions, stage1 the region encoder on short texts, stage2
    all but the vision tower on long texts. Each starts from the one before.

    Several GPUs of one machine, then of two (the same line on each, with its own --node-rank):

    torchrun --standalone --nproc-per-node 2 -m roikit train stage2 --recipe small

    torchrun --nnodes 2 --node-rank 0 --nproc-per-node 8 --rdzv-backend c10d
    --rdzv-endpoint HOST:29500 -m roikit train stage2 --recipe small

    With --estimate it prints parameters, memory a GPU, steps and hours instead (docs/training.md).

    Example: roikit train stage1 --recipe tiny --set stage1.steps=300 --seed 1

    Example: roikit train stage2 --recipe base --estimate --gpus 8
    """
    from commands import cost_card
    from pipelines.cost_figures import Hardware
    from pipelines.estimate import estimate_stage
    from pipelines.stages import run_stage
    from roikit import render, runs
    from roikit.config import load_recipe

    quiet_transformers()
    with runs.said_once_a_machine():
        overrides = list(settings or ())
        if seed is not None:
            overrides += [f"seed={seed}", f"model.seed={seed}"]
        overrides += stage_overrides(stage.value, mix=mix, where=where, dtype=dtype)
        resolved = load_recipe(recipe, stage=stage.value, overrides=overrides)
    hardware = given(gpus=gpus, memory_gib=gpu_memory, peak_tflops=gpu_tflops, mfu=mfu)
    if estimate:
        with render.progress("measuring lengths", "shards") as report:
            card = estimate_stage(
                resolved,
                shards=shards,
                start=start,
                device=device,
                hardware=Hardware(**hardware),
                progress=report,
            )
        return render.document(card) if as_json else cost_card.show(card)
    with runs.said_once_a_machine():
        if hardware:
            raise UsageError(
                "--gpus, --gpu-memory, --gpu-tflops and --mfu belong to --estimate",
                hint="torchrun --nproc-per-node says how many GPUs train",
            )
        if start is None:
            start = runs.default_start(paths.runs_dir(), stage.value)
    with render.training(f"{resolved.name} {stage.value}") as live:
        result = run_stage(
            resolved,
            shards=shards,
            out=out or paths.runs_dir() / stage.value,
            start=start,
            device=device,
            workers=workers,
            on_bad=on_bad.value,
            max_bad=max_bad,
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
