"""Visual Genome: short descriptions of regions.

Reads `region_descriptions.json` and `image_data.json` (versions 1.0 to 1.4), or, where the first is
not there, GRiT's form (`visual_genome_grit.py`). An image's regions become one independent
`caption` conversation, an exchange a region.

Splits are densecap's (`densecap_splits.json`, here or in `info/`); images that stand in none of its
lists form the split `unlisted`, converted on request. Without that file we cut our own: 90 % train,
5 % val, 5 % test, by a hash of the photograph's id, whatever the seed.

Source: visualgenome.org API documentation (regions are x, y, width, height in whole pixels, taken
as 0-based); densecap, `info/densecap_splits.json`.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from pipelines import visual_genome_grit
from pipelines.annotations import (
    JSON_ERRORS,
    Int64,
    Raw,
    clean_text,
    decode_record,
    map_file,
    read_list,
)
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
from pipelines.source import missing_files, require_folder, unusable_picture
from pipelines.visual_genome_images import (
    FOLDERS,
    IMAGES_NAME,
    VgImage,
    find_versioned,
    photograph_id,
    read_images,
    with_picture,
)
from pipelines.visual_genome_record import Payload, decode_region
from roikit.errors import UsageError
from roikit.mentions import escape, mention
from roikit.sample import Conversation, Region, Rejection, Source, Turn

log = logging.getLogger(__name__)

_REGIONS_NAME = "region_descriptions.json"
_SPLITS_NAME = "densecap_splits.json"
_EXPECTS = (
    _REGIONS_NAME,
    IMAGES_NAME,
    _SPLITS_NAME,
    *(f"or GRiT's {name}" for name in visual_genome_grit.FILES.values()),
    *(f"{folder}/" for folder in FOLDERS),
)
_SPLITS = ("train", "val", "test")
_UNLISTED = "unlisted"


class _Entry(msgspec.Struct):
    regions: msgspec.Raw
    id: Int64 | None = None
    image_id: Int64 | None = None


_entries = msgspec.json.Decoder(_Entry)
_raw_lists = msgspec.json.Decoder(list[msgspec.Raw])


#: Of the regions as they were released (version 1.2), in densecap's splits.
_DENSECAP = {
    "train": OfficialCounts(images=77_398, records=3_684_063),
    "val": OfficialCounts(images=5_000),
    "test": OfficialCounts(images=5_000, records=238_069),
    # What densecap's lists, which share no image, leave of version 1.2's 108,077.
    "unlisted": OfficialCounts(images=108_077 - 87_398),
}
#: Of version 1.2 as a whole; the regions as commonly cited.
_ALL = OfficialCounts(images=108_077, records=5_408_689)


def open_source(source: Path, extra_roots: Sequence[Path], options: SourceOptions) -> OpenSource:
    """Find Visual Genome's files below `source`.

    Raises:
        UsageError: no such folder, or neither form of the files in it.
    """
    require_folder(source, SPEC.title, _EXPECTS)
    roots = image_roots((source, source / "images", source / "vg_all"), extra_roots)
    splits: dict[str, Callable[[], SplitRecords]] = {}
    regions = find_versioned(source, _REGIONS_NAME)
    images = find_versioned(source, IMAGES_NAME)
    if regions is not None:
        if images is None:
            raise missing_files(source, SPEC.title, (IMAGES_NAME,))
        lists = _find_splits(source, options.split_file)
        for name in (*_SPLITS, _UNLISTED):
            splits[name] = partial(_read, regions, images, roots, lists, name)
        official = _DENSECAP if lists else {}
        official_sum = None if lists else _ALL
    else:
        official, official_sum = visual_genome_grit.OFFICIAL, None
        if options.split_file is not None:
            raise UsageError("`--split-file`: GRiT's files are split already; it is of no use here")
        splits = visual_genome_grit.find_splits(source, images, roots)
    if not splits:
        raise missing_files(source, SPEC.title, _EXPECTS)
    return OpenSource(
        folder=source,
        roots=roots,
        splits=splits,
        on_request=(_UNLISTED,),
        official=official,
        official_sum=official_sum,
    )


def build(draft: Draft, picture: Picture) -> Built:
    """Turn one image's regions into a conversation."""
    built = Built()
    payload = msgspec.convert(draft.payload, Payload)
    frame = match_frame(picture.header, draft.image_wh)
    if frame is None:
        built.rejections.append(unusable_picture("E_SIZE_MISMATCH", draft, picture.header))
        return built
    turns: list[Turn] = []
    conversation_id = f"{draft.group}/caption"
    raws = _raw_lists.decode(payload.regions)
    places = payload.places or range(len(raws))
    for i, raw in zip(places, raws, strict=True):
        record = f"{payload.prefix}[{i}]"
        region = decode_region(raw, payload, draft, record)
        if isinstance(region, Rejection):
            built.rejections.append(region)
            continue
        x0, y0 = region.x, region.y
        placed = frame.place((x0, y0, x0 + region.width, y0 + region.height))
        text = clean_text(region.phrase)
        if isinstance(placed, str) or not text:
            code, message = "E_PHRASE_EMPTY", "phrase: expected a description, got none"
            if isinstance(placed, str):
                xywh = [x0, y0, region.width, region.height]
                code, message = placed, f"box {xywh} in a picture of {frame.annotated_wh}"
            where = {"file": draft.source_file, "native_id": draft.native_id}
            built.rejections.append(reject(code, message, **where, record=record))
            continue
        box_xyxy, is_clipped = placed
        built.num_clipped += is_clipped
        number = region.region_id if region.region_id is not None else region.id
        native_id = None if number is None else str(number)
        built.regions.append(Region(box_xyxy=box_xyxy, native_id=native_id))
        slots = {"region": mention(len(built.regions))}
        place = f"{conversation_id}:{len(turns)}"
        turns.append(picture.phraser.ask("caption", place, **slots))
        turns.append(Turn(role="assistant", text=escape(text)))
    if turns:
        source = Source(file=draft.source_file, record=draft.record)
        built.conversations.append(
            Conversation(
                id=conversation_id,
                task="caption",
                independent=True,
                source=source,
                turns=tuple(turns),
            )
        )
    built.num_converted = len(built.regions)
    return built


