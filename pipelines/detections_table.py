"""Our own file of detections: a Parquet table, one row a box, whatever detector found it.

Columns (`SCHEMA`): `image`, a picture's file name or native id (`coco:9`); `x1`, `y1`, `x2`, `y2`,
corners in pixels of the picture of size `width` x `height`, right and bottom edge exclusive;
`score`, 0 to 1; `label`, the class's name; `detector`, what found it. All rows of a picture name
the same size, and its boxes keep the order of the file.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.class_labels import bare_name, spoken_names
from pipelines.class_names import ClassTable
from pipelines.detections import Detections, Found, Rows, image_key
from pipelines.rejections import reject
from roikit.errors import UsageError
from shards.atomic import replacing

SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("x1", pa.float64()),
        ("y1", pa.float64()),
        ("x2", pa.float64()),
        ("y2", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("score", pa.float64()),
        ("label", pa.string()),
        ("detector", pa.string()),
    ]
)
_TEXTS = ("image", "label")
_NUMBERS = ("x1", "y1", "x2", "y2", "score", "width", "height")
_BATCH_ROWS = 1 << 16
_WITHOUT_BOXES = "roikit.without_boxes"


@dataclass(frozen=True, slots=True)
class DetectedBox:
    """One row, in the order of `SCHEMA`."""

    image: str  #: file name or native id
    x1: float
    y1: float
    x2: float
    y2: float
    width: int  #: of the picture, pixels
    height: int
    score: float  #: 0 to 1
    label: str
    detector: str


def write_detections(
    path: Path,
    boxes: Iterable[DetectedBox],
    about: Mapping[str, str] | None = None,
    *,
    without_boxes: Sequence[str] = (),
) -> None:
    """Write a table of detections; the file appears whole or not at all.

    Args:
        path: of the file; one that is there is replaced.
        boxes: any number, also none; taken one after the other.
        about: what made the boxes, kept in the file's metadata.
        without_boxes: names of pictures that were looked at and have no row, kept there too.
    """
    following = iter(boxes)
    metadata = dict(about or {})
    if without_boxes:
        metadata[_WITHOUT_BOXES] = msgspec.json.encode(without_boxes).decode()
    schema = SCHEMA.with_metadata(metadata) if metadata else SCHEMA
    with replacing(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while rows := [astuple(box) for box in islice(following, _BATCH_ROWS)]:
            columns = zip(*rows, strict=True)
            arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def read_about(path: Path) -> dict[str, str] | None:
    """Return what `write_detections` was told about the boxes; None where it is no such table."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError, ValueError):
        return None
    if not schema.equals(SCHEMA):
        return None
    kept = schema.metadata or {}
    return {key.decode(): value.decode() for key, value in kept.items()}


def read_names(path: Path) -> set[str]:
    """Return the names of all pictures that a table of `write_detections` speaks of.

    Those without boxes are among them, as far as it was told of them.
    """
    without = (read_about(path) or {}).get(_WITHOUT_BOXES, "[]")
    with_boxes = pq.read_table(path, columns=["image"])["image"].unique().to_pylist()
    return {*with_boxes, *msgspec.json.decode(without, type=list[str])}


def read_detection_table(path: Path, table: ClassTable | None, wanted: Set[str]) -> Detections:
    """Read a table that `write_detections` made.

    Args:
        path: of the file.
        table: adds synonyms to the labels that are names of its classes, however spelt.
        wanted: keys of pictures.

    Raises:
        UsageError: no Parquet file, or a column is missing or of another type.
    """
    reader = _Reader(path.name, table, wanted)
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow)
            for batch in file.iter_batches(_BATCH_ROWS, columns=[*_TEXTS, *_NUMBERS]):
                reader.read(batch)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UsageError(
            f"`{path}`: not a readable Parquet file: {' '.join(str(error).split())}",
            hint="it may have been cut off: make or get it again",
        ) from error
    return reader.finish()


def _check_columns(path: Path, schema: Any) -> None:
    missing = [name for name in (*_TEXTS, *_NUMBERS) if name not in schema.names]
    if missing:
        raise UsageError(
            f"`{path}`: expected the columns {', '.join(SCHEMA.names)}; missing: "
            f"{', '.join(missing)}; found {', '.join(schema.names) or 'none'}",
            hint='docs/datasets.md describes the table under "Files of detections"',
        )
    for name in (*_TEXTS, *_NUMBERS):
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind)
        if not (is_text if name in _TEXTS else is_number):
            expected = "text" if name in _TEXTS else "numbers"
            raise UsageError(f"`{path}`: column `{name}`: expected {expected}, found `{kind}`")


