"""GRiT's form of Visual Genome's regions: the COCO-like `train.json` and `test.json`.

The split is densecap's, the texts are in lower case and cleaned, and nothing says which of the
official regions one was. Nor do these files say which photographs are COCO's: `image_data.json`
does, where it lies beside them.

Source: GRiT, `VG_preprocessed_annotations`.
"""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from pipelines.annotations import Int64, Raw, decode_record, read_table
from pipelines.draft import Draft, OfficialCounts, SplitRecords
from pipelines.images import ImageRoots
from pipelines.rejections import reject
from pipelines.source import relative_name
from pipelines.visual_genome_images import (
    FOLDERS,
    IMAGES_NAME,
    VgImage,
    names_image,
    photograph_id,
    read_images,
    with_picture,
)
from pipelines.visual_genome_record import GRIT_LIST, Payload
from roikit.sample import Rejection

log = logging.getLogger(__name__)

FILES = {"train": "train.json", "test": "test.json"}
OFFICIAL = {
    "train": OfficialCounts(images=77_396, records=3_596_689),
    "test": OfficialCounts(images=5_000, records=232_935),
}
_PLACES = ("", "annotations", "VG_preprocessed_annotations")


class _Image(msgspec.Struct, gc=False):
    id: Int64
    file_name: str
    width: Int64 | None = None
    height: Int64 | None = None


class _Owner(msgspec.Struct):
    image_id: Int64


_images = msgspec.json.Decoder(_Image)
_owners = msgspec.json.Decoder(_Owner)


def find_splits(
    source: Path, images_path: Path | None, roots: ImageRoots
) -> dict[str, Callable[[], SplitRecords]]:
    """Look for GRiT's files in the source folder and in those they come in.

    Args:
        source: the dataset's folder.
        images_path: `image_data.json`, where it is there.
        roots: folders that pictures may come from.

    Returns:
        A function a split that is there.
    """
    splits: dict[str, Callable[[], SplitRecords]] = {}
    for split, name in FILES.items():
        for path in (source / place / name for place in _PLACES):
            if split not in splits and path.is_file():
                splits[split] = partial(_read, source, path, images_path, roots)
    if splits and images_path is None:
        log.warning(
            "%s is not there: COCO's photographs are not known as such, and `roikit leaks` misses"
            " them",
            source / IMAGES_NAME,
        )
    return splits


def _read(source: Path, path: Path, images_path: Path | None, roots: ImageRoots) -> SplitRecords:
    """Read one split."""
    file = relative_name(path, source)
    table = read_table(path, ("images", GRIT_LIST))
    listed: dict[int, VgImage] = {}
    if images_path is not None:
        listed, unread = read_images(images_path)
        if unread:
            log.warning("%s: %d images cannot be read", images_path, len(unread))
    strays: list[Rejection] = []
    images: dict[int, tuple[_Image, str]] = {}
    for i, raw in enumerate(table["images"]):
        where = {"file": file, "record": f"images[{i}]"}
        image = decode_record(_images, raw, **where)
        if isinstance(image, Rejection):
            strays.append(image)
        elif image.id in images:
            message = f"image id {image.id} occurs twice"
            strays.append(reject("E_RECORD_DUPLICATE", message, **where))
        elif not names_image(image.file_name, image.id):
            message = f"image id {image.id} is not the number of its picture `{image.file_name}`"
            strays.append(reject("E_NAME_MISMATCH", message, **where))
        else:
            images[image.id] = (image, f"images[{i}]")
    regions: dict[int, list[Raw]] = {}
    places: dict[int, list[int]] = {}
    for i, raw in enumerate(table[GRIT_LIST]):
        where = {"file": file, "record": f"annotations[{i}]"}
        owner = decode_record(_owners, raw, **where)
        if isinstance(owner, Rejection):
            strays.append(owner)
        elif owner.image_id not in images:
            message = f"image_id {owner.image_id} is not in `images`"
            strays.append(reject("E_IMAGE_UNKNOWN", message, **where))
        else:
            regions.setdefault(owner.image_id, []).append(raw)
            places.setdefault(owner.image_id, []).append(i)
    drafts = []
    for image_id, (image, record) in images.items():
        own = regions.get(image_id, [])
        joined = b"[" + b",".join(own) + b"]"
        payload = Payload(joined, places.get(image_id, []), GRIT_LIST)
        name = image.file_name
        draft = Draft(
            group=str(image_id),
            file=name,
            native_id=photograph_id(image_id, listed.get(image_id)),
            root=None,
            num_bytes=0,
            image_wh=(image.width, image.height) if image.width and image.height else None,
            source_file=file,
            record=record,
            num_records=len(own),
            payload=payload,
        )
        names = (name, *(f"{folder}/{name}" for folder in FOLDERS))
        drafts.append(with_picture(draft, names, roots))
    files = (path,) if images_path is None else (path, images_path)
    return SplitRecords(drafts=drafts, rejections=strays, source_files=files)
