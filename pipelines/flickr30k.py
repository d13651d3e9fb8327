"""Flickr30k Entities: captions whose phrases are tied to boxes.

Reads the original files or MDETR's (recognised from what lies there; `flickr30k_entities.py` and
`flickr30k_mdetr.py`). A caption with boxes becomes one `grounded-caption` conversation: the picture
with its regions listed is described by the caption, then each region is asked for, and answered by
the caption's own words for it. The captions of an image that have no box become one `image-caption`
conversation.

Source: GPT4RoI `gpt4roi/datasets/flickr30k.py`, which trains on MDETR's merged boxes: all boxes of
a coreference chain are one region. So they are here, from either form; the splits `*-separate` keep
each box. The reference lists its regions in random order, and so do we: otherwise a region's name
would tell the place of its phrase. What is not kept of it, but for `--faithful`: it answers with a
region's first phrase only, ends the list with a comma, writes `region 1` where the list has
`region1`, and leaves the blanks that tokenisation set before punctuation.
"""

import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from pipelines.annotations import clean_text
from pipelines.draft import (
    Built,
    DatasetSpec,
    Draft,
    Licence,
    OfficialCounts,
    OpenSource,
    Picture,
    SourceOptions,
    SplitRecords,
)
from pipelines.flickr30k_entities import ANNOTATIONS, SENTENCES, read_entities
from pipelines.flickr30k_mdetr import read_mdetr
from pipelines.flickr30k_record import SPLITS, UNRELATED_NAME, Caption, Payload, Phrase
from pipelines.images import Box, Frame, ImageRoots, image_roots, match_frame
from pipelines.phrasing import enumerated
from pipelines.rejections import reject
from pipelines.source import missing_files, require_folder, unusable_picture
from roikit.mentions import escape, mention
from roikit.sample import Conversation, Region, Source, Turn

log = logging.getLogger(__name__)

_LISTS = tuple(f"{split}.txt" for split in SPLITS)
_EXPECTS = (
    f"{ANNOTATIONS}/",
    f"{SENTENCES}/",
    *_LISTS,
    UNRELATED_NAME,
    "or final_flickr_mergedGT_*.json",
    "or final_flickr_separateGT_*.json",
    "flickr30k-images/",
)
_SEPARATE = "{}-separate"
#: As published, the same in both forms. Captions are counted apart, for records are boxes, too, and
#: of these only the total is known (275,775, commonly cited).
_OFFICIAL = {
    "train": OfficialCounts(images=29_783, kinds={"captions": 148_915}),
    "val": OfficialCounts(images=1_000, kinds={"captions": 5_000}),
    "test": OfficialCounts(images=1_000, kinds={"captions": 5_000}),
}

#: Boxes that overlap so far are one region, as in MDETR's files: asked which words mean it, a
#: person could not tell it from the other.
_SAME_IOU = 0.95
#: No picture has so many regions; a damaged file may.
_MAX_COMPARED = 1000

#: A blank that tokenisation set: before closing punctuation and clitics, after an open bracket.
_BLANK_BEFORE = re.compile(r" (?=(?:[.,:;!?)]+|'(?:s|re|ve|ll|d|m)|n't)(?: |$))")
_BLANK_AFTER = re.compile(r"(?<![^ ])\( ")

_Reader = Callable[[], SplitRecords]


def open_source(source: Path, extra_roots: Sequence[Path], options: SourceOptions) -> OpenSource:
    """Find Flickr30k's annotations below `source`; the original ones go before MDETR's.

    Raises:
        UsageError: no such folder, or neither form of the files in it.
    """
    require_folder(source, SPEC.title, _EXPECTS)
    roots = image_roots((source / "flickr30k-images", source), extra_roots)
    there = {name: (source / name).is_dir() for name in (ANNOTATIONS, SENTENCES)}
    lists = [split for split in SPLITS if (source / f"{split}.txt").is_file()]
    if lists and all(there.values()):
        merged, separate = _entities_splits(source, lists, roots)
    else:
        merged, separate = _mdetr_splits(source, roots)
    if not merged and not separate:
        raise missing_files(source, SPEC.title, _missing(there, lists))
    if not (source / UNRELATED_NAME).is_file():
        log.warning(
            "%s is not there: the 21 captions that it names are converted with the others",
            source / UNRELATED_NAME,
        )
    # The separate boxes are the same pictures again, unless they are all there is.
    on_request = tuple(name for name in separate if name.partition("-")[0] in merged)
    return OpenSource(
        folder=source,
        roots=roots,
        splits={**merged, **separate},
        on_request=on_request,
        official=_OFFICIAL | {_SEPARATE.format(s): counts for s, counts in _OFFICIAL.items()},
    )


