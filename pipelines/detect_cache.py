"""What a detector found in which picture bytes, kept from run to run and through any `kill -9`.

One SQLite file for one detector with one set of settings; a row a picture, by the sha256 of its
bytes. Rows are only ever added, a batch at a time, whole or not at all.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Self

import msgspec

from roikit.errors import RoikitError
from roikit.sample import Region

#: x0, y0, x1, y1, score, label.
_Box = tuple[float, float, float, float, float, str]
_decoder = msgspec.msgpack.Decoder(list[_Box])

_TABLE = """
create table if not exists pictures (
    sha256 blob primary key, width integer, height integer, input_shape text, boxes blob
) without rowid
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detected:
    """One picture's regions."""

    sha256: bytes
    image_wh: tuple[int, int]  #: of the upright picture, pixels
    input_shape: str  #: what the model got; pictures of one shape may share a batch
    regions: list[Region]


class DetectionCache:
    """An open cache; close it, or use it in a `with` block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._clear_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60)  # another run may be writing
            self._db.execute(_TABLE)
            rows = self._db.execute("select sha256, input_shape from pictures")
            #: input shape by sha256, of everything in the cache; may be read by other threads
            self.shapes: dict[bytes, str] = {sha: intern(shape) for sha, shape in rows}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add(self, found: Iterable[Detected]) -> None:
        """Keep what was found; a picture that is there already stays as it is."""
        new = [one for one in found if one.sha256 not in self.shapes]
        rows = [
            (one.sha256, *one.image_wh, one.input_shape, msgspec.msgpack.encode(_boxes(one)))
            for one in new
        ]
        with self._clear_errors(), self._db:
            self._db.executemany("insert or ignore into pictures values (?, ?, ?, ?, ?)", rows)
        self.shapes |= {one.sha256: one.input_shape for one in new}

    def get(self, sha256: bytes) -> Detected:
        """Return what was found in a picture that is in `shapes`."""
        with self._clear_errors():
            row = self._db.execute(
                "select width, height, input_shape, boxes from pictures where sha256 = ?", (sha256,)
            ).fetchone()
            if row is None:
                raise sqlite3.DatabaseError("a row that was there is gone")
            boxes = _decoder.decode(row[3])
        regions = [
            Region(box_xyxy=(x0, y0, x1, y1), label=label, origin="detector", score=score)
            for x0, y0, x1, y1, score, label in boxes
        ]
        return Detected(
            sha256=sha256, image_wh=(row[0], row[1]), input_shape=row[2], regions=regions
        )

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            full = "full" in str(error)
            raise RoikitError(
                f"`{self.path}`: the cache of detections cannot be used: {error}",
                hint="free some space and run again: what is done is kept"
                if full
                else "is another run using it? If not, delete the file; its pictures are done anew",
            ) from error


def _boxes(found: Detected) -> list[_Box]:
    return [(*r.box_xyxy, r.score or 0.0, r.label or "") for r in found.regions]
