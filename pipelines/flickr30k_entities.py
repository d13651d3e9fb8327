"""Read the original form of Flickr30k Entities: a file of sentences and one of boxes an image.

In: `{train,val,test}.txt` (an image id a line), `Sentences/<id>.txt` (a caption a line, its phrases
in brackets with the chain they belong to), `Annotations/<id>.xml` (boxes, each with the chains it
belongs to). Out: drafts. A chain's boxes become one referent, which is what the reference trains
on, or one each.

Source: README of BryanPlummer/flickr30k_entities. Chain ids are not known to be unique beyond an
image and are never used beyond one; chain 0 is `notvisual`, a phrase each, never one thing.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.annotations import read_lines
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
from pipelines.flickr30k_xml import XmlAnnotation, XmlObject, parse_annotation
from pipelines.images import Box as Xyxy
from pipelines.images import ImageRoots
from pipelines.rejections import reject
from roikit.sample import Rejection

ANNOTATIONS = "Annotations"
SENTENCES = "Sentences"

_NOT_VISUAL = "0"
_MARK = "[/EN#"
_OPENING = re.compile(r"\[/EN#([0-9]{1,18})(/[^\s/]+)*")
_NUMBER = re.compile(r"[0-9]{1,18}")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
#: The official files hold a few kilobytes; some of the work grows with the square of theirs.
_MAX_FILE_BYTES = 256 << 10


def read_entities(
    source: Path, split: str, roots: ImageRoots, *, is_separate: bool, is_first: bool
) -> SplitRecords:
    """Read one split.

    Args:
        source: folder with the lists and the two folders of files.
        split: one of the three.
        roots: folders of pictures.
        is_separate: every box becomes a referent of its own, not every chain.
        is_first: what is wrong with the list of unrelated captions is counted with this split.
    """
    path = source / f"{split}.txt"
    unrelated, faults = read_unrelated(source)
    strays = faults if is_first else []
    drafts: list[Draft] = []
    seen: set[str] = set()
    num_captions: dict[str, int] = {}
    for number, raw in read_lines(path):
        image_id = bytes(raw).decode("utf-8", "replace").strip()
        where = {"file": path.name, "record": f"line {number}"}
        if not _NUMBER.fullmatch(image_id):
            message = f"expected an image id, a number, got `{image_id[:60]}`"
            strays.append(reject("E_FIELD_TYPE", message, **where))
        elif image_id in seen:
            message = f"image {image_id} occurs twice"
            strays.append(reject("E_RECORD_DUPLICATE", message, **where))
        else:
            seen.add(image_id)
            entry = _Entry(image_id, unrelated, is_separate)
            drafts.append(locate(entry.draft(source, **where), split, roots))
            if entry.num_captions is not None:
                num_captions[image_id] = entry.num_captions
    tell_of_missing_captions(path.name, num_captions)
    # The 63,000 small files are not listed one by one: what was read in them is in the plan's hash.
    return SplitRecords(
        drafts=drafts,
        rejections=strays,
        source_files=(path, *unrelated_file(source)),
        kinds={"captions": sum(num_captions.values())},
    )


@dataclass(slots=True)
class _Entry:
    """One image while its two files are being joined."""

    image_id: str
    unrelated: set[tuple[str, int]]
    is_separate: bool
    image_wh: tuple[int, int] | None = None
    payload: Payload = field(init=False)
    rejections: list[Rejection] = field(default_factory=list)
    #: chain to its referents; a chain without a box has none
    chains: dict[str, list[int]] = field(default_factory=dict)
    num_captions: int | None = None  #: the bad ones, too; None where the file cannot be read

    def __post_init__(self) -> None:
        self.payload = Payload(
            captions_file=f"{SENTENCES}/{self.image_id}.txt",
            boxes_file=f"{ANNOTATIONS}/{self.image_id}.xml",
        )

    def draft(self, source: Path, *, file: str, record: str) -> Draft:
        """Read both files; `file` and `record` say where the image is listed."""
        is_known = self._read_boxes(source)
        self._read_captions(source, is_known)
        num_usable = len(self.payload.boxes) + len(self.payload.captions)
        return Draft(
            group=self.image_id,
            file=f"{self.image_id}.jpg",
            native_id=native_id(self.image_id),
            root=None,
            num_bytes=0,
            image_wh=self.image_wh,
            source_file=file,
            record=record,
            num_records=num_usable + len(self.rejections),
            payload=self.payload,
            rejections=tuple(self.rejections),
        )

    def _reject(self, code: str, message: str, file: str, record: str) -> None:
        where = {"file": file, "record": record, "native_id": native_id(self.image_id)}
        self.rejections.append(reject(code, message, **where))

    def _read_boxes(self, source: Path) -> bool:
        """Read the XML; tell whether the chains are known now."""
        name = self.payload.boxes_file
        try:
            annotation = _parse(f"{source}/{name}")
        except _Fault as fault:
            self._reject(fault.code, str(fault), name, "the file")
            return False
        try:
            size = annotation.size
            self.image_wh = image_wh_of(size.get("width"), size.get("height"))
        except ValueError as error:
            self._reject("E_FIELD_TYPE", str(error), name, "size")
        for i, entry in enumerate(annotation.objects):
            chains = [chain.lstrip("0") or _NOT_VISUAL for chain in entry.names]
            for chain in chains:
                self.chains.setdefault(chain, [])
            try:
                box_xyxy = _box(entry)
            except _Fault as fault:
                self._reject(fault.code, str(fault), name, f"object[{i}]")
                continue
            if box_xyxy is not None:
                self._add_box(Box(f"object[{i}]", box_xyxy), chains)
        return True

    def _add_box(self, box: Box, chains: Sequence[str]) -> None:
        index = len(self.payload.boxes)
        self.payload.boxes.append(box)
        referents = self.payload.referents
        if self.is_separate:
            referents.append(Referent(",".join(chains), [index]))
        for chain in dict.fromkeys(chains):
            own = self.chains[chain]
            if self.is_separate:
                own.append(len(referents) - 1)
            elif own:
                referents[own[0]].boxes.append(index)
            else:
                own.append(len(referents))
                referents.append(Referent(chain, [index]))

    def _read_captions(self, source: Path, is_known: bool) -> None:
        name = self.payload.captions_file
        try:
            data = _read_bytes(f"{source}/{name}")
        except _Fault as fault:
            self._reject(fault.code, str(fault), name, "the file")
            return
        number = 0
        missing: dict[str, str] = {}
        for i, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n")):
            if not line.strip():
                continue
            number += 1
            record = f"line {i + 1}"
            if (self.image_id, number) in self.unrelated:
                where = {"file": name, "record": record}
                self.rejections.append(unrelated_caption(self.image_id, number, **where))
                self.payload.num_unrelated += 1
                continue
            try:
                text, marked = _parse_line(line)
            except _Fault as fault:
                self._reject(fault.code, str(fault), name, record)
                continue
            caption = Caption(record, number, text, [])
            self.payload.captions.append(caption)
            for start, end, chain in marked:
                if chain == _NOT_VISUAL:
                    continue
                if chain not in self.chains:
                    missing.setdefault(chain, f"{record}: `{text[start:end][:60]}`")
                elif self.chains[chain]:
                    caption.phrases.append(Phrase(start, end, self.chains[chain]))
        self.num_captions = number
        if is_known:
            self._reject_missing(missing)

    def _reject_missing(self, missing: dict[str, str]) -> None:
        """Say which chains the XML does not know; their words stay in the captions."""
        for chain, where in missing.items():
            message = f"chain {chain} ({where}) is in no object of {self.payload.boxes_file}"
            record = f"chain {chain}"
            self._reject("E_REF_NO_ANNOTATION", message, self.payload.captions_file, record)


def parse_sentence(line: str) -> tuple[str, list[tuple[int, int, str]]]:
    """Take the marks out of one line of a file of sentences.

    Returns:
        The caption, its words set apart by single blanks, and of each phrase the first character,
        the end, and the chain.

    Raises:
        ValueError: a mark is not of the form, or not closed; the message says which.
    """
    words: list[str] = []
    phrases: list[tuple[int, int, str]] = []
    chain: str | None = None
    start = first = length = 0
    for token in line.split():
        if token.startswith(_MARK):
            opening = _OPENING.fullmatch(token)
            if opening is None or chain is not None:
                what = "inside another phrase" if opening else "which is no mark"
                raise ValueError(f"expected `{_MARK}chain/type words]`, got `{token[:60]}`, {what}")
            chain = opening[1].lstrip("0") or _NOT_VISUAL
            start, first = length, len(words)
            continue
        is_last = chain is not None and token.endswith("]")
        word = token[:-1] if is_last else token
        if word:
            words.append(word)
            length += len(word) + 1
        if is_last and chain is not None:
            if first == len(words):
                raise ValueError(f"expected words after `{_MARK}{chain}`, got none")
            phrases.append((start, length - 1, chain))
            chain = None
    if chain is not None:
        raise ValueError(f"expected a `]` that ends the phrase of chain {chain}, got none")
    return " ".join(words), phrases


class _Fault(Exception):
    """A record cannot be used: the code and the message that it is rejected with."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _parse_line(line: bytes) -> tuple[str, list[tuple[int, int, str]]]:
    try:
        text, phrases = parse_sentence(line.decode())
    except UnicodeDecodeError as error:
        raise _Fault("E_FIELD_TYPE", f"expected UTF-8: {error}") from error
    except ValueError as error:
        raise _Fault("E_FIELD_TYPE", str(error)) from error
    if not text:
        raise _Fault("E_PHRASE_EMPTY", "expected a caption, got none")
    return text, phrases


