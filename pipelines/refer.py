"""Referring expressions: what both forms of RefCOCO, RefCOCO+ and RefCOCOg have in common.

In: an image's objects, each with its box and the expressions written for it, as `refer_pickle` or
`refer_mdetr` read them. Out: a region an object, and an independent `refer` conversation with an
exchange an expression. An object's expressions stand in one conversation, so an evaluator can score
an object against all of them, or ask once an expression; `source.record` lists their own ids in the
exchanges' order.

This module knows no file. Pictures are COCO's of 2014, found under their names of 2014 or 2017.
"""

import math
import re
from typing import Annotated

import msgspec

from pipelines.annotations import Raw, clean_text, decode_record
from pipelines.draft import Built, Draft, Picture
from pipelines.images import Frame, ImageRoots, match_frame
from pipelines.masks import with_mask
from pipelines.rejections import reject
from pipelines.source import unusable_picture
from roikit.mentions import escape, mention
from roikit.sample import Conversation, Region, Rejection, Source, Turn

#: An id; larger ones are nobody's, and do not fit into a draft file.
Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
#: A photograph's id in COCO: file names give it twelve digits.
PhotoId = Annotated[int, msgspec.Meta(ge=1, lt=10**12)]
#: A picture's width or height in pixels.
Side = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
Xywh = tuple[float, float, float, float]

#: GPT4RoI drops training expressions of fewer words. Source: `refcoco.py`, caption filter.
_FAITHFUL_WORDS = 3
_NUMBER = re.compile(r"(?<!\d)\d{12}(?!\d)")
_WORD = re.compile(r"\w")


class Expression(msgspec.Struct, array_like=True, gc=False):
    """One expression, on its way from the plan to the task."""

    id: int  #: the file's own, of the expression
    record: str  #: its place in the file
    text: str


class Target(msgspec.Struct, array_like=True):
    """One object that expressions speak of, on its way from the plan to the task."""

    ann_id: int  #: of COCO's annotation
    label: str | None  #: its class
    box_xywh: Xywh
    box_record: str  #: the box's place in its file
    said_in: str  #: what the expressions' ids belong to, e.g. `ref 17, sentences`
    expressions: list[Expression] = []


class Payload(msgspec.Struct, array_like=True):
    """What the files say about one image."""

    boxes_file: str
    min_words: int  #: expressions of fewer words are left out, as a policy
    targets: list[Target]


class MaskedPayload(Payload):
    """The same with masks. Apart, so that drafts without them stay what they are."""

    segmentations: dict[int, bytes] = {}  #: by annotation id, JSON


class Gathered(msgspec.Struct):
    """One image while its expressions are being joined."""

    photo_id: int
    image_wh: tuple[int, int] | None = None
    targets: dict[int, Target] = {}  #: by annotation id
    num_records: int = 0  #: expressions found, lost ones included
    rejections: list[Rejection] = []
    #: masks by annotation id, JSON; they point into the mapped file until the draft is written
    segmentations: dict[int, bytes] = {}

    @property
    def native_id(self) -> str:
        """The photograph's identity across datasets."""
        return f"coco:{self.photo_id}"

    def reject(self, code: str, message: str, *, file: str, record: str) -> None:
        """Note a rejection with this image."""
        self.put(reject(code, message, file=file, record=record))

    def put(self, rejection: Rejection) -> None:
        """Note a rejection that is made already."""
        self.rejections.append(msgspec.structs.replace(rejection, native_id=self.native_id))


class _Category(msgspec.Struct):
    id: Id
    name: str


_categories = msgspec.json.Decoder(_Category)


def words_needed(split: str, *, is_faithful: bool) -> int:
    """Return how many words an expression needs.

    The reference filters what it trains on; it has no evaluation, and figures on a filtered split
    would compare with nothing.
    """
    return _FAITHFUL_WORDS if is_faithful and split == "train" else 0


def read_labels(raws: list[Raw], file: str, strays: list[Rejection]) -> dict[int, str]:
    """Read class names by category id. They only label regions: an unknown id costs no record."""
    labels: dict[int, str] = {}
    for i, raw in enumerate(raws):
        category = decode_record(_categories, raw, file=file, record=f"categories[{i}]")
        if isinstance(category, Rejection):
            strays.append(category)
        else:
            labels[category.id] = clean_text(category.name)
    return labels


def read_text(text: str) -> str | None:
    """Return an expression as it is stored; None where it says nothing or is no Unicode."""
    text = clean_text(text)
    try:
        text.encode()
    except UnicodeEncodeError:  # half surrogates, out of a pickle
        return None
    return text if _WORD.search(text) else None


