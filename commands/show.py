"""Show samples: pictures with their regions drawn, and what is said about them."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.options import Json, Overwrite, Seed, Shards
from roikit.errors import UsageError

if TYPE_CHECKING:
    from roikit.sample import Sample

_SHEET_SAMPLES = 24
_MAX_SAMPLES = 1000


def show(
    shards: Shards,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY|DATASET[@SPLIT]]...",
            help="Samples' keys, or where to draw samples from.",
            show_default="every split",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the samples, with pictures, as one page."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=_MAX_SAMPLES,
            help="Samples to draw.",
            show_default=f"1, with --html {_SHEET_SAMPLES}",
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="Only samples and conversations of this task; may be given again."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="SQL",
            help="Only samples for which this holds: columns of the manifest's table `samples`.",
        ),
    ] = None,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="List rejected records at the page's end.")
    ] = False,
    seed: Seed = 0,
    save: Annotated[
        Path | None, typer.Option(help="Write one sample's picture with its regions as PNG.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Show samples: pictures with the regions drawn, and what is said about them.

    The picture appears in terminals that can show one (kitty, iTerm2); elsewhere `--save` it, or
    write a page of many samples with `--html`.

    Example: roikit show vcr-train-000000042 --save sample.png

    Example: roikit show vcr@train --html sheet.html --where "num_regions > 4"
    """
    from roikit.page import check_absent
    from shards.selection import check_tasks, choose_samples, named_splits

    if rejected and html is None:
        raise UsageError("`--rejected`: lists them on a page, and `--html FILE` is not given")
    if save is not None:
        if html is not None:
            raise UsageError("`--save`: draws one sample's picture, and `--html` is given")
        if save.suffix.lower() != ".png":
            raise UsageError(f"`--save {save}`: expected a name that ends in .png")
        check_absent(save, overwrite=overwrite)
    check_tasks(task or ())
    keys = _keys(names or [])
    if keys:
        for option, value in (("--limit", limit), ("--where", where), ("--rejected", rejected)):
            if value:
                raise UsageError(f"`{option}`: draws from splits, and keys are given")
    else:
        splits = named_splits(shards, names or [])
        amount = limit if limit is not None else 1 if html is None else _SHEET_SAMPLES
        keys = choose_samples(
            shards, splits, tasks=task or (), where=where, limit=amount, seed=seed
        )
        if not keys:
            raise UsageError(f"{shards}: no sample fits", hint="`roikit stats` says what there is")
    if html is not None:
        return _write_sheet(
            shards, names or [], keys, html, task, rejected, limit, seed, overwrite, as_json
        )
    if save is not None and len(keys) > 1:
        raise UsageError("`--save`: takes one sample", hint="`--html FILE` takes many")
    _print(shards, keys, task or [], save, as_json)


def _keys(names: list[str]) -> list[str]:
    """Return `names` where they are keys; nothing where they are splits.

    Raises:
        UsageError: they are mixed.
    """
    from shards.layout import is_key

    keys = [name for name in names if is_key(name)]
    if keys and len(keys) < len(names):
        other = next(name for name in names if not is_key(name))
        raise UsageError(f"`{other}`: expected a sample's key, as the others are")
    return keys


def _write_sheet(
    shards: Path,
    names: list[str],
    keys: list[str],
    path: Path,
    task: list[str] | None,
    rejected: bool,
    limit: int | None,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    from roikit import render
    from roikit.page import write_page
    from shards.selection import named_splits
    from shards.sheet import contact_sheet, rejected_records

    rows = []
    if rejected:
        amount = limit or _SHEET_SAMPLES
        rows = rejected_records(shards, named_splits(shards, names), limit=amount, seed=seed)
    with render.progress("drawing", "samples") as progress:
        sheet = contact_sheet(
            shards,
            keys,
            tasks=task or (),
            rejected=rows,
            title=", ".join(names[:6]) or "Samples",
            progress=progress,
        )
    write_page(path, sheet.page, overwrite=overwrite)
    for problem in sheet.unreadable:
        render.note(f"without its picture: {problem}")
    if as_json:
        return render.document(
            {"html": path, "samples": sheet.num_samples, "unreadable": sheet.unreadable}
        )
    size = render.bytes_text(path.stat().st_size)
    render.line(f"{path}: {sheet.num_samples:,} samples, {size}")


def _print(
    shards: Path, keys: list[str], tasks: list[str], save: Path | None, as_json: bool
) -> None:
    from roikit import draw, render
    from roikit.images import decode_rgb
    from shards.read import read_sample

    samples = []
    for i, key in enumerate(keys):
        sample, image_bytes = read_sample(shards, key)
        samples.append(sample)
        drawn = draw.draw_regions(decode_rgb(image_bytes), sample.regions)
        written = draw.show(
            drawn,
            write=sys.stdout.write,
            environ=os.environ,
            is_terminal=sys.stdout.isatty() and not as_json,
            png_path=save,
        )
        if written is not None:
            render.note(f"wrote {written}")
        if not as_json:
            if i:
                render.line("")
            _print_sample(sample, tasks)
    if as_json:
        render.document(samples if len(samples) > 1 else samples[0])


def _print_sample(sample: "Sample", tasks: list[str]) -> None:
    from roikit import draw, render
    from roikit.mentions import plain

    image = sample.image
    render.line(f"{sample.key}  {image.file}  {image.width} x {image.height}  {image.native_id}")
    render.table(
        ("region", "colour", "box_xyxy", "label"),
        [
            (
                f"region{number}",
                draw.colour(number)[0],
                ",".join(f"{value:g}" for value in region.box_xyxy),
                region.label,
            )
            for number, region in enumerate(sample.regions, 1)
        ],
    )
    for conversation in sample.conversations:
        if tasks and conversation.task not in tasks:
            continue
        render.line(f"\n{conversation.task}  {conversation.id}")
        for turn in conversation.turns:
            render.line(f"  {turn.role:<9}  {plain(turn.text)}")
        choice = conversation.choice
        for i, option in enumerate(choice.options if choice is not None else ()):
            mark = "*" if choice is not None and i == choice.answer else " "
            render.line(f"  {mark} {i}  {plain(option)}")
