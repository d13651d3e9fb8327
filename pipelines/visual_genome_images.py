"""Visual Genome's list of images, which says which of them are COCO's photographs.

Reads `image_data.json` (versions 1.0 to 1.4). Whoever uses Visual Genome's photographs names them
by it, so that one photograph has one name in every dataset.
"""

from pathlib import Path

import msgspec

from pipelines.annotations import Int64, decode_record, read_list
from pipelines.rejections import reject
from roikit.sample import Rejection

IMAGES_NAME = "image_data.json"


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
        else:
            images[image_id] = image
    return images, strays


def photograph_id(image_id: int, image: VgImage | None) -> str:
    """Name the photograph: half of Visual Genome are COCO's photographs, and known as such."""
    if image is None or image.coco_id is None:
        return f"vg:{image_id}"
    return f"coco:{image.coco_id}"
