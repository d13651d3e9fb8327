"""Visual7W: multiple-choice questions, answered in words (telling) or with a region (pointing).

Reads `dataset_v7w_telling.json`, `dataset_v7w_pointing.json` and the groundings of telling's
answers, whichever are there. A question becomes one `choice` conversation; an image's named boxes
become one independent `category` conversation, an exchange a box.

The right option comes first in the files, and nothing says how the four are to be ordered. Options
are put into an order that depends on the seed and the question's id alone, so that the right one
stands anywhere, and at the same place whatever else is converted. Regions are numbered by where
they lie, since the order of box ids may tell which option is right.

Source: Zhu et al., "Visual7W: Grounded Question Answering in Images"; formats as in
`pipelines/visual7w_read.py`. GPT4RoI reports a figure on it, but has neither loader nor evaluation.
"""

import hashlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from pipelines.draft import (
    Built,
    DatasetSpec,
    Draft,
    Licence,
    OfficialCounts,
    OpenSource,
    Picture,
    SourceOptions,
)
from pipelines.images import Box as BoxXyxy
from pipelines.images import Frame, image_roots, match_frame
from pipelines.phrasing import enumerated
from pipelines.rejections import reject
from pipelines.source import missing_files, require_folder, unusable_picture
from pipelines.visual7w_read import (
    ALL_BOXES,
    POINTING_BOXES,
    SPLITS,
    TELLING_BOXES,
    Files,
    read_split,
)
from pipelines.visual7w_record import Box, Payload, Question
from pipelines.visual_genome_images import IMAGES_NAME, find_versioned
from roikit.mentions import escape, mention
from roikit.sample import Choice, Conversation, Region, Rejection, Source, Turn

log = logging.getLogger(__name__)

_GROUNDINGS_FOLDER = "dataset_v7w_grounding_annotations"
_EXPECTS = (
    "dataset_v7w_telling.json",
    "dataset_v7w_pointing.json",
    f"{_GROUNDINGS_FOLDER}/{TELLING_BOXES}",
    f"{_GROUNDINGS_FOLDER}/{POINTING_BOXES}",
    f"or {ALL_BOXES}",
    "images/",
)
#: Questions as published: of val firmly, of the others as commonly cited; the sums agree.
_TELLING = {"train": 69_817, "val": 28_020, "test": 42_031}
_POINTING = {"train": 93_813, "val": 36_990, "test": 57_265}
#: Images of telling's questions, as commonly cited. Of both kinds only the total is known (47,300).
_TELLING_IMAGES = {"train": 14_366, "val": 5_678, "test": 8_609}
#: Names of what the groundings' archive holds, as different readers know them.
_GROUNDINGS = (TELLING_BOXES, POINTING_BOXES, ALL_BOXES)


def open_source(source: Path, extra_roots: Sequence[Path], options: SourceOptions) -> OpenSource:
    """Find Visual7W's files below `source`, as its archives or its toolkit's scripts leave them.

    Raises:
        UsageError: no such folder, or neither file of questions in it.
    """
    require_folder(source, SPEC.title, _EXPECTS)
    files = Files(
        source=source,
        telling=_first(source, ("dataset_v7w_telling.json", "visual7w-telling/dataset.json")),
        pointing=_first(source, ("dataset_v7w_pointing.json", "visual7w-pointing/dataset.json")),
        groundings=tuple(
            path
            for name in _GROUNDINGS
            if (path := _first(source, (name, f"{_GROUNDINGS_FOLDER}/{name}"))) is not None
        ),
        vg_images=find_versioned(source, IMAGES_NAME),
    )
    if files.telling is None and files.pointing is None:
        raise missing_files(source, SPEC.title, _EXPECTS)
    absent = (
        (files.telling, "dataset_v7w_telling.json", "no questions answered in words"),
        (files.pointing, "dataset_v7w_pointing.json", "no questions answered with a region"),
        (files.groundings or None, TELLING_BOXES, "no boxes for telling's answers"),
        (
            files.vg_images,
            IMAGES_NAME,
            "COCO's photographs are not known as such, and `roikit leaks` misses them; copy Visual"
            " Genome's file there",
        ),
    )
    for there, name, consequence in absent:
        if there is None:
            log.warning("%s is not there: %s", source / name, consequence)
    roots = image_roots((source / "images", source), extra_roots)
    return OpenSource(
        folder=source,
        roots=roots,
        splits={split: partial(read_split, files, split, roots) for split in SPLITS},
        official=_official(files),
    )


def _official(files: Files) -> dict[str, OfficialCounts]:
    """What a source of these files holds.

    Questions are counted by kind: the boxes of telling's answers are records, too, and are
    published without the splits' shares.
    """
    return {
        split: OfficialCounts(
            images=_TELLING_IMAGES[split] if files.pointing is None else None,
            kinds={
                f"{kind} questions": counts[split]
                for kind, counts, path in (
                    ("telling", _TELLING, files.telling),
                    ("pointing", _POINTING, files.pointing),
                )
                if path is not None
            },
        )
        for split in SPLITS
    }


