"""Writes the miniature world's LLaVA-Instruct: dialogues about COCO's photographs, and detections.

Three kinds of records, each in its file, all of them in the whole, some in the smaller one. The
detections are the drawn objects with scores, in each form that `roikit convert llava` reads:
our table, COCO's results, the published pickle. Each also has boxes of low scores, which lie off
the objects and are to be left out.

Source: the files of liuhaotian/LLaVA-Instruct-150K; GPT4RoI `det_llava.py` for the pickle.
"""

import pickle
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.class_labels import bare_name
from pipelines.detections_table import DetectedBox, write_detections
from pipelines.miniature_files import (
    Placed,
    generator,
    image_id,
    link_picture,
    scenes_of,
    write_json,
)
from pipelines.miniature_language import NUMBERS, PLACES, describe, relation_phrase, with_article
from pipelines.miniature_lvis import class_id, class_name
from pipelines.miniature_scene import Place, Scene, Statement, Thing, clear_pairs, place_of
from pipelines.miniature_statements import SUPERLATIVES
from pipelines.miniature_write import CATEGORY_IDS

WHOLE = "llava_instruct_150k.json"
SUBSET = "llava_instruct_80k.json"
PARTS = {
    "conversation": "conversation_58k.json",
    "detail": "detail_23k.json",
    "complex": "complex_reasoning_77k.json",
}
TABLE = "detections.parquet"
RESULTS = "detections_coco.json"
PUBLISHED = "llava_150k_bbox_pred_results.pkl"

