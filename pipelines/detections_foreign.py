"""Read detections in other people's forms: COCO's results, and the pickle GPT4RoI published.

Source: cocodataset.org "Results Format" (a list of `image_id`, `category_id`, `bbox` as x, y,
width, height in pixels, `score`); GPT4RoI `gpt4roi/datasets/det_llava.py` for the pickle (a list
of `filename`, `pred_bboxes`: (N, 5) corners as shares of width and height and a score, `labels`:
(N,) LVIS ids less 1).
"""

from array import array
from collections.abc import Set
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pipelines.annotations import decode_record, read_list
from pipelines.class_names import ClassTable
from pipelines.coco_names import CATEGORY_IDS
from pipelines.detections import Detections, Found, Rows, image_key
from pipelines.rejections import reject
from pipelines.unpickle import PickledArray, read_pickle
from roikit.errors import UsageError
from roikit.sample import Rejection

_COLUMNS = 7  #: of `Rows`
_ENTRY = ("filename", "pred_bboxes", "labels")


class _Result(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


_results = msgspec.json.Decoder(_Result)


def read_results(path: Path, table: ClassTable | None, wanted: Set[str]) -> Detections:
    """Read COCO's results; without a table, category ids are COCO's own.

    Raises:
        UsageError: no list, or most ids are none of COCO's and no table says what they mean.
    """
    if table is None:
        names = list(CATEGORY_IDS)
        indices = {number: i for i, number in enumerate(CATEGORY_IDS.values())}
        detections = Detections(names=names, synonyms=[()] * len(names))
    else:
        indices = table.indices
        detections = Detections(names=list(table.names), synonyms=list(table.synonyms))
    file = path.name
    keys: dict[int | str, str] = {}
    by_image: dict[str, array[float]] = {}
    num_unknown = num_known = 0
    for i, raw in enumerate(read_list(path)):
        result = decode_record(_results, raw, file=file, record=f"[{i}]")
        if isinstance(result, Rejection):
            detections.strays.append(result)
            continue
        key = keys.get(result.image_id)
        if key is None:
            image = result.image_id
            key = f"coco:{image}" if isinstance(image, int) else image_key(image)
            keys[image] = key
        index = indices.get(result.category_id)
        num_known += index is not None
        num_unknown += index is None
        if key not in wanted:
            continue
        if index is None:
            message = f"category_id {result.category_id} is none of {len(indices)} categories"
            rejection = reject("E_CATEGORY_UNKNOWN", message, file=file, record=f"[{i}]")
            detections.reject(key, rejection)
            continue
        x, y, width, height = result.bbox
        row = (x, y, x + width, y + height, result.score, index, i)
        by_image.setdefault(key, array("d")).extend(row)
    if table is None and num_unknown > num_known:
        raise UsageError(
            f"`{path}`: expected category ids of COCO, but {num_unknown:,} of "
            f"{num_unknown + num_known:,} boxes have others",
            hint="name them: --categories with the annotation file that the detector learned from",
        )
    detections.num_images = len(keys)
    for key, numbers in by_image.items():
        rows: Rows = np.frombuffer(numbers, dtype=np.float64).reshape(-1, _COLUMNS)
        detections.add(key, Found(rows=rows, record="[{}]"), file)
    return detections


def read_published(path: Path, table: ClassTable, wanted: Set[str]) -> Detections:
    """Read the pickle; nothing in it is run.

    Raises:
        UsageError: it is damaged, or holds no list.
    """
    entries = read_pickle(path)
    if not isinstance(entries, list):
        raise UsageError(
            f"`{path}`: expected a list of pictures' boxes, found `{type(entries).__name__}`",
            hint="is this the published llava_150k_bbox_pred_results.pkl?",
        )
    detections = Detections(names=list(table.names), synonyms=list(table.synonyms))
    seen: set[str] = set()
    for i, entry in enumerate(entries):
        where = {"file": path.name, "record": f"[{i}]"}
        if not isinstance(entry, dict) or not isinstance(entry.get("filename"), str):
            message = f"expected {', '.join(_ENTRY)} of a picture"
            detections.strays.append(reject("E_FIELD_MISSING", message, **where))
            continue
        key = image_key(entry["filename"])
        if key in seen:
            message = f"`{entry['filename'][:80]}` occurs twice"
            detections.strays.append(reject("E_RECORD_DUPLICATE", message, **where))
            continue
        seen.add(key)
        if key not in wanted:
            continue
        rows = _rows(entry, where)
        if isinstance(rows, Rejection):
            detections.reject(key, rows)
            continue
        known = (rows[:, 5] >= 0) & (rows[:, 5] < len(table.names))
        for row in rows[~known].tolist():
            message = f"label {int(row[5])} is none of {len(table.names)} classes"
            place = f"[{i}].labels[{int(row[6])}]"
            rejection = reject("E_CATEGORY_UNKNOWN", message, file=path.name, record=place)
            detections.reject(key, rejection)
        record = f"[{i}].pred_bboxes[{{}}]"
        detections.add(
            key, Found(rows=rows[known], record=record, is_normalised=True), where["file"]
        )
    detections.num_images = len(seen)
    return detections


def _rows(entry: dict[Any, Any], where: dict[str, str]) -> Rows | Rejection:
    """Put one picture's two arrays together."""
    arrays = []
    for name, kinds in (("pred_bboxes", "f"), ("labels", "iu")):
        value = entry.get(name)
        if not isinstance(value, PickledArray):
            code = "E_FIELD_TYPE" if name in entry else "E_FIELD_MISSING"
            return reject(code, f"{name}: expected an array of numbers", **where)
        try:
            found = value.numpy()
        except ValueError as error:
            return reject("E_FIELD_TYPE", f"{name}: a damaged array: {error}", **where)
        if found.size and found.dtype.kind not in kinds:
            message = f"{name}: expected another kind of numbers than `{found.dtype}`"
            return reject("E_FIELD_TYPE", message, **where)
        arrays.append(found)
    boxes, labels = arrays
    if boxes.size == 0 and labels.size == 0:
        return np.empty((0, _COLUMNS))
    if boxes.ndim != 2 or boxes.shape[1] != 5 or labels.ndim != 1:
        message = f"expected shapes (N, 5) and (N,), got {boxes.shape} and {labels.shape}"
        return reject("E_FIELD_TYPE", message, **where)
    if len(boxes) != len(labels):
        message = f"{len(boxes)} boxes, {len(labels)} labels"
        return reject("E_COUNT_MISMATCH", message, **where)
    rows = np.empty((len(boxes), _COLUMNS))
    rows[:, :5] = boxes
    rows[:, 5] = labels
    rows[:, 6] = np.arange(len(boxes))
    return rows
