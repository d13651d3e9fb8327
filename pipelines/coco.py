"""COCO: object boxes with class names, and captions of whole pictures.

Reads `annotations/instances_{train,val}2017.json` and `captions_{train,val}2017.json` (or the 2014
cut). An image's boxes become one `category` conversation, an exchange a box; its captions one
`image-caption` conversation, an exchange a caption. Both lists are independent: nothing is cut
away.

Source: formats of COCO detection and captions, cocodataset.org "Data format". Boxes are [x, y,
width, height], floats, 0-based, x + width being the right edge. Crowd boxes describe groups and
are left out, as every detection code base does.
"""

import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from pipelines.annotations import Raw, clean_text, decode_record, read_table
from pipelines.draft import (
    Built,
    DatasetSpec,
    Draft,
    OfficialCounts,
    OpenSource,
    Picture,
    SourceOptions,
    SplitRecords,
)
from pipelines.images import ImageRoots, image_roots, match_frame, safe_name
from pipelines.rejections import reject
from pipelines.source import missing_files, relative_name, require_folder, unusable_picture
from roikit.mentions import escape, mention
from roikit.sample import Conversation, Region, Rejection, Source, Turn

log = logging.getLogger(__name__)

_EXPECTS = (
    "annotations/instances_train2017.json",
    "annotations/instances_val2017.json",
    "annotations/captions_train2017.json",
    "annotations/captions_val2017.json",
    "train2017/",
    "val2017/",
)


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    width: int | None = None
    height: int | None = None


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int | bool = 0


class _Caption(msgspec.Struct, gc=False):
    id: int
    image_id: int
    caption: str


class _Category(msgspec.Struct):
    id: int
    name: str


class _Owner(msgspec.Struct):
    image_id: int


class Box(msgspec.Struct, array_like=True, gc=False):
    """One object, on its way from the plan to the task."""

    index: int  #: place in `annotations`
    id: int
    label: str
    bbox_xywh: tuple[float, float, float, float]


class Caption(msgspec.Struct, array_like=True, gc=False):
    """One caption, on its way from the plan to the task."""

    index: int  #: place in `annotations`
    id: int
    text: str


class Payload(msgspec.Struct, array_like=True):
    """What the files say about one image."""

    num_crowds: int
    captions_file: str
    boxes: list[Box] = []
    captions: list[Caption] = []


_images = msgspec.json.Decoder(_Image)
_annotations = msgspec.json.Decoder(_Annotation)
_captions = msgspec.json.Decoder(_Caption)
_categories = msgspec.json.Decoder(_Category)
_owners = msgspec.json.Decoder(_Owner)


#: Captions are counted where their file is there. Those of 2014 have no boxes counted here.
_IMAGES = {"train2017": 118_287, "val2017": 5_000, "train2014": 82_783, "val2014": 40_504}
_BOXES = {"train2017": 860_001, "val2017": 36_781}
_CAPTIONS = {"train2017": 591_753, "val2017": 25_014}


def open_source(source: Path, extra_roots: Sequence[Path], options: SourceOptions) -> OpenSource:
    """Find COCO's annotation files below `source`.

    Where both cuts lie there, `train` and `val` are those of 2017, and 2014's are converted on
    request as `train2014` and `val2014`: they are the same photographs, cut another way.

    Raises:
        UsageError: no such folder, or none of the files in it.
    """
    require_folder(source, SPEC.title, _EXPECTS)
    folder = source / "annotations" if (source / "annotations").is_dir() else source
    roots = image_roots((source, source / "images"), extra_roots)
    splits = {}
    official = {}
    on_request = []
    for year in ("2017", "2014"):
        for part in ("train", "val"):
            instances = folder / f"instances_{part}{year}.json"
            captions = folder / f"captions_{part}{year}.json"
            if not instances.is_file() and not captions.is_file():
                continue
            for path in (instances, captions):
                if not path.is_file():
                    log.warning("%s is not there: %s goes without it", path, part)
            name = part if part not in splits else f"{part}{year}"
            if name != part:
                on_request.append(name)
            cut = f"{part}{year}"
            splits[name] = partial(_read, source, instances, captions, cut, roots)
            official[name] = _official(cut, instances.is_file(), captions.is_file())
    if not splits:
        raise missing_files(source, SPEC.title, _EXPECTS)
    return OpenSource(
        folder=source,
        roots=roots,
        splits=splits,
        on_request=tuple(on_request),
        official=official,
    )


