"""LLaVA-Instruct-150K: dialogues about COCO photographs, with regions that a detector found.

Reads `llava_instruct_150k.json`, or the three files it was put together from. A record becomes one
`dialogue`; all records of a photograph become one sample. The files hold no boxes: these come from
a file of detections (`detections.py`). In half of the dialogues (drawn by the seed) the first turn
lists the detected objects with their names, and where such a dialogue names an object of which
there is only one, its mention follows the name. The other half stays plain, so that a model goes on
answering where nobody drew a box.

Source: GPT4RoI `gpt4roi/datasets/det_llava.py` for the half. Its yes/no turns against hallucination
are not made: it appended them to the wrong copy, and asked about classes that may be in the picture
undetected. It put no mentions into the dialogues either, and with `--faithful` nor do we.
"""

import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import msgspec

from pipelines.annotations import decode_record, read_list
from pipelines.class_names import ObjectClass
from pipelines.coco_names import photograph_id, photograph_places
from pipelines.detection_files import DetectionFile, open_detections, read_detections
from pipelines.detections import Detections
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
from pipelines.images import ImageRoots, image_roots, safe_name
from pipelines.llava_boxes import MIN_SCORE, Boxes, name_classes, pack_boxes, place_boxes
from pipelines.rejections import reject
from pipelines.source import missing_files, relative_name, require_folder
from pipelines.spoken_names import Lexicon, Utterance, with_mentions
from roikit.errors import UsageError
from roikit.mentions import escape, mention
from roikit.sample import Conversation, Rejection, Source, Turn

log = logging.getLogger(__name__)

_WHOLE = "llava_instruct_150k.json"
_PARTS = ("conversation_58k.json", "detail_23k.json", "complex_reasoning_77k.json")
_SUBSET = "llava_instruct_80k.json"
_MIXTURE = "llava_v1_5_mix665k.json"  #: LLaVA-1.5's: pictures of five datasets, text alone, too
_EXPECTS = (_WHOLE, f"or {_PARTS[0]}", *_PARTS[1:], f"or {_SUBSET}", "train2017/")

#: As published; a record is a dialogue. The parts' counts, as commonly cited, do not add up to it.
_OFFICIAL = {"train": OfficialCounts(images=81_479, records=157_712)}

_IMAGE_TOKEN = "<image>"
_BLANKS = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" ?\n ?")
_PARAGRAPHS = re.compile(r"\n{3,}")


class _Image(msgspec.Struct, gc=False):
    image: str


class _Said(msgspec.Struct, gc=False):
    speaker: str = msgspec.field(name="from")
    value: str


class _Record(msgspec.Struct, gc=False):
    conversations: list[_Said]


class Payload(msgspec.Struct, array_like=True):
    """What the files say about one photograph; the dialogues are not decoded yet."""

    records: list[tuple[str, int, bytes]]  #: (file, place in its list, JSON)
    boxes: Boxes | None = None


_images = msgspec.json.Decoder(_Image)
_records = msgspec.json.Decoder(_Record)


def open_source(source: Path, extra_roots: Sequence[Path], options: SourceOptions) -> OpenSource:
    """Find LLaVA's files below `source`, and recognise the file of detections.

    `llava_instruct_80k.json`, a part of the whole, is the split `train80k`: beside the whole it is
    converted on request.

    Raises:
        UsageError: no such folder, none of the files in it, or detections that cannot be used.
    """
    require_folder(source, SPEC.title, _EXPECTS)
    if options.detections is None:
        for name in ("categories", "faithful"):
            if name in options.given():
                raise UsageError(
                    f"`--{name}`: changes only what detected boxes become, and none are given",
                    hint="add `--detections FILE`, or leave it out",
                )
    files = [source / _WHOLE]
    if not files[0].is_file():
        files = [source / name for name in _PARTS if (source / name).is_file()]
        for name in _PARTS:
            if files and source / name not in files:
                log.warning("%s is not there: train goes without it", source / name)
    detections = None
    if options.detections is not None:
        detections = open_detections(options.detections, options.categories)
    own = (source, source / "images", source / "coco")
    roots = image_roots(own, extra_roots, photograph_places(source))
    reads = {"train": files, "train80k": [source / _SUBSET]}
    splits: dict[str, Callable[[], SplitRecords]] = {
        name: partial(_read, source, paths, detections, options.faithful, roots)
        for name, paths in reads.items()
        if paths and paths[0].is_file()
    }
    if not splits:
        error = missing_files(source, SPEC.title, _EXPECTS)
        if (source / _MIXTURE).is_file():
            error.hint = f"`{_MIXTURE}` is another mixture and not read; get `{_WHOLE}`"
        raise error
    on_request = ("train80k",) if "train" in splits else ()
    return OpenSource(
        folder=source,
        roots=roots,
        splits=splits,
        on_request=on_request,
        official=_OFFICIAL if files == [source / _WHOLE] else {},
    )


