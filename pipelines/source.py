"""Messages about a dataset's files: what was expected, what lies there, what to do."""

from collections.abc import Sequence
from pathlib import Path

from pipelines.draft import Draft
from pipelines.images import ImageRoots, safe_name
from pipelines.rejections import reject
from roikit.errors import UsageError
from roikit.images import ImageHeader
from roikit.sample import Rejection

_MAX_LISTED = 8


def require_folder(source: Path, title: str, expects: Sequence[str]) -> None:
    """Check that the source is a folder with something in it.

    Raises:
        UsageError: it is missing, a file, or empty.
    """
    wanted = f"a folder with {title}'s files ({', '.join(expects)})"
    if not source.exists():
        raise UsageError(f"`{source}`: expected {wanted}, found nothing there", hint=_hint(title))
    if not source.is_dir():
        raise UsageError(f"`{source}`: expected {wanted}, found a file", hint=_hint(title))
    if next(source.iterdir(), None) is None:
        raise UsageError(f"`{source}`: expected {wanted}, found it empty", hint=_hint(title))


def missing_files(source: Path, title: str, wanted: Sequence[str]) -> UsageError:
    """Make the error for a folder that lacks files, naming what lies there instead."""
    names = sorted(path.name + "/" * path.is_dir() for path in source.iterdir())
    listed = ", ".join(names[:_MAX_LISTED]) + (", ..." if len(names) > _MAX_LISTED else "")
    return UsageError(
        f"`{source}`: expected {title}'s files ({', '.join(wanted)}), found {listed or 'nothing'}",
        hint=_hint(title),
    )


def require_pictures(name: str, drafts: Sequence[Draft], roots: ImageRoots) -> None:
    """Check that not every picture of a split is missing: the folder is wrong then.

    Args:
        name: of the dataset and the split, for the message.
        drafts: the split's images.
        roots: the folders they were looked for in.

    Raises:
        UsageError: none of them was found; the folders are named.
    """
    wanted = [draft for draft in drafts if safe_name(draft.file)]
    if not wanted or any(draft.root is not None for draft in drafts):
        return
    shown = ascii(wanted[0].file[:80])[1:-1]
    raise UsageError(
        f"{name}: expected pictures such as `{shown}`, found none of {len(drafts):,} in "
        f"{', '.join(f'`{folder}`' for folder in roots.folders) or 'any folder'}",
        hint="name the folder that holds them with `--images`, or other splits with `--split`",
    )


def relative_name(path: Path, source: Path) -> str:
    """Return a file's name below the source folder, with forward slashes."""
    return path.relative_to(source).as_posix() if path.is_relative_to(source) else path.as_posix()


def unusable_picture(
    code: str, draft: Draft, header: ImageHeader | None = None, reason: str = ""
) -> Rejection:
    """Make the rejection of an image with all its records."""
    if code == "E_SIZE_MISMATCH" and header is not None:
        named = "x".join(map(str, draft.image_wh or ()))
        real = f"{header.width}x{header.height}"
        reason = reason or f"annotated at {named}, the picture is {real}: not the same shape"
    records = f"{draft.num_records} record{'s' * (draft.num_records != 1)} left out with it"
    return reject(
        code,
        f"`{draft.file}`: {reason or 'cannot be used'}; {records}",
        file=draft.source_file,
        record=draft.record,
        native_id=draft.native_id,
    )


def _hint(title: str) -> str:
    return f"give the folder that {title}'s archives were unpacked in; docs/datasets.md shows it"