def _entities_splits(
    source: Path, lists: Sequence[str], roots: ImageRoots
) -> tuple[dict[str, _Reader], dict[str, _Reader]]:
    forms: list[dict[str, _Reader]] = [{}, {}]
    for is_separate, name in ((False, "{}"), (True, _SEPARATE)):
        for split in lists:
            read = partial(read_entities, source, split, roots, is_separate=is_separate)
            forms[is_separate][name.format(split)] = partial(read, is_first=split == lists[0])
    merged, separate = forms
    return merged, separate


def _mdetr_splits(source: Path, roots: ImageRoots) -> tuple[dict[str, _Reader], dict[str, _Reader]]:
    merged: dict[str, _Reader] = {}
    separate: dict[str, _Reader] = {}
    for kind, name, splits in (
        ("mergedGT", "{}", merged),
        ("separateGT", _SEPARATE, separate),
    ):
        for split in SPLITS:
            path = source / f"final_flickr_{kind}_{split}.json"
            if path.is_file():
                read = partial(read_mdetr, source, path, split, roots, is_first=not splits)
                splits[name.format(split)] = read
    return merged, separate


def _missing(there: dict[str, bool], lists: Sequence[str]) -> Sequence[str]:
    """Name what the original form lacks where part of it is there, otherwise all of both."""
    if not lists and not any(there.values()):
        return _EXPECTS
    folders = [f"{name}/" for name, is_there in there.items() if not is_there]
    return folders if lists else [*folders, *_LISTS]


def build(draft: Draft, picture: Picture) -> Built:
    """Turn one image's captions and boxes into regions and conversations."""
    built = Built()
    payload = msgspec.convert(draft.payload, Payload)
    built.num_by_policy = payload.num_unrelated
    frame = match_frame(picture.header, draft.image_wh)
    if frame is None:
        built.rejections.append(unusable_picture("E_SIZE_MISMATCH", draft, picture.header))
        return built
    placed = _place(payload, frame, draft, built)
    numbers = _add_regions(payload, placed, built.regions)
    plain: list[Caption] = []
    for caption in payload.captions:
        spoken = _phrases_by_region(caption, numbers)
        if spoken:
            built.conversations.append(_grounded(caption, spoken, payload, draft, picture))
        else:
            plain.append(caption)
    if plain:
        built.conversations.append(_image_captions(plain, payload, draft, picture))
    built.num_converted = len(payload.captions) + sum(box is not None for box in placed)
    return built


def _place(payload: Payload, frame: Frame, draft: Draft, built: Built) -> list[Box | None]:
    """Bring the boxes onto the picture; bad ones are rejected one by one."""
    boxes: list[Box | None] = []
    for box in payload.boxes:
        placed = frame.place(box.box_xyxy)
        if isinstance(placed, str):
            message = f"box {list(box.box_xyxy)} in a picture of {frame.annotated_wh}"
            where = {"file": payload.boxes_file, "record": box.record}
            built.rejections.append(reject(placed, message, native_id=draft.native_id, **where))
            boxes.append(None)
            continue
        boxes.append(placed[0])
        built.num_clipped += placed[1]
    return boxes


def _add_regions(
    payload: Payload, boxes: Sequence[Box | None], regions: list[Region]
) -> list[int | None]:
    """Make a region of each referent with a usable box, or find the one that it is the same as.

    Returns:
        Each referent's region number, from 1.
    """
    numbers: list[int | None] = []
    for referent in payload.referents:
        own = [box for i in referent.boxes if (box := boxes[i]) is not None]
        if not own:
            numbers.append(None)
            continue
        x0, y0, x1, y1 = zip(*own, strict=True)
        box_xyxy = (min(x0), min(y0), max(x1), max(y1))
        same = (
            i
            for i, region in enumerate(regions[:_MAX_COMPARED])
            if _iou(region.box_xyxy, box_xyxy) >= _SAME_IOU
        )
        index = next(same, None)
        if index is None:
            regions.append(Region(box_xyxy=box_xyxy, native_id=referent.native_id))
            numbers.append(len(regions))
            continue
        known = f"{regions[index].native_id},{referent.native_id}"
        regions[index] = msgspec.structs.replace(regions[index], native_id=known)
        numbers.append(index + 1)
    return numbers


