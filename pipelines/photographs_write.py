"""The photographs' annotations as the files of COCO 2017, Visual Genome 1.4 and VCR 1.0.

In: checked annotations. Out: file contents by path below each source tree, the same bytes each
time. Knows neither where the pictures are nor where the files go. Ids start at 900,000,001, beyond
those of the real datasets, so that no photograph passes for one of theirs. Addresses end in
`.invalid`: nothing can be fetched from there.

Source: docs/formats, sections a2, e2 and f2 (field names, types, nesting, box conventions).
"""

import random
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from pipelines.coco_names import CATEGORIES, CATEGORY_IDS
from pipelines.photographs_read import MENTION, Photograph

_FIRST_ID = 900_000_000
_HOST = "http://photographs.invalid"
#: VCR calls a picture's folder its movie.
_MOVIE = "photographs"

_WORD = re.compile(MENTION.pattern + r"|[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*|[^\sA-Za-z0-9\[\]]")

#: A text as VCR writes it: words, and lists of 0-based object indices.
Tokens = list[str | list[int]]


def coco_files(photographs: Sequence[Photograph]) -> dict[str, bytes]:
    """Return `annotations/{instances,captions}_{train,val}2017.json`.

    Boxes only: no outline was drawn, so `segmentation` is empty and `area` is that of the box.
    """
    categories = [
        {"supercategory": group, "id": number, "name": name}
        for group, members in CATEGORIES
        for number, name in members.items()
    ]
    files = {}
    for split in ("train", "val"):
        chosen = [photograph for photograph in photographs if photograph.split == split]
        common = {
            "info": {"description": "roikit photographs", "version": "1.0", "year": 2026},
            "licenses": [{"id": 1, "name": "see docs/photographs.md", "url": f"{_HOST}/licences"}],
            "images": [_coco_image(photograph) for photograph in chosen],
        }
        instances = [entry for photograph in chosen for entry in _coco_instances(photograph)]
        captions = [
            {"image_id": _id(photograph), "id": _id(photograph) * 100 + i, "caption": caption}
            for photograph in chosen
            for i, caption in enumerate(photograph.captions)
        ]
        files[f"annotations/instances_{split}2017.json"] = msgspec.json.encode(
            common | {"annotations": instances, "categories": categories}
        )
        files[f"annotations/captions_{split}2017.json"] = msgspec.json.encode(
            common | {"annotations": captions}
        )
    return files


def visual_genome_files(photographs: Sequence[Photograph]) -> dict[str, bytes]:
    """Return image data, region descriptions, objects, and densecap's splits (test is empty)."""
    images = [
        {
            "width": photograph.width,
            "height": photograph.height,
            "url": _url(photograph),
            "coco_id": _id(photograph),
            "flickr_id": None,
            "image_id": _id(photograph),
        }
        for photograph in photographs
    ]
    regions = [
        {"regions": _vg_regions(photograph), "id": _id(photograph)} for photograph in photographs
    ]
    objects = [
        {
            "image_id": _id(photograph),
            "objects": _vg_objects(photograph),
            "image_url": _url(photograph),
        }
        for photograph in photographs
    ]
    splits: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for photograph in photographs:
        splits[photograph.split].append(_id(photograph))
    return {
        "image_data.json": msgspec.json.encode(images),
        "region_descriptions.json": msgspec.json.encode(regions),
        "objects.json": msgspec.json.encode(objects),
        "densecap_splits.json": msgspec.json.encode(splits),
    }


def vcr_files(photographs: Sequence[Photograph]) -> dict[str, bytes]:
    """Return `{train,val}.jsonl` and each picture's metadata below `vcr1images/`.

    The wrong options were written for their question, not matched from others, so all four carry
    the question's own number as their source.
    """
    files: dict[str, bytes] = {}
    for split in ("train", "val"):
        lines: list[bytes] = []
        chosen = [p for p in photographs if p.split == split and p.questions]
        for image_index, photograph in enumerate(chosen):
            files[f"vcr1images/{_metadata_name(photograph)}"] = _vcr_metadata(photograph)
            for i in range(len(photograph.questions)):
                ids = {"img_id": f"{split}-{image_index}", "annot_id": f"{split}-{len(lines)}"}
                lines.append(msgspec.json.encode(_vcr_question(photograph, i, len(lines), ids)))
        files[f"{split}.jsonl"] = b"".join(line + b"\n" for line in lines)
    return files


def tokens(text: str, indices: dict[str, int]) -> Tokens:
    """Split a text into words and signs, and `[cup, spoon]` into a list of object indices."""
    return [
        [indices[one] for one in match[1].split(", ")] if match[1] else match[0]
        for match in _WORD.finditer(text)
    ]


def _id(photograph: Photograph) -> int:
    return _FIRST_ID + photograph.number


