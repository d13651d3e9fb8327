"""Writes the miniature world's RefCOCO, RefCOCO+ and RefCOCOg, in REFER's form and in MDETR's.

All pictures are whole scenes of COCO's train, under their names of 2014, with COCO's ids of
photographs and annotations. unc's splits divide pictures; as people in the original, circles (both
are category 1) make up testA, and everything else testB. umd's splits of RefCOCOg are dealt anew,
so that its train overlaps with RefCOCO's tests, as in the original. google's divide objects.

Source: REFER (lichengunc/refer), README; MDETR (ashkamath/mdetr), `mdetr_annotations`.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.miniature_files import (
    LICENCES,
    Placed,
    description,
    generator,
    image_id,
    link_picture,
    scenes_of,
    write_json,
    write_old_pickle,
)
from pipelines.miniature_referring import (
    Expression,
    long_phrases,
    short_with_place,
    short_without_place,
)
from pipelines.miniature_scene import Place, Scene, Statement
from pipelines.miniature_write import coco_categories, coco_image, coco_instances

#: Where REFER keeps the pictures of all three, beside the datasets' folders.
PICTURES = "images/mscoco/images"
#: MDETR's archive, with the files of several datasets.
MDETR = "mdetr_annotations"

_EVALUATION = 0.125  #: of the pictures for val, and as many for the tests
_PERSON = "circle"  #: of category 1, which in COCO is `person`
_MAX_REFERENCES = 3  #: objects of a picture that are spoken of

_Say = Callable[[Scene, int, random.Random, int], list[Expression]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Set:
    """One of the three."""

    say: _Say
    authority: str
    has_google: bool
    google_splits: tuple[str, ...] = ("train", "val", "test")
    #: pictures, objects and splits are dealt by this name: RefCOCO+ has RefCOCO's
    dealt_as: str = ""


_SETS = {
    "refcoco": _Set(say=short_with_place, authority="unc", has_google=True, dealt_as="refcoco"),
    "refcoco+": _Set(
        say=short_without_place, authority="unc", has_google=False, dealt_as="refcoco"
    ),
    "refcocog": _Set(
        say=long_phrases,
        authority="umd",
        has_google=True,
        google_splits=("train", "val"),  # its test was never published
        dealt_as="refcocog",
    ),
}
REFER_SETS = tuple(_SETS)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reference:
    """One object and what is said about it."""

    scene: Scene
    thing: int
    split: str
    expressions: list[Expression]
    sent_ids: list[int]
    google_split: str


def write_refer(
    world: Path, scenes: Sequence[Scene], seed: int, *, dataset: str
) -> dict[int, Placed]:
    """Write one of the three below `world`.

    Returns:
        Each scene's place, by its index.
    """
    one = _SETS[dataset]
    splits = _deal(scenes, seed, one)
    references = _refer(splits, seed, dataset, one)
    chosen = [scene for scene, _ in splits]
    _write_refer_form(world / dataset, chosen, references, one)
    _write_mdetr_form(world / MDETR, references, dataset, _first_number(scenes, seed, dataset))
    for scene in chosen:
        link_picture(world, scene, world / PICTURES / _file(scene))
    said: dict[int, list[Statement]] = {scene.index: [] for scene in chosen}
    for ref in references:
        said[ref.scene.index] += _statements(dataset, ref)
    return {
        scene.index: Placed(
            place=Place(split=split, file=_file(scene), image_id=str(image_id(scene, "coco"))),
            statements=tuple(said[scene.index]),
        )
        for scene, split in splits
    }


def _deal(scenes: Sequence[Scene], seed: int, one: _Set) -> list[tuple[Scene, str]]:
    """Give each picture its split, in the order of the scenes."""
    whole = [s for s in scenes_of(scenes, "coco", "train") if len(s.things) > 1]
    rng = generator(seed, one.dealt_as)
    order = rng.sample(whole, len(whole))
    kept = max(1, round(len(order) * _EVALUATION))
    splits = {}
    for place, scene in enumerate(order):
        split = "train" if place >= 2 * kept else "val" if place < kept else "test"
        if split == "test" and one.authority == "unc":
            split = "testA" if any(t.shape == _PERSON for t in scene.things) else "testB"
        splits[scene.index] = split
    return [(scene, splits[scene.index]) for scene in whole]


def _refer(
    splits: Sequence[tuple[Scene, str]], seed: int, dataset: str, one: _Set
) -> list[_Reference]:
    references: list[_Reference] = []
    num_sentences = 0
    for scene, split in splits:
        dealt = generator(seed, one.dealt_as, scene)
        rng = generator(seed, dataset, scene)
        targets = list(range(len(scene.things)))
        if split == "testA":
            targets = [i for i in targets if scene.things[i].shape == _PERSON]
        for i in sorted(dealt.sample(targets, min(len(targets), _MAX_REFERENCES))):
            google = dealt.choices(one.google_splits, (8, 1, 1)[: len(one.google_splits)])[0]
            count = rng.choice((2, 3, 3, 4)) if one.authority == "unc" else rng.choice((1, 2, 2, 2))
            said = one.say(scene, i, rng, count)
            ids = list(range(num_sentences, num_sentences + len(said)))
            num_sentences += len(said)
            references.append(
                _Reference(
                    scene=scene,
                    thing=i,
                    split=split,
                    expressions=said,
                    sent_ids=ids,
                    google_split=google,
                )
            )
    return references


def _statements(dataset: str, ref: _Reference) -> list[Statement]:
    return [
        Statement(dataset=dataset, id=str(number), kind=e.kind, text=e.text, about=(ref.thing,))
        for number, e in zip(ref.sent_ids, ref.expressions, strict=True)
    ]


def _file(scene: Scene) -> str:
    return f"train2014/COCO_train2014_{image_id(scene, 'coco'):012d}.jpg"


def _image(scene: Scene) -> dict[str, Any]:
    return coco_image(scene) | {"file_name": _file(scene).split("/")[1]}


def _write_refer_form(
    folder: Path, chosen: Sequence[Scene], references: Sequence[_Reference], one: _Set
) -> None:
    """Write `instances.json`, with every object of the pictures, and the references' pickles."""
    instances = {
        "info": description(2014),
        "images": [_image(scene) for scene in chosen],
        "licenses": LICENCES,
        "annotations": [entry for scene in chosen for entry in coco_instances(scene)],
        "categories": coco_categories(),
    }
    write_json(folder / "instances.json", instances)
    records = [_refer_record(ref_id, ref) for ref_id, ref in enumerate(references)]
    write_old_pickle(folder / f"refs({one.authority}).p", records)
    if one.has_google:
        pairs = zip(records, references, strict=True)
        dealt = [record | {"split": ref.google_split} for record, ref in pairs]
        write_old_pickle(folder / "refs(google).p", dealt)


