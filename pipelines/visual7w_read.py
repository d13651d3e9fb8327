"""Read Visual7W's files: questions and boxes, joined by image.

In: the files that `pipelines/visual7w.py` found. Out: one draft an image. Pictures are not opened.

Source: the dataset's own README (github.com/yukezhu/visual7w-toolkit) and loaders that read its
files. The answer is not among the `multiple_choices`. Pointing questions name boxes by `box_id`;
groundings name the telling question they belong to by `qa_id`.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from pipelines.annotations import Raw, clean_text, decode_record, read_table
from pipelines.draft import Draft, SplitRecords
from pipelines.images import ImageRoots, safe_name
from pipelines.rejections import reject
from pipelines.source import relative_name
from pipelines.visual7w_record import Box, Kind, Payload, Question
from pipelines.visual_genome_images import VgImage, photograph_id, read_images
from roikit.prompt import MAX_OPTIONS
from roikit.sample import Rejection

log = logging.getLogger(__name__)

TELLING_BOXES = "v7w_telling_answers.json"
POINTING_BOXES = "v7w_pointing_answers.json"
ALL_BOXES = "dataset_v7w_grounding_annotations.json"
SPLITS = ("train", "val", "test")


class _Image(msgspec.Struct, gc=False):
    image_id: int
    filename: str
    split: Literal["train", "val", "test"]
    qa_pairs: list[msgspec.Raw]


class _Telling(msgspec.Struct, gc=False):
    qa_id: int
    question: str
    answer: str
    multiple_choices: list[str]


class _Pointing(msgspec.Struct, gc=False):
    qa_id: int
    question: str
    answer: int
    multiple_choices: list[int]


class _Numbered(msgspec.Struct, gc=False):
    qa_id: int


class _Options(msgspec.Struct, gc=False):
    answer: int
    multiple_choices: list[int]


class _Asked(msgspec.Struct, gc=False):
    qa_pairs: list[msgspec.Raw]


class _Box(msgspec.Struct, gc=False):
    x: float
    y: float
    width: float
    height: float
    name: str | None = None
    box_id: int | None = None
    qa_id: int | None = None


_images = msgspec.json.Decoder(_Image)
_telling = msgspec.json.Decoder(_Telling)
_pointing = msgspec.json.Decoder(_Pointing)
_numbered = msgspec.json.Decoder(_Numbered)
_options = msgspec.json.Decoder(_Options)
_asked = msgspec.json.Decoder(_Asked)
_boxes = msgspec.json.Decoder(_Box)


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """Where a source's files lie; what is not there is None."""

    source: Path
    telling: Path | None
    pointing: Path | None
    groundings: tuple[Path, ...]  #: called `TELLING_BOXES`, `POINTING_BOXES` or `ALL_BOXES`
    vg_images: Path | None  #: Visual Genome's image_data.json

    def name(self, path: Path) -> str:
        """Return the file's name below the source folder."""
        return relative_name(path, self.source)