def _url(photograph: Photograph) -> str:
    return f"{_HOST}/VG_100K/{photograph.file_name}"


def _xywh(box_xyxy: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = box_xyxy
    return x0, y0, x1 - x0, y1 - y0


def _coco_image(photograph: Photograph) -> dict[str, Any]:
    return {
        "license": 1,
        "file_name": photograph.file_name,
        "coco_url": f"{_HOST}/{photograph.split}2017/{photograph.file_name}",
        "height": photograph.height,
        "width": photograph.width,
        "date_captured": "2026-11-21 00:00:00",
        "flickr_url": f"{_HOST}/{photograph.file}",
        "id": _id(photograph),
    }


def _coco_instances(photograph: Photograph) -> list[dict[str, Any]]:
    found = []
    for i, thing in enumerate(photograph.objects):
        if thing.coco is None:
            continue
        x, y, width, height = _xywh(thing.box_xyxy)
        found.append(
            {
                "segmentation": [],
                "area": width * height,
                "iscrowd": 0,
                "image_id": _id(photograph),
                "bbox": [x, y, width, height],
                "category_id": CATEGORY_IDS[thing.coco],
                "id": _id(photograph) * 100 + i,
            }
        )
    return found


def _vg_regions(photograph: Photograph) -> list[dict[str, Any]]:
    found = []
    for i, region in enumerate(photograph.regions):
        x, y, width, height = _xywh(photograph.box_of(region))
        found.append(
            {
                "region_id": _id(photograph) * 100 + i,
                "width": width,
                "height": height,
                "image_id": _id(photograph),
                "phrase": region.phrase,
                "y": y,
                "x": x,
            }
        )
    return found


def _vg_objects(photograph: Photograph) -> list[dict[str, Any]]:
    found = []
    for i, thing in enumerate(photograph.objects):
        x, y, width, height = _xywh(thing.box_xyxy)
        found.append(
            {
                "synsets": [],
                "h": height,
                "object_id": _id(photograph) * 100 + i,
                "merged_object_ids": [],
                "names": [thing.name],
                "w": width,
                "y": y,
                "x": x,
            }
        )
    return found


def _metadata_name(photograph: Photograph) -> str:
    return f"{_MOVIE}/{photograph.file_name.rpartition('.')[0]}.json"


def _vcr_names(photograph: Photograph) -> list[str]:
    return [str(thing.coco).replace(" ", "") for thing in photograph.coco_objects]


def _vcr_metadata(photograph: Photograph) -> bytes:
    """Boxes with a detector's confidence (1: a person drew them); no outlines."""
    things = photograph.coco_objects
    return msgspec.json.encode(
        {
            "boxes": [[*map(float, thing.box_xyxy), 1.0] for thing in things],
            "segms": [[] for _ in things],
            "names": _vcr_names(photograph),
            "width": photograph.width,
            "height": photograph.height,
        }
    )


def _vcr_question(
    photograph: Photograph, index: int, number: int, ids: dict[str, str]
) -> dict[str, Any]:
    asked = photograph.questions[index]
    indices = {thing.id: i for i, thing in enumerate(photograph.coco_objects)}
    # Where the right option stands is drawn, not written by hand: hands have habits.
    orders = {
        step: random.Random(f"{photograph.number}/{index}/{step}").sample(range(4), 4)
        for step in ("answer", "rationale")
    }
    answers = [asked.answers[i] for i in orders["answer"]]
    rationales = [asked.rationales[i] for i in orders["rationale"]]
    return {
        "movie": _MOVIE,
        "objects": _vcr_names(photograph),
        "interesting_scores": [],
        "answer_likelihood": asked.likelihood,
        "img_fn": f"{_MOVIE}/{photograph.file_name}",
        "metadata_fn": _metadata_name(photograph),
        "answer_orig": _numbered(asked.answers[0], indices),
        "question_orig": _numbered(asked.question, indices),
        "rationale_orig": _numbered(asked.rationales[0], indices),
        "question": tokens(asked.question, indices),
        "answer_match_iter": orders["answer"],
        "answer_sources": [number] * 4,
        "answer_choices": [tokens(text, indices) for text in answers],
        "answer_label": orders["answer"].index(0),
        "rationale_choices": [tokens(text, indices) for text in rationales],
        "rationale_sources": [number] * 4,
        "rationale_match_iter": orders["rationale"],
        "rationale_label": orders["rationale"].index(0),
        "question_number": index,
        "match_fold": f"{photograph.split}-0",
        "match_index": number,
    } | ids


def _numbered(text: str, indices: dict[str, int]) -> str:
    """Return the text as an annotator typed it: objects are numbers, counted from 1."""
    return MENTION.sub(
        lambda match: " and ".join(str(indices[one] + 1) for one in match[1].split(", ")), text
    )
