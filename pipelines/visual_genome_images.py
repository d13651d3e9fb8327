"""Visual Genome's images: the list that says which of them are COCO's photographs, and their files.

Reads `image_data.json` (versions 1.0 to 1.4). Whoever uses Visual Genome's photographs names them
by it, so that one photograph has one name in every dataset.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import msgspec

from pipelines.annotations import Int64, decode_record, read_list
from pipelines.draft import Draft
from pipelines.images import ImageRoots, safe_name
from pipelines.rejections import reject
from roikit.sample import Rejection

IMAGES_NAME = "image_data.json"
#: Of the pictures' two archives.
FOLDERS = ("VG_100K", "VG_100K_2")
#: What the official site appends to a file's name, the latest first.
_VERSIONS = ("", "_v1_2", "_v1")


class VgImage(msgspec.Struct, gc=False):
    """One image, as the file lists it."""

    url: str
    image_id: Int64 | None = None
    id: Int64 | None = None  #: version 1.0's name of `image_id`
    width: Int64 | None = None
    height: Int64 | None = None
    coco_id: Int64 | None = None

    @property
    def image_wh(self) -> tuple[int, int] | None:
        """The size that boxes were drawn at, where it is listed."""
        return (self.width, self.height) if self.width and self.height else None


_images = msgspec.json.Decoder(VgImage)


def find_versioned(source: Path, name: str) -> Path | None:
    """Return an official file below `source`, under its plain or a versioned name."""
    path = source / name
    paths = (path.with_name(f"{path.stem}{version}{path.suffix}") for version in _VERSIONS)
    return next((path for path in paths if path.is_file()), None)


def read_images(path: Path) -> tuple[dict[int, VgImage], list[Rejection]]:
    """Return the images by id, and what could not be read.

    Raises:
        UsageError: the file is missing, or no JSON list.
    """
    images: dict[int, VgImage] = {}
    strays: list[Rejection] = []
    for i, raw in enumerate(read_list(path)):
        where = {"file": path.name, "record": f"[{i}]"}
        image = decode_record(_images, raw, **where)
        if isinstance(image, Rejection):
            strays.append(image)
            continue
        image_id = image.image_id if image.image_id is not None else image.id
        if image_id is None:
            strays.append(reject("E_FIELD_MISSING", "missing field `image_id`", **where))
        elif image_id in images:
            message = f"image {image_id} occurs twice"
            strays.append(reject("E_RECORD_DUPLICATE", message, **where))
        elif not names_image(image.url, image_id):
            message = f"url: expected the picture of image {image_id}, got `{image.url[-80:]}`"
            strays.append(reject("E_NAME_MISMATCH", message, **where))
        else:
            images[image_id] = image
    return images, strays


def photograph_id(image_id: int, image: VgImage | None) -> str:
    """Name the photograph: half of Visual Genome are COCO's photographs, and known as such."""
    if image is None or image.coco_id is None:
        return f"vg:{image_id}"
    return f"coco:{image.coco_id}"


def names_image(file: str, image_id: int) -> bool:
    """Tell whether a picture's file may be the image's: official ones are called by its id.

    Args:
        file: its name or address. One that is no number says nothing.
        image_id: the image's.
    """
    stem = PurePosixPath(file.partition("?")[0]).stem
    is_number = stem.isascii() and stem.isdigit()
    return not is_number or (stem.lstrip("0") or "0") == str(image_id)


def with_picture(draft: Draft, names: Sequence[str], roots: ImageRoots) -> Draft:
    """Return the draft with the first file that is there of `names`; itself where none is."""
    found = roots.find(tuple(dict.fromkeys(names))) if safe_name(draft.file) else None
    if found is None:
        return draft
    root, file, num_bytes = found
    return msgspec.structs.replace(draft, root=root, file=file, num_bytes=num_bytes)
