"""Boxes that a detector found in the pictures of a dataset that has none of its own.

One `Found` a picture, whatever file they come from (`detection_files.py` recognises it). Which
boxes are good enough, and where they lie on the real picture, is decided by whoever asks.
"""

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from pipelines.coco_names import photograph_id
from pipelines.rejections import reject
from roikit.sample import Rejection

#: (N, 7) float64: x0, y0, x1, y1, score, index of the class, place in the file.
Rows = npt.NDArray[np.float64]

#: No coordinate lies that far out, in pixels or shares; arithmetic with larger ones overflows.
_FAR = 1e9
_NATIVE_ID = re.compile(r"[a-z0-9+-]{2,}:\S+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a detector found in one picture. Numbers are finite, corners in order, scores 0 to 1."""

    rows: Rows
    record: str  #: a box's place in the file, `{}` standing for the number in the last column
    #: size that the boxes were drawn on; None where the file names none
    image_wh: tuple[int, int] | None = None
    is_normalised: bool = False  #: coordinates are shares of the picture's width and height


@dataclass(kw_only=True, slots=True)
class Detections:
    """A file of detections, restricted to the pictures asked for."""

    names: list[str]  #: of the classes, as their file spells them
    synonyms: list[tuple[str, ...]]  #: as many
    found: dict[str, Found] = field(default_factory=dict)  #: by `image_key`
    rejections: dict[str, list[Rejection]] = field(default_factory=dict)  #: bad boxes, likewise
    strays: list[Rejection] = field(default_factory=list)  #: bad entries of no known picture
    num_images: int = 0  #: in the file, asked for or not

    def add(self, key: str, found: Found, file: str) -> None:
        """Keep a picture's good boxes, and a rejection for each bad one."""
        rows = found.rows
        sane: npt.NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(rows[:, :5]), axis=1)
        scored = (rows[:, 4] >= 0) & (rows[:, 4] <= 1)
        in_order = (rows[:, 2] > rows[:, 0]) & (rows[:, 3] > rows[:, 1])
        near = np.logical_and.reduce(np.abs(rows[:, :4]) < _FAR, axis=1)
        good = sane & scored & in_order & near
        for i in np.flatnonzero(~good).tolist():
            box, score = rows[i, :4].tolist(), rows[i, 4].item()
            code, message = "E_BOX_EMPTY", f"box {box}: expected x0 < x1 and y0 < y1"
            if not sane[i]:
                code = "E_FIELD_TYPE"
                message = f"expected finite numbers, got box {box}, score {score}"
            elif not scored[i]:
                code, message = "E_VALUE_RANGE", f"score: expected 0 to 1, got {score}"
            elif not near[i]:
                code, message = "E_VALUE_RANGE", f"box {box}: beyond any picture"
            place = found.record.format(int(rows[i, 6]))
            self.reject(key, reject(code, message, file=file, record=place))
        if good.any():
            self.found[key] = Found(
                rows=rows if good.all() else rows[good],
                record=found.record,
                image_wh=found.image_wh,
                is_normalised=found.is_normalised,
            )

    def reject(self, key: str, rejection: Rejection) -> None:
        """Keep the rejection of one box with its picture."""
        self.rejections.setdefault(key, []).append(rejection)


def image_key(image: str) -> str:
    """Return what a picture is known by here: `coco:9` for COCO's, whatever the file is called.

    Args:
        image: a native id or a file's name; only COCO's may have a folder before it.
    """
    if _NATIVE_ID.fullmatch(image):
        return image
    number = photograph_id(image)
    return PurePosixPath(image).as_posix() if number is None else f"coco:{number}"