def read_split(files: Files, split: str, roots: ImageRoots) -> SplitRecords:
    """Read everything that belongs to one split.

    What belongs to no image is the same for every split: it is counted with the first only.
    """
    reading = _Reading(files=files, split=split)
    tables = {
        path: read_table(path, ("images",), ("boxes",))
        for path in (files.telling, files.pointing)
        if path is not None
    }
    if files.pointing is not None:
        for i, raw in enumerate(tables[files.pointing].get("boxes", [])):
            reading.add_box(raw, files.name(files.pointing), f"boxes[{i}]")
    if files.telling is not None:
        reading.add_images(tables[files.telling]["images"], files.telling, "telling")
    if files.pointing is not None and any(path.name == ALL_BOXES for path in files.groundings):
        reading.know_options(tables[files.pointing]["images"])
    for path in files.groundings:
        for i, raw in enumerate(read_table(path, ("boxes",))["boxes"]):
            if path.name == POINTING_BOXES:
                reading.add_box(raw, files.name(path), f"boxes[{i}]", is_repeat=True)
            else:
                is_mixed = path.name == ALL_BOXES
                reading.add_grounding(raw, files.name(path), f"boxes[{i}]", is_mixed=is_mixed)
    if files.pointing is not None:
        reading.add_images(tables[files.pointing]["images"], files.pointing, "pointing")
    reading.tell_of_images_in_two_splits()
    vg_images: dict[int, VgImage] = {}
    if files.vg_images is not None:
        vg_images, unread = read_images(files.vg_images)
        if unread:
            log.warning("%s: %d images cannot be read", files.vg_images, len(unread))
    paths = (*tables, *files.groundings, files.vg_images)
    strays = reading.strays if split == SPLITS[0] else []
    return SplitRecords(
        drafts=[_draft(e, vg_images.get(e.image.image_id), roots) for e in reading.entries()],
        rejections=strays + reading.own_strays,
        source_files=tuple(path for path in paths if path is not None),
        kinds={f"{kind} questions": number for kind, number in reading.num_questions.items()},
    )