def build(draft: Draft, picture: Picture) -> Built:
    """Turn one photograph's records into dialogues."""
    built = Built()
    payload = msgspec.convert(draft.payload, Payload)
    alone: dict[int, ObjectClass] = {}
    if payload.boxes is not None:
        alone = place_boxes(payload.boxes, draft, picture, built)
    lexicon = Lexicon({} if picture.is_faithful else alone)
    listed = ", ".join(
        f"{mention(i + 1)} ({escape(region.label or '')})" for i, region in enumerate(built.regions)
    )
    for file, number, raw in payload.records:
        dialogue = _dialogue(raw, {"file": file, "record": f"[{number}]"}, draft)
        if isinstance(dialogue, Rejection):
            built.rejections.append(dialogue)
            continue
        conversation_id = f"{PurePosixPath(file).stem}/{number}"
        place = f"{conversation_id}:0"
        turns = []
        if listed and picture.phraser.toss(place):
            first, *rest = with_mentions(dialogue, lexicon)
            asked = picture.phraser.ask("named-regions", place, regions=listed, question=first)
            turns = [asked, *(_turn(i + 1, text) for i, text in enumerate(rest))]
        else:
            turns = [_turn(i, escape(said.text)) for i, said in enumerate(dialogue)]
        built.conversations.append(
            Conversation(
                id=conversation_id,
                task="dialogue",
                independent=False,
                source=Source(file=file, record=f"[{number}]"),
                turns=tuple(turns),
            )
        )
    built.num_converted = len(built.conversations)
    return built


def _turn(index: int, text: str) -> Turn:
    return Turn(role="assistant" if index % 2 else "user", text=text)


def _dialogue(raw: bytes, where: dict[str, str], draft: Draft) -> list[Utterance] | Rejection:
    """Decode one record and check that it is a dialogue."""
    record = decode_record(_records, raw, **where, native_id=draft.native_id)
    if isinstance(record, Rejection):
        return record
    dialogue = []
    for i, said in enumerate(record.conversations):
        path = f"conversations[{i}]"
        expected = "gpt" if i % 2 else "human"
        if said.speaker != expected:
            message = f"{path}.from: expected `{expected}`, got `{said.speaker[:40]}`"
            return reject("E_TURN_ORDER", message, **where, native_id=draft.native_id)
        text = _clean(said.value)
        if not text:
            message = f"{path}.value: expected a text, got none"
            return reject("E_PHRASE_EMPTY", message, **where, native_id=draft.native_id)
        dialogue.append(Utterance(text=text, is_answer=bool(i % 2)))
    if not dialogue or len(dialogue) % 2:
        message = f"conversations: expected a last answer of `gpt`, got {len(dialogue)} turns"
        return reject("E_TURN_ORDER", message, **where, native_id=draft.native_id)
    return dialogue


def _clean(text: str) -> str:
    """Take the image's token out and tidy white space; answers keep their lines and paragraphs."""
    text = _BLANKS.sub(" ", text.replace("\r\n", "\n").replace(_IMAGE_TOKEN, " "))
    return _PARAGRAPHS.sub("\n\n", _LINES.sub("\n", text)).strip()