#: Share of the photographs with a record of each kind. Source: the counts of the three files.
_SHARES = {"conversation": 0.7, "detail": 0.3, "complex": 0.9}
_ORDERS = {
    "from left to right": ("furthest left", "furthest right"),
    "from top to bottom": ("highest", "lowest"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Exchange:
    question: str
    answer: str
    about: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    scene: Scene
    kind: str
    exchanges: list[_Exchange]
    token_first: bool  #: where the image's token stands in the first question


def write_llava(world: Path, scenes: Sequence[Scene], seed: int) -> dict[int, Placed]:
    """Write dialogues and detections below `world`.

    Returns:
        Each scene's place, by its index.
    """
    root = world / "llava"
    photographs = scenes_of(scenes, "coco", "train")
    records = {kind: list(_records(photographs, seed, kind)) for kind in PARTS}
    ordered = [record for kind in PARTS for record in records[kind]]
    for kind, file in PARTS.items():
        write_json(root / file, [_document(record) for record in records[kind]])
    write_json(root / WHOLE, [_document(record) for record in ordered])
    smaller = [record for kind in ("complex", "conversation") for record in records[kind][::2]]
    write_json(root / SUBSET, [_document(record) for record in smaller])
    said: dict[int, list[Statement]] = {record.scene.index: [] for record in ordered}
    spoken_of = [scene for scene in photographs if scene.index in said]
    _write_detections(root, spoken_of, seed)
    for place, record in enumerate(ordered):
        said[record.scene.index] += [
            Statement(
                dataset="llava",
                id=f"{place}/{turn}",
                kind=record.kind,
                text=exchange.answer,
                about=exchange.about,
            )
            for turn, exchange in enumerate(record.exchanges)
        ]
    for scene in spoken_of:
        link_picture(world, scene, root / scene.places["coco"].file)
    return {
        scene.index: Placed(
            place=Place(
                split="train",
                file=scene.places["coco"].file,
                image_id=scene.places["coco"].image_id,
            ),
            statements=tuple(said[scene.index]),
        )
        for scene in spoken_of
    }


def _records(photographs: Sequence[Scene], seed: int, kind: str) -> Iterator[_Record]:
    makers = {"conversation": _conversation, "detail": _detail, "complex": _reasoning}
    for scene in photographs:
        rng = generator(seed, f"llava/{kind}", scene)
        if rng.random() < _SHARES[kind]:
            exchanges = makers[kind](scene, rng)
            if exchanges:
                yield _Record(
                    scene=scene, kind=kind, exchanges=exchanges, token_first=rng.random() < 0.5
                )


def _document(record: _Record) -> dict[str, Any]:
    number = f"{image_id(record.scene, 'coco'):012d}"
    turns = []
    for i, exchange in enumerate(record.exchanges):
        asked = exchange.question
        if i == 0:
            asked = f"<image>\n{asked}" if record.token_first else f"{asked}\n<image>"
        turns.append({"from": "human", "value": asked})
        turns.append({"from": "gpt", "value": exchange.answer})
    return {"id": number, "image": f"{number}.jpg", "conversations": turns}


def _spoken(thing: Thing) -> str:
    """Return what the detector's class of a thing is called: `striped circle`, `circle`."""
    return bare_name(class_name(thing.shape, thing.pattern))


def _is_clear(scene: Scene, thing: Thing) -> bool:
    """Whether `the circle` can only mean this thing: no other circle, striped or not."""
    is_only_shape = [t.shape for t in scene.things].count(thing.shape) == 1
    alike = [(t.shape, t.pattern) for t in scene.things].count((thing.shape, thing.pattern))
    return is_only_shape if thing.pattern == "plain" else alike == 1


def _how_many(scene: Scene) -> str:
    count = len(scene.things)
    return "is one shape" if count == 1 else f"are {NUMBERS[count]} shapes"


def _conversation(scene: Scene, rng: random.Random) -> list[_Exchange]:
    everything = tuple(range(len(scene.things)))
    found = [
        _Exchange(
            question="How many shapes are in the image?",
            answer=f"There {_how_many(scene)} in the image.",
            about=everything,
        )
    ]
    clear = [i for i in everything if _is_clear(scene, scene.things[i])]
    for i in rng.sample(clear, min(2, len(clear))):
        thing = scene.things[i]
        name = _spoken(thing)
        place = PLACES[place_of(scene, thing)]
        found.append(
            rng.choice(
                (
                    _Exchange(
                        question=f"What colour is the {name}?",
                        answer=f"The {name} is {thing.colour}.",
                        about=(i,),
                    ),
                    _Exchange(
                        question=f"Where is the {name}?",
                        answer=f"The {name} is {place} of the image.",
                        about=(i,),
                    ),
                )
            )
        )
    found.append(
        _Exchange(
            question="What is the background like?",
            answer=f"The background is {scene.background}.",
            about=(),
        )
    )
    return found


def _detail(scene: Scene, rng: random.Random) -> list[_Exchange]:
    everything = tuple(range(len(scene.things)))
    order = sorted(everything, key=lambda i: (place_of(scene, scene.things[i]), i))
    lines = [
        f"There {_how_many(scene)} in the image, on {with_article(scene.background)} background."
    ]
    for i in order:
        thing = scene.things[i]
        article = "The" if _is_clear(scene, thing) else "One"
        name = f"{thing.size} {thing.colour} {_spoken(thing)}"
        lines.append(f"{article} {name} is {PLACES[place_of(scene, thing)]} of the image.")
    pairs = clear_pairs(scene)
    text = " ".join(lines)
    if pairs:
        i, j, predicate = rng.choice(pairs)
        phrase = relation_phrase(scene.things[i], f"is {predicate}", scene.things[j])
        text += f"\n\nThe {phrase}."
    question = rng.choice(("Describe the image in detail.", "What do you see in this image?"))
    return [_Exchange(question=question, answer=text, about=everything)]


def _reasoning(scene: Scene, rng: random.Random) -> list[_Exchange]:
    """A question that needs all objects; none about a close-up."""
    if len(scene.things) < 2:
        return []
    direction = rng.choice(tuple(_ORDERS))
    end = rng.choice((0, 1))
    superlative = _ORDERS[direction][end]
    best = max(range(len(scene.things)), key=lambda i: SUPERLATIVES[superlative](scene.things[i]))
    word = ("first", "last")[end]
    name = describe(scene.things[best])
    answer = (
        f"The {name} would come {word}, for of the {NUMBERS[len(scene.things)]} shapes it is the"
        f" one that is {superlative}."
    )
    question = f"If somebody named the shapes {direction}, which one would come {word}, and why?"
    return [_Exchange(question=question, answer=answer, about=(best,))]


def _write_detections(root: Path, scenes: Sequence[Scene], seed: int) -> None:
    rows: list[DetectedBox] = []
    results: list[dict[str, Any]] = []
    published: list[dict[str, Any]] = []
    for scene in scenes:
        found = _detect(scene, generator(seed, "llava/detections", scene))
        number = image_id(scene, "coco")
        corners = []
        for thing, (x0, y0, x1, y1), score in found:
            label = _spoken(thing)
            size = (scene.width, scene.height)
            name = f"{number:012d}.jpg"
            rows.append(DetectedBox(name, x0, y0, x1, y1, *size, score, label, "miniature"))
            results.append(
                {
                    "image_id": number,
                    "category_id": CATEGORY_IDS[thing.shape],
                    "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
                    "score": score,
                }
            )
            shares = (x0 / size[0], y0 / size[1], x1 / size[0], y1 / size[1])
            corners.append((*shares, score))
        published.append(
            {
                "filename": f"{number:012d}.jpg",
                "pred_bboxes": np.array(corners, np.float32).reshape(-1, 5),
                "labels": np.array([class_id(thing) - 1 for thing, _, _ in found], np.int64),
            }
        )
    write_detections(root / TABLE, rows)
    write_json(root / RESULTS, results)
    (root / PUBLISHED).write_bytes(pickle.dumps(published, protocol=2))


def _detect(
    scene: Scene, rng: random.Random
) -> list[tuple[Thing, tuple[float, float, float, float], float]]:
    """Find every object, the surest first, and sometimes one too many, of which it is not sure."""
    found = [(thing, thing.box_xyxy, round(rng.uniform(0.5, 0.99), 4)) for thing in scene.things]
    if rng.random() < 0.3:
        thing = rng.choice(scene.things)
        x0, y0, x1, y1 = thing.box_xyxy
        moved = (round(max(0.0, x0 - 9), 2), round(max(0.0, y0 - 9), 2), x1, y1)
        found.append((thing, moved, round(rng.uniform(0.05, 0.25), 4)))
    return sorted(found, key=lambda entry: -entry[2])