class _Reader:
    """Gathers rows by picture, batch after batch."""

    def __init__(self, file: str, table: ClassTable | None, wanted: Set[str]) -> None:
        self.file = file
        self.wanted = wanted
        self.detections = Detections(
            names=list(table.names) if table else [], synonyms=list(table.synonyms) if table else []
        )
        names = self.detections.names
        self.classes = {_plain(name): i for i, name in reversed(list(enumerate(names)))}
        # A name as we write it, or in the table's own spelling, goes before one that only reads
        # the same.
        self.classes |= {name: i for i, name in enumerate(spoken_names(names))}
        self.classes |= {name: i for i, name in enumerate(names)}
        self.chunks: dict[str, list[Rows]] = defaultdict(list)
        self.sizes: dict[str, tuple[float, float]] = {}
        self.images: set[str] = set()
        self.num_rows = 0

    def read(self, batch: Any) -> None:
        """Take one batch of rows."""
        images, image_of = _texts(batch, "image")
        labels, label_of = _texts(batch, "label")
        classes = np.array([self._class(label) for label in labels] or [-1])
        numbers = np.column_stack([_floats(batch, name) for name in _NUMBERS])
        rows = np.empty((batch.num_rows, 7))
        rows[:, :5] = numbers[:, :5]
        rows[:, 5] = np.where(label_of < 0, -1, classes[label_of])
        rows[:, 6] = np.arange(self.num_rows, self.num_rows + batch.num_rows)
        self.num_rows += batch.num_rows
        for row in rows[image_of < 0, 6].tolist():
            self.detections.strays.append(self._rejection("E_FIELD_MISSING", "image: none", row))
        for i, own in _groups(image_of, len(images)):
            key = image_key(images[i])
            self.images.add(key)
            if key in self.wanted:
                self._take(key, rows[own], numbers[own, 5:])

    def finish(self) -> Detections:
        """Put each picture's rows together and check them."""
        self.detections.num_images = len(self.images)
        for key, chunks in self.chunks.items():
            width, height = self.sizes[key]
            self.detections.add(
                key,
                Found(
                    rows=np.concatenate(chunks),
                    record="row {}",
                    image_wh=(round(width), round(height)),
                ),
                self.file,
            )
        return self.detections

    def _take(self, key: str, rows: Rows, sizes: Rows) -> None:
        """Keep a picture's rows that have a label and the picture's size."""
        named = rows[:, 5] >= 0
        in_range = (sizes >= 1) & (sizes < 2**31)  # no NaN is
        sized: npt.NDArray[np.bool_] = np.logical_and.reduce(in_range, axis=1)
        if key not in self.sizes and sized.any():
            self.sizes[key] = tuple(sizes[sized][0].tolist())
        agreed = sized & (sizes == self.sizes.get(key, (0, 0))).all(axis=1)
        for i in np.flatnonzero(~(named & agreed)).tolist():
            if not named[i]:
                code, message = "E_PHRASE_EMPTY", "label: expected a name, got none"
            elif not sized[i]:
                code, message = "E_VALUE_RANGE", f"width, height: got {sizes[i].tolist()}"
            else:
                code = "E_SIZE_MISMATCH"
                other = list(self.sizes[key])
                message = f"width, height: got {sizes[i].tolist()}, other rows say {other}"
            self.detections.reject(key, self._rejection(code, message, rows[i, 6].item()))
        if (named & agreed).any():
            self.chunks[key].append(rows[named & agreed])

    def _class(self, label: str) -> int:
        """Return the index of a label's class; -1 where it says nothing."""
        if not label.strip():
            return -1
        index = self.classes.get(label, self.classes.get(_plain(label)))
        if index is None:
            index = len(self.detections.names)
            self.detections.names.append(label)
            self.detections.synonyms.append(())
            self.classes[label] = self.classes[_plain(label)] = index
        return index

    def _rejection(self, code: str, message: str, row: float) -> Any:
        return reject(code, message, file=self.file, record=f"row {int(row)}")


def _plain(name: str) -> str:
    return bare_name(name).lower()


def _texts(batch: Any, name: str) -> tuple[list[str], Any]:
    """Return the different texts of a column and, by row, which it is; -1 for none."""
    column = batch.column(name).cast(pa.string()).dictionary_encode()
    indices = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return column.dictionary.to_pylist(), indices


def _floats(batch: Any, name: str) -> Any:
    column = batch.column(name)
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _groups(numbers: Any, count: int) -> Iterator[tuple[int, Any]]:
    """Yield each number from 0 to `count` with its rows, in their order."""
    order = np.argsort(numbers, kind="stable")
    edges = np.searchsorted(numbers[order], np.arange(count + 1))
    for i in range(count):
        yield i, order[edges[i] : edges[i + 1]]
