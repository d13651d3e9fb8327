"""LVIS's form: COCO's, with federated labels and without file names. LVIS and PACO are read by it.

In: one annotation file. Out: one draft an image, and one `category` conversation, an exchange a
box. The files are cut into records and joined as COCO's are, so that a bad record costs itself
only. Classes and federated labels come through the reader of the package `lvis`
(`pipelines/lvis_reader.py`); the boxes do not.

Labels are federated: in each image somebody looked for some classes only. `neg_category_ids` lists
those that are not there, `not_exhaustive_category_ids` those that are there but not boxed one and
all; in every other case without a box nobody looked. Both lists go into the record by name
(`Sample.absent_labels`, `Sample.partly_labelled`).

Source: lvisdataset.org; Gupta et al., arXiv 1908.03195. Classes are called what a person says
(`pipelines/class_labels.py`). The name as the file spells it stands beside it, since the ground
truth of Osprey's region classification (arXiv 2312.10032), which later work compares on, is that
with underscores and colons as blanks and the parentheses kept.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import msgspec

from pipelines import lvis_reader
from pipelines.annotations import Int64, Raw, decode_record, read_table
from pipelines.class_labels import spoken_names
from pipelines.class_names import LVIS_V05_CLASSES
from pipelines.coco_form import (
    Box,
    Gathered,
    PublishedCategories,
    add_boxes,
    add_category_conversation,
    add_images,
    make_draft,
    read_categories,
)
from pipelines.coco_names import photograph_id
from pipelines.draft import Built, Draft, Picture, SplitRecords
from pipelines.images import ImageRoots, match_frame
from pipelines.lvis_reader import Federated
from pipelines.rejections import reject
from pipelines.source import relative_name, unusable_picture
from roikit.errors import UsageError
from roikit.sample import Rejection

#: Folders of COCO's photographs that LVIS and PACO draw on.
FOLDERS = ("train2017", "val2017")


class _Image(msgspec.Struct, gc=False):
    id: Int64
    coco_url: str | None = None
    file_name: str | None = None
    width: Int64 | None = None
    height: Int64 | None = None


class Payload(msgspec.Struct, array_like=True):
    """What the file says about one image."""

    num_crowds: int  #: always 0 in the official files, which have no crowds
    boxes: list[Box] = []
    native_labels: dict[
        str, str
    ] = {}  #: the file's spelling of the boxes' labels, where it differs
    absent_labels: list[str] = []
    partly_labelled: list[str] = []
    segmentations: dict[int, bytes] = {}  #: masks by annotation id, JSON


_images = msgspec.json.Decoder(_Image)
_lists = msgspec.json.Decoder(Federated)


def find_splits(
    source: Path,
    files: Mapping[str, str],
    roots: ImageRoots,
    *,
    with_masks: bool,
    published: PublishedCategories | None = None,
) -> dict[str, Callable[[], SplitRecords]]:
    """Look for annotation files in the source folder and in its `annotations`.

    Args:
        source: the dataset's folder.
        files: the official name of each split's file.
        roots: folders that pictures may come from.
        with_masks: keep the masks, too.
        published: what the classes are compared with, where that is known.

    Returns:
        A function a split that is there.
    """
    splits: dict[str, Callable[[], SplitRecords]] = {}
    for split, name in files.items():
        for path in (source / name, source / "annotations" / name):
            if split not in splits and path.is_file():
                splits[split] = partial(
                    read_split, source, path, roots, with_masks=with_masks, published=published
                )
    return splits


def read_split(
    source: Path,
    path: Path,
    roots: ImageRoots,
    *,
    with_masks: bool,
    published: PublishedCategories | None,
) -> SplitRecords:
    """Read and join one annotation file.

    Args:
        source: the dataset's folder.
        path: the file.
        roots: folders that pictures may come from.
        with_masks: keep the masks, too.
        published: what the classes are compared with, where that is known.

    Raises:
        UsageError: the file is not JSON in this form, or is LVIS v0.5.
    """
    table = read_table(path, ("images", "annotations", "categories"))
    if len(table["categories"]) == LVIS_V05_CLASSES:
        raise v05_refused(path, f"found {LVIS_V05_CLASSES:,} classes")
    file = relative_name(path, source)
    gathered: dict[int, Gathered] = {}
    strays: list[Rejection] = []
    federated: dict[int, Federated] = {}
    add_images(table["images"], partial(_read_image, file, federated), file, gathered, strays)
    # Bad classes and lists are taken out one by one; the reader is given what is left.
    names, federated = lvis_reader.read(
        read_categories(table["categories"], file, strays), federated
    )
    if published is not None:
        published.check(names, file)
    labels = dict(zip(names, spoken_names(list(names.values())), strict=True))
    spelt = {labels[id]: name for id, name in names.items() if labels[id] != name}
    raws = table["annotations"]
    add_boxes(raws, labels, file, gathered, strays, with_masks=with_masks)
    drafts = []
    for entry in gathered.values():
        own = {box.label: spelt[box.label] for box in entry.boxes if box.label in spelt}
        payload = Payload(entry.num_crowds, entry.boxes, own, segmentations=entry.segmentations)
        if entry.id in federated:
            _add_federated(entry, payload, federated[entry.id], labels)
        drafts.append(make_draft(entry, payload, roots))
    return SplitRecords(drafts=drafts, rejections=strays, source_files=(path,))


def v05_refused(path: Path, found: str) -> UsageError:
    """Make the error for a file of LVIS v0.5."""
    return UsageError(
        f"`{path}`: expected LVIS v1 (1,203 classes), {found}: this is LVIS v0.5, whose class ids"
        " differ",
        hint="get `lvis_v1_train.json` and `lvis_v1_val.json`; v0.5 is not read",
    )


def build(draft: Draft, picture: Picture) -> Built:
    """Turn one image's boxes into its conversation."""
    built = Built()
    payload = msgspec.convert(draft.payload, Payload)
    built.num_by_policy = payload.num_crowds
    frame = match_frame(picture.header, draft.image_wh)
    if frame is None:
        built.rejections.append(unusable_picture("E_SIZE_MISMATCH", draft, picture.header))
        return built
    built.absent_labels = tuple(payload.absent_labels)
    built.partly_labelled = tuple(payload.partly_labelled)
    add_category_conversation(
        built,
        draft,
        payload.boxes,
        frame,
        picture,
        segmentations=payload.segmentations,
        native_labels=payload.native_labels,
    )
    return built