def _iou(a: Box, b: Box) -> float:
    # Plain arithmetic: numpy is slow on a single pair.
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (both - width * height)


def _phrases_by_region(caption: Caption, numbers: Sequence[int | None]) -> dict[int, list[Phrase]]:
    spoken: dict[int, list[Phrase]] = {}
    for phrase in caption.phrases:
        for referent in phrase.referents:
            number = numbers[referent]
            if number is not None:
                spoken.setdefault(number, []).append(phrase)
    return spoken


def _grounded(
    caption: Caption,
    spoken: dict[int, list[Phrase]],
    payload: Payload,
    draft: Draft,
    picture: Picture,
) -> Conversation:
    """Make a caption's conversation: the description, then the words for each region."""
    is_faithful = picture.is_faithful
    conversation_id = f"{draft.group}/grounded-caption-{caption.number}"
    order = picture.phraser.shuffle(list(spoken), conversation_id)
    mentions = [mention(number) for number in order]
    listed = "".join(f"{m}," for m in mentions) if is_faithful else enumerated(mentions)
    place = f"{conversation_id}:0"
    turns = [
        picture.phraser.ask("grounded-caption", place, regions=listed),
        Turn(role="assistant", text=_text(caption.text, is_faithful)),
    ]
    for i, number in enumerate(order):
        place = f"{conversation_id}:{len(turns)}"
        region = f"region {i + 1}" if is_faithful else mentions[i]
        turns.append(picture.phraser.ask("which-phrase", place, region=region))
        turns.append(Turn(role="assistant", text=_answer(caption, spoken[number], is_faithful)))
    return Conversation(
        id=conversation_id,
        task="grounded-caption",
        independent=False,
        source=Source(file=payload.captions_file, record=caption.record),
        turns=tuple(turns),
    )


def _answer(caption: Caption, phrases: Sequence[Phrase], is_faithful: bool) -> str:
    """Give a region's phrases in the caption's order, each wording once."""
    if is_faithful:
        return _text(caption.text[phrases[0].start : phrases[0].end], is_faithful)
    texts: dict[str, str] = {}
    for phrase in sorted(phrases, key=lambda phrase: phrase.start):
        text = _text(caption.text[phrase.start : phrase.end], is_faithful)
        texts.setdefault(text.lower(), text)
    return "; ".join(texts.values())


def _image_captions(
    captions: Sequence[Caption], payload: Payload, draft: Draft, picture: Picture
) -> Conversation:
    """Put an image's captions without a box together, as COCO's are."""
    conversation_id = f"{draft.group}/image-caption"
    turns: list[Turn] = []
    for caption in captions:
        turns.append(picture.phraser.ask("image-caption", f"{conversation_id}:{len(turns)}"))
        turns.append(Turn(role="assistant", text=_text(caption.text, picture.is_faithful)))
    return Conversation(
        id=conversation_id,
        task="image-caption",
        independent=True,
        source=Source(file=payload.captions_file, record=f"image {draft.group}"),
        turns=tuple(turns),
    )


def _text(text: str, is_faithful: bool) -> str:
    """Make the record's text of source text."""
    text = clean_text(text)
    if not is_faithful:
        text = _BLANK_AFTER.sub("(", _BLANK_BEFORE.sub("", text))
    return escape(text)


SPEC = DatasetSpec(
    name="flickr30k",
    title="Flickr30k",
    version=1,
    expects=_EXPECTS,
    families=("grounded-caption", "image-caption", "which-phrase"),
    open_source=open_source,
    build=build,
    options=("faithful",),
    # Source: GPT4RoI `gpt4roi/configs/stage2.py`; the README of BryanPlummer/flickr30k_entities and
    # the DenotationGraph page of the University of Illinois.
    stage="2",
    licence=Licence(
        annotations="a free download",
        pictures="Flickr's terms: research and education, not commercial",
    ),
    registration="form on the DenotationGraph page (University of Illinois), for the pictures",
    published=_OFFICIAL,
)