def build(draft: Draft, picture: Picture) -> Built:
    """Turn one image's questions and boxes into conversations."""
    built = Built()
    payload = msgspec.convert(draft.payload, Payload)
    frame = match_frame(picture.header, draft.image_wh)
    if frame is None:
        built.rejections.append(unusable_picture("E_SIZE_MISMATCH", draft, picture.header))
        return built
    numbers = _place_boxes(payload.boxes, draft, frame, built)
    names = _category_conversation(draft, payload, picture, built)
    if names is not None:
        built.conversations.append(names)
    for question in payload.questions:
        conversation = _choice_conversation(question, numbers, draft, picture)
        if isinstance(conversation, Rejection):
            built.rejections.append(conversation)
        else:
            built.conversations.append(conversation)
            built.num_converted += 1
    return built


def _first(source: Path, names: Sequence[str]) -> Path | None:
    return next((source / name for name in names if (source / name).is_file()), None)


def _place_boxes(
    boxes: Sequence[Box], draft: Draft, frame: Frame, built: Built
) -> list[int | None]:
    """Put the boxes into `built` as regions; the same box under the same name is one region.

    Returns:
        Each box's region number; None where the box is rejected.
    """
    placed_boxes: list[tuple[BoxXyxy, str] | None] = []
    native_ids: dict[tuple[BoxXyxy, str], str | None] = {}
    for box in boxes:
        x, y, width, height = box.bbox_xywh
        placed = frame.place((x, y, x + width, y + height))
        if isinstance(placed, str):
            message = f"box {list(box.bbox_xywh)} in a picture of {frame.annotated_wh}"
            where = {"file": box.file, "record": box.record, "native_id": draft.native_id}
            built.rejections.append(reject(placed, message, **where))
            placed_boxes.append(None)
            continue
        box_xyxy, is_clipped = placed
        built.num_clipped += is_clipped
        built.num_converted += box.is_grounding
        native_ids.setdefault((box_xyxy, box.name), box.id)
        placed_boxes.append((box_xyxy, box.name))
    numbers: dict[tuple[BoxXyxy, str], int] = {}
    for box_xyxy, name in sorted(native_ids):
        region = Region(box_xyxy=box_xyxy, label=name or None, native_id=native_ids[box_xyxy, name])
        built.regions.append(region)
        numbers[box_xyxy, name] = len(built.regions)
    return [None if placed is None else numbers[placed] for placed in placed_boxes]


def _category_conversation(
    draft: Draft, payload: Payload, picture: Picture, built: Built
) -> Conversation | None:
    conversation_id = f"{draft.group}/category"
    turns: list[Turn] = []
    for number, region in enumerate(built.regions, 1):
        if region.label is not None:
            place = f"{conversation_id}:{len(turns)}"
            turns.append(picture.phraser.ask("category", place, region=mention(number)))
            turns.append(Turn(role="assistant", text=escape(region.label)))
    if not turns:
        return None
    return Conversation(
        id=conversation_id,
        task="category",
        independent=True,
        source=Source(file=payload.boxes[0].file, record=f"image {draft.group}"),
        turns=tuple(turns),
    )


def _choice_conversation(
    question: Question, numbers: Sequence[int | None], draft: Draft, picture: Picture
) -> Conversation | Rejection:
    where = {"file": question.file, "record": question.record, "native_id": draft.native_id}
    conversation_id = f"{question.kind}/{question.id}"
    texts: list[str] = []
    for option in question.options:
        if isinstance(option, str):
            texts.append(escape(option))
        elif (number := numbers[option]) is not None:
            texts.append(mention(number))
        else:
            message = "the box of an option is not usable; its own rejection says why"
            return reject("E_REF_NO_ANNOTATION", message, **where)
    if texts[0] in texts[1:]:
        message = "the answer's box is the same as that of a wrong option"
        return reject("E_OPTIONS_AMBIGUOUS", message, **where)
    order = _option_order(len(texts), picture.phraser.seed, conversation_id)
    options = tuple(texts[i] for i in order)
    asked = Turn(role="user", text=escape(question.text))
    if question.kind == "pointing":
        slots = {"question": asked.text, "regions": enumerated(options)}
        asked = picture.phraser.ask("pointing", f"{conversation_id}:0", **slots)
    return Conversation(
        id=conversation_id,
        task="choice",
        independent=False,
        source=Source(file=question.file, record=question.record),
        turns=(asked,),
        choice=Choice(
            question_id=conversation_id, step="answer", options=options, answer=order.index(0)
        ),
    )


def _option_order(num_options: int, seed: int, question_id: str) -> list[int]:
    """Shuffle by hashing: neither the sample's key nor the split's other questions have a say."""

    def rank(i: int) -> bytes:
        place = f"{seed}\0visual7w\0{question_id}\0{i}".encode()
        return hashlib.blake2b(place, digest_size=8).digest()

    return sorted(range(num_options), key=rank)


SPEC = DatasetSpec(
    name="visual7w",
    title="Visual7W",
    version=1,
    expects=_EXPECTS,
    families=("category", "pointing"),
    open_source=open_source,
    build=build,
    # Source: ai.stanford.edu/~yukez/visual7w. GPT4RoI reports a figure on it, but no training.
    stage="evaluation",
    licence=Licence(annotations="for research", pictures="COCO's, a Flickr licence each"),
    registration=None,
    published={
        split: OfficialCounts(
            kinds={"telling questions": _TELLING[split], "pointing questions": _POINTING[split]}
        )
        for split in SPLITS
    },
)
