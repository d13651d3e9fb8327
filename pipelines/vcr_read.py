"""VCR's lines, grouped by image: who is asked about, and where the picture and its metadata lie.

In: one split's `.jsonl`. Out: a draft an image, its questions not decoded yet.
"""

from collections import Counter
from pathlib import Path, PurePosixPath

import msgspec

from pipelines.annotations import decode_record, read_lines
from pipelines.draft import Draft, SplitRecords
from pipelines.images import ImageRoots, safe_name
from pipelines.rejections import reject
from roikit.sample import Rejection

PICTURES = "vcr1images"


class _Key(msgspec.Struct):
    img_fn: str
    metadata_fn: str
    annot_id: str


class Payload(msgspec.Struct, array_like=True):
    """One image's questions, not decoded yet, and where its metadata lies."""

    metadata_file: str
    metadata_root: int | None  #: index of the image folder it was found in
    lines: list[tuple[int, bytes]]  #: (line number from 1, JSON)


_keys = msgspec.json.Decoder(_Key)


def read_split(source: Path, split: str, roots: ImageRoots) -> SplitRecords:
    """Group one file's lines by image."""
    path = source / f"{split}.jsonl"
    groups: dict[str, tuple[str, list[tuple[int, memoryview]]]] = {}
    strays: list[Rejection] = []
    seen: set[str] = set()
    for number, line in read_lines(path):
        record = f"line {number}"
        key = decode_record(_keys, line, file=path.name, record=record)
        if isinstance(key, Rejection):
            strays.append(key)
        elif key.annot_id in seen:
            message = f"annot_id {key.annot_id} occurs twice"
            strays.append(reject("E_RECORD_DUPLICATE", message, file=path.name, record=record))
        else:
            seen.add(key.annot_id)
            groups.setdefault(key.img_fn, (key.metadata_fn, []))[1].append((number, line))
    # Flat pictures are found by their base names; one that two of them share names neither.
    shared = Counter(PurePosixPath(image).name for image in groups)
    drafts = [
        _draft(image, metadata, lines, path.name, roots, shared[PurePosixPath(image).name] == 1)
        for image, (metadata, lines) in groups.items()
    ]
    return SplitRecords(drafts=drafts, rejections=strays, source_files=(path,))


def _draft(
    image: str,
    metadata: str,
    lines: list[tuple[int, memoryview]],
    source_file: str,
    roots: ImageRoots,
    has_own_name: bool,
) -> Draft:
    found = _find(image, roots, has_own_name)
    beside = _find(metadata, roots, has_own_name)
    payload = Payload(
        metadata_file=beside[1] if beside else metadata,
        metadata_root=beside[0] if beside else None,
        # These point into the mapped file: they become bytes when the draft is written.
        lines=lines,  # type: ignore[arg-type]
    )
    return Draft(
        group=image,
        file=found[1] if found else image,
        native_id=f"vcr:{image.rpartition('.')[0] or image}",
        root=found[0] if found else None,
        num_bytes=found[2] if found else 0,
        image_wh=None,
        source_file=source_file,
        record=f"line {lines[0][0]}",
        num_records=len(lines),
        payload=payload,
    )


def _find(name: str, roots: ImageRoots, has_own_name: bool) -> tuple[int, str, int] | None:
    """Look for a picture or its metadata, wherever in the archive's folders a root begins."""
    if not safe_name(name):
        return None
    flat = (PurePosixPath(name).name,) if has_own_name else ()
    return roots.find((name, f"{PICTURES}/{name}", *flat))
