"""COCO's form: one JSON object of images, annotations and categories, joined by image.

COCO and the datasets built on its photographs (LVIS, PACO) share it. In: the records of the lists,
not decoded yet. Out: one `Gathered` an image, which becomes a draft, and one `category`
conversation, an exchange a box. Knows neither file names nor how a picture is named: each dataset
says that itself.

Source: cocodataset.org "Data format". Boxes are [x, y, width, height], floats, 0-based, x + width
being the right edge. Crowd boxes describe groups and are left out, as every detection code base
does. LVIS and PACO have no `iscrowd`: it is 0 then. Masks are carried along, not decoded, where
they are asked for; `pipelines/masks.py` reads them in the task.
"""

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pipelines.annotations import JSON_ERRORS, Int64, Raw, clean_text, decode_record
from pipelines.draft import Built, Draft, Picture
from pipelines.images import Frame, ImageRoots, safe_name
from pipelines.masks import with_mask
from pipelines.rejections import reject
from roikit.mentions import escape, mention
from roikit.sample import Conversation, Region, Rejection, Source, Turn

log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class PublishedCategories:
    """How many categories a dataset was published with, and their last id."""

    title: str
    count: int
    max_id: int
    was_told: bool = False  #: one warning does: all splits have the same list

    def check(self, ids: Collection[int], file: str) -> None:
        """Warn, once for all splits, where a file's categories are others."""
        last = max(ids, default=0)
        if self.was_told or (len(ids), last) == (self.count, self.max_id):
            return
        self.was_told = True
        log.warning(
            "%s: expected %s's %d categories with ids up to %d, found %d with ids up to %d",
            file, self.title, self.count, self.max_id, len(ids), last,
        )  # fmt: skip


class Box(msgspec.Struct, array_like=True, gc=False):
    """One object, on its way from the plan to the task."""

    index: int  #: place in `annotations`
    id: int
    label: str
    bbox_xywh: tuple[float, float, float, float]


class Gathered(msgspec.Struct):
    """One image while its annotations are being joined."""

    id: int
    #: paths it may be found at, below an image folder: the likeliest first, the barest last
    names: tuple[str, ...]
    image_wh: tuple[int, int] | None
    file: str  #: annotation file
    record: str  #: the image's place in it
    boxes: list[Box] = []
    num_crowds: int = 0
    num_records: int = 0
    rejections: list[Rejection] = []
    #: masks by annotation id, JSON; they point into the mapped file until the draft is written
    segmentations: dict[int, bytes] = {}

    @property
    def native_id(self) -> str:
        """COCO's 2014 and 2017 cuts, LVIS and PACO name the same photographs by the same ids."""
        return f"coco:{self.id}"


class _Annotation(msgspec.Struct, gc=False):
    id: Int64
    image_id: Int64
    category_id: Int64
    bbox: tuple[float, float, float, float]
    iscrowd: int | bool = 0


class _MaskedAnnotation(_Annotation, gc=False):
    segmentation: msgspec.Raw = msgspec.Raw(b"null")


class _Category(msgspec.Struct):
    id: Int64
    name: str


class _Owner(msgspec.Struct):
    image_id: Int64


_annotations = msgspec.json.Decoder(_Annotation)
_masked_annotations = msgspec.json.Decoder(_MaskedAnnotation)
_categories = msgspec.json.Decoder(_Category)
_owners = msgspec.json.Decoder(_Owner)


def add_images(
    raws: Sequence[Raw],
    read: Callable[[Raw, str], Gathered | Rejection],
    file: str,
    gathered: dict[int, Gathered],
    strays: list[Rejection],
) -> None:
    """List the images of one file. One that another file has listed before is left as it is.

    Args:
        raws: the records of `images`.
        read: decodes one of them, given its place in the file.
        file: the annotation file's name.
        gathered: images by id; added to.
        strays: rejections that belong to no image; added to.
    """
    seen: set[int] = set()
    for i, raw in enumerate(raws):
        record = f"images[{i}]"
        image = read(raw, record)
        if isinstance(image, Rejection):
            strays.append(image)
        elif image.id in seen:
            message = f"image id {image.id} occurs twice"
            strays.append(reject("E_RECORD_DUPLICATE", message, file=file, record=record))
        else:
            seen.add(image.id)
            gathered.setdefault(image.id, image)


def read_categories(raws: Sequence[Raw], file: str, strays: list[Rejection]) -> dict[int, str]:
    """Return the categories' names as the file spells them, by id; of an id's two, the first."""
    names: dict[int, str] = {}
    for i, raw in enumerate(raws):
        record = f"categories[{i}]"
        category = decode_record(_categories, raw, file=file, record=record)
        if isinstance(category, Rejection):
            strays.append(category)
        elif category.id in names:
            message = f"category id {category.id} occurs twice"
            strays.append(reject("E_RECORD_DUPLICATE", message, file=file, record=record))
        else:
            names[category.id] = clean_text(category.name)
    return names


