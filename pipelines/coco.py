"""COCO: object boxes with class names, and captions of whole pictures.

Reads `annotations/instances_{train,val}2017.json` and `captions_{train,val}2017.json` (or the 2014
cut). An image's boxes become one `category` conversation, an exchange a box; its captions one
`image-caption` conversation, an exchange a caption. Both lists are independent: nothing is cut
away.

`pipelines/coco_form.py` joins the records and makes the boxes' conversation; LVIS and PACO use it,
too.

Source: formats of COCO detection and captions, cocodataset.org "Data format".
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from pipelines.annotations import Int64, Raw, clean_text, decode_record, read_table
from pipelines.coco_form import (
    Box,
    Gathered,
    PublishedCategories,
    add_boxes,
    add_category_conversation,
    add_images,
    make_draft,
    no_image,
    owner,
    put,
    read_categories,
)
from pipelines.coco_names import photograph_id
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
from pipelines.images import ImageRoots, image_roots, match_frame
from pipelines.rejections import reject
from pipelines.source import missing_files, relative_name, require_folder, unusable_picture
from roikit.mentions import escape
from roikit.sample import Conversation, Rejection, Source, Turn

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
    id: Int64
    file_name: str
    width: Int64 | None = None
    height: Int64 | None = None


class _Caption(msgspec.Struct, gc=False):
    id: Int64
    image_id: Int64
    caption: str


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


class MaskedPayload(Payload):
    """The same with masks. Apart, so that drafts without them stay what they are."""

    segmentations: dict[int, bytes] = {}  #: by annotation id, JSON


_images = msgspec.json.Decoder(_Image)
_captions = msgspec.json.Decoder(_Caption)


#: Published counts. Images and boxes of 2017 are the files' own; the rest is what is commonly
#: cited, and agrees: both cuts hold the same 896,782 boxes and 616,767 captions.
_IMAGES = {"train2017": 118_287, "val2017": 5_000, "train2014": 82_783, "val2014": 40_504}
_BOXES = {"train2017": 860_001, "val2017": 36_781, "train2014": 604_907, "val2014": 291_875}
_CAPTIONS = {"train2017": 591_753, "val2017": 25_014, "train2014": 414_113, "val2014": 202_654}


def open_source(source: Path, extra_roots: Sequence[Path], options: SourceOptions) -> OpenSource:
    """Find COCO's annotation files below `source`.

    Where anything of 2017 lies there, `train` and `val` are those of 2017, and 2014's are converted
    on request as `train2014` and `val2014`: they are the same photographs, cut another way, and
    train2017 holds most of val2014.

    Raises:
        UsageError: no such folder, or none of the files in it.
    """
    require_folder(source, SPEC.title, _EXPECTS)
    roots = image_roots((source, source / "images"), extra_roots)
    categories = PublishedCategories(title=SPEC.title, count=80, max_id=90)
    splits = {}
    official = {}
    on_request = []
    has_2017 = False
    for year in ("2017", "2014"):
        for part in ("train", "val"):
            cut = f"{part}{year}"
            instances = _find_file(source, f"instances_{cut}.json")
            captions = _find_file(source, f"captions_{cut}.json")
            if not instances.is_file() and not captions.is_file():
                continue
            has_2017 |= year == "2017"
            name = cut if has_2017 and year == "2014" else part
            if name != part:
                on_request.append(name)
            for path in (instances, captions):
                if not path.is_file():
                    log.warning("%s is not there: %s goes without it", path, name)
            splits[name] = partial(
                _read, source, instances, captions, cut, roots, categories,
                with_masks=options.masks,
            )  # fmt: skip
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


def _find_file(source: Path, name: str) -> Path:
    """Return where a file lies; where it is missing, where it is expected."""
    folders = [folder for folder in (source / "annotations", source) if folder.is_dir()]
    return next((f / name for f in folders if (f / name).is_file()), folders[0] / name)


def _official(cut: str, has_boxes: bool, has_captions: bool) -> OfficialCounts:
    """What the files of one cut hold together."""
    records = _BOXES[cut] * has_boxes + _CAPTIONS[cut] * has_captions
    return OfficialCounts(images=_IMAGES[cut], records=records)


def build(draft: Draft, picture: Picture) -> Built:
    """Turn one image's boxes and captions into conversations."""
    built = Built()
    payload = msgspec.convert(draft.payload, MaskedPayload)
    built.num_by_policy = payload.num_crowds
    frame = match_frame(picture.header, draft.image_wh)
    if frame is None:
        built.rejections.append(unusable_picture("E_SIZE_MISMATCH", draft, picture.header))
        return built
    add_category_conversation(
        built,
        draft,
        payload.boxes,
        frame,
        picture,
        segmentations=payload.segmentations,
        native_labels={},
    )
    if payload.captions:
        built.conversations.append(_caption_conversation(draft, payload, picture))
        built.num_converted += len(payload.captions)
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


