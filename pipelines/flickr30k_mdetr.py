"""Read MDETR's form of Flickr30k Entities: one COCO-like JSON file a split.

In: `final_flickr_{mergedGT,separateGT}_{train,val,test}.json`. An entry of `images` is a caption,
five of them a picture; an entry of `annotations` is a box with the spans of its caption that mean
it. In the merged files a chain's boxes are one already. Out: drafts, an image each.

Source: the files' writer, `scripts/pre-training/flickr_combined.py` of ashkamath/mdetr. Sizes are
texts; boxes are [xmin, ymin, xmax - xmin, ymax - ymin] of the 1-based corners that include their
last pixel; spans count characters.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import msgspec

from pipelines.annotations import JSON_ERRORS, Int64, Raw, clean_text, decode_record, read_table
from pipelines.draft import Draft, SplitRecords
from pipelines.flickr30k_record import (
    Box,
    Caption,
    Payload,
    Phrase,
    Referent,
    half_open,
    image_wh_of,
    locate,
    native_id,
    read_unrelated,
    tell_of_missing_captions,
    unrelated_caption,
    unrelated_file,
)
from pipelines.images import ImageRoots
from pipelines.rejections import reject
from roikit.sample import Rejection

_MAX_CAPTIONS = 1000


class _Image(msgspec.Struct, gc=False):
    """A picture with one of its captions."""

    id: Int64
    file_name: str
    caption: str
    width: Int64 | str | None = None
    height: Int64 | str | None = None
    sentence_id: Int64 | None = None  #: from 0


class _Annotation(msgspec.Struct, gc=False):
    id: Int64
    image_id: Int64
    bbox: tuple[float, float, float, float]
    tokens_positive: list[tuple[Int64, Int64]]


class _Owner(msgspec.Struct):
    image_id: Int64


_images = msgspec.json.Decoder(_Image)
_annotations = msgspec.json.Decoder(_Annotation)
_owners = msgspec.json.Decoder(_Owner)


def read_mdetr(
    source: Path, path: Path, split: str, roots: ImageRoots, *, is_first: bool
) -> SplitRecords:
    """Read one file.

    Args:
        source: folder with the list of unrelated captions, where there is one.
        path: the file.
        split: one of the three; pictures may lie in a folder of that name.
        roots: folders of pictures.
        is_first: what is wrong with the list of unrelated captions is counted with this split.
    """
    table = read_table(path, ("images", "annotations"))
    unrelated, faults = read_unrelated(source)
    strays = faults if is_first else []
    entries: dict[str, _Entry] = {}
    captions: dict[int, _Owned] = {}
    for i, raw in enumerate(table["images"]):
        _add_caption(raw, f"images[{i}]", path.name, unrelated, entries, captions, strays)
    for i, raw in enumerate(table["annotations"]):
        _add_box(raw, f"annotations[{i}]", path.name, captions, strays)
    drafts = [locate(entry.draft(path.name), split, roots) for entry in entries.values()]
    numbers = {image_id: entry.num_captions for image_id, entry in entries.items()}
    tell_of_missing_captions(path.name, numbers)
    return SplitRecords(
        drafts=drafts,
        rejections=strays,
        source_files=(path, *unrelated_file(source)),
        kinds={"captions": len(table["images"])},
    )


@dataclass(slots=True)
class _Entry:
    """One picture while its captions and boxes are being joined."""

    image_id: str
    file_name: str
    record: str  #: of its first caption
    payload: Payload
    image_wh: tuple[int, int] | None = None
    rejections: list[Rejection] = field(default_factory=list)
    num_captions: int = 0  #: the bad ones, too
    numbers: set[int] = field(default_factory=set)  #: of its captions, from 1

    def reject(self, code: str, message: str, record: str) -> None:
        where = {"file": self.payload.captions_file, "native_id": native_id(self.image_id)}
        self.rejections.append(reject(code, message, record=record, **where))

    def draft(self, file: str) -> Draft:
        num_usable = len(self.payload.boxes) + len(self.payload.captions)
        return Draft(
            group=self.image_id,
            file=self.file_name,
            native_id=native_id(self.image_id),
            root=None,
            num_bytes=0,
            image_wh=self.image_wh,
            source_file=file,
            record=self.record,
            num_records=num_usable + len(self.rejections),
            payload=self.payload,
            rejections=tuple(self.rejections),
        )


@dataclass(slots=True)
class _Owned:
    """A caption that boxes may belong to; its text alone where it is not used itself."""

    entry: _Entry
    text: str
    caption: Caption | None


def _add_caption(
    raw: Raw,
    record: str,
    file: str,
    unrelated: set[tuple[str, int]],
    entries: dict[str, _Entry],
    captions: dict[int, _Owned],
    strays: list[Rejection],
) -> None:
    image = decode_record(_images, raw, file=file, record=record)
    if isinstance(image, Rejection):
        strays.append(image)
        return
    if image.id in captions:
        message = f"image id {image.id} occurs twice"
        strays.append(reject("E_RECORD_DUPLICATE", message, file=file, record=record))
        return
    image_id = PurePosixPath(image.file_name).stem
    if image_id not in entries:
        payload = Payload(captions_file=file, boxes_file=file)
        entries[image_id] = _Entry(image_id, image.file_name, record, payload)
    entry = entries[image_id]
    if image.file_name != entry.file_name:
        message = f"file_name: picture {image_id} is `{entry.file_name}` in {entry.record} already"
        entry.reject("E_RECORD_DUPLICATE", f"{message}, got `{image.file_name}`", record)
        return
    if not _agrees_on_size(entry, image, record):
        return
    number = entry.num_captions + 1 if image.sentence_id is None else image.sentence_id + 1
    entry.num_captions += 1
    caption: Caption | None = None
    if not 1 <= number <= _MAX_CAPTIONS:
        message = f"sentence_id: expected 0 to {_MAX_CAPTIONS - 1}, got {image.sentence_id}"
        entry.reject("E_VALUE_RANGE", message, record)
    elif (image_id, number) in unrelated:
        entry.rejections.append(unrelated_caption(image_id, number, file=file, record=record))
        entry.payload.num_unrelated += 1
    elif number in entry.numbers:
        message = f"caption {number} of image {image_id} occurs twice"
        entry.reject("E_RECORD_DUPLICATE", message, record)
    elif not clean_text(image.caption):
        entry.reject("E_PHRASE_EMPTY", "caption: expected a text, got none", record)
    else:
        caption = Caption(record, number, image.caption, [])
        entry.payload.captions.append(caption)
    entry.numbers.add(number)
    # A caption that is left out still has its boxes: other captions may mean the same.
    captions[image.id] = _Owned(entry, image.caption, caption)


def _agrees_on_size(entry: _Entry, image: _Image, record: str) -> bool:
    """Tell whether the boxes of this caption lie on a picture of the size that the others name."""
    try:
        image_wh = image_wh_of(image.width, image.height)
    except ValueError as error:
        entry.reject("E_FIELD_TYPE", str(error), record)
        return True
    if entry.image_wh is None:
        entry.image_wh = image_wh
    if image_wh is None or image_wh == entry.image_wh:
        return True
    message = f"size: expected {entry.image_wh} as in {entry.record}, got {image_wh}"
    entry.reject("E_SIZE_MISMATCH", message, record)
    return False


def _add_box(
    raw: Raw, record: str, file: str, captions: dict[int, _Owned], strays: list[Rejection]
) -> None:
    box = decode_record(_annotations, raw, file=file, record=record)
    if isinstance(box, Rejection):
        owned = _owner(raw, captions)
        if owned is None:
            strays.append(box)
        else:
            owned.entry.reject(box.code, box.message, record)
        return
    owned = captions.get(box.image_id)
    if owned is None:
        message = f"image_id {box.image_id} is not in `images`"
        strays.append(reject("E_IMAGE_UNKNOWN", message, file=file, record=record))
        return
    problem = _problem(box, owned.text)
    if problem is not None:
        owned.entry.reject(*problem, record)
        return
    payload = owned.entry.payload
    x, y, width, height = box.bbox
    number = len(payload.referents)
    payload.referents.append(Referent(str(box.id), [len(payload.boxes)]))
    payload.boxes.append(Box(record, half_open(x, y, x + width, y + height)))
    if owned.caption is not None:
        owned.caption.phrases += [
            Phrase(start, end, [number]) for start, end in box.tokens_positive
        ]


def _owner(raw: Raw, captions: dict[int, _Owned]) -> _Owned | None:
    """Return the caption of a bad record, where its `image_id` can be read."""
    try:
        return captions.get(_owners.decode(raw).image_id)
    except JSON_ERRORS:
        return None


def _problem(box: _Annotation, text: str) -> tuple[str, str] | None:
    """Return the code and the message that a record is rejected with, if it is."""
    x, y, width, height = box.bbox
    if not all(map(math.isfinite, (x, y, x + width, y + height))):
        return "E_FIELD_TYPE", f"bbox: expected finite numbers, got {box.bbox}"
    if not box.tokens_positive:
        return "E_FIELD_MISSING", "tokens_positive: expected a span of the caption, got none"
    for start, end in box.tokens_positive:
        if not 0 <= start < end <= len(text):
            message = f"tokens_positive: expected spans inside {len(text)} characters"
            return "E_VALUE_RANGE", f"{message}, got [{start}, {end}]"
        if not text[start:end].strip():
            return "E_PHRASE_EMPTY", f"tokens_positive: [{start}, {end}] holds no word"
    return None
