"""Your own boxes and dialogues, one JSON object a line; docs/your-own-data.md describes the form.

Reads every `.jsonl` file of a folder, or one file. Regions with a label that no conversation speaks
of become one independent `category` conversation, captions one independent `caption` conversation;
conversations are kept as they are written, as `dialogue`, or as `choice` where they end with
`options`. Lines about the same picture become one sample.

Fields are checked strictly: a field that is misspelt would be lost without a word.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import msgspec

from pipelines.annotations import Int64, clean_text, decode_record, read_lines
from pipelines.draft import (
    Built,
    DatasetSpec,
    Draft,
    Licence,
    OpenSource,
    Picture,
    SourceOptions,
    SplitRecords,
)
from pipelines.images import ImageRoots, image_roots, match_frame, safe_name
from pipelines.jsonl_boxes import BoxFormat, corners_in_pixels, point_in_pixels
from pipelines.jsonl_text import Problem, read_turns
from pipelines.masks import with_mask
from pipelines.rejections import reject
from roikit.boxes import around_point
from roikit.errors import UsageError
from roikit.mentions import escape, mention, mentioned
from roikit.sample import Choice, Conversation, Region, Rejection, Source, Task, Turn
from shards.layout import check_name

_EXPECTS = ("train.jsonl", "val.jsonl")
_BOM = b"\xef\xbb\xbf"
_HINT = "docs/your-own-data.md shows the form"


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    image: str
    regions: list[msgspec.Raw] = []
    conversations: list[msgspec.Raw] = []
    box_format: BoxFormat = "xyxy"
    split: str | None = None
    id: str | Int64 | None = None
    native_id: str | None = None


class _Region(msgspec.Struct, forbid_unknown_fields=True):
    box: tuple[float, float, float, float] | None = None
    point: tuple[float, float] | None = None
    mask: msgspec.Raw = msgspec.Raw()
    label: str | None = None
    caption: str | None = None
    phrase: str | None = None  #: Visual Genome's name of a caption


class _Divided(msgspec.Struct):
    split: str | None = None


class Line(msgspec.Struct, array_like=True):
    """One line, not decoded yet, on its way from the plan to the task."""

    file: str
    number: int  #: from 1
    name: str  #: the user's id, or file and number
    data: bytes


class Payload(msgspec.Struct, array_like=True):
    """One picture's lines."""

    lines: list[Line]


_lines = msgspec.json.Decoder(_Line)
_regions = msgspec.json.Decoder(_Region)
_divided = msgspec.json.Decoder(_Divided)


def open_source(source: Path, extra_roots: Sequence[Path], options: SourceOptions) -> OpenSource:
    """Find the lines' files, and the splits that they hold.

    A line belongs to the split it names, or to the one its file is called after.

    Raises:
        UsageError: no such folder or file, or a file's name cannot be a split's.
    """
    files = _find_files(source)
    found: dict[str, list[Path]] = {}
    for path in files:
        check_name(path.stem, f"`{path}`: the file's name is the name of a split")
        for _, line in _read_lines(path):
            holders = found.setdefault(_split_of(line, path), [])
            if path not in holders:
                holders.append(path)
    found = found or {files[0].stem: [files[0]]}
    folder = files[0].parent
    roots = image_roots((folder, folder / "images"), extra_roots)
    return OpenSource(
        folder=folder,
        roots=roots,
        splits={
            split: partial(_read, found[split], split, roots) for split in sorted(found, key=_rank)
        },
    )


def build(draft: Draft, picture: Picture) -> Built:
    """Turn one picture's lines into regions and conversations."""
    built = Built()
    named: list[tuple[int, str]] = []
    captioned: list[tuple[int, str]] = []
    for entry in msgspec.convert(draft.payload, Payload).lines:
        where = {"file": entry.file, "record": f"line {entry.number}"}
        line = decode_record(_lines, entry.data, **where, native_id=draft.native_id)
        if isinstance(line, Rejection):  # read in the plan; nesting may run deeper here
            built.rejections.append(line)
            continue
        numbers: list[int | None] = []
        own: list[tuple[int, _Region]] = []
        for i, raw in enumerate(line.regions):
            region = _place_region(raw, i, line.box_format, entry, draft, picture, built)
            if isinstance(region, Rejection):
                built.rejections.append(region)
                numbers.append(None)
            else:
                numbers.append(len(built.regions))
                own.append((len(built.regions), region))
        spoken_of = _add_conversations(line, numbers, entry, draft, built)
        for number, region in own:
            captions = (region.caption, region.phrase)
            captioned += [(number, clean_text(text)) for text in captions if text is not None]
            if region.label is not None and number not in spoken_of:
                named.append((number, clean_text(region.label)))
    _add_independent("category", named, draft, picture, built)
    _add_independent("caption", captioned, draft, picture, built)
    if not built.conversations and built.regions:
        message = f"`{draft.file}`: no region has a label or caption, and no conversation is kept"
        where = {"file": draft.source_file, "record": draft.record, "native_id": draft.native_id}
        built.rejections.append(reject("E_IMAGE_UNANNOTATED", message, **where))
        built.num_by_policy = len(built.regions)
    return built


