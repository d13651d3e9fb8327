"""Writes pictures of the miniature world as somebody's own data: JSON lines, as documented.

The pictures are those drawn for VCR, under names of their own. Lines use what the form offers:
labels, captions, dialogues, multiple choice, four ways to write a box.

Source: docs/your-own-data.md.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.miniature_files import (
    Placed,
    generator,
    link_picture,
    scenes_of,
    write_lines,
)
from pipelines.miniature_language import describe
from pipelines.miniature_scene import Place, Scene, Statement, Thing, relation

SPLITS = ("train", "val", "test")
_FORMATS = ("xyxy", "xywh", "xyxy_norm", "xywh_norm")


def write_jsonl(world: Path, scenes: Sequence[Scene], seed: int) -> dict[int, Placed]:
    """Write `{train,val,test}.jsonl` and `images` below `world`.

    Returns:
        Each scene's place, by its index.
    """
    root = world / "jsonl"
    placed: dict[int, Placed] = {}
    for split in SPLITS:
        lines = []
        for scene in scenes_of(scenes, "vcr", split):
            place = Place(
                split=split, file=f"photo-{scene.index:06d}.jpg", image_id=f"photo-{scene.index}"
            )
            line, said = _line(scene, place, generator(seed, "jsonl", scene))
            lines.append(line)
            placed[scene.index] = Placed(place=place, statements=tuple(said))
            link_picture(world, scene, root / "images" / place.file)
        write_lines(root / f"{split}.jsonl", lines)
    return placed


def _line(scene: Scene, place: Place, rng: random.Random) -> tuple[dict[str, Any], list[Statement]]:
    box_format = _FORMATS[scene.index % len(_FORMATS)]
    said: list[Statement] = []

    def note(kind: str, text: str, about: tuple[int, ...]) -> str:
        name = f"{place.image_id}/{len(said)}"
        said.append(Statement(dataset="jsonl", id=name, kind=kind, text=text, about=about))
        return text

    regions = [
        {
            "box": _box(thing, scene, box_format),
            "label": thing.shape,
            "caption": note("attributes", describe(thing), (i,)),
        }
        for i, thing in enumerate(scene.things)
    ]
    conversations: list[list[dict[str, Any]]] = []
    pairs = [
        (i, j, predicate)
        for i, a in enumerate(scene.things)
        for j, b in enumerate(scene.things)
        if i != j and (predicate := relation(a, b)) is not None
    ]
    if pairs:
        i, j, predicate = rng.choice(pairs)
        one, other = f"<region{i + 1}>", f"<region{j + 1}>"
        look = note("attributes", f"It is {scene.things[i].colour}.", (i,))
        conversations.append(
            [
                {
                    "user": f"Where is {one} from {other}?",
                    "assistant": note("relation", f"{one} is {predicate} {other}.", (i, j)),
                },
                {"user": "What colour is it?", "assistant": look},
            ]
        )
    i, j = rng.sample(range(len(scene.things)), 2)
    options = [f"<region{i + 1}>", f"<region{j + 1}>"]
    colours = [scene.things[k].colour for k in (i, j)]
    if colours[0] != colours[1]:
        asked = note("which", f"Which of the two is {colours[0]}?", (i,))
        answer = options[0]
        conversations.append([{"user": asked, "options": sorted(options), "answer": answer}])
    line = {
        "image": place.file,
        "id": place.image_id,
        "regions": regions,
        "conversations": conversations,
    }
    if box_format != "xyxy":
        line["box_format"] = box_format
    return line, said


def _box(thing: Thing, scene: Scene, box_format: str) -> list[float]:
    x0, y0, x1, y1 = thing.box_xyxy
    if box_format.startswith("xywh"):
        x1, y1 = x1 - x0, y1 - y0
    if box_format.endswith("_norm"):
        return [
            round(value / side, 6)
            for value, side in zip((x0, y0, x1, y1), (scene.width, scene.height) * 2, strict=True)
        ]
    return [round(value, 2) for value in (x0, y0, x1, y1)]