def _official(cut: str, has_boxes: bool, has_captions: bool) -> OfficialCounts:
    """What the files of one cut hold together."""
    tables = [_BOXES] * has_boxes + [_CAPTIONS] * has_captions
    counts = [table.get(cut) for table in tables]
    known = [count for count in counts if count is not None]
    records = sum(known) if len(known) == len(counts) else None
    return OfficialCounts(images=_IMAGES[cut], records=records)


def build(draft: Draft, picture: Picture) -> Built:
    """Turn one image's boxes and captions into conversations."""
    built = Built()
    payload = msgspec.convert(draft.payload, Payload)
    built.num_by_policy = payload.num_crowds
    frame = match_frame(picture.header, draft.image_wh)
    if frame is None:
        built.rejections.append(unusable_picture("E_SIZE_MISMATCH", draft, picture.header))
        return built
    turns: list[Turn] = []
    conversation_id = f"{draft.group}/category"
    for box in payload.boxes:
        x, y, width, height = box.bbox_xywh
        placed = frame.place((x, y, x + width, y + height))
        if isinstance(placed, str):
            message = f"bbox {list(box.bbox_xywh)} in a picture of {frame.annotated_wh}"
            built.rejections.append(
                reject(
                    placed,
                    message,
                    file=draft.source_file,
                    record=f"annotations[{box.index}]",
                    native_id=draft.native_id,
                )
            )
            continue
        box_xyxy, is_clipped = placed
        built.num_clipped += is_clipped
        built.regions.append(Region(box_xyxy=box_xyxy, label=box.label, native_id=str(box.id)))
        place = f"{conversation_id}:{len(turns)}"
        region = mention(len(built.regions))
        turns.append(picture.phraser.ask("category", place, region=region))
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
    if payload.captions:
        built.conversations.append(_caption_conversation(draft, payload, picture))
    built.num_converted = len(built.regions) + len(payload.captions)
    return built


def _caption_conversation(draft: Draft, payload: Payload, picture: Picture) -> Conversation:
    conversation_id = f"{draft.group}/image-caption"
    turns: list[Turn] = []
    for caption in payload.captions:
        turns.append(picture.phraser.ask("image-caption", f"{conversation_id}:{len(turns)}"))
        turns.append(Turn(role="assistant", text=escape(caption.text)))
    return Conversation(
        id=conversation_id,
        task="image-caption",
        independent=True,
        source=Source(file=payload.captions_file, record=f"image {draft.group}"),
        turns=tuple(turns),
    )


class _Gathered(msgspec.Struct):
    """One image while its annotations are being joined."""

    image: _Image
    file: str
    record: str
    payload: Payload
    num_records: int = 0
    rejections: list[Rejection] = []


def _read(
    source: Path, instances: Path, captions: Path, folder: str, roots: ImageRoots
) -> SplitRecords:
    """Read and join one split's two files."""
    gathered: dict[int, _Gathered] = {}
    strays: list[Rejection] = []
    files = [path for path in (instances, captions) if path.is_file()]
    captions_file = relative_name(captions, source)
    tables = {}
    for path in files:
        lists = ("images", "annotations") + (("categories",) if path == instances else ())
        table = tables[path] = read_table(path, lists)
        _add_images(table["images"], relative_name(path, source), captions_file, gathered, strays)
    if instances in tables:
        name = relative_name(instances, source)
        _add_boxes(tables[instances], name, gathered, strays)
    if captions in tables:
        _add_captions(tables[captions]["annotations"], captions_file, gathered, strays)
    drafts = [_draft(entry, folder, roots) for entry in gathered.values()]
    return SplitRecords(drafts=drafts, rejections=strays, source_files=tuple(files))


def _add_images(
    raws: list[Raw],
    file: str,
    captions_file: str,
    gathered: dict[int, _Gathered],
    strays: list[Rejection],
) -> None:
    """List the images of one file; the second file names the same ones again."""
    seen: set[int] = set()
    for i, raw in enumerate(raws):
        record = f"images[{i}]"
        image = decode_record(_images, raw, file=file, record=record)
        if isinstance(image, Rejection):
            strays.append(image)
        elif image.id in seen:
            message = f"image id {image.id} occurs twice"
            strays.append(reject("E_RECORD_DUPLICATE", message, file=file, record=record))
        else:
            seen.add(image.id)
            if image.id not in gathered:
                payload = Payload(num_crowds=0, captions_file=captions_file)
                gathered[image.id] = _Gathered(image, file, record, payload)