@dataclass(kw_only=True, slots=True)
class _Entry:
    """One image while its questions and boxes are being joined."""

    image: _Image
    file: str
    record: str
    payload: Payload = field(default_factory=Payload)
    places: dict[int, int] = field(default_factory=dict)  #: box id to its place in the payload
    num_records: int = 0
    rejections: list[Rejection] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class _Reading:
    """One split while its files are being read."""

    files: Files
    split: str
    gathered: dict[int, _Entry] = field(default_factory=dict)
    boxes: dict[int, Box] = field(default_factory=dict)  #: options of pointing questions, by id
    #: telling questions' image by `qa_id`; None where it is of another split
    owners: dict[int, int | None] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)  #: telling questions whose image cannot be read
    option_ids: set[int] = field(default_factory=set)  #: boxes that pointing questions name
    splits: dict[int, dict[Kind, str]] = field(default_factory=dict)
    strays: list[Rejection] = field(default_factory=list)  #: of no split
    own_strays: list[Rejection] = field(default_factory=list)  #: of this split, but of no image
    num_questions: dict[Kind, int] = field(default_factory=dict)  #: the bad ones, too

    def entries(self) -> Sequence[_Entry]:
        """Return the split's images."""
        return list(self.gathered.values())

    def add_box(self, raw: Raw, file: str, record: str, *, is_repeat: bool = False) -> None:
        """Keep a box that pointing questions may name; a second file may repeat the first's."""
        box = decode_record(_boxes, raw, file=file, record=record)
        if isinstance(box, Rejection):
            self.strays.append(box)
        elif box.box_id is None:
            message = "missing field `box_id`"
            self.strays.append(reject("E_FIELD_MISSING", message, file=file, record=record))
        elif box.box_id not in self.boxes:
            self.boxes[box.box_id] = _carried(box, file, record, is_grounding=False)
        elif not is_repeat:
            message = f"box_id {box.box_id} occurs twice"
            self.strays.append(reject("E_RECORD_DUPLICATE", message, file=file, record=record))

    def add_grounding(self, raw: Raw, file: str, record: str, *, is_mixed: bool) -> None:
        """Give a box to its telling question's image; in a mixed file it may be a pointing one.

        There the box's own id decides: both kinds of questions are numbered from the start.
        """
        where = {"file": file, "record": record}
        box = decode_record(_boxes, raw, **where)
        if isinstance(box, Rejection):
            self.strays.append(box)
        elif is_mixed and box.box_id in self.option_ids:
            self._keep_option(box, file, record)
        elif box.qa_id is not None and box.qa_id in self.owners:
            owner = self.owners[box.qa_id]
            if owner is None:
                return
            entry = self.gathered[owner]
            carried = _carried(box, file, record, is_grounding=True)
            if carried.name:
                entry.num_records += 1
                entry.payload.boxes.append(carried)
            else:
                message = "name: expected an object's name, got none"
                self._put(entry, reject("E_PHRASE_EMPTY", message, **where))
        elif box.qa_id in self.lost:
            message = f"qa_id {box.qa_id}: its entry in `images` cannot be read"
            self.strays.append(reject("E_IMAGE_UNKNOWN", message, **where))
        elif is_mixed and box.box_id is not None:
            self._keep_option(box, file, record)
        elif self.files.telling is not None:
            message = f"qa_id {box.qa_id} is no question's"
            self.strays.append(reject("E_IMAGE_UNKNOWN", message, **where))

    def know_options(self, raws: list[Raw]) -> None:
        """Note, for all splits, which boxes pointing questions name; bad records name none."""
        for raw in raws:
            for question in _questions_of(raw):
                options = decode_record(_options, question, file="", record="")
                if not isinstance(options, Rejection):
                    self.option_ids.update((options.answer, *options.multiple_choices))

    def add_images(self, raws: list[Raw], path: Path, kind: Kind) -> None:
        """Add one file's images with their questions."""
        file = self.files.name(path)
        seen: set[int] = set()
        seen_questions: set[int] = set()
        self.num_questions[kind] = 0
        for i, raw in enumerate(raws):
            where = {"file": file, "record": f"images[{i}]"}
            image = decode_record(_images, raw, **where)
            if isinstance(image, Rejection):
                self.strays.append(image)
                if kind == "telling":
                    self.lost.update(_question_ids(_questions_of(raw)))
                continue
            is_ours = image.split == self.split
            if image.image_id in seen:
                if is_ours:
                    message = f"image_id {image.image_id} occurs twice"
                    self.own_strays.append(reject("E_RECORD_DUPLICATE", message, **where))
                if kind == "telling":
                    self._know_questions(image)
                continue
            seen.add(image.image_id)
            self.splits.setdefault(image.image_id, {})[kind] = image.split
            if not is_ours:
                if kind == "telling":
                    self._know_questions(image)
                continue
            entry = self.gathered.get(image.image_id)
            if entry is None:
                entry = _Entry(image=image, file=file, record=f"images[{i}]")
                self.gathered[image.image_id] = entry
            self.num_questions[kind] += len(image.qa_pairs)
            for j, question in enumerate(image.qa_pairs):
                record = f"images[{i}].qa_pairs[{j}]"
                self._add_question(entry, question, kind, file, record, seen_questions)

    def tell_of_images_in_two_splits(self) -> None:
        """Warn, once, of images that the two files put into different splits."""
        num = sum(len(set(splits.values())) > 1 for splits in self.splits.values())
        if num and self.split == SPLITS[0]:
            log.warning(
                "%d images are in one split of telling and in another of pointing: they stand in"
                " both, and `roikit leaks` counts them", num,
            )  # fmt: skip

    def _know_questions(self, image: _Image) -> None:
        """Note questions that are not converted, so that their groundings are not taken for lost.

        Where an image is listed twice, those of its second entry still speak of its picture.
        """
        owner = image.image_id if image.image_id in self.gathered else None
        for qa_id in _question_ids(image.qa_pairs):
            self.owners.setdefault(qa_id, owner)

    def _add_question(
        self, entry: _Entry, raw: Raw, kind: Kind, file: str, record: str, seen: set[int]
    ) -> None:
        where = {"file": file, "record": record}
        asked: _Telling | _Pointing | Rejection
        if kind == "telling":
            asked = decode_record(_telling, raw, **where)
        else:
            asked = decode_record(_pointing, raw, **where)
        if kind == "telling":
            for qa_id in _question_ids([raw]):
                if self.owners.get(qa_id) is None:
                    self.owners[qa_id] = entry.image.image_id
        if isinstance(asked, Rejection):
            self._put(entry, asked)
            return
        if asked.qa_id in seen:
            message = f"qa_id {asked.qa_id} occurs twice"
            self._put(entry, reject("E_RECORD_DUPLICATE", message, **where))
            return
        seen.add(asked.qa_id)
        options = self._options(entry, asked, where)
        text = clean_text(asked.question)
        if isinstance(options, Rejection):
            self._put(entry, options)
        elif not text:
            message = "question: expected a text, got none"
            self._put(entry, reject("E_PHRASE_EMPTY", message, **where))
        else:
            entry.num_records += 1
            question = Question(kind, file, record, str(asked.qa_id), text, options)
            entry.payload.questions.append(question)

    def _options(
        self, entry: _Entry, asked: _Telling | _Pointing, where: dict[str, str]
    ) -> list[str | int] | Rejection:
        """Return a question's options, the right one first, or say what is wrong with them."""
        given: list[str] | list[int]
        if isinstance(asked, _Telling):
            given = [clean_text(text) for text in (asked.answer, *asked.multiple_choices)]
        else:
            given = [asked.answer, *asked.multiple_choices]
        if not 2 <= len(given) <= MAX_OPTIONS:
            message = f"multiple_choices: expected three, got {len(given) - 1}"
            return reject("E_VALUE_RANGE", message, **where)
        # Compared as the official evaluation does.
        if str(given[0]).lower() in (str(option).lower() for option in given[1:]):
            message = f"the answer `{given[0]}` is among the wrong `multiple_choices` too"
            return reject("E_OPTIONS_AMBIGUOUS", message, **where)
        options: list[str | int] = []
        for option in given:
            if isinstance(option, str) and not option:
                return reject("E_PHRASE_EMPTY", "an option is empty", **where)
            if isinstance(option, int):
                if option not in self.boxes:
                    message = f"box_id {option} is not in `boxes`, or cannot be read there"
                    return reject("E_REF_NO_ANNOTATION", message, **where)
                if option not in entry.places:
                    entry.places[option] = len(entry.payload.boxes)
                    entry.payload.boxes.append(self.boxes[option])
                option = entry.places[option]
            options.append(option)
        return options

    def _keep_option(self, box: _Box, file: str, record: str) -> None:
        assert box.box_id is not None
        self.boxes.setdefault(box.box_id, _carried(box, file, record, is_grounding=False))

    def _put(self, entry: _Entry, rejection: Rejection) -> None:
        entry.num_records += 1
        entry.rejections.append(rejection)


