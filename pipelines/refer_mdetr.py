"""Referring expressions in MDETR's form: `finetune_refcoco*_<split>.json`.

In: one file a split. Out: a reader a split. The files look like COCO's, but every entry of `images`
is one expression with one box, under a running id that has nothing to do with COCO's; the
photograph's and the annotation's own ids stand in `original_id`. Entries of one photograph become
one image, entries of one annotation one object.

Source: MDETR (ashkamath/mdetr), `mdetr_annotations`, Zenodo 4729015.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from pipelines.annotations import Int64, Raw, clean_text, decode_record, read_table
from pipelines.draft import SplitRecords
from pipelines.images import ImageRoots
from pipelines.refer import (
    Expression,
    Gathered,
    Id,
    Payload,
    PhotoId,
    Side,
    Target,
    Xywh,
    is_finite,
    make_draft,
    names_photo,
    read_labels,
    read_text,
    words_needed,
)
from pipelines.rejections import reject
from roikit.sample import Rejection


class _Entry(msgspec.Struct, gc=False):
    """One expression. `tokens_negative` and the like are not read."""

    id: Id
    original_id: PhotoId
    file_name: str
    width: Side
    height: Side
    caption: str


class _Annotation(msgspec.Struct, gc=False):
    id: Id
    original_id: Id
    bbox: Xywh
    category_id: Int64 | None = None


class _Numbered(msgspec.Struct):
    id: Id


class _Owner(msgspec.Struct):
    image_id: Id


_entries = msgspec.json.Decoder(_Entry)
_annotations = msgspec.json.Decoder(_Annotation)
_numbered = msgspec.json.Decoder(_Numbered)
_owners = msgspec.json.Decoder(_Owner)

#: (place, JSON) of annotations by the running id of their entry.
_Boxes = dict[int, tuple[str, Raw]]


def open_entries(
    paths: dict[str, Path], roots: ImageRoots, *, is_faithful: bool
) -> dict[str, Callable[[], SplitRecords]]:
    """Return a reader a split.

    Args:
        paths: the split's file.
        roots: folders of pictures.
        is_faithful: leave out of `train` what the reference leaves out.
    """
    return {
        split: partial(_read, path, roots, words_needed(split, is_faithful=is_faithful))
        for split, path in paths.items()
    }


def _read(path: Path, roots: ImageRoots, min_words: int) -> SplitRecords:
    """Group one file's entries by photograph and annotation."""
    file = path.name
    table = read_table(path, ("images", "annotations", "categories"))
    strays: list[Rejection] = []
    labels = read_labels(table["categories"], file, strays)
    boxes = _index_boxes(table["annotations"], file, strays)
    gathered: dict[int, Gathered] = {}
    seen: set[int] = set()
    for i, raw in enumerate(table["images"]):
        record = f"images[{i}]"
        entry = decode_record(_entries, raw, file=file, record=record)
        if isinstance(entry, Rejection):
            strays.append(entry)
            _forget_box(raw, boxes)
            continue
        image = gathered.setdefault(entry.original_id, Gathered(entry.original_id))
        image.num_records += 1
        if entry.id in seen:
            message = f"image id {entry.id} occurs twice"
            image.reject("E_RECORD_DUPLICATE", message, file=file, record=record)
            continue
        seen.add(entry.id)
        _add_expression(image, entry, boxes.pop(entry.id, None), labels, file, record)
    for image_id, (place, _) in boxes.items():
        message = f"image_id {image_id} is not in `images`"
        strays.append(reject("E_IMAGE_UNKNOWN", message, file=file, record=place))
    drafts = []
    for image in gathered.values():
        payload = Payload(file, min_words, list(image.targets.values()))
        drafts.append(make_draft(image, payload, file, roots))
    return SplitRecords(drafts=drafts, rejections=strays, source_files=(path,))


def _index_boxes(raws: list[Raw], file: str, strays: list[Rejection]) -> _Boxes:
    boxes: _Boxes = {}
    for i, raw in enumerate(raws):
        record = f"annotations[{i}]"
        owner = decode_record(_owners, raw, file=file, record=record)
        if isinstance(owner, Rejection):
            strays.append(owner)
        elif owner.image_id in boxes:
            message = f"expected one annotation of image_id {owner.image_id}, found another"
            strays.append(reject("E_RECORD_DUPLICATE", message, file=file, record=record))
        else:
            boxes[owner.image_id] = (record, raw)
    return boxes


def _forget_box(raw: Raw, boxes: _Boxes) -> None:
    """Drop the box of a rejected entry, where its id can be read: the loss is counted already."""
    key = decode_record(_numbered, raw, file="", record="")
    if not isinstance(key, Rejection):
        boxes.pop(key.id, None)


def _add_expression(
    image: Gathered,
    entry: _Entry,
    found: tuple[str, Raw] | None,
    labels: dict[int, str],
    file: str,
    record: str,
) -> None:
    """Add an entry to its image and object, or say why it cannot be."""
    if not names_photo(entry.file_name, entry.original_id):
        message = (
            f"file_name: expected the number {entry.original_id:012d} (original_id), got "
            f"`{entry.file_name[:80]}`"
        )
        image.reject("E_NAME_MISMATCH", message, file=file, record=record)
        return
    if found is None:
        message = f"no annotation has the image_id {entry.id}"
        image.reject("E_REF_NO_ANNOTATION", message, file=file, record=record)
        return
    box_record, raw = found
    box = decode_record(_annotations, raw, file=file, record=box_record)
    if isinstance(box, Rejection):
        image.put(box)
        return
    if not is_finite(box.bbox):
        message = f"bbox: expected finite numbers, got {box.bbox}"
        image.reject("E_FIELD_TYPE", message, file=file, record=box_record)
        return
    text = read_text(entry.caption)
    if text is None:
        message = f"caption: expected an expression, got {clean_text(entry.caption)[:80]!a}"
        image.reject("E_PHRASE_EMPTY", message, file=file, record=record)
        return
    image_wh = (entry.width, entry.height)
    image.image_wh = image.image_wh or image_wh
    if image.image_wh != image_wh:
        named = "{}x{}".format(*image.image_wh)
        message = f"an entry of the same photograph says {named}, this one {image_wh}"
        image.reject("E_SIZE_MISMATCH", message, file=file, record=record)
        return
    target = image.targets.get(box.original_id)
    if target is None:
        label = None if box.category_id is None else labels.get(box.category_id)
        target = Target(box.original_id, label, box.bbox, box_record, "annotations", [])
        image.targets[box.original_id] = target
    if target.box_xywh != box.bbox:
        message = (
            f"annotation {box.original_id} has the box {list(target.box_xywh)} in "
            f"{target.box_record}, here {list(box.bbox)}"
        )
        image.reject("E_RECORD_DUPLICATE", message, file=file, record=box_record)
        return
    target.expressions.append(Expression(box.id, record, text))