def _add_boxes(
    table: dict[str, list[Raw]],
    file: str,
    gathered: dict[int, _Gathered],
    strays: list[Rejection],
) -> None:
    names: dict[int, str] = {}
    for i, raw in enumerate(table["categories"]):
        category = decode_record(_categories, raw, file=file, record=f"categories[{i}]")
        if isinstance(category, Rejection):
            strays.append(category)
        else:
            names[category.id] = clean_text(category.name)
    for i, raw in enumerate(table["annotations"]):
        record = f"annotations[{i}]"
        box = decode_record(_annotations, raw, file=file, record=record)
        entry = _owner(box, raw, gathered)
        if isinstance(box, Rejection):
            _put(box, entry, strays)
        elif entry is None:
            strays.append(_no_image(box.image_id, file, record))
        elif box.iscrowd:
            entry.payload.num_crowds += 1
            message = f"annotation {box.id} is a crowd (iscrowd is 1)"
            _put(reject("E_CROWD", message, file=file, record=record), entry, strays)
        elif not names.get(box.category_id):
            message = f"category_id {box.category_id} is not in `categories`"
            _put(reject("E_CATEGORY_UNKNOWN", message, file=file, record=record), entry, strays)
        elif not all(map(math.isfinite, box.bbox)):
            message = f"bbox: expected finite numbers, got {box.bbox}"
            _put(reject("E_FIELD_TYPE", message, file=file, record=record), entry, strays)
        else:
            entry.num_records += 1
            entry.payload.boxes.append(Box(i, box.id, names[box.category_id], box.bbox))


def _add_captions(
    raws: list[Raw], file: str, gathered: dict[int, _Gathered], strays: list[Rejection]
) -> None:
    for i, raw in enumerate(raws):
        record = f"annotations[{i}]"
        caption = decode_record(_captions, raw, file=file, record=record)
        entry = _owner(caption, raw, gathered)
        if isinstance(caption, Rejection):
            _put(caption, entry, strays)
        elif entry is None:
            strays.append(_no_image(caption.image_id, file, record))
        elif not (text := clean_text(caption.caption)):
            message = f"caption {caption.id} is empty"
            _put(reject("E_PHRASE_EMPTY", message, file=file, record=record), entry, strays)
        else:
            entry.num_records += 1
            entry.payload.captions.append(Caption(i, caption.id, text))


def _owner(
    record: _Annotation | _Caption | Rejection, raw: Raw, gathered: dict[int, _Gathered]
) -> _Gathered | None:
    """Return the image of a record; of a bad one, too, where its `image_id` can be read."""
    if not isinstance(record, Rejection):
        return gathered.get(record.image_id)
    try:
        return gathered.get(_owners.decode(raw).image_id)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _put(rejection: Rejection, entry: _Gathered | None, strays: list[Rejection]) -> None:
    """Keep a rejection with its image, where there is one."""
    if entry is None:
        strays.append(rejection)
        return
    entry.num_records += 1
    native_id = f"coco:{entry.image.id}"
    entry.rejections.append(msgspec.structs.replace(rejection, native_id=native_id))


def _no_image(image_id: int, file: str, record: str) -> Rejection:
    message = f"image_id {image_id} is not in `images`"
    return reject("E_IMAGE_UNKNOWN", message, file=file, record=record)


def _draft(entry: _Gathered, folder: str, roots: ImageRoots) -> Draft:
    image = entry.image
    names = (f"{folder}/{image.file_name}", image.file_name)
    is_safe = safe_name(image.file_name)
    found = roots.find(names) if is_safe else None
    return Draft(
        group=str(image.id),
        file=found[1] if found else names[0] if is_safe else image.file_name,
        native_id=f"coco:{image.id}",
        root=found[0] if found else None,
        num_bytes=found[2] if found else 0,
        image_wh=(image.width, image.height) if image.width and image.height else None,
        source_file=entry.file,
        record=entry.record,
        num_records=entry.num_records,
        payload=entry.payload,
        rejections=tuple(entry.rejections),
    )


SPEC = DatasetSpec(
    name="coco",
    title="COCO",
    version=1,
    expects=_EXPECTS,
    families=("category", "image-caption"),
    open_source=open_source,
    build=build,
)
