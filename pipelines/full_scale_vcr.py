"""VCR at its official size: invented questions, answers and reasons in token lists.

Writes `{train,val,test}.jsonl`, and beside each picture's name in `vcr1images/` its metadata file
with boxes and outlines. As in the real files, paths hold dots, blanks and `@`, mentions are lists
of 0-based object indices, plain numbers stand in texts, the test split is without labels, and for
2,654 frames the metadata name another resolution than the picture has. Written image by image.

Source: counts of docs/datasets.md.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from pipelines.coco_names import CATEGORY_IDS
from pipelines.full_scale_draws import ENDINGS, NOUNS, Picture, link, ring, spread
from pipelines.miniature_statements import original_text

#: (width, height): 16 to 9, and two of wide films.
SIZES_WH = ((1280, 720), (1280, 534), (1280, 688))
_NUM_POINTS = 14

Tokens = list[str | list[int]]

#: `A` and `B` become objects, `N` a thing, `E` a place; the rest are VCR's tokens, blank apart.
_QUESTIONS = (
    "Why is A looking at B ?", "What is A going to do next ?", "Why does A hold the N ?",
    "Where are A and B going ?", "How does A feel about the N ?", "What is A 's job ?",
    "Why isn ' t A talking to B ?", "What would happen if A dropped the N ?",
    "What are B and A waiting for ?", "Is A angry with B ?",
)  # fmt: skip
_ANSWERS = (
    "A is curious about B .", "A wants to take the N to B .", "A will walk away E .",
    "B asked A to bring 2 of the N , at once .", "They are looking for the N E .",
    "A doesn ' t trust B .", "A and B are about to sit down at the N .", "Yes , A is upset .",
    "B has just told A about the N , and A is surprised .", "A works here E .",
)  # fmt: skip
_RATIONALES = (
    "A has both hands on the N and faces B .", "B stands E , and A turns toward B .",
    "People who carry the N usually use it E .", "A 's mouth is open and B is smiling at A .",
    "The N lies between A and B , so both can reach it .", "A is dressed for work E .",
    "When 2 people meet E , they often talk about the N first .", "B looks away from A .",
    "It is late , and A has been standing next to the N for a while .", "A frowns at B .",
)  # fmt: skip
_TEMPLATES = {
    "question": [text.split() for text in _QUESTIONS],
    "answer": [text.split() for text in _ANSWERS],
    "rationale": [text.split() for text in _RATIONALES],
}
_CLASSES = tuple(name.replace(" ", "") for name in CATEGORY_IDS)


@dataclass(frozen=True, kw_only=True, slots=True)
class VcrSplit:
    """What one split holds."""

    name: str
    movies: int
    images: int
    questions: int
    mismatches: int  #: frames whose metadata name another resolution


SPLITS = (
    VcrSplit(name="train", movies=1_945, images=80_418, questions=212_923, mismatches=2_136),
    VcrSplit(name="val", movies=244, images=9_929, questions=26_534, mismatches=264),
    VcrSplit(name="test", movies=189, images=9_557, questions=25_263, mismatches=254),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Frame:
    """One image, its metadata written."""

    number: int  #: in its split
    movie: str
    file: str
    objects: list[str]


def write_vcr(
    root: Path,
    pictures: Sequence[Picture],
    seed: int,
    tick: Callable[[int], None],
    splits: Sequence[VcrSplit] = SPLITS,
) -> None:
    """Write the tree below `root`.

    Args:
        root: an empty folder.
        pictures: to link; those of `SIZES_WH`.
        seed: the same gives the same bytes.
        tick: told of questions written since the last call.
        splits: what to write; others than the official ones are for tests.
    """
    movie = 1000
    for place, split in enumerate(splits):
        rng = np.random.default_rng([seed, 4, place])
        in_movie = spread(split.images, split.movies, rng, at_least=1).tolist()
        asked = spread(split.questions, split.images, rng, at_least=1).tolist()
        shown = rng.integers(len(pictures), size=split.images).tolist()
        mismatched = set(rng.choice(split.images, split.mismatches, replace=False).tolist())
        number = question = 0
        with (root / f"{split.name}.jsonl").open("wb") as lines:
            for frames in in_movie:
                movie += 1
                name, folder = _movie(movie)
                (root / "vcr1images" / folder).mkdir(parents=True)
                for shot in range(frames):
                    picture = pictures[shown[number]]
                    file = f"{folder}/{_clip(movie, name, shot)}.jpg"
                    link(picture, root / "vcr1images" / file)
                    scale = 1.5 if number in mismatched else 1.0
                    objects = _write_metadata(root / "vcr1images" / file, picture, scale, rng)
                    frame = _Frame(number=number, movie=name, file=file, objects=objects)
                    draw = random.Random(f"full/{seed}/{split.name}/{number}")
                    _write_questions(lines, split.name, frame, question, asked[number], draw)
                    question += asked[number]
                    tick(asked[number])
                    number += 1


def _movie(number: int) -> tuple[str, str]:
    if number % 3:
        name = f"{number}_A_SYNTHETIC_FILM"
        return name, f"lsmdc_{name}"
    name = f"A_Synthetic_Film_{number}"
    return name, f"movieclips_{name}"


def _clip(movie: int, name: str, shot: int) -> str:
    """Return a frame's name without its ending, as odd as VCR's."""
    minute, second = divmod(shot, 60)
    if movie % 3:
        when = f"{minute:02d}.{second:02d}"
        return f"{name}_00.{when}.008-00.{when}.722@{shot % 10}"
    return f"s-{movie} {shot:04d}x@{shot % 30}"


def _write_metadata(
    file: Path, picture: Picture, scale: float, rng: np.random.Generator
) -> list[str]:
    """Write the metadata beside a picture and return its objects' names."""
    count = 2 + int(rng.gamma(2.0, 3.0))
    whole_wh = np.array((picture.width, picture.height)) * scale
    lengths = whole_wh * rng.uniform(0.05, 0.6, (count, 2))
    corners = rng.random((count, 2)) * (whole_wh - lengths)
    boxes_xywh = np.concatenate((corners, lengths), axis=1)
    outlines = ring(boxes_xywh, _NUM_POINTS, rng)
    scores = rng.uniform(0.7, 1.0, (count, 1))
    boxes_xyxy = np.concatenate((corners, corners + lengths, scores), axis=1).round(4)
    # Most of what VCR's detector found are people.
    drawn = np.where(rng.random(count) < 0.6, 0, rng.integers(len(_CLASSES), size=count))
    names = [_CLASSES[k] for k in drawn.tolist()]
    metadata = {
        "boxes": boxes_xyxy.tolist(),
        "segms": [[polygon] for polygon in outlines.tolist()],
        "names": names,
        "width": round(picture.width * scale),
        "height": round(picture.height * scale),
    }
    file.with_name(f"{file.name.removesuffix('.jpg')}.json").write_bytes(
        msgspec.json.encode(metadata)
    )
    return names


