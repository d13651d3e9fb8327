"""Referring expressions in REFER's form: `refs(<authority>).p` beside `instances.json`.

In: the two files. Out: a reader a split. The pickle lists references (an object and its
expressions, with their split); the boxes stand in `instances.json`, COCO's form, which holds every
object of the images, most of them without a reference.

Source: REFER (lichengunc/refer), README and `refer.py`. Not kept from it: a query for `test` there
matches every split whose name contains the word. A reference's `file_name` is not read: it bears a
suffix and names no file; the id says the same.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from pipelines.annotations import Int64, Raw, clean_text, convert_record, decode_record, read_table
from pipelines.draft import SplitRecords
from pipelines.images import ImageRoots
from pipelines.refer import (
    Expression,
    Gathered,
    Id,
    MaskedPayload,
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
from pipelines.unpickle import read_pickle
from roikit.errors import UsageError
from roikit.sample import Rejection

INSTANCES_NAME = "instances.json"


class _Reference(msgspec.Struct):
    ref_id: Id
    ann_id: Id
    image_id: PhotoId
    split: str
    sentences: list[Any]


class _Sentence(msgspec.Struct):
    sent_id: Id
    sent: str


class _Image(msgspec.Struct):
    id: PhotoId
    file_name: str
    width: Side
    height: Side


class _Annotation(msgspec.Struct):
    id: Id
    image_id: PhotoId
    bbox: Xywh
    category_id: Int64 | None = None


class _MaskedAnnotation(_Annotation):
    segmentation: msgspec.Raw = msgspec.Raw(b"null")


class _Numbered(msgspec.Struct):
    id: Id


class _Divided(msgspec.Struct):
    split: str


_images = msgspec.json.Decoder(_Image)
_annotations = msgspec.json.Decoder(_Annotation)
_masked_annotations = msgspec.json.Decoder(_MaskedAnnotation)
_numbered = msgspec.json.Decoder(_Numbered)


@dataclass(kw_only=True, slots=True)
class _Files:
    """Both files, read and indexed, for all splits."""

    refs_file: str
    #: (place, reference) by split, the bad ones as rejections
    references: dict[str, list[tuple[str, _Reference | Rejection]]]
    images: dict[int, tuple[str, Raw]]  #: (place, JSON) by id
    annotations: dict[int, tuple[str, Raw]]  #: (place, JSON) by id
    labels: dict[int, str]  #: class names by category id
    strays: list[Rejection] = field(default_factory=list)  #: of records that belong to no split


def open_references(
    folder: Path,
    refs_name: str,
    splits: tuple[str, ...],
    roots: ImageRoots,
    *,
    is_faithful: bool,
    with_masks: bool,
) -> dict[str, Callable[[], SplitRecords]]:
    """Return a reader a split of one authority.

    Args:
        folder: holds both files.
        refs_name: e.g. `refs(unc).p`.
        splits: the authority's.
        roots: folders of pictures.
        is_faithful: leave out of `train` what the reference leaves out.
        with_masks: keep the objects' masks.
    """
    # Unpickling takes most of the time, and one pickle holds all splits.
    load = functools.cache(partial(_load, folder, refs_name, splits))
    paths = (folder / refs_name, folder / INSTANCES_NAME)
    return {
        split: partial(
            _read,
            load,
            split,
            paths,
            roots,
            words_needed(split, is_faithful=is_faithful),
            with_masks=with_masks,
        )
        for split in splits
    }


def _load(folder: Path, refs_name: str, splits: tuple[str, ...]) -> _Files:
    listed = read_pickle(folder / refs_name)
    if not isinstance(listed, list):
        raise UsageError(
            f"`{folder / refs_name}`: expected a list of references, found a "
            f"{type(listed).__name__}",
            hint="is this the dataset's own file? docs/datasets.md names it",
        )
    table = read_table(folder / INSTANCES_NAME, ("images", "annotations", "categories"))
    strays: list[Rejection] = []
    files = _Files(
        refs_file=refs_name,
        references={split: [] for split in splits},
        images=_index(table["images"], "images", strays),
        annotations=_index(table["annotations"], "annotations", strays),
        labels=read_labels(table["categories"], INSTANCES_NAME, strays),
        strays=strays,
    )
    seen: set[int] = set()
    for i, value in enumerate(listed):
        _add_reference(value, f"[{i}]", files, seen)
    return files


def _index(raws: list[Raw], name: str, strays: list[Rejection]) -> dict[int, tuple[str, Raw]]:
    """Index records by id, not decoded further: most are of objects no reference speaks of."""
    index: dict[int, tuple[str, Raw]] = {}
    for i, raw in enumerate(raws):
        place = f"{name}[{i}]"
        key = decode_record(_numbered, raw, file=INSTANCES_NAME, record=place)
        if isinstance(key, Rejection):
            strays.append(key)
        elif key.id in index:
            message = f"id {key.id} occurs twice: {index[key.id][0]} is taken"
            strays.append(reject("E_RECORD_DUPLICATE", message, file=INSTANCES_NAME, record=place))
        else:
            index[key.id] = (place, raw)
    return index


def _add_reference(value: Any, place: str, files: _Files, seen: set[int]) -> None:
    where = {"file": files.refs_file, "record": place}
    reference: _Reference | Rejection = convert_record(value, _Reference, **where)
    divided = convert_record(value, _Divided, **where)
    if isinstance(divided, Rejection):
        files.strays.append(divided)
    elif divided.split not in files.references:
        expected = ", ".join(files.references)
        message = f"split: expected one of {expected}, got {divided.split[:40]!a}"
        files.strays.append(reject("E_VALUE_RANGE", message, **where))
    else:
        if isinstance(reference, _Reference):
            if reference.ref_id in seen:
                message = f"ref_id {reference.ref_id} occurs twice"
                reference = reject("E_RECORD_DUPLICATE", message, **where)
            else:
                seen.add(reference.ref_id)
        files.references[divided.split].append((place, reference))


def _read(
    load: Callable[[], _Files],
    split: str,
    paths: tuple[Path, ...],
    roots: ImageRoots,
    min_words: int,
    *,
    with_masks: bool,
) -> SplitRecords:
    """Join one split's references with their images and boxes."""
    files = load()
    # Records of no split are the same for every one: they are counted with the first only.
    strays = list(files.strays) if split == next(iter(files.references)) else []
    gathered: dict[int, Gathered] = {}
    unknown: set[int] = set()
    for place, reference in files.references[split]:
        if isinstance(reference, Rejection):
            strays.append(reference)
            continue
        photo_id = reference.image_id
        if photo_id not in gathered:
            gathered[photo_id] = Gathered(photo_id)
            if not _add_image(gathered[photo_id], files):
                unknown.add(photo_id)
        entry = gathered[photo_id]
        entry.num_records += max(1, len(reference.sentences))
        if photo_id not in unknown:
            _add_target(entry, reference, place, files, with_masks)
    drafts = []
    for entry in gathered.values():
        targets = list(entry.targets.values())
        payload = Payload(INSTANCES_NAME, min_words, targets)
        if with_masks:
            payload = MaskedPayload(INSTANCES_NAME, min_words, targets, entry.segmentations)
        drafts.append(make_draft(entry, payload, files.refs_file, roots))
    return SplitRecords(drafts=drafts, rejections=strays, source_files=paths)


