"""Talk about boxes on a picture."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from commands.options import Device, Dtype, Json, Model, Overwrite, Seed
from commands.quiet import quiet_transformers
from roikit import paths
from roikit.errors import RoikitError, UsageError


class BoxFormat(StrEnum):
    """How `--box` is read."""

    XYXY = "xyxy"
    XYWH = "xywh"


def chat(
    image: Annotated[Path, typer.Argument(help="The picture.", show_default=False)],
    box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X0,Y0,X1,Y1",
            help="A region, in pixels or as fractions of the picture; may be given several times.",
        ),
    ] = None,
    box_format: Annotated[BoxFormat, typer.Option(help="How boxes are read.")] = BoxFormat.XYXY,
    ask: Annotated[
        list[str] | None,
        typer.Option(help="Ask this and leave; may be given several times, for several turns."),
    ] = None,
    model: Model = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.0,
    seed: Seed = 0,
    save: Annotated[
        Path | None, typer.Option(help="With --ask: keep the conversation as NAME.json, NAME.png.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Talk about boxes on a picture: answers as they come, on stdout.

    Regions are called region1, region2, … in the order of the boxes. Without --ask, questions are
    read from the terminal (or a pipe); /help lists what else can be typed there.

    Example: roikit chat photo.jpg --box 10,20,300,410 --ask "What is region1 doing?"
    """
    from roikit import load, render, runs
    from roikit.chat import terminal

    if as_json and not ask:
        raise UsageError("--json: expected a question with --ask")
    if save is not None and not ask:
        raise UsageError("--save: expected a question with --ask", hint="in a conversation: /save")
    folder = model if model is not None else runs.default_model(paths.runs_dir())
    quiet_transformers()
    session = load(folder, device=device, dtype=dtype).session(
        image,
        boxes=box or (),
        box_format=box_format.value,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    faces = terminal.standard_terminal(os.environ)
    if not ask:
        failed = terminal.converse(session, faces)
        if failed and not faces.is_interactive:
            raise RoikitError(f"{failed} lines could not be answered")
        return None
    answers = []
    for question in ask:
        if as_json:
            answers.append({"question": question, "answer": session.ask(question)})
        else:
            terminal.answer(session, question, faces)
    for path in session.save(save, overwrite=overwrite) if save is not None else ():
        render.note(f"wrote {path}")
    if as_json:
        return render.document(answers)
    return None
