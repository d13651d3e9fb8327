"""Writes the miniature world's Visual7W: multiple choice in words (telling), by boxes (pointing).

Its pictures are all of Visual Genome's tree, under Visual Genome's ids, on the same side of
training. Of the seven Ws those are asked that a drawing answers: what, where, how and which;
nothing is to be said about who, when and why.

Source: README of yukezhu/visual7w-toolkit: the right answer is not among the `multiple_choices`;
pointing answers are box ids; boxes are whole pixels.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.miniature_files import (
    Placed,
    generator,
    image_id,
    link,
    link_picture,
    scenes_of,
    whole_xywh,
    write_json,
)
from pipelines.miniature_language import NUMBERS, PLACES, describe, with_article
from pipelines.miniature_scene import (
    COLOURS,
    PATTERNS,
    PREDICATES,
    SHAPES,
    Place,
    Scene,
    Statement,
    holds,
    place_of,
)

TELLING = "dataset_v7w_telling.json"
POINTING = "dataset_v7w_pointing.json"
GROUNDINGS = "dataset_v7w_grounding_annotations"
#: A folder of its own for the form that has the boxes of both kinds in one file.
JOINED = "visual7w-joined"
TELLING_BOXES = f"{GROUNDINGS}/v7w_telling_answers.json"
POINTING_BOXES = f"{GROUNDINGS}/v7w_pointing_answers.json"

_NUM_OPTIONS = 4
_PER_IMAGE = 100  #: ids of an image's questions, and of its boxes, are its index times this
_MAX_POINTING = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class _Telling:
    type: str
    question: str
    answer: str
    wrong: tuple[str, ...]
    about: tuple[int, ...]  #: what the answer speaks of; its boxes are the groundings


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pointing:
    question: str
    options: tuple[int, ...]  #: indices of things, the right one first


def write_visual7w(world: Path, scenes: Sequence[Scene], seed: int) -> dict[int, Placed]:
    """Write both files of questions and the groundings below `world`, in both of their forms.

    Visual Genome's list of images lies beside them, so that COCO's photographs are known as such.

    Returns:
        Each scene's place, by its index.
    """
    root = world / "visual7w"
    telling: list[dict[str, Any]] = []
    pointing: list[dict[str, Any]] = []
    grounded: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    placed: dict[int, Placed] = {}
    for scene in scenes_of(scenes, "vg"):
        rng = generator(seed, "visual7w", scene)
        said: list[Statement] = []
        told = _tell(scene, rng)
        pointed = _point(scene, rng)
        telling += _image(scene, [_telling_record(scene, i, q) for i, q in enumerate(told)])
        pointing += _image(scene, [_pointing_record(scene, i, q) for i, q in enumerate(pointed)])
        for i, asked in enumerate(told):
            qa_id = scene.index * _PER_IMAGE + i
            grounded += [_box(scene, thing) | {"qa_id": qa_id} for thing in asked.about]
            text = f"{asked.question} {asked.answer}"
            said.append(_statement(f"telling/{qa_id}", asked.type, text, asked.about))
        for i, which in enumerate(pointed):
            qa_id = scene.index * _PER_IMAGE + i
            for k, thing in enumerate(which.options):
                boxes.append(_box(scene, thing) | {"box_id": _box_id(scene, i, k), "qa_id": qa_id})
            said.append(_statement(f"pointing/{qa_id}", "which", which.question, which.options[:1]))
        place = Place(split=scene.places["vg"].split, file=_file(scene), image_id=_id(scene))
        placed[scene.index] = Placed(place=place, statements=tuple(said))
        link_picture(world, scene, root / "images" / _file(scene))
    bare = [{name: value for name, value in box.items() if name != "qa_id"} for box in boxes]
    write_json(root / TELLING, {"dataset": "v7w_telling", "images": telling})
    write_json(root / POINTING, {"dataset": "v7w_pointing", "images": pointing, "boxes": bare})
    write_json(root / TELLING_BOXES, {"boxes": grounded})
    write_json(root / POINTING_BOXES, {"boxes": boxes})
    joined = world / JOINED
    write_json(joined / TELLING, {"dataset": "v7w_telling", "images": telling})
    write_json(joined / POINTING, {"dataset": "v7w_pointing", "images": pointing, "boxes": bare})
    write_json(joined / f"{GROUNDINGS}.json", {"boxes": [*grounded, *boxes]})
    for folder in (root, joined):
        link(world / "vg" / "image_data.json", folder / "image_data.json")
    return placed


def _id(scene: Scene) -> str:
    return scene.places["vg"].image_id


def _file(scene: Scene) -> str:
    return f"v7w_{_id(scene)}.jpg"


def _statement(name: str, kind: str, text: str, about: tuple[int, ...]) -> Statement:
    return Statement(dataset="visual7w", id=name, kind=kind, text=text, about=about)


def _image(scene: Scene, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the image's record; none where nothing is asked."""
    if not questions:
        return []
    return [
        {
            "qa_pairs": questions,
            "image_id": image_id(scene, "vg"),
            "split": scene.places["vg"].split,
            "filename": _file(scene),
        }
    ]


def _telling_record(scene: Scene, number: int, asked: _Telling) -> dict[str, Any]:
    return {
        "image_id": image_id(scene, "vg"),
        "multiple_choices": asked.wrong,
        "qa_id": scene.index * _PER_IMAGE + number,
        "question": asked.question,
        "answer": asked.answer,
        "type": asked.type,
    }