def _add_image(entry: Gathered, files: _Files) -> bool:
    """Take over the image's size; False, with one rejection for all its records, if it is bad."""
    if entry.photo_id not in files.images:
        message = f"image {entry.photo_id} is not in {INSTANCES_NAME}, `images`"
        where = {"file": files.refs_file, "record": f"image {entry.photo_id}"}
        entry.reject("E_IMAGE_UNKNOWN", message, **where)
        return False
    place, raw = files.images[entry.photo_id]
    image = decode_record(_images, raw, file=INSTANCES_NAME, record=place)
    if isinstance(image, Rejection):
        entry.put(image)
        return False
    if not names_photo(image.file_name, image.id):
        message = f"file_name: expected the number {image.id:012d}, got `{image.file_name[:80]}`"
        entry.reject("E_NAME_MISMATCH", message, file=INSTANCES_NAME, record=place)
        return False
    entry.image_wh = (image.width, image.height)
    return True


def _add_target(
    entry: Gathered, reference: _Reference, place: str, files: _Files, with_masks: bool
) -> None:
    """Add a reference with its box and expressions to its image, or say why it cannot be."""
    ref_id, ann_id = reference.ref_id, reference.ann_id
    where = {"file": files.refs_file, "record": place}
    if ann_id not in files.annotations:
        message = f"ref {ref_id}: annotation {ann_id} is not in {INSTANCES_NAME}, `annotations`"
        entry.reject("E_REF_NO_ANNOTATION", message, **where)
        return
    box_record, raw = files.annotations[ann_id]
    decoder: msgspec.json.Decoder[Any] = _masked_annotations if with_masks else _annotations
    box: _Annotation | Rejection = decode_record(
        decoder, raw, file=INSTANCES_NAME, record=box_record
    )
    if isinstance(box, Rejection):
        entry.put(box)
    elif box.image_id != entry.photo_id:
        message = (
            f"ref {ref_id}: expected its object in image {entry.photo_id}, found annotation "
            f"{ann_id} in image {box.image_id}"
        )
        entry.reject("E_REF_NO_ANNOTATION", message, **where)
    elif not is_finite(box.bbox):
        message = f"bbox: expected finite numbers, got {box.bbox}"
        entry.reject("E_FIELD_TYPE", message, file=INSTANCES_NAME, record=box_record)
    elif ann_id in entry.targets:
        message = f"ref {ref_id}: annotation {ann_id} has a reference already"
        entry.reject("E_RECORD_DUPLICATE", message, **where)
    else:
        expressions = _expressions(entry, reference, place, files.refs_file)
        if not expressions:
            return
        label = None if box.category_id is None else files.labels.get(box.category_id)
        said_in = f"ref {ref_id}, sentences"
        entry.targets[ann_id] = Target(ann_id, label, box.bbox, box_record, said_in, expressions)
        if isinstance(box, _MaskedAnnotation):
            entry.segmentations[ann_id] = memoryview(box.segmentation)  # type: ignore[assignment]


def _expressions(entry: Gathered, reference: _Reference, place: str, file: str) -> list[Expression]:
    expressions = []
    for j, value in enumerate(reference.sentences):
        record = f"{place}.sentences[{j}]"
        sentence = convert_record(value, _Sentence, file=file, record=record)
        if isinstance(sentence, Rejection):
            entry.put(sentence)
            continue
        text = read_text(sentence.sent)
        if text is None:
            message = f"sent: expected an expression, got {clean_text(sentence.sent)[:80]!a}"
            entry.reject("E_PHRASE_EMPTY", message, file=file, record=record)
            continue
        expressions.append(Expression(sentence.sent_id, record, text))
    if not reference.sentences:
        message = f"ref {reference.ref_id}: expected expressions, got none"
        entry.reject("E_PHRASE_EMPTY", message, file=file, record=place)
    return expressions