def _questions_of(raw: Raw) -> Sequence[Raw]:
    """Return an image's questions, where they can be read at all."""
    asked = decode_record(_asked, raw, file="", record="")
    return [] if isinstance(asked, Rejection) else asked.qa_pairs


def _question_ids(raws: Sequence[Raw]) -> Iterator[int]:
    for raw in raws:
        numbered = decode_record(_numbered, raw, file="", record="")
        if not isinstance(numbered, Rejection):
            yield numbered.qa_id


def _carried(box: _Box, file: str, record: str, *, is_grounding: bool) -> Box:
    return Box(
        file=file,
        record=record,
        id=None if box.box_id is None else str(box.box_id),
        name=clean_text(box.name or ""),
        bbox_xywh=(box.x, box.y, box.width, box.height),
        is_grounding=is_grounding,
    )


def _draft(entry: _Entry, vg_image: VgImage | None, roots: ImageRoots) -> Draft:
    image = entry.image
    names = (image.filename, f"images/{image.filename}")
    found = roots.find(names) if safe_name(image.filename) else None
    native_id = photograph_id(image.image_id, vg_image)
    return Draft(
        group=str(image.image_id),
        file=found[1] if found else image.filename,
        native_id=native_id,
        root=found[0] if found else None,
        num_bytes=found[2] if found else 0,
        image_wh=vg_image.image_wh if vg_image else None,
        source_file=entry.file,
        record=entry.record,
        num_records=entry.num_records,
        payload=entry.payload,
        rejections=tuple(msgspec.structs.replace(r, native_id=native_id) for r in entry.rejections),
    )
