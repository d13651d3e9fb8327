"""Writes the miniature world's questions as VCR's source tree.

Source: the format of VCR 1.0: token lists with 0-based index groups beside `*_orig` texts with
numbers from 1; metadata with boxes of five numbers and polygons of point pairs; no labels, and
nothing they follow from, in `test.jsonl`.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from pipelines.miniature_questions import Question
from pipelines.miniature_scene import Place, Scene, outline
from pipelines.miniature_statements import original_text

#: Pictures that stand in one movie's folder.
_MOVIE_LENGTH = 16
_SPLIT_NUMBERS = {"train": 1, "val": 2, "test": 3}

Asked = tuple[Scene, Sequence[Question]]


def vcr_place(split: str, index: int) -> Place:
    """Return where scene `index` stands: a movie has one split, and names are as odd as VCR's."""
    movie = 1000 * _SPLIT_NUMBERS[split] + index // _MOVIE_LENGTH
    if movie % 2:
        clip = f"{movie}_MINIATURE_00.{index % 60:02d}.05.000-00.{index % 60:02d}.08.500"
        file = f"lsmdc_{movie}_MINIATURE/{clip}@{index % 9}.jpg"
    else:
        file = f"movieclips_A_Miniature_{movie}/m-{index:06d} x@{index % 9}.jpg"
    return Place(split=split, file=file, image_id=f"{split}-{index}")


def annotation_id(scene: Scene, number: int) -> str:
    """Return the `annot_id` of a scene's question, counted from 0; unique in the world."""
    return f"{scene.places['vcr'].split}-{scene.index * 10 + number}"


def write_vcr(root: Path, asked: Sequence[Asked]) -> None:
    """Write `{train,val,test}.jsonl` and a metadata file beside each picture below `root`."""
    for split in _SPLIT_NUMBERS:
        lines = []
        for scene, questions in asked:
            if scene.places["vcr"].split == split:
                _write_metadata(root / "vcr1images", scene)
                for number, question in enumerate(questions):
                    lines.append(msgspec.json.encode(_record(scene, number, question)) + b"\n")
        (root / f"{split}.jsonl").write_bytes(b"".join(lines))


def _record(scene: Scene, number: int, question: Question) -> dict[str, Any]:
    place = scene.places["vcr"]
    own = scene.index * 10 + number
    rng = random.Random(f"{place.image_id}/{number}")
    record: dict[str, Any] = {
        "movie": place.file.split("/")[0].split("_", 1)[1],
        "objects": [thing.shape for thing in scene.things],
        "interesting_scores": [rng.choice((0, 1)) for _ in range(3)],
        "answer_likelihood": rng.choice(("possible", "likely")),
        "img_fn": place.file,
        "metadata_fn": _metadata_name(place),
        "question_orig": original_text(question.question),
        "question": question.question,
        "answer_choices": question.answers,
        "rationale_choices": question.rationales,
        "img_id": place.image_id,
        "question_number": number,
        "annot_id": annotation_id(scene, number),
        "match_fold": f"{place.split}-0",
        "match_index": own,
    }
    if place.split == "test":
        return record
    for step, options, label in (
        ("answer", question.answers, question.answer_label),
        ("rationale", question.rationales, question.rationale_label),
    ):
        others = iter(rng.sample(range(10**6), 3))
        rounds = iter((1, 2, 3))
        record |= {
            f"{step}_orig": original_text(options[label]),
            f"{step}_label": label,
            f"{step}_match_iter": [0 if k == label else next(rounds) for k in range(4)],
            f"{step}_sources": [own if k == label else next(others) for k in range(4)],
        }
    return record


def _metadata_name(place: Place) -> str:
    return place.file.removesuffix(".jpg") + ".json"


def _write_metadata(images: Path, scene: Scene) -> None:
    rng = random.Random(scene.places["vcr"].image_id)
    outlines = [[[round(x, 2), round(y, 2)] for x, y in outline(t)] for t in scene.things]
    metadata = {
        "boxes": [[*thing.box_xyxy, round(rng.uniform(0.9, 1.0), 4)] for thing in scene.things],
        "segms": [[polygon] for polygon in outlines],
        "names": [thing.shape for thing in scene.things],
        "width": scene.width,
        "height": scene.height,
    }
    path = images / _metadata_name(scene.places["vcr"])
    path.write_bytes(msgspec.json.encode(metadata))
