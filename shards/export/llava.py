"""Splits as LLaVA's JSON: dialogues with the picture's token first and boxes written as numbers.

`OUT/<dataset>-<split>.json` for each split that has any, a list of `{id, image, conversations}`
whose turns are `{from, value}`, read one sample at a time; pictures in `OUT/images/`. A region's
first mention is its name and its box, `region1 [0.1, 0.2, 0.5, 0.9]`, later ones its name alone, as
in roikit's own prompts.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from roikit.prompt import IMAGE_TOKEN, REGION_TOKEN, as_dialogue, render, split_guards
from roikit.sample import Conversation, Image, Sample
from shards.commit import DatasetInfo
from shards.export.folder import (
    ExportedSplit,
    ExportReport,
    Progress,
    export_folder,
    num_samples,
    write_picture,
    write_report,
)
from shards.layout import split_prefix
from shards.read import iter_samples

Coordinates = Literal["normalised", "0-1000", "pixel"]

_LLAVA_IMAGE = "<image>"
_SPEAKERS = {"user": "human", "assistant": "gpt"}


def export_llava(
    root: Path | str,
    splits: Sequence[DatasetInfo],
    out: Path,
    *,
    coordinates: Coordinates = "normalised",
    tasks: Collection[str] = (),
    with_pictures: bool = True,
    limit: int | None = None,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> ExportReport:
    """Write `splits` as LLaVA's JSON below `out`.

    Args:
        root: the shards' root folder.
        splits: what to export.
        out: the folder to make.
        coordinates: how boxes are written: shares of width and height with three decimals, whole
            thousandths of them, or whole pixels; always x0, y0, x1, y1 of the upright picture.
        tasks: only conversations of these; none takes every task but `choice`. A choice becomes a
            question with lettered options, answered by the letter.
        with_pictures: extract the pictures; otherwise `image` is the dataset's own name.
        limit: at most so many samples a split.
        overwrite: replace an older export.
        progress: told how many samples are done.

    Raises:
        UsageError: `out` holds something else, or an export and `overwrite` is false.
        CorruptSampleError: a stored sample cannot be read.
    """
    total = num_samples(splits, limit)
    done = 0
    exported = []
    with export_folder(out, overwrite=overwrite) as folder:
        for info in splits:
            name = f"{split_prefix(info.dataset, info.split)}.json"
            num_images = num_records = 0
            left_out: dict[str, int] = {}
            with (folder / name).open("wb") as file:
                file.write(b"[")
                for sample, image_bytes in iter_samples(
                    root, info.dataset, info.split, limit=limit
                ):
                    dialogues = _dialogues(sample, tasks, left_out)
                    picture = sample.image.file
                    if with_pictures and dialogues:
                        picture = write_picture(folder / "images", sample, image_bytes)
                    num_images += bool(dialogues)
                    for dialogue in dialogues:
                        value = _record(sample, dialogue, picture, coordinates)
                        file.write(b",\n" if num_records else b"\n")
                        file.write(msgspec.json.encode(value))
                        num_records += 1
                    done += 1
                    progress(done, total)
                file.write(b"\n]\n")
            if not num_records:
                (folder / name).unlink()
            exported.append(
                ExportedSplit(
                    dataset=info.dataset,
                    split=info.split,
                    merkle_root=info.merkle_root,
                    file=name if num_records else None,
                    samples=num_images,
                    records=num_records,
                    left_out=left_out,
                )
            )
        report = ExportReport(
            format="llava",
            out=out,
            settings={
                "coordinates": coordinates,
                "tasks": sorted(tasks),
                "with_pictures": with_pictures,
                "limit": limit,
            },
            splits=tuple(exported),
        )
        write_report(folder, report)
    return report


def box_text(box_xyxy: Sequence[float], image: Image, coordinates: Coordinates) -> str:
    """Write a box: `[0.125, 0.5, 0.75, 1.0]`, `[125, 500, 750, 1000]`, `[8, 24, 48, 48]`.

    Args:
        box_xyxy: in pixels of the upright picture.
        image: whose size they are measured against.
        coordinates: how to write them.
    """
    sides = (image.width, image.height) * 2
    write: dict[str, Callable[[float, int], float]] = {
        "normalised": lambda value, side: round(value / side, 3),
        "0-1000": lambda value, side: round(1000 * value / side),
        "pixel": lambda value, side: round(value),
    }
    numbers = [write[coordinates](v, s) for v, s in zip(box_xyxy, sides, strict=True)]
    return f"[{', '.join(str(number) for number in numbers)}]"


def _dialogues(
    sample: Sample, tasks: Collection[str], left_out: dict[str, int]
) -> list[Conversation]:
    found = []
    for conversation in sample.conversations:
        if conversation.task not in tasks and (tasks or conversation.task == "choice"):
            reason = f"task {conversation.task}"
        else:
            dialogue = as_dialogue(conversation)
            if dialogue is not None:
                found.append(dialogue)
                continue
            reason = "choice without a published answer"
        left_out[reason] = left_out.get(reason, 0) + 1
    return found


def _record(
    sample: Sample, dialogue: Conversation, picture: str, coordinates: Coordinates
) -> dict[str, Any]:
    rendered = render(
        dialogue.turns,
        num_regions=len(sample.regions),
        # LLaVA counts this token: one inside a text would stand for a second picture.
        special_tokens=(IMAGE_TOKEN, REGION_TOKEN, _LLAVA_IMAGE),
    )
    boxes = iter(
        box_text(sample.regions[number - 1].box_xyxy, sample.image, coordinates)
        for number in rendered.region_order
    )
    said = []
    for message in rendered.messages:
        text = message["content"].replace(IMAGE_TOKEN, _LLAVA_IMAGE, 1)
        pieces = text.split(REGION_TOKEN)
        text = pieces[0] + "".join(f" {next(boxes)}{piece}" for piece in pieces[1:])
        text = "".join(
            piece if guard is None else _broken(rendered.guarded[guard])
            for piece, guard in split_guards(text)
        )
        said.append({"from": _SPEAKERS[message["role"]], "value": text})
    return {"id": f"{sample.key}/{dialogue.id}", "image": picture, "conversations": said}


def _broken(token: str) -> str:
    """Write text that looks like a token so that it is none: `< image>`."""
    return f"{token[0]} {token[1:]}" if len(token) > 1 else ""