def _read(
    regions_path: Path, images_path: Path, roots: ImageRoots, lists: Path | None, split: str
) -> SplitRecords:
    """Read the official pair of files and keep what belongs to `split`."""
    images, strays = read_images(images_path)
    file = regions_path.name
    listed = _read_splits(lists, images)
    wanted = {i for i in images if listed.get(i, _UNLISTED) == split}
    drafts: list[Draft] = []
    own: list[Rejection] = []
    seen: set[int] = set()
    for i, raw in enumerate(read_list(regions_path)):
        where = {"file": file, "record": f"[{i}]"}
        entry = decode_record(_entries, raw, **where)
        places: list[int] | None = None
        bad: dict[int, str] = {}
        if isinstance(entry, Rejection) and entry.code == "E_JSON_INVALID":
            entry, places, bad = _read_leniently(raw, entry, **where)
        if isinstance(entry, Rejection):
            strays.append(entry)
            continue
        image_id = entry.id if entry.id is not None else entry.image_id
        if image_id is None:
            strays.append(reject("E_FIELD_MISSING", "missing field `id`", **where))
        elif image_id not in images:
            message = f"image {image_id} is not in {images_path.name}"
            strays.append(reject("E_IMAGE_UNKNOWN", message, **where))
        elif image_id in wanted and image_id in seen:
            message = f"image {image_id} occurs twice"
            own.append(reject("E_RECORD_DUPLICATE", message, **where))
        elif image_id in wanted:
            seen.add(image_id)
            try:
                num_regions = len(_raw_lists.decode(entry.regions))
            except JSON_ERRORS:
                message = "regions: expected a list"
                own.append(reject("E_FIELD_TYPE", message, **where))
                continue
            # This points into the mapped file; it becomes bytes when the draft is written.
            regions: Any = memoryview(entry.regions)
            payload = Payload(regions, places, f"[{i}].regions")
            image, num_records = images[image_id], num_regions + len(bad)
            draft = _draft(image, image_id, f"[{i}]", payload, num_records, file, roots)
            if bad:
                rejections = tuple(
                    reject(
                        "E_JSON_INVALID",
                        message,
                        file=file,
                        record=f"[{i}].regions[{j}]",
                        native_id=draft.native_id,
                    )
                    for j, message in bad.items()
                )
                draft = msgspec.structs.replace(draft, rejections=rejections)
            drafts.append(draft)
    for image_id in sorted(wanted - seen):
        payload = Payload(b"[]", None, "")
        record = f"image {image_id}"
        drafts.append(_draft(images[image_id], image_id, record, payload, 0, file, roots))
    files = [regions_path, images_path]
    if lists is not None:
        files.append(lists)
    # Records of no known image are the same for every split: they are counted with the first only.
    if split == _SPLITS[0]:
        own = strays + own
    return SplitRecords(drafts=drafts, rejections=own, source_files=tuple(files))


