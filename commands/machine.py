"""The demo, and what this machine has."""

from pathlib import Path
from typing import Annotated

import typer

from commands.options import Device, Json, Limit, Settings, Workers, given
from commands.quiet import quiet_transformers
from roikit.errors import ChecksFailedError, UsageError


def demo(
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of everything it makes.", show_default="demo; demo-photos"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of world, weights and order.")] = 1,
    images: Annotated[
        int | None, typer.Option(min=32, help="Pictures to draw.", show_default="8000")
    ] = None,
    photos: Annotated[
        bool, typer.Option("--photos", help="On sixteen photographs, with pretrained parts.")
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option(help="Name of a recipe, or a TOML file.", show_default="tiny; photos: small"),
    ] = None,
    settings: Settings = None,
    limit: Limit = None,
    workers: Workers = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Run all of it on drawn scenes: draw, convert, train, evaluate, chat.

    Needs no data and no accelerator. What is finished is kept: run it again after an interruption.
    The table ends with controls: the same answers with the boxes swapped, and on blank pictures.
    With --photos, the same on photographs inside installed packages, with pretrained parts.

    Example: roikit demo --seed 2
    """
    from pipelines.demo import Watcher
    from pipelines.demo_miniature import run_demo
    from pipelines.demo_photographs import run_photographs_demo
    from roikit import render

    if photos and images is not None:
        raise UsageError("--images: the photographs are what they are; leave it out with --photos")
    out = out or Path("demo-photos" if photos else "demo")

    quiet_transformers()

    class Shown(render.Phases, Watcher):
        """Shows on stderr what the demo is at."""

    with Shown() as watcher:
        run = run_photographs_demo if photos else run_demo
        report = run(
            out,
            seed=seed,
            overrides=settings or (),
            limit=limit,
            device=device,
            watcher=watcher,
            **given(images=images, workers=workers, recipe=recipe),
        )
    if as_json:
        return render.document(report)
    render.table(
        ("benchmark", "score", "seen", "held-out", "swapped", "follows box", "blank", "items"),
        [
            (
                row.benchmark,
                *(None if score is None else f"{score:.1f}" for score in scores),
                row.items,
            )
            for row in report.rows
            if (scores := (row.score, row.seen, row.held_out, row.swapped, row.follows, row.blank))
        ],
    )
    for said in report.transcript:
        render.line(f"\n{said.image}\n  {said.question}\n  {said.answer}  (right: {said.truth})")
    for remark in (report.caveat, *report.seen_in_training):
        render.note(remark)
    render.note(f"the model: {report.model}")


def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Read version numbers only, import nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what this machine has, and what each missing piece switches off.

    Exits with 3 where something required is missing or broken.

    Example: roikit doctor
    """
    from roikit import doctor as physician
    from roikit import render

    report = physician.examine(with_imports=not quick)
    if as_json:
        render.document(report)
    else:
        for text in physician.plain_lines(report):
            render.line(text)
    if not report.is_usable:
        raise ChecksFailedError(
            "something that roikit needs is missing or broken", hint="`make install` mends packages"
        )
