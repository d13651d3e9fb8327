"""What is to be seen in one of VCR's pictures: the objects of its metadata file, with their boxes.

Sizes are checked against the picture, and boxes rescaled where the metadata names another one.
"""

import contextlib
from dataclasses import dataclass

import msgspec

from pipelines.annotations import JSON_ERRORS, Int64, decode_record
from pipelines.draft import Built, Draft, Picture
from pipelines.images import Frame, changed, match_frame
from pipelines.phrasing import enumerated
from pipelines.rejections import reject
from pipelines.source import unusable_picture
from pipelines.vcr_read import Payload
from pipelines.vcr_text import class_name
from roikit.mentions import mention
from roikit.sample import Region, Rejection


class _Named(msgspec.Struct):
    objects: list[str]


class _Metadata(msgspec.Struct, gc=False):
    boxes: list[list[float]]
    names: list[str] | None = None
    width: Int64 | None = None
    height: Int64 | None = None


_named = msgspec.json.Decoder(_Named)
_metadata = msgspec.json.Decoder(_Metadata)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """The picture's objects: `numbers[i]` is the region number of object i, None without a box."""

    regions: list[Region]
    numbers: list[int | None]

    @property
    def listed(self) -> str:
        """All regions, as a lead-in lists them."""
        return enumerated([mention(i + 1) for i in range(len(self.regions))])


def read_scene(draft: Draft, payload: Payload, picture: Picture, built: Built) -> Scene | Rejection:
    """Read the metadata and place its boxes; bad boxes are rejected one by one."""
    where = {"file": payload.metadata_file, "native_id": draft.native_id}
    if payload.metadata_root is None:
        return unusable_picture(
            "E_METADATA_MISSING", draft, reason=f"`{payload.metadata_file}` is not there"
        )
    try:
        data = picture.roots.read(payload.metadata_root, payload.metadata_file)
    except FileNotFoundError as error:
        folder = picture.roots.folders[payload.metadata_root]
        raise changed(folder, payload.metadata_file, "was there", "it is gone") from error
    except PermissionError as error:
        reason = f"`{payload.metadata_file}` cannot be read: {error.strerror}"
        return unusable_picture("E_METADATA_MISSING", draft, reason=reason)
    metadata = decode_record(_metadata, data, record="the file", **where)
    if isinstance(metadata, Rejection):
        return metadata
    named_wh = (metadata.width, metadata.height) if metadata.width and metadata.height else None
    frame = match_frame(picture.header, named_wh)
    if frame is None:
        sized = msgspec.structs.replace(draft, image_wh=named_wh)
        return unusable_picture("E_SIZE_MISMATCH", sized, picture.header)
    names = metadata.names or _named_by_questions(payload)
    if len(names) != len(metadata.boxes):
        message = f"{len(names)} names for {len(metadata.boxes)} boxes"
        return reject("E_COUNT_MISMATCH", message, record="names", **where)
    scene = Scene(regions=[], numbers=[])
    for i, box in enumerate(metadata.boxes):
        placed = _place(frame, box)
        if isinstance(placed, str):
            message = f"box {box} in a picture of {frame.annotated_wh}"
            built.rejections.append(reject(placed, message, record=f"boxes[{i}]", **where))
            scene.numbers.append(None)
            continue
        box_xyxy, is_clipped = placed
        built.num_clipped += is_clipped
        scene.regions.append(
            Region(
                box_xyxy=box_xyxy,
                label=class_name(names[i]),
                origin="detector",
                native_id=str(i),
                score=box[4] if len(box) > 4 else None,
            )
        )
        scene.numbers.append(len(scene.regions))
    return scene


def _named_by_questions(payload: Payload) -> list[str]:
    """Return the objects' names as the questions give them, for metadata that lacks them."""
    for _, line in payload.lines:
        with contextlib.suppress(*JSON_ERRORS):
            return _named.decode(line).objects
    return []


def _place(frame: Frame, box: list[float]) -> tuple[tuple[float, float, float, float], bool] | str:
    if len(box) < 4:
        return "E_FIELD_TYPE"
    return frame.place(box[:4])