def _read_image(
    file: str, federated: dict[int, Federated], raw: Raw, record: str
) -> Gathered | Rejection:
    image = decode_record(_images, raw, file=file, record=record)
    if isinstance(image, Rejection):
        return image
    path = _path_of_url(image.coco_url or "")
    named = image.file_name or path
    if not named:
        message = "missing field `coco_url`, or it does not end in folder and file of a picture"
        return reject("E_FIELD_MISSING", message, file=file, record=record)
    base = PurePosixPath(named).name or named
    number = photograph_id(base)
    if number is not None and number != image.id:
        message = f"image id {image.id} is not the number of its picture `{named}`"
        return reject("E_NAME_MISMATCH", message, file=file, record=record)
    names = (path, image.file_name, *(f"{folder}/{base}" for folder in FOLDERS), base)
    unique = tuple(dict.fromkeys(name for name in names if name))
    image_wh = (image.width, image.height) if image.width and image.height else None
    entry = Gathered(image.id, unique, image_wh, file, record)
    _note_federated(raw, entry, federated)
    return entry


def _path_of_url(url: str) -> str:
    """Return folder and file: LVIS says only by the URL which folder a picture is in."""
    try:
        path = urlsplit(url).path
    except ValueError:  # an address that is none
        return ""
    parts = path.split("/")[-2:]
    return "/".join(parts) if len(parts) == 2 and all(parts) else ""


def _note_federated(raw: Raw, entry: Gathered, federated: dict[int, Federated]) -> None:
    """Keep an image's two lists; damaged ones cost no box, and say nothing."""
    lists = decode_record(
        _lists, raw, file=entry.file, record=entry.record, native_id=entry.native_id
    )
    if isinstance(lists, Rejection):
        entry.rejections.append(lists)
    else:
        federated.setdefault(entry.id, lists)


def _add_federated(
    entry: Gathered, payload: Payload, lists: Federated, labels: Mapping[int, str]
) -> None:
    """Name the classes of an image's two lists. What a box shows is not absent, whatever they say.

    Ids without a class are rejected, once an image; they are no records.
    """
    absent, partly = lists.neg_category_ids or (), lists.not_exhaustive_category_ids or ()
    unknown = [id for id in (*absent, *partly) if not labels.get(id)]
    if unknown:
        message = (
            f"neg_category_ids, not_exhaustive_category_ids: {len(unknown)} of "
            f"{len(absent) + len(partly)} are not in `categories`, the first is {unknown[0]}"
        )
        entry.rejections.append(
            reject(
                "E_CATEGORY_UNKNOWN",
                message,
                file=entry.file,
                record=entry.record,
                native_id=entry.native_id,
            )
        )
    there = {box.label for box in entry.boxes}
    payload.partly_labelled = _names(partly, labels, set())
    payload.absent_labels = _names(absent, labels, there.union(payload.partly_labelled))


def _names(ids: Sequence[int], labels: Mapping[int, str], but: set[str]) -> list[str]:
    names = (labels[id] for id in ids if labels.get(id))
    return [name for name in dict.fromkeys(names) if name not in but]