def _write_questions(
    lines: BinaryIO, split: str, frame: _Frame, first: int, count: int, draw: random.Random
) -> None:
    for number in range(count):
        people = draw.sample(range(len(frame.objects)), 2)
        own = first + number
        answers = _options("answer", people, draw)
        rationales = _options("rationale", people, draw)
        question = _tokens(draw.choice(_TEMPLATES["question"]), people, draw)
        record: dict[str, Any] = {
            "movie": frame.movie,
            "objects": frame.objects,
            "interesting_scores": [draw.randrange(-1, 2) for _ in range(3)],
            "answer_likelihood": draw.choice(("possible", "likely", "unlikely")),
            "img_fn": frame.file,
            "metadata_fn": f"{frame.file.removesuffix('.jpg')}.json",
            "question_orig": original_text(question),
            "question": question,
            "answer_choices": answers,
            "rationale_choices": rationales,
            "img_id": f"{split}-{frame.number}",
            "question_number": number,
            "annot_id": f"{split}-{own}",
            "match_fold": f"{split}-{own % 11}",
            "match_index": own,
        }
        if split != "test":
            for step, options in (("answer", answers), ("rationale", rationales)):
                label = draw.randrange(4)
                rounds = iter((1, 2, 3))
                record[f"{step}_orig"] = original_text(options[label])
                record[f"{step}_label"] = label
                record[f"{step}_match_iter"] = [0 if k == label else next(rounds) for k in range(4)]
                record[f"{step}_sources"] = [
                    own if k == label else draw.randrange(200_000) for k in range(4)
                ]
        lines.write(msgspec.json.encode(record) + b"\n")


def _options(step: str, people: Sequence[int], draw: random.Random) -> list[Tokens]:
    return [_tokens(template, people, draw) for template in draw.sample(_TEMPLATES[step], 4)]


def _tokens(template: Sequence[str], people: Sequence[int], draw: random.Random) -> Tokens:
    tokens: Tokens = []
    for word in template:
        if word == "A":
            tokens.append([people[0]])
        elif word == "B":
            tokens.append([people[1]])
        elif word == "N":
            tokens.append(draw.choice(NOUNS))
        elif word == "E":
            tokens += draw.choice(ENDINGS).split()
        else:
            tokens.append(word)
    return tokens
