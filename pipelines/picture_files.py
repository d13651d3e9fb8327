"""Find the pictures that a command shall go through: below a folder, or named in a list.

In: a folder, a text file with a path a line, or one picture. Out: names and paths in the order of
the names. Nothing is opened but the list; of its files one must be there.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from roikit.errors import UsageError

#: Endings that are taken for pictures below a folder; what they hold is seen when they are read.
_SUFFIXES = frozenset([".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"])
#: Longer lines are no paths (Linux allows 4,096 bytes), but a wrong file's content.
_MAX_LINE_BYTES = 4096
_SHOWN_CHARS = 200
_WANTED = "expected a folder of pictures, a text file with a path a line, or a picture"


@dataclass(frozen=True, slots=True, order=True)
class PictureFile:
    """One picture, not looked at yet."""

    name: str  #: below the folder, with forward slashes; of a list, as written there
    path: Path


def find_pictures(source: Path) -> list[PictureFile]:
    """List the pictures of `source`, in the order of their names.

    Args:
        source: a folder, searched with all below it, links included (files and folders whose name
            starts with a dot are not taken); or a UTF-8 text file, its paths relative to its own
            folder, blank lines and repetitions skipped; or a picture.

    Raises:
        UsageError: none of these, it holds no picture, or a list of which no file is there.
    """
    if source.is_dir():
        found = _below(source)
    elif source.is_file():
        is_picture = source.suffix.lower() in _SUFFIXES
        found = [PictureFile(source.name, source)] if is_picture else _listed(source)
    else:
        raise UsageError(f"`{source}`: {_WANTED}, found nothing there")
    if not found:
        what = f"with {' '.join(sorted(_SUFFIXES))}" if source.is_dir() else "named in it"
        raise UsageError(f"`{source}`: expected pictures, found no file {what}")
    return sorted(found)


def _below(folder: Path) -> list[PictureFile]:
    found = []
    seen: set[tuple[int, int]] = set()  # a link may lead back up
    for place, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(place)  # noqa: PTH116  os.walk speaks in strings
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # In order, so that of two links to one folder always the same one is taken.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(place)
        for name in files:
            path = here / name
            if not name.startswith(".") and path.suffix.lower() in _SUFFIXES:
                found.append(PictureFile(path.relative_to(folder).as_posix(), path))
    return found


def _listed(source: Path) -> list[PictureFile]:
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        reason = "text that is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise UsageError(f"`{source}`: {_WANTED}, found {reason}") from error
    for number, line in enumerate(lines, start=1):
        length = len(line.encode())
        if length > _MAX_LINE_BYTES:
            found_in = f"found {length:,} bytes in line {number}, too many for a path"
            raise UsageError(f"`{source}`: {_WANTED}, {found_in}")
    names = dict.fromkeys(line.strip() for line in lines)
    found = [PictureFile(name, source.parent / name) for name in names if name]
    if found and not any(_is_there(picture.path) for picture in found):
        raise UsageError(
            f"`{source}`: {_WANTED}, found {len(found):,} lines that name no file, "
            f"such as `{cut_name(found[0].name)}`",
            hint="paths in a list are relative to the list's own folder",
        )
    return found


def cut_name(name: str) -> str:
    """Return a name as messages show it: of a long one the beginning."""
    return name if len(name) <= _SHOWN_CHARS else f"{name[:_SHOWN_CHARS]} …"


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a name, or a zero byte in it
        return False