def _place_region(
    raw: msgspec.Raw,
    index: int,
    box_format: BoxFormat,
    entry: Line,
    draft: Draft,
    picture: Picture,
    built: Built,
) -> _Region | Rejection:
    """Check one region and add it to `built`, or say what is wrong with it."""
    where = {
        "file": entry.file,
        "record": f"line {entry.number}, regions[{index}]",
        "native_id": draft.native_id,
    }
    region = decode_record(_regions, raw, **where)
    if isinstance(region, Rejection):
        return region
    for name in ("label", "caption", "phrase"):
        text = getattr(region, name)
        if text is not None and not clean_text(text):
            return reject("E_PHRASE_EMPTY", f"{name}: expected a text, got none", **where)
    header = picture.header
    point_xy: tuple[float, float] | None = None
    if region.point is not None:
        point = point_in_pixels(region.point, box_format, header)
        if isinstance(point, Problem):
            return reject(point.code, point.message, **where)
        point_xy = point
    if region.box is not None:
        box = corners_in_pixels(region.box, box_format, header)
        if isinstance(box, Problem):
            return reject(box.code, box.message, **where)
        corners = box
    elif point_xy is not None:
        corners = around_point(point_xy, (header.width, header.height))
    else:
        return reject("E_FIELD_MISSING", "missing field `box`, or `point` in its place", **where)
    frame = match_frame(header, None)
    assert frame is not None
    placed = frame.place(corners)
    if isinstance(placed, str):
        message = (
            f"box {list(region.box or corners)} ({box_format}) in a picture of {frame.annotated_wh}"
        )
        if box_format == "xyxy" and (corners[2] <= corners[0] or corners[3] <= corners[1]):
            message += '; is it x, y, width, height? then say "box_format": "xywh"'
        return reject(placed, message, **where)
    box_xyxy, is_clipped = placed
    built.num_clipped += is_clipped
    built.num_converted += 1
    label = None if region.label is None else clean_text(region.label)
    placed_region = Region(box_xyxy=box_xyxy, label=label, point_xy=point_xy)
    built.regions.append(
        with_mask(placed_region, bytes(region.mask) or None, frame, built, **where)
    )
    return region


def _add_conversations(
    line: _Line, numbers: Sequence[int | None], entry: Line, draft: Draft, built: Built
) -> set[int]:
    """Add a line's conversations to `built`; return the numbers of the regions they speak of."""
    spoken_of: set[int] = set()
    for i, raw in enumerate(line.conversations):
        record = f"line {entry.number}, conversations[{i}]"
        where = {"file": entry.file, "record": record}
        read = read_turns(raw, numbers, **where)
        if isinstance(read, Rejection):
            rejection = msgspec.structs.replace(read, native_id=draft.native_id)
            built.rejections.append(rejection)
            continue
        conversation_id = f"{entry.name}/{i}"
        choice = None
        if read.options:
            choice = Choice(
                question_id=conversation_id,
                step="answer",
                options=read.options,
                answer=read.answer,
            )
        conversation = Conversation(
            id=conversation_id,
            task="dialogue" if choice is None else "choice",
            independent=False,
            source=Source(**where),
            turns=read.turns,
            choice=choice,
        )
        built.conversations.append(conversation)
        built.num_converted += 1
        for text in (*(turn.text for turn in read.turns), *read.options):
            spoken_of.update(mentioned(text))
    return spoken_of


def _add_independent(
    task: Task, answers: Sequence[tuple[int, str]], draft: Draft, picture: Picture, built: Built
) -> None:
    """Add a list of exchanges about one region each, where there are any."""
    conversation_id = f"{draft.group}/{task}"
    turns: list[Turn] = []
    for number, text in answers:
        place = f"{conversation_id}:{len(turns)}"
        turns.append(picture.phraser.ask(task, place, region=mention(number)))
        turns.append(Turn(role="assistant", text=escape(text)))
    if turns:
        built.conversations.append(
            Conversation(
                id=conversation_id,
                task=task,
                independent=True,
                source=Source(file=draft.source_file, record=draft.record),
                turns=tuple(turns),
            )
        )


def _find_files(source: Path) -> list[Path]:
    wanted = f"a folder with .jsonl files ({', '.join(_EXPECTS)}), or one such file"
    if source.is_file():
        if source.suffix != ".jsonl":
            raise UsageError(f"`{source}`: expected {wanted}, found another file", hint=_HINT)
        return [source]
    if not source.is_dir():
        raise UsageError(f"`{source}`: expected {wanted}, found nothing there", hint=_HINT)
    files = sorted(path for path in source.glob("*.jsonl") if path.is_file())
    if not files:
        names = ", ".join(sorted(path.name for path in source.iterdir())[:8]) or "it empty"
        raise UsageError(f"`{source}`: expected {wanted}, found {names}", hint=_HINT)
    return files