def _refer_record(ref_id: int, ref: _Reference) -> dict[str, Any]:
    annotation = list(coco_instances(ref.scene))[ref.thing]
    sentences = [
        {"tokens": e.text.split(), "raw": _as_typed(number, e.text), "sent_id": number,
         "sent": e.text}
        for number, e in zip(ref.sent_ids, ref.expressions, strict=True)
    ]  # fmt: skip
    name = _image(ref.scene)["file_name"].removesuffix(".jpg")
    return {
        "sent_ids": ref.sent_ids,
        "file_name": f"{name}_{ref.thing}.jpg",  # no file has this name; nor has it in the original
        "ann_id": annotation["id"],
        "ref_id": ref_id,
        "image_id": annotation["image_id"],
        "split": ref.split,
        "sentences": sentences,
        "category_id": annotation["category_id"],
    }


def _as_typed(number: int, text: str) -> str:
    """Return the words as somebody typed them before they were cleaned."""
    return (text, text.capitalize(), f"{text}.", f"{text} ")[number % 4]


def _first_number(scenes: Sequence[Scene], seed: int, dataset: str) -> int:
    """Return how many expressions MDETR's files of the sets before hold, written or not."""
    before = REFER_SETS[: REFER_SETS.index(dataset)]
    return sum(
        len(ref.expressions)
        for name in before
        for ref in _refer(_deal(scenes, seed, _SETS[name]), seed, name, _SETS[name])
    )


def _write_mdetr_form(
    folder: Path, references: Sequence[_Reference], dataset: str, number: int
) -> None:
    """Write a file a split: an entry an expression, under ids that run on from `number`."""
    for split in ("train", "val", "testA", "testB", "test"):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for ref in references:
            if ref.split != split:
                continue
            annotation = list(coco_instances(ref.scene))[ref.thing]
            picture = _image(ref.scene)
            for expression in ref.expressions:
                images.append(
                    {
                        "file_name": picture["file_name"],
                        "height": picture["height"],
                        "width": picture["width"],
                        "id": number,
                        "original_id": picture["id"],
                        "caption": expression.text,
                        "dataset_name": dataset,
                        "tokens_negative": [list(span) for span in expression.others],
                    }
                )
                annotations.append(
                    {
                        "area": annotation["area"],
                        "iscrowd": 0,
                        "image_id": number,
                        "category_id": annotation["category_id"],
                        "id": number,
                        "bbox": annotation["bbox"],
                        "original_id": annotation["id"],
                        "tokens_positive": [list(expression.root)],
                    }
                )
                number += 1
        if images:
            table = {
                "info": description(2014),
                "licenses": LICENCES,
                "images": images,
                "annotations": annotations,
                "categories": coco_categories(),
            }
            write_json(folder / f"finetune_{dataset}_{split}.json", table)