def add_boxes(
    raws: Sequence[Raw],
    labels: Mapping[int, str],
    file: str,
    gathered: Mapping[int, Gathered],
    strays: list[Rejection],
    *,
    with_masks: bool,
) -> None:
    """Give each image its boxes, and its records that are no boxes.

    Args:
        raws: the records of `annotations`.
        labels: what each category is called, by id.
        file: the annotation file's name.
        gathered: images by id.
        strays: rejections that belong to no image; added to.
        with_masks: keep the masks, too.
    """
    seen: set[int] = set()
    decoder: msgspec.json.Decoder[Any] = _masked_annotations if with_masks else _annotations
    for i, raw in enumerate(raws):
        record = f"annotations[{i}]"
        box: _Annotation | Rejection = decode_record(decoder, raw, file=file, record=record)
        if isinstance(box, Rejection):
            put(box, owner(raw, gathered), strays)
            continue
        entry = gathered.get(box.image_id)
        if entry is None:
            strays.append(no_image(box.image_id, file, record))
            continue
        fault = _fault(box, labels, seen)
        seen.add(box.id)
        if fault is None:
            entry.num_records += 1
            entry.boxes.append(Box(i, box.id, labels[box.category_id], box.bbox))
            if isinstance(box, _MaskedAnnotation):
                entry.segmentations[box.id] = memoryview(box.segmentation)  # type: ignore[assignment]
        else:
            code, message = fault
            entry.num_crowds += code == "E_CROWD"
            put(reject(code, message, file=file, record=record), entry, strays)


def _fault(box: _Annotation, labels: Mapping[int, str], seen: set[int]) -> tuple[str, str] | None:
    """Return the code and the message that a box is rejected with, if it is."""
    if box.id in seen:
        return "E_RECORD_DUPLICATE", f"annotation id {box.id} occurs twice"
    if box.iscrowd:
        return "E_CROWD", f"annotation {box.id} is a crowd (iscrowd is 1)"
    if not labels.get(box.category_id):
        return "E_CATEGORY_UNKNOWN", f"category_id {box.category_id} is not in `categories`"
    if not all(map(math.isfinite, box.bbox)):
        return "E_FIELD_TYPE", f"bbox: expected finite numbers, got {box.bbox}"
    return None


def owner(raw: Raw, gathered: Mapping[int, Gathered]) -> Gathered | None:
    """Return the image of a record that does not fit its struct, where it can be read."""
    try:
        return gathered.get(_owners.decode(raw).image_id)
    except JSON_ERRORS:
        return None


def put(rejection: Rejection, entry: Gathered | None, strays: list[Rejection]) -> None:
    """Keep a rejection with its image, where there is one."""
    if entry is None:
        strays.append(rejection)
        return
    entry.num_records += 1
    entry.rejections.append(msgspec.structs.replace(rejection, native_id=entry.native_id))


def no_image(image_id: int, file: str, record: str) -> Rejection:
    """Make the rejection of a record whose image is not listed."""
    message = f"image_id {image_id} is not in `images`"
    return reject("E_IMAGE_UNKNOWN", message, file=file, record=record)


def make_draft(entry: Gathered, payload: Any, roots: ImageRoots) -> Draft:
    """Look for the image's picture and make its draft."""
    unsafe = next((name for name in reversed(entry.names) if not safe_name(name)), None)
    found = roots.find(entry.names) if unsafe is None else None
    return Draft(
        group=str(entry.id),
        file=found[1] if found else entry.names[0] if unsafe is None else unsafe,
        native_id=entry.native_id,
        root=found[0] if found else None,
        num_bytes=found[2] if found else 0,
        image_wh=entry.image_wh,
        source_file=entry.file,
        record=entry.record,
        num_records=entry.num_records,
        payload=payload,
        rejections=tuple(entry.rejections),
    )


def add_category_conversation(
    built: Built,
    draft: Draft,
    boxes: Sequence[Box],
    frame: Frame,
    picture: Picture,
    *,
    segmentations: Mapping[int, bytes],
    native_labels: Mapping[str, str],
) -> None:
    """Turn one image's boxes into regions and one conversation, an exchange a box.

    Args:
        built: what the draft becomes; added to. Boxes without a place are rejected.
        draft: the image.
        boxes: its boxes.
        frame: how they come to lie on the picture.
        picture: draws the questions.
        segmentations: masks by annotation id; empty where they are not asked for.
        native_labels: how the file spells the labels that read otherwise there.
    """
    turns: list[Turn] = []
    conversation_id = f"{draft.group}/category"
    for box in boxes:
        where = {
            "file": draft.source_file,
            "record": f"annotations[{box.index}]",
            "native_id": draft.native_id,
        }
        x, y, width, height = box.bbox_xywh
        placed = frame.place((x, y, x + width, y + height))
        if isinstance(placed, str):
            message = f"bbox {list(box.bbox_xywh)} in a picture of {frame.annotated_wh}"
            built.rejections.append(reject(placed, message, **where))
            continue
        box_xyxy, is_clipped = placed
        built.num_clipped += is_clipped
        built.num_converted += 1
        region = Region(
            box_xyxy=box_xyxy,
            label=box.label,
            native_id=str(box.id),
            native_label=native_labels.get(box.label, msgspec.UNSET),
        )
        mask = segmentations.get(box.id)
        built.regions.append(with_mask(region, mask, frame, built, **where))
        place = f"{conversation_id}:{len(turns)}"
        mentioned = mention(len(built.regions))
        turns.append(picture.phraser.ask("category", place, region=mentioned))
        turns.append(Turn(role="assistant", text=escape(box.label)))
    if turns:
        source = Source(file=draft.source_file, record=f"image {draft.group}")
        built.conversations.append(
            Conversation(
                id=conversation_id,
                task="category",
                independent=True,
                source=source,
                turns=tuple(turns),
            )
        )
