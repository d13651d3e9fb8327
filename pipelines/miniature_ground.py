"""Where faults are planted: one tree of the miniature world, its files open for editing.

A planter adds records and pictures beside the good ones and notes for each what a conversion is to
say of it; what stood there before stays as it was. Files are replaced, never written through: a
tree's files may be links to another one's.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from pipelines.miniature_files import link

_TOO_SHORT = 0.6  #: of a picture's bytes are left of one that is cut off


class Planted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One planted fault."""

    dataset: str  #: as `roikit convert` names it
    source: str  #: folder below the world to convert
    split: str
    file: str  #: as the rejection names it
    record: str  #: the place in the file, as the rejection names it
    code: str
    what: str  #: in words
    option: str | None = None  #: of `roikit convert`, without which it is no fault


class Ground:
    """One dataset's tree.

    Args:
        world: the world's folder.
        dataset: as `roikit convert` names it.
        source: its folder below the world.
        split: that the faults are planted in.
        first_id: the first id that nothing in the tree has.
    """

    def __init__(
        self, world: Path, dataset: str, *, source: str | None = None, split: str, first_id: int
    ) -> None:
        self.world = world
        self.dataset = dataset
        self.source = source or dataset
        self.folder = world / self.source
        self.split = split
        self.planted: list[Planted] = []
        self._next_id = first_id

    def new_id(self) -> int:
        """Return an id that nothing has."""
        self._next_id += 1
        return self._next_id - 1

    def note(
        self, code: str, file: str, record: str, what: str, *, option: str | None = None
    ) -> None:
        """Note a fault that was planted."""
        self.planted.append(
            Planted(
                dataset=self.dataset,
                source=self.source,
                split=self.split,
                file=file,
                record=record,
                code=code,
                what=what,
                option=option,
            )
        )

    def read_json(self, name: str) -> Any:
        """Read one of the tree's files."""
        return json.loads((self.folder / name).read_bytes())

    def write_json(self, name: str, value: Any) -> None:
        """Replace one of the tree's files; NaN is written as Python writes it, which is no JSON."""
        self.write(name, json.dumps(value, separators=(",", ":")).encode())

    def append_lines(self, name: str, values: Sequence[Any]) -> int:
        """Add lines to a file: JSON of what is no bytes; return the number of the first."""
        data = (self.folder / name).read_bytes()
        lines = [v if isinstance(v, bytes) else json.dumps(v).encode() for v in values]
        self.write(name, data + b"".join(line + b"\n" for line in lines))
        return data.count(b"\n") + 1

    def write(self, name: str, data: bytes) -> None:
        """Replace one of the tree's files."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)

    def copy_picture(self, picture: Path, target: Path) -> None:
        """Let a good picture stand under another name, too."""
        target.parent.mkdir(parents=True, exist_ok=True)
        link(picture, target)

    def cut_picture(self, picture: Path, target: Path) -> None:
        """Write a picture that ends too early."""
        data = picture.read_bytes()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data[: int(len(data) * _TOO_SHORT)])

    def damage_picture(self, picture: Path, target: Path) -> None:
        """Write a picture whose header and end are right, with pixels missing between them."""
        self.cut_picture(picture, target)
        target.write_bytes(target.read_bytes() + b"\xff\xd9")

    def break_picture(self, target: Path) -> None:
        """Write what a server says instead of a picture."""
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"<html><body>404 Not Found</body></html>\n")