def _read_leniently(
    raw: Raw, rejection: Rejection, *, file: str, record: str
) -> tuple[_Entry | Rejection, list[int] | None, dict[int, str]]:
    """Read an image's entry that is no JSON for the sake of a region or two: NaN, half surrogates.

    Returns:
        The entry with its good regions (or why it cannot be read), their places, and what is wrong
        with the others.
    """
    try:
        value = json.loads(bytes(raw))
    except (ValueError, RecursionError):
        return rejection, None, {}
    regions = value.get("regions") if isinstance(value, dict) else None
    if not isinstance(regions, list):
        return rejection, None, {}
    good: dict[int, bytes] = {}
    bad: dict[int, str] = {}
    for j, region in enumerate(regions):
        data = json.dumps(region).encode()
        try:
            msgspec.json.decode(data)
            good[j] = data
        except JSON_ERRORS as error:
            bad[j] = f"not valid JSON: {error}"
    without = json.dumps(value | {"regions": []}).encode()
    entry = decode_record(_entries, without, file=file, record=record)
    if not isinstance(entry, Rejection):
        entry.regions = msgspec.Raw(b"[" + b",".join(good.values()) + b"]")
    return entry, list(good), bad


def _find_splits(source: Path, named: Path | None) -> Path | None:
    """Return densecap's list of splits: the one named, or one that lies with the source."""
    if named is not None:
        if not named.is_file():
            raise UsageError(f"`{named}`: expected densecap's `{_SPLITS_NAME}`, found no file")
        return named
    places = (source / _SPLITS_NAME, source / "info" / _SPLITS_NAME)
    return next((path for path in places if path.is_file()), None)


def _read_splits(path: Path | None, images: dict[int, VgImage]) -> dict[int, str]:
    """Return each listed image's split; of our own cut, where there is no list."""
    if path is not None:
        try:
            lists = msgspec.json.decode(map_file(path), type=dict[str, list[int]])
        except JSON_ERRORS as error:
            raise UsageError(
                f"`{path}`: expected an object of lists of image ids: {error}",
                hint=f"get densecap's `info/{_SPLITS_NAME}` again, or remove the file",
            ) from error
        listed = {i: name for name in _SPLITS for i in lists.get(name, [])}
        unlisted = sum(i not in listed for i in images)
        if unlisted:
            log.info(
                "%s: %d of %d images are in none of its lists: `--split %s` converts them",
                path.name, unlisted, len(images), _UNLISTED,
            )  # fmt: skip
        return listed
    log.warning(
        "%s is not there: cutting our own split (90 %% train, 5 %% val, 5 %% test),"
        " whose figures do not compare with published ones",
        _SPLITS_NAME,
    )
    return {i: _own_split(photograph_id(i, image)) for i, image in images.items()}


def _own_split(native_id: str) -> str:
    digest = hashlib.blake2b(f"vg split {native_id}".encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "big") / 2**64
    return "train" if share < 0.9 else "val" if share < 0.95 else "test"


def _draft(
    image: VgImage,
    image_id: int,
    record: str,
    payload: Payload,
    num_records: int,
    file: str,
    roots: ImageRoots,
) -> Draft:
    # Which of the two folders a picture is in can be learnt from its URL only.
    parts = PurePosixPath(image.url.partition("?")[0]).parts[-2:]
    folder, name = (parts[0], parts[1]) if len(parts) == 2 else ("", parts[0] if parts else "")
    named = f"{folder}/{name}" if folder in FOLDERS else name
    draft = Draft(
        group=str(image_id),
        file=named,
        native_id=photograph_id(image_id, image),
        root=None,
        num_bytes=0,
        image_wh=image.image_wh,
        source_file=file,
        record=record,
        num_records=num_records,
        payload=payload,
    )
    return with_picture(draft, (named, name, *(f"{other}/{name}" for other in FOLDERS)), roots)


SPEC = DatasetSpec(
    name="vg",
    title="Visual Genome",
    version=1,
    expects=_EXPECTS,
    families=("caption",),
    open_source=open_source,
    build=build,
    options=("split_file",),
    # Source: GPT4RoI `gpt4roi/configs/stage2.py`; homes.cs.washington.edu/~ranjay/visualgenome.
    stage="2",
    licence=Licence(
        annotations="CC BY 4.0", pictures="a Flickr licence each (from YFCC100M and COCO)"
    ),
    registration=None,
    published=_DENSECAP,
)
