"""Find pictures below the image folders, and tell what their boxes were drawn on.

Annotations come from strangers: a file name in them may not leave the folder it is looked up in.
Boxes come back in pixels of the upright picture, clipped, or as the code they are rejected for.
"""

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy.typing as npt

from pipelines.remote_source import RemoteFolder, remote_folder
from roikit import boxes
from roikit.errors import RoikitError, UsageError
from roikit.images import ImageHeader
from roikit.urls import is_url

Box = tuple[float, float, float, float]

#: How far, in pixels, a rescaled size may lie from the real one: both were rounded once.
_ROUNDING_PX = 2.0
#: Errors that say that there is no file of that name. Any other may pass, and says nothing of it.
_NO_SUCH_FILE = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
        *(errno.ELOOP, errno.EINVAL, errno.EILSEQ),
    }
)
#: No annotation is drawn on a picture larger than this; a file may still say so.
_LARGEST_SIDE = 1 << 31


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRoots:
    """Folders that pictures may come from, the dataset's own first, in the order they are tried."""

    folders: tuple[Path | RemoteFolder, ...]

    def find(self, candidates: Sequence[str]) -> tuple[int, str, int] | None:
        """Look for the first of `candidates` (paths below a root) that is a file.

        Returns:
            The root's index, the candidate, the file's size in bytes; None where there is none. A
            candidate that may not be looked at is taken, with 0 bytes, where there is no other.

        Raises:
            RoikitError: the disk or the network does not answer as it should.
        """
        denied: tuple[int, str, int] | None = None
        for i, folder in enumerate(self.folders):
            for name in candidates:
                try:
                    num_bytes = _file_bytes(folder, name)
                except PermissionError:
                    denied = denied or (i, name, 0)
                    continue
                if num_bytes is not None:
                    return i, name, num_bytes
        return denied

    def read(self, root: int, name: str) -> bytes:
        """Return the bytes of the file `name` below folder `root`, where `find` found it.

        Raises:
            PermissionError: it may not be read.
            FileNotFoundError: it is gone since.
            RoikitError: the disk, network or store does not answer as it should. That may pass, so
                it must not become a rejection.
        """
        folder = self.folders[root]
        try:
            if isinstance(folder, RemoteFolder):
                return folder.read(name)
            return (folder / name).read_bytes()
        except (PermissionError, FileNotFoundError):
            raise
        except OSError as error:
            if error.errno in _NO_SUCH_FILE:
                raise FileNotFoundError(errno.ENOENT, error.strerror, name) from error
            raise _does_not_answer(f"{folder}/{name}", error) from error


def changed(folder: Path | RemoteFolder, name: str, then: str, now: str) -> RoikitError:
    """Make the error for a file that is not what the plan found.

    Going on would give one plan's hash to two contents, and so would leaving it out.
    """
    return RoikitError(
        f"`{folder}/{name}`: {then} when the plan was made, now {now}",
        hint="once the source stays as it is, plan anew: the same command with `--overwrite`, or"
        " with `--extend` if that was given",
    )


def _file_bytes(folder: Path | RemoteFolder, name: str) -> int | None:
    if isinstance(folder, RemoteFolder):
        return folder.file_bytes(name)
    try:
        # There are half a million: `Path` objects would cost more than the look.
        status = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118
    except ValueError:
        return None
    except PermissionError:
        raise
    except OSError as error:
        if error.errno in _NO_SUCH_FILE:
            return None
        raise _does_not_answer(f"{folder}/{name}", error) from error
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _does_not_answer(file: str, error: OSError) -> RoikitError:
    return RoikitError(
        f"`{file}`: cannot be read: {error.strerror or error}",
        hint="mend that and run the same command again: finished shards are kept",
    )


def planned_roots(places: Sequence[str]) -> ImageRoots:
    """Return the image folders that a plan noted: pictures are read there, not looked for."""
    return ImageRoots(folders=tuple(RemoteFolder(url=p) if is_url(p) else Path(p) for p in places))


