"""A region of Visual Genome on its way from the plan to the task, in either form of the files."""

import math

import msgspec

from pipelines.annotations import Int64, Raw, decode_record
from pipelines.draft import Draft
from pipelines.rejections import reject
from roikit.sample import Rejection

#: What GRiT's form calls the list of regions.
GRIT_LIST = "annotations"


class Payload(msgspec.Struct, array_like=True):
    """What the files say about one image's regions, not decoded yet: tasks share that work."""

    regions: bytes  #: a JSON list
    places: list[int] | None  #: of the regions in the file; None where they follow each other
    prefix: str  #: of a region's place, e.g. `[12].regions`


class VgRegion(msgspec.Struct, gc=False):
    """One region, as the official file lists it."""

    phrase: str
    x: float
    y: float
    width: float
    height: float
    region_id: Int64 | None = None
    id: Int64 | None = None  #: version 1.0's name of `region_id`


class _GritRegion(msgspec.Struct, gc=False):
    id: Int64
    image_id: Int64
    bbox: tuple[float, float, float, float]
    caption: str


_regions = msgspec.json.Decoder(VgRegion)
_grit_regions = msgspec.json.Decoder(_GritRegion)


def decode_region(raw: Raw, payload: Payload, draft: Draft, record: str) -> VgRegion | Rejection:
    """Decode one region of the payload.

    Args:
        raw: its JSON.
        payload: the image's, which tells the form.
        draft: the image.
        record: the region's place in the file.
    """
    where = {"file": draft.source_file, "record": record, "native_id": draft.native_id}
    region: VgRegion | Rejection
    if payload.prefix == GRIT_LIST:
        flat = decode_record(_grit_regions, raw, **where)
        if isinstance(flat, Rejection):
            return flat
        region = VgRegion(flat.caption, *flat.bbox, region_id=flat.id)
    else:
        region = decode_record(_regions, raw, **where)
        if isinstance(region, Rejection):
            return region
    if not all(map(math.isfinite, (region.x, region.y, region.width, region.height))):
        return reject("E_FIELD_TYPE", "box: expected finite numbers", **where)
    return region
