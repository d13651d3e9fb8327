"""The boxes a detector found in one photograph of LLaVA's, from the file to the record's regions.

The plan names the classes and packs a picture's boxes; the task chooses those that are good enough
and lays them on the real picture. What is said about them is `llava.py`'s business.

Source: GPT4RoI `gpt4roi/datasets/det_llava.py` for the thresholds. With `--faithful` its wrong
names come back (`class_names.py`), and boxes below the thresholds where none is above them.
"""

import logging
from collections import Counter

import msgspec
import numpy as np

from pipelines.class_names import ObjectClass, named_classes, shifted_classes
from pipelines.detection_files import DetectionFile
from pipelines.detections import Detections, Rows
from pipelines.draft import Built, Draft, Picture
from pipelines.images import match_frame
from pipelines.rejections import reject
from roikit.sample import Region

log = logging.getLogger(__name__)

#: Boxes at or below this score are left out.
MIN_SCORE = 0.3
#: Boxes at or below this share of the picture's width or height are left out.
MIN_SHARE = 0.02
#: The first so many boxes are kept, in the file's order.
MAX_BOXES = 100
#: With `--faithful`, the first so many where none is good enough.
_FALLBACK_BOXES = 10


class Boxes(msgspec.Struct, array_like=True):
    """What a detector found in one picture, on its way from the plan to the task."""

    file: str
    record: str  #: a box's place in it, `{}` standing for its number
    rows: bytes  #: `detections.Rows`
    image_wh: tuple[int, int] | None
    is_normalised: bool
    classes: list[tuple[int, ObjectClass]]  #: those that occur, by their index


def name_classes(
    file: DetectionFile, detections: Detections, is_faithful: bool
) -> list[ObjectClass]:
    """Name the classes: rightly, or as the reference did."""
    names = detections.names
    if not is_faithful:
        return named_classes(names, detections.synonyms)
    if file.table is None or not file.table.is_lvis_v1:
        log.warning("--faithful: names are not shifted, for they are not LVIS v1's")
        return [ObjectClass(name) for name in names]
    num_lvis = len(file.table.names)
    return shifted_classes(names[:num_lvis]) + [ObjectClass(name) for name in names[num_lvis:]]


def pack_boxes(
    detections: Detections,
    key: str,
    classes: list[ObjectClass],
    is_faithful: bool,
    file: str,
) -> Boxes | None:
    """Return a picture's boxes, those left out that the build would not look at."""
    found = detections.found.get(key)
    if found is None:
        return None
    rows = found.rows.copy()
    rows[:, 4] = np.round(rows[:, 4], 6)  # 0.3 written as float32 is a little above 0.3
    is_needed = rows[:, 4] > MIN_SCORE
    is_needed[: _FALLBACK_BOXES * is_faithful] = True
    rows = rows[is_needed]
    if not len(rows):
        return None
    used = np.unique(rows[:, 5]).astype(int).tolist()
    return Boxes(
        file=file,
        record=found.record,
        rows=rows.astype("<f8").tobytes(),
        image_wh=found.image_wh,
        is_normalised=found.is_normalised,
        classes=[(index, classes[index]) for index in used],
    )


def place_boxes(
    boxes: Boxes, draft: Draft, picture: Picture, built: Built
) -> dict[int, ObjectClass]:
    """Make regions of the boxes that are good enough.

    Returns:
        Class by region number, of the objects that are alone of their class in the picture.
    """
    header = picture.header
    rows: Rows = np.frombuffer(boxes.rows, dtype="<f8").reshape(-1, 7).copy()
    image_wh = boxes.image_wh or (header.width, header.height)
    if boxes.is_normalised:
        # A hundredth of a pixel is finer than any detector; what lies below comes of float32.
        rows[:, :4] = np.round(rows[:, :4] * (*image_wh, *image_wh), 2)
    frame = match_frame(header, image_wh)
    if frame is None:
        named, real = "x".join(map(str, image_wh)), f"{header.width}x{header.height}"
        message = f"boxes of a picture of {named}, this one is {real}: {len(rows)} left out"
        where = {"file": boxes.file, "record": boxes.record.format(int(rows[0, 6]))}
        built.rejections.append(
            reject("E_SIZE_MISMATCH", message, **where, native_id=draft.native_id)
        )
        return {}
    shares = (rows[:, 2:4] - rows[:, :2]) / image_wh
    sure = rows[:, 4] > MIN_SCORE
    good = rows[sure & (shares > MIN_SHARE).all(axis=1)]
    if picture.is_faithful and not len(good):
        good = rows[:_FALLBACK_BOXES]
    classes = dict(boxes.classes)
    # Boxes too small to be regions count: with two birds far off, "the bird" is not the large one.
    alone = {index for index, count in Counter(rows[sure, 5].tolist()).items() if count == 1}
    objects: dict[int, ObjectClass] = {}
    for x0, y0, x1, y1, score, index, number in good[:MAX_BOXES].tolist():
        placed = frame.place((x0, y0, x1, y1))
        if isinstance(placed, str):
            message = f"box {[x0, y0, x1, y1]} in a picture of {frame.annotated_wh}"
            record = boxes.record.format(int(number))
            built.rejections.append(
                reject(placed, message, file=boxes.file, record=record, native_id=draft.native_id)
            )
            continue
        box_xyxy, is_clipped = placed
        built.num_clipped += is_clipped
        cls = classes[int(index)]
        built.regions.append(
            Region(
                box_xyxy=box_xyxy,
                label=cls.label,
                origin="detector",
                native_id=str(int(number)),
                score=score,
            )
        )
        if index in alone:
            objects[len(built.regions)] = cls
    return objects