def image_roots(
    own: Sequence[Path], extra: Sequence[Path], neighbours: Sequence[Path] = ()
) -> ImageRoots:
    """Put the dataset's own folders and those of `--images` together.

    Args:
        own: the dataset's.
        extra: those of `--images`.
        neighbours: where the pictures may lie besides; looked at last.

    Raises:
        UsageError: a folder of `--images` is not there.
    """
    for folder in extra:
        if not folder.is_dir():
            raise UsageError(
                f"`{folder}`: expected a folder of pictures, found no such folder",
                hint="check the path given to `--images`",
            )
    guessed = (folder for folder in neighbours if folder not in (*own, *extra) and folder.is_dir())
    folders = (*(folder for folder in own if folder.is_dir()), *extra, *guessed)
    return ImageRoots(folders=tuple(remote_folder(folder) or folder for folder in folders))


def safe_name(name: str) -> bool:
    """Tell whether a relative path from an annotation stays below the folder it is joined to."""
    parts = name.split("/")
    return not (
        "\0" in name
        or "\\" in name
        or name.startswith("/")
        or ".." in parts
        or all(part in ("", ".") for part in parts)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """How boxes as written in a file come to lie on the upright picture."""

    header: ImageHeader
    annotated_wh: tuple[int, int]  #: size that the boxes were drawn on, in the file's axes
    is_turned: bool  #: they were drawn on the picture as stored, before EXIF turns it upright

    def place(self, box_xyxy: Sequence[float]) -> tuple[Box, bool] | str:
        """Bring one box onto the picture.

        Args:
            box_xyxy: corners in the file's pixels, right and bottom edge exclusive, finite.

        Returns:
            The clipped box in the upright picture's pixels and whether clipping changed it; or the
            code it is rejected for.
        """
        picture_wh = (self.header.width, self.header.height)
        x0, y0, x1, y1 = box_xyxy
        if x1 - x0 < 1 or y1 - y0 < 1:
            return "E_BOX_EMPTY"
        if self.is_turned or self.annotated_wh != picture_wh:
            x0, y0, x1, y1 = self.move([box_xyxy])[0].tolist()
        width, height = picture_wh
        if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
            return "E_BOX_OUTSIDE"
        # Plain arithmetic: a dataset has millions of boxes, and numpy is slow on a single row.
        clipped = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
        if clipped[2] - clipped[0] < 1 or clipped[3] - clipped[1] < 1:
            return "E_BOX_EMPTY"
        return clipped, clipped != (x0, y0, x1, y1)

    def move(self, boxes_xyxy: npt.ArrayLike) -> boxes.Boxes:
        """Bring boxes onto the picture without looking whether they fit: (N, 4), not clipped."""
        stored_wh = self.header.stored_wh
        to_wh = stored_wh if self.is_turned else (self.header.width, self.header.height)
        moved = boxes.scale(boxes_xyxy, from_wh=self.annotated_wh, to_wh=to_wh)
        if self.is_turned:
            moved = boxes.orient(moved, stored_wh, self.header.orientation)
        return moved


def match_frame(header: ImageHeader, annotated_wh: tuple[int, int] | None) -> Frame | None:
    """Compare the picture with the size its annotations name.

    The picture's real size is trusted. The named size may differ by a constant factor (VCR names
    2,654 of its frames so), or speak of the pixels before EXIF turns them; where both readings
    fit, that of the upright picture is taken.

    Returns:
        How its boxes are placed; None where the shapes do not agree.
    """
    upright = (header.width, header.height)
    named = upright if annotated_wh is None else annotated_wh
    if min(named) < 1 or max(named) > _LARGEST_SIDE:
        return None
    if named == upright:
        return Frame(header=header, annotated_wh=named, is_turned=False)
    if header.orientation != 1 and named == header.stored_wh:
        return Frame(header=header, annotated_wh=named, is_turned=True)
    if _is_rescaled(named, upright):
        return Frame(header=header, annotated_wh=named, is_turned=False)
    if header.orientation != 1 and _is_rescaled(named, header.stored_wh):
        return Frame(header=header, annotated_wh=named, is_turned=True)
    return None


def _is_rescaled(named_wh: tuple[int, int], real_wh: tuple[int, int]) -> bool:
    factor = sum(real_wh) / sum(named_wh)
    # Measured at the larger of the two scales, where a pixel lost to rounding weighs least.
    unit = max(1.0, factor)
    return all(
        abs(named * factor - real) <= _ROUNDING_PX * unit
        for named, real in zip(named_wh, real_wh, strict=True)
    )