def _pointing_record(scene: Scene, number: int, asked: _Pointing) -> dict[str, Any]:
    return {
        "image_id": image_id(scene, "vg"),
        "multiple_choices": [_box_id(scene, number, k) for k in range(1, len(asked.options))],
        "qa_id": scene.index * _PER_IMAGE + number,
        "question": asked.question,
        "answer": _box_id(scene, number, 0),
        "type": "which",
    }


def _box_id(scene: Scene, number: int, option: int) -> int:
    return scene.index * _PER_IMAGE + number * _NUM_OPTIONS + option


def _box(scene: Scene, index: int) -> dict[str, Any]:
    thing = scene.things[index]
    x, y, width, height = whole_xywh([thing])
    return {"name": thing.shape, "x": x, "y": y, "width": width, "height": height}


def _tell(scene: Scene, rng: random.Random) -> list[_Telling]:
    """Ask what can be asked, each kind of question once at most."""
    found = [next(_ask_look(scene, rng), None), next(_ask_place_holder(scene, rng), None)]
    found += [next(_ask_where(scene, rng), None), _ask_how_many(scene, rng)]
    return [asked for asked in found if asked is not None]


def _shuffled(scene: Scene, rng: random.Random) -> list[int]:
    return rng.sample(range(len(scene.things)), len(scene.things))


def _is_alone(scene: Scene, index: int, words: tuple[str, ...]) -> bool:
    """Whether no other object shares these attributes and the shape."""
    phrase = describe(scene.things[index], words)
    return [describe(thing, words) for thing in scene.things].count(phrase) == 1


def _wrong(rng: random.Random, values: Sequence[str], right: str) -> tuple[str, ...]:
    return tuple(rng.sample([value for value in values if value != right], _NUM_OPTIONS - 1))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _ask_look(scene: Scene, rng: random.Random) -> Iterator[_Telling]:
    for i in _shuffled(scene, rng):
        if _is_alone(scene, i, ()):
            thing = scene.things[i]
            yield _Telling(
                type="what",
                question=f"What colour is the {thing.shape}?",
                answer=_sentence(thing.colour),
                wrong=tuple(map(_sentence, _wrong(rng, COLOURS, thing.colour))),
                about=(i,),
            )


def _ask_place_holder(scene: Scene, rng: random.Random) -> Iterator[_Telling]:
    places = [place_of(scene, thing) for thing in scene.things]
    for i in _shuffled(scene, rng):
        if places.count(places[i]) == 1:
            shape = scene.things[i].shape
            yield _Telling(
                type="what",
                question=f"What is {PLACES[places[i]]} of the picture?",
                answer=_sentence(with_article(shape)),
                wrong=tuple(_sentence(with_article(s)) for s in _wrong(rng, SHAPES, shape)),
                about=(i,),
            )


def _ask_where(scene: Scene, rng: random.Random) -> Iterator[_Telling]:
    for i in _shuffled(scene, rng):
        if _is_alone(scene, i, ("colour",)):
            thing = scene.things[i]
            place = PLACES[place_of(scene, thing)]
            yield _Telling(
                type="where",
                question=f"Where is the {describe(thing, ('colour',))}?",
                answer=_sentence(place),
                wrong=tuple(map(_sentence, _wrong(rng, tuple(PLACES.values()), place))),
                about=(i,),
            )


def _ask_how_many(scene: Scene, rng: random.Random) -> _Telling:
    pattern = rng.choice((None, *PATTERNS))
    counted = [i for i, t in enumerate(scene.things) if pattern in (None, t.pattern)]
    numbers = ("none", *NUMBERS[1:])
    number = numbers[len(counted)]
    return _Telling(
        type="how",
        question=f"How many shapes are {'there' if pattern is None else pattern}?",
        answer=_sentence(number),
        wrong=tuple(map(_sentence, _wrong(rng, numbers, number))),
        about=tuple(counted),
    )


def _point(scene: Scene, rng: random.Random) -> list[_Pointing]:
    """Ask for one of four objects; the question fits no other object of the picture."""
    if len(scene.things) < _NUM_OPTIONS:
        return []
    found: list[_Pointing] = []
    for right in _shuffled(scene, rng)[:_MAX_POINTING]:
        questions = _which(scene, right)
        if questions:
            others = [i for i in range(len(scene.things)) if i != right]
            options = (right, *rng.sample(others, _NUM_OPTIONS - 1))
            found.append(_Pointing(question=rng.choice(questions), options=options))
    return found


def _which(scene: Scene, right: int) -> list[str]:
    thing = scene.things[right]
    found = []
    for kind in ("colour", "pattern", "size"):
        value = getattr(thing, kind)
        alike = [i for i, t in enumerate(scene.things) if getattr(t, kind) == value]
        if alike == [right]:
            found.append(f"Which shape is {value}?")
        elif [i for i in alike if scene.things[i].shape == thing.shape] == [right]:
            found.append(f"Which {thing.shape} is {value}?")
    for i, other in enumerate(scene.things):
        for predicate in PREDICATES:
            fitting = [
                k for k, t in enumerate(scene.things) if k != i and holds(t, predicate, other)
            ]
            if fitting == [right] and _is_alone(scene, i, ("colour",)):
                found.append(f"Which shape is {predicate} the {describe(other, ('colour',))}?")
    return found
