"""Recognise a file of detections and read it.

Three forms: our own Parquet table (`detections_table.py`), COCO's results, and the pickle that
GPT4RoI published (both `detections_foreign.py`).
"""

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.class_names import ClassTable, read_class_table, require_lvis
from pipelines.detections import Detections
from pipelines.detections_foreign import read_published, read_results
from pipelines.detections_table import read_detection_table
from roikit.errors import UsageError

_PICKLE = "the published llava_150k_bbox_pred_results.pkl"
_FORMS = f"a Parquet table of ours, COCO results (JSON), or {_PICKLE}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionFile:
    """A file of detections, recognised."""

    path: Path
    form: Literal["parquet", "coco", "pickle"]
    categories_path: Path | None
    table: ClassTable | None  #: of the file of categories, where one is given


def open_detections(path: Path, categories: Path | None) -> DetectionFile:
    """Recognise the form of a file of detections and read the names of its classes.

    Args:
        path: the file.
        categories: annotation file with the classes' names. The published pickle needs it, COCO
            results mean COCO's own categories without it, a table of ours names its boxes itself.

    Raises:
        UsageError: no such file, no form that is known, or no names.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing there"
        raise UsageError(
            f"`{path}`: expected a file of detected boxes, found {found}",
            hint=f"`--detections` takes {_FORMS}",
        )
    form = _form(path)
    if form == "pickle" and categories is None:
        raise UsageError(
            f"`{path}`: its classes are numbers in the order of LVIS, and it holds no names",
            hint="give LVIS v1's annotation file: --categories lvis_v1_val.json",
        )
    table = None if categories is None else read_class_table(categories)
    if form == "pickle" and table is not None and categories is not None:
        require_lvis(table, categories)
    return DetectionFile(path=path, form=form, categories_path=categories, table=table)


def read_detections(file: DetectionFile, wanted: Set[str]) -> Detections:
    """Read the boxes of the pictures asked for.

    Args:
        file: as `open_detections` recognised it.
        wanted: keys of pictures, as `image_key` makes them.

    Raises:
        UsageError: the file is damaged, or not what it looks like.
    """
    if file.form == "parquet":
        return read_detection_table(file.path, file.table, wanted)
    if file.form == "pickle":
        assert file.table is not None
        return read_published(file.path, file.table, wanted)
    return read_results(file.path, file.table, wanted)


def _form(path: Path) -> Literal["parquet", "coco", "pickle"]:
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UsageError(f"`{path}`: cannot be read: {error.strerror or error}") from error
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.lstrip()[:1] in (b"[", b"{"):
        return "coco"
    if start[:1] in (b"\x80", b"(", b"]"):  # the first bytes of a pickled list, by protocol
        return "pickle"
    raise UsageError(
        f"`{path}`: expected detected boxes, found none of the forms that are known",
        hint=f"`--detections` takes {_FORMS}",
    )