def _rank(split: str) -> tuple[int, str]:
    usual = ("train", "val", "test")
    return (usual.index(split) if split in usual else len(usual), split)


def _read_lines(path: Path) -> list[tuple[int, bytes]]:
    """Read a file's lines; the mark that some editors put at a file's start is no part of one."""
    lines = [(number, bytes(line)) for number, line in read_lines(path)]
    return [(number, data.removeprefix(_BOM) if number == 1 else data) for number, data in lines]


def _split_of(line: bytes, path: Path) -> str:
    """Return the split a line belongs to; a line that cannot say so stays with its file."""
    divided = decode_record(_divided, line, file=path.name, record="")
    if isinstance(divided, Rejection) or divided.split is None:
        return path.stem
    return divided.split if _is_name(divided.split) else path.stem


def _is_name(split: str) -> bool:
    try:
        check_name(split, "split")
    except UsageError:
        return False
    return True


class _Gathered(msgspec.Struct):
    """One picture while its lines are being joined."""

    native_id: str | None
    lines: list[Line]
    num_records: int = 0


def _read(files: Sequence[Path], split: str, roots: ImageRoots) -> SplitRecords:
    """Read one split and join the lines about the same picture."""
    gathered: dict[str, _Gathered] = {}
    ids: set[str] = set()
    strays: list[Rejection] = []
    for path in files:
        for number, data in _read_lines(path):
            if _split_of(data, path) != split:
                continue
            where = {"file": path.name, "record": f"line {number}"}
            line = decode_record(_lines, data, **where)
            if isinstance(line, Rejection):
                strays.append(line)
                continue
            image = PurePosixPath(line.image).as_posix() if line.image else ""
            problem = _problem(line, image, ids, gathered.get(image))
            if problem is not None:
                strays.append(reject(problem.code, problem.message, **where))
                continue
            name = f"{path.stem}:{number}" if line.id is None else str(line.id)
            if line.id is not None:
                ids.add(name)
            entry = gathered.setdefault(image, _Gathered(line.native_id, []))
            entry.native_id = entry.native_id or line.native_id
            entry.lines.append(Line(path.name, number, name, data))
            entry.num_records += len(line.regions) + len(line.conversations)
    drafts = [_draft(image, entry, roots) for image, entry in gathered.items()]
    return SplitRecords(drafts=drafts, rejections=strays, source_files=tuple(files))


def _problem(line: _Line, image: str, ids: set[str], entry: _Gathered | None) -> Problem | None:
    """Say what is wrong with a line as a whole."""
    if not safe_name(image):
        message = (
            "image: expected a path below the folder of pictures, with forward slashes,"
            f" got `{line.image}`"
        )
        return Problem("E_NAME_UNSAFE", message)
    if line.split is not None and not _is_name(line.split):
        message = f"split: expected letters, digits, `_`, `+` and hyphens, got `{line.split}`"
        return Problem("E_FIELD_TYPE", message)
    if line.id is not None and str(line.id) in ids:
        return Problem("E_RECORD_DUPLICATE", f"id: `{line.id}` occurs twice")
    if line.native_id is not None:
        dataset, _, own = line.native_id.partition(":")
        if not dataset or not own:
            message = f"native_id: expected DATASET:ID, e.g. `coco:9`, got `{line.native_id}`"
            return Problem("E_FIELD_TYPE", message)
        if entry is not None and entry.native_id not in (None, line.native_id):
            first = entry.lines[0]
            message = (
                f"native_id: `{image}` is `{entry.native_id}` from {first.file},"
                f" line {first.number} on, got `{line.native_id}`"
            )
            return Problem("E_RECORD_DUPLICATE", message)
    return None


def _draft(image: str, entry: _Gathered, roots: ImageRoots) -> Draft:
    found = roots.find((image,))
    first = entry.lines[0]
    return Draft(
        group=image,
        file=image,
        native_id=entry.native_id or f"jsonl:{image}",
        root=found[0] if found else None,
        num_bytes=found[2] if found else 0,
        image_wh=None,
        source_file=first.file,
        record=f"line {first.number}",
        num_records=entry.num_records,
        payload=Payload(entry.lines),
    )


SPEC = DatasetSpec(
    name="jsonl",
    title="Your own data",
    version=1,
    expects=_EXPECTS,
    families=("category", "caption"),
    open_source=open_source,
    build=build,
    stage="own data",
    licence=Licence(annotations="your own", pictures="your own"),
    registration=None,
)