def _read(
    source: Path,
    instances: Path,
    captions: Path,
    folder: str,
    roots: ImageRoots,
    categories: PublishedCategories,
    *,
    with_masks: bool,
) -> SplitRecords:
    """Read and join one split's two files."""
    gathered: dict[int, Gathered] = {}
    said: dict[int, list[Caption]] = {}
    strays: list[Rejection] = []
    files = [path for path in (instances, captions) if path.is_file()]
    captions_file = relative_name(captions, source)
    tables = {}
    for path in files:
        lists = ("images", "annotations") + (("categories",) if path == instances else ())
        table = tables[path] = read_table(path, lists)
        name = relative_name(path, source)
        # The second file names the same images again.
        add_images(table["images"], partial(_read_image, name, folder), name, gathered, strays)
    if instances in tables:
        name = relative_name(instances, source)
        labels = read_categories(tables[instances]["categories"], name, strays)
        categories.check(labels, name)
        raws = tables[instances]["annotations"]
        add_boxes(raws, labels, name, gathered, strays, with_masks=with_masks)
    if captions in tables:
        _add_captions(tables[captions]["annotations"], captions_file, gathered, said, strays)
    drafts = []
    for entry in gathered.values():
        own = said.get(entry.id, [])
        said_of_it = (entry.num_crowds, captions_file, entry.boxes, own)
        payload = Payload(*said_of_it)
        if with_masks:
            payload = MaskedPayload(*said_of_it, entry.segmentations)
        drafts.append(make_draft(entry, payload, roots))
    return SplitRecords(drafts=drafts, rejections=strays, source_files=tuple(files))


def _read_image(file: str, folder: str, raw: Raw, record: str) -> Gathered | Rejection:
    image = decode_record(_images, raw, file=file, record=record)
    if isinstance(image, Rejection):
        return image
    number = photograph_id(image.file_name)
    if number is not None and number != image.id:
        message = f"image id {image.id} is not the number of its picture `{image.file_name}`"
        return reject("E_NAME_MISMATCH", message, file=file, record=record)
    names = (f"{folder}/{image.file_name}", image.file_name)
    image_wh = (image.width, image.height) if image.width and image.height else None
    return Gathered(image.id, names, image_wh, file, record)


def _add_captions(
    raws: list[Raw],
    file: str,
    gathered: dict[int, Gathered],
    said: dict[int, list[Caption]],
    strays: list[Rejection],
) -> None:
    for i, raw in enumerate(raws):
        record = f"annotations[{i}]"
        caption = decode_record(_captions, raw, file=file, record=record)
        if isinstance(caption, Rejection):
            put(caption, owner(raw, gathered), strays)
        elif (entry := gathered.get(caption.image_id)) is None:
            strays.append(no_image(caption.image_id, file, record))
        elif not (text := clean_text(caption.caption)):
            message = f"caption {caption.id} is empty"
            put(reject("E_PHRASE_EMPTY", message, file=file, record=record), entry, strays)
        else:
            entry.num_records += 1
            said.setdefault(entry.id, []).append(Caption(i, caption.id, text))


SPEC = DatasetSpec(
    name="coco",
    title="COCO",
    version=1,
    expects=_EXPECTS,
    families=("category", "image-caption"),
    open_source=open_source,
    build=build,
    options=("masks",),
    # Source: GPT4RoI `gpt4roi/configs/stage1.py`; cocodataset.org "Terms of use".
    stage="1",
    licence=Licence(annotations="CC BY 4.0", pictures="a Flickr licence each, COCO's list has it"),
    registration=None,
    published={part: _official(f"{part}2017", True, True) for part in ("train", "val")},
)