def names_photo(file_name: str, photo_id: int) -> bool:
    """Tell whether a file name holds the photograph's number.

    Names come with a suffix (`..._16.jpg`) or junk behind them (`....jpg} `): the number counts.
    """
    return f"{photo_id:012d}" in _NUMBER.findall(file_name)


def is_finite(box_xywh: Xywh) -> bool:
    """Tell whether all four numbers are numbers."""
    return all(map(math.isfinite, box_xywh))


def make_draft(entry: Gathered, payload: Payload, file: str, roots: ImageRoots) -> Draft:
    """Close an image: find its picture, under COCO's name of 2014 or of 2017.

    Args:
        entry: the image.
        payload: what the files say about it.
        file: the file its expressions stand in.
        roots: folders of pictures.
    """
    flat_2014 = f"COCO_train2014_{entry.photo_id:012d}.jpg"
    flat_2017 = f"{entry.photo_id:012d}.jpg"
    names = (f"train2014/{flat_2014}", f"train2017/{flat_2017}", flat_2014, flat_2017)
    found = roots.find(names)
    return Draft(
        group=str(entry.photo_id),
        file=found[1] if found else names[0],
        native_id=entry.native_id,
        root=found[0] if found else None,
        num_bytes=found[2] if found else 0,
        image_wh=entry.image_wh,
        source_file=file,
        record=f"image {entry.photo_id}",
        num_records=entry.num_records,
        payload=payload,
        rejections=tuple(entry.rejections),
    )


def build(draft: Draft, picture: Picture, *, family: str) -> Built:
    """Turn one image's objects into regions and conversations.

    Args:
        draft: the image.
        picture: its header and the wordings.
        family: wordings that ask for an expression.
    """
    built = Built()
    payload = msgspec.convert(draft.payload, MaskedPayload)
    frame = match_frame(picture.header, draft.image_wh)
    if frame is None:
        built.rejections.append(unusable_picture("E_SIZE_MISMATCH", draft, picture.header))
        return built
    for target in payload.targets:
        region = _place(target, frame, payload, draft, built)
        if region is None:
            continue
        kept = _long_enough(target, payload.min_words, draft, built)
        if kept:
            mask = payload.segmentations.get(target.ann_id)
            where = {"file": payload.boxes_file, "record": target.box_record}
            region = with_mask(region, mask, frame, built, native_id=draft.native_id, **where)
            built.regions.append(region)
            built.conversations.append(_conversation(target, kept, draft, picture, built, family))
            built.num_converted += len(kept)
    return built


def _place(
    target: Target, frame: Frame, payload: Payload, draft: Draft, built: Built
) -> Region | None:
    x, y, width, height = target.box_xywh
    placed = frame.place((x, y, x + width, y + height))
    if isinstance(placed, str):
        message = (
            f"annotation {target.ann_id}: bbox {list(target.box_xywh)} in a picture of "
            f"{frame.annotated_wh}; {len(target.expressions)} expressions left out with it"
        )
        where = {"file": payload.boxes_file, "record": target.box_record}
        built.rejections.append(reject(placed, message, native_id=draft.native_id, **where))
        return None
    box_xyxy, is_clipped = placed
    built.num_clipped += is_clipped
    return Region(box_xyxy=box_xyxy, label=target.label or None, native_id=str(target.ann_id))


def _long_enough(target: Target, min_words: int, draft: Draft, built: Built) -> list[Expression]:
    kept = []
    for expression in target.expressions:
        # Words are what lies between blanks, as the reference counts them.
        num_words = len(expression.text.split(" "))
        if num_words >= min_words:
            kept.append(expression)
            continue
        message = f"`{expression.text}` has fewer than {min_words} words"
        where = {"file": draft.source_file, "record": expression.record}
        built.rejections.append(
            reject("E_PHRASE_SHORT", message, native_id=draft.native_id, **where)
        )
        built.num_by_policy += 1
    return kept


def _conversation(
    target: Target,
    expressions: list[Expression],
    draft: Draft,
    picture: Picture,
    built: Built,
    family: str,
) -> Conversation:
    # The annotation's id, since only one of the two forms has a reference's: both give the same
    # conversation, wordings included.
    conversation_id = f"{target.ann_id}/refer"
    region = mention(len(built.regions))
    turns: list[Turn] = []
    for expression in expressions:
        turns.append(picture.phraser.ask(family, f"{conversation_id}:{len(turns)}", region=region))
        turns.append(Turn(role="assistant", text=escape(expression.text)))
    ids = " ".join(str(expression.id) for expression in expressions)
    return Conversation(
        id=conversation_id,
        task="refer",
        independent=True,
        source=Source(file=draft.source_file, record=f"{target.said_in} {ids}"),
        turns=tuple(turns),
    )
