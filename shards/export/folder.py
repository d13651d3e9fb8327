"""The folder an export makes: it appears whole, and is replaced only if an export made it.

Also how a picture leaves a shard. Knows nothing of the forms.
"""

import contextlib
import io
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import PIL.Image

from roikit import images
from roikit.errors import CorruptSampleError, UsageError
from roikit.path_errors import usable
from roikit.sample import Sample
from shards.commit import DatasetInfo
from shards.layout import parse_key, split_prefix

#: The report in the folder: what was exported, and the mark of a folder that may be replaced.
REPORT_NAME = "export.json"
_UPRIGHT_QUALITY = 95

Progress = Callable[[int, int], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedSplit:
    """One split, as it left."""

    dataset: str
    split: str
    merkle_root: str  #: names the split's content
    file: str | None  #: what to open, relative to the folder; None where nothing was left to write
    samples: int
    records: int  #: annotations, conversations or samples: what the form counts
    left_out: Mapping[str, int]  #: what the form has no place for, by reason


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """What an export made."""

    format: str
    out: Path
    settings: Mapping[str, object]
    splits: tuple[ExportedSplit, ...]


@contextlib.contextmanager
def export_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a new folder to write into; it takes the place of `out` if the block succeeds.

    Raises:
        UsageError: `out` holds something that is no export, or an export and `overwrite` is false;
            or it cannot be written.
    """
    with usable(out, "written"):
        partial = _make_partial(out.absolute(), overwrite=overwrite)
    try:
        yield partial
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _make_partial(out: Path, *, overwrite: bool) -> Path:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (out / REPORT_NAME).is_file():
            raise UsageError(
                f"{out}: expected an empty folder or an older export (`{REPORT_NAME}`), "
                "found something else",
                hint="choose another --out",
            )
        if not overwrite:
            raise UsageError(
                f"{out}: holds an export already", hint="give --overwrite to replace it"
            )
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def write_report(folder: Path, report: ExportReport) -> None:
    """Leave the report beside what was exported."""
    content = asdict(report)
    del content["out"]  # the folder may be moved
    data = msgspec.json.format(msgspec.json.encode(content), indent=2)
    (folder / REPORT_NAME).write_bytes(data + b"\n")


def write_picture(folder: Path, sample: Sample, image_bytes: bytes) -> str:
    """Write a sample's picture below `folder` and return its name there.

    Its bytes are untouched, unless it is stored turned (EXIF): boxes speak of the upright picture
    and few readers of these forms turn it, so it is written upright, encoded anew.

    Raises:
        CorruptSampleError: the record's key is not one of its split, or the picture is damaged.
    """
    prefix = split_prefix(sample.dataset, sample.split)
    if parse_key(sample.key)[0] != prefix:  # it becomes a file's name, and shards are strangers'
        raise CorruptSampleError(f"expected a key `{prefix}-…` in the record, got `{sample.key}`")
    header = images.read_header(image_bytes)
    extension = images.extension(header)
    if sample.image.orientation != 1:
        buffer = io.BytesIO()
        upright = PIL.Image.fromarray(images.decode_rgb(image_bytes))
        if extension == "jpg":
            upright.save(buffer, "JPEG", quality=_UPRIGHT_QUALITY)
        else:
            extension = "png"
            upright.save(buffer, "PNG")
        image_bytes = buffer.getvalue()
    name = f"{prefix}/{sample.key}.{extension}"
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image_bytes)
    return name


def num_samples(splits: Sequence[DatasetInfo], limit: int | None) -> int:
    """Return how many samples an export of `splits` takes, at most `limit` of each."""
    return sum(info.samples if limit is None else min(limit, info.samples) for info in splits)