def _parse(path: str) -> XmlAnnotation:
    data = _read_bytes(path)
    try:
        return parse_annotation(data)
    except ValueError as error:
        message = f"{error}; the image's captions are kept, without boxes"
        raise _Fault("E_XML_INVALID", message) from error


def _read_bytes(path: str) -> bytes:
    """Return a small file's bytes. Unbuffered: there are 63,000 of them."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (a Path costs more than the read)
            data = file.read(_MAX_FILE_BYTES + 1) or b""
    except OSError as error:
        message = f"expected the image's file of annotations.zip: {error.strerror or error}"
        raise _Fault("E_METADATA_MISSING", message) from error
    if len(data) > _MAX_FILE_BYTES:
        message = f"expected a file of at most {_MAX_FILE_BYTES:,} bytes, found a larger one"
        raise _Fault("E_VALUE_RANGE", message)
    return data


def _box(entry: XmlObject) -> Xyxy | None:
    """Return an object's box; None where it has none on purpose."""
    if not entry.names:
        raise _Fault("E_FIELD_MISSING", "missing `name`, the chain it belongs to")
    for name in entry.names:
        if not _NUMBER.fullmatch(name):
            raise _Fault("E_FIELD_TYPE", f"name: expected a chain's number, got `{name[:60]}`")
        if not name.strip("0"):
            raise _Fault("E_VALUE_RANGE", "name: chain 0 is `notvisual` and cannot have a box")
    if not entry.corners:
        if entry.is_flagged:
            return None
        message = "missing `bndbox`, and neither `scene` nor `nobndbox` is 1"
        raise _Fault("E_FIELD_MISSING", message)
    return half_open(*(_corner(entry, name) for name in _CORNERS))


def _corner(entry: XmlObject, name: str) -> float:
    if name not in entry.corners:
        raise _Fault("E_FIELD_MISSING", f"bndbox: missing `{name}`")
    text = entry.corners[name]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _Fault("E_FIELD_TYPE", f"bndbox.{name}: expected a number, got `{text[:60]}`")
    return value