def _read(
    source: Path,
    files: list[Path],
    detection_file: DetectionFile | None,
    is_faithful: bool,
    roots: ImageRoots,
) -> SplitRecords:
    """Group the files' records by photograph and give each its boxes."""
    groups: dict[int, list[tuple[str, int, memoryview]]] = {}
    strays: list[Rejection] = []
    for path in files:
        file = relative_name(path, source)
        for i, raw in enumerate(read_list(path)):
            where = {"file": file, "record": f"[{i}]"}
            record = decode_record(_images, raw, **where)
            if isinstance(record, Rejection):
                strays.append(record)
                continue
            number = photograph_id(record.image)
            if not safe_name(record.image):
                message = f"image: `{record.image[:200]}` leaves the image folder"
                strays.append(reject("E_NAME_UNSAFE", message, **where))
            elif number is None:
                name = record.image[:200]
                message = f"image: expected a COCO name as 000000033471.jpg, got `{name}`"
                strays.append(reject("E_IMAGE_UNKNOWN", message, **where))
            else:
                # This points into the mapped file; it becomes bytes when the draft is written.
                groups.setdefault(number, []).append((file, i, memoryview(raw)))
    detections = Detections(names=[], synonyms=[])
    classes: list[ObjectClass] = []
    source_files = list(files)
    name = ""
    if detection_file is not None:
        detections = read_detections(detection_file, {f"coco:{number}" for number in groups})
        _tell_found(detection_file, detections, groups)
        classes = name_classes(detection_file, detections, is_faithful)
        name = detection_file.path.name
        source_files += filter(None, (detection_file.path, detection_file.categories_path))
    drafts = []
    for number, records in groups.items():
        key = f"coco:{number}"
        boxes = pack_boxes(detections, key, classes, is_faithful, name)
        rejections = [
            msgspec.structs.replace(rejection, native_id=key)
            for rejection in detections.rejections.get(key, ())
        ]
        drafts.append(_draft(number, records, boxes, rejections, roots))
    strays += detections.strays
    return SplitRecords(drafts=drafts, rejections=strays, source_files=tuple(source_files))


def _tell_found(
    file: DetectionFile,
    detections: Detections,
    groups: dict[int, list[tuple[str, int, memoryview]]],
) -> None:
    if not detections.num_images and not detections.strays:
        raise UsageError(
            f"`{file.path}`: expected boxes of LLaVA's photographs, found no box at all",
            hint=f"boxes with scores above {MIN_SCORE:g} are taken: make the table with a lower "
            "`roikit label --threshold` or another detector, or leave `--detections` out",
        )
    if groups and not detections.found and not detections.rejections:
        raise UsageError(
            f"`{file.path}`: expected boxes of LLaVA's photographs, found "
            f"{detections.num_images:,} pictures and none of them among {len(groups):,}",
            hint="pictures are matched by COCO's names or ids: 000000033471.jpg, coco:33471, 33471",
        )
    log.info("%s: boxes for %d of %d photographs", file.path, len(detections.found), len(groups))


def _draft(
    number: int,
    records: list[tuple[str, int, memoryview]],
    boxes: Boxes | None,
    rejections: list[Rejection],
    roots: ImageRoots,
) -> Draft:
    name = f"{number:012d}.jpg"
    older = f"COCO_train2014_{name}"
    names = (f"train2017/{name}", name, f"train2014/{older}", older)
    found = roots.find(names)
    file, place, _ = records[0]
    return Draft(
        group=str(number),
        file=found[1] if found else names[0],
        native_id=f"coco:{number}",
        root=found[0] if found else None,
        num_bytes=found[2] if found else 0,
        image_wh=None,
        source_file=file,
        record=f"[{place}]",
        num_records=len(records) + len(rejections),
        payload=Payload(records=records, boxes=boxes),  # type: ignore[arg-type]
        rejections=tuple(rejections),
    )


SPEC = DatasetSpec(
    name="llava",
    title="LLaVA-Instruct-150K",
    version=3,
    expects=_EXPECTS,
    families=("named-regions",),
    open_source=open_source,
    build=build,
    options=("detections", "categories", "faithful"),
    # Source: GPT4RoI `gpt4roi/configs/stage2.py`; the card of liuhaotian/LLaVA-Instruct-150K.
    stage="2",
    licence=Licence(
        annotations="CC BY 4.0; written by GPT-4, so OpenAI's terms apply to their use",
        pictures="COCO's, a Flickr licence each",
    ),
    registration=None,
    published=_OFFICIAL,
)
