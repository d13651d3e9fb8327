"""Run a detector over pictures: what it finds becomes the table that `convert --detections` reads.

In: pictures and a detector of Hugging Face. Out: one Parquet table (`detections_table.py`), rows in
the order of the pictures' names, written at the end. On the way every batch is kept in a cache
(`detect_cache.py`), so that a run can be killed at any moment and given again: the same pictures,
detector, settings and batch size give the same bytes (`detect_batches.py`).
"""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pipelines.class_labels import spoken_names
from pipelines.class_names import read_class_table
from pipelines.detect_batches import Labelling, label_all
from pipelines.detect_cache import DetectionCache
from pipelines.detections_table import DetectedBox, read_about, read_names, write_detections
from pipelines.job import DEFAULT_MAX_REJECTS
from pipelines.llava_boxes import MAX_BOXES, MIN_SCORE
from pipelines.picture_files import PictureFile, find_pictures
from roikit import paths
from roikit.errors import UsageError
from roikit.path_errors import check_writable
from roikit.sample import Rejection

DEFAULT_BATCH_SIZE = 8
#: Goes into the cache's key; to be raised whenever the same detector would give other boxes.
_VERSION = 1
_ABOUT = "roikit.detections"


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelReport:
    """What became of a folder of pictures."""

    out: Path | None  #: the table; None where no picture could be used, and none was written
    cache: Path
    detector: str
    pictures: int  #: asked for
    labelled: int  #: read, and looked at by the detector
    from_cache: int  #: of those, the ones found in the cache
    without_boxes: int
    boxes: int
    rejected: dict[str, int]  #: number of pictures by code
    rejections: list[Rejection]  #: the same pictures, in the order of their names
    seconds: float  #: loading the detector left out


class _Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a table was made with; kept in it."""

    version: int
    detector: str
    fingerprint: str
    threshold: float
    max_boxes: int

    def key(self) -> str:
        """Hash all but the detector's name, which decides on no box."""
        nameless = msgspec.structs.replace(self, detector="")
        return hashlib.sha256(msgspec.json.encode(nameless)).hexdigest()


def default_out(source: Path, detector: str) -> Path:
    """Return where the table goes: `data/detections/<pictures>-<detector>.parquet`."""
    pictures = source.resolve().stem if source.is_file() else source.resolve().name
    name = f"{pictures or 'pictures'}-{Path(detector).resolve().name}.parquet"
    return paths.home() / "data" / "detections" / name


def read_classes(path: Path) -> list[tuple[str, str]]:
    """Read the (label, words) of classes that a detector is asked for.

    Args:
        path: a JSON file with `categories` (LVIS's, COCO's annotations), or text, a class a line.

    Raises:
        UsageError: neither, or no class in it.
    """
    if path.suffix.lower() == ".json":
        names = list(read_class_table(path).names)
    else:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (UnicodeDecodeError, OSError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise UsageError(
                f"`{path}`: expected a list of classes: {reason}",
                hint="a class a line, or an annotation file with `categories` (.json)",
            ) from error
        names = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not names:
        raise UsageError(f"`{path}`: expected a class a line, found none")
    return list(zip(names, spoken_names(names), strict=True))


def label(
    source: Path,
    detector: str,
    *,
    out: Path | None = None,
    classes: Path | None = None,
    threshold: float = MIN_SCORE,
    max_boxes: int = MAX_BOXES,
    batch_size: int = DEFAULT_BATCH_SIZE,
    device: str = "auto",
    dtype: str = "auto",
    limit: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> LabelReport:
    """Detect objects in pictures and write the table of their boxes.

    Args:
        source: what `find_pictures` takes.
        detector: a folder, or a model's name on the hub.
        out: the table; None is `default_out`. A table of the same settings is written anew where
            all its pictures are among those of `source`.
        classes: what `read_classes` takes; for detectors that are asked with text.
        threshold: boxes at or below this score are left out, 0 to 1.
        max_boxes: boxes a picture, the best.
        batch_size: pictures in the model at once.
        device: `auto` or a torch device.
        dtype: `auto`, `fp32`, `bf16` or `fp16`.
        limit: only the first so many pictures.
        workers: threads that read and decode; None is one a core.
        overwrite: replace a table that holds something else.
        progress: told (pictures done, pictures in all).

    Raises:
        UsageError: no pictures, no detector, or `out` holds something else.
        RoikitError: the cache or the device cannot be used; what is done is kept.
    """
    from roikit.model.detector import load_detector

    _check_options(threshold, max_boxes, batch_size)
    out = out if out is not None else default_out(source, detector)
    check_writable(out)  # now, not after hours of work
    if out.is_dir():
        raise UsageError(f"`{out}`: expected a file to write, found a folder")
    pictures = find_pictures(source)[:limit]
    loaded = load_detector(
        detector, classes=read_classes(classes) if classes else None, device=device, dtype=dtype
    )
    settings = _Settings(
        version=_VERSION,
        detector=loaded.name,
        fingerprint=loaded.fingerprint,
        threshold=threshold,
        max_boxes=max_boxes,
    )
    if not overwrite:
        _check_out(out, settings, {picture.name for picture in pictures})
    out.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    cache_path = paths.home() / "data" / "detections" / "cache" / f"{settings.key()[:32]}.sqlite"
    with DetectionCache(cache_path) as cache:
        job = Labelling(
            detector=loaded,
            cache=cache,
            threshold=threshold,
            max_boxes=max_boxes,
            batch_size=batch_size,
        )
        label_all(job, pictures, workers=workers or os.cpu_count() or 1, progress=progress)
        used = [picture for picture in pictures if picture.name in job.hashes]
        num_boxes = {p.name: len(cache.get(job.hashes[p.name]).regions) for p in used}
        without = [name for name, count in num_boxes.items() if not count]
        if used:  # an older table is worth more than an empty one
            about = {_ABOUT: msgspec.json.encode(settings).decode()}
            write_detections(out, _rows(job, used), about, without_boxes=without)
    return LabelReport(
        out=out if used else None,
        cache=cache_path,
        detector=loaded.name,
        pictures=len(pictures),
        labelled=len(job.hashes),
        from_cache=len(job.hashes) - job.num_new,
        without_boxes=len(without),
        boxes=sum(num_boxes.values()),
        rejected=dict(sorted(Counter(one.code for one in job.rejections.values()).items())),
        rejections=[job.rejections[name] for name in sorted(job.rejections)],
        seconds=time.monotonic() - started,
    )


def check_rejections(report: LabelReport, max_rejects: float = DEFAULT_MAX_REJECTS) -> str | None:
    """Say what is wrong where more than this share of the pictures could not be used, or none."""
    if report.out is None:
        return f"none of {report.pictures:,} pictures could be used; no table was written"
    share = len(report.rejections) / report.pictures
    if share <= max_rejects:
        return None
    return (
        f"{len(report.rejections):,} of {report.pictures:,} pictures could not be used "
        f"({share:.1%}, allowed are {max_rejects:.1%})"
    )


def _check_options(threshold: float, max_boxes: int, batch_size: int) -> None:
    if not 0 <= threshold <= 1:
        raise UsageError(f"threshold: expected 0 to 1, got {threshold}")
    if max_boxes < 1:
        raise UsageError(f"max_boxes: expected at least 1, got {max_boxes}")
    if batch_size < 1:
        raise UsageError(f"batch_size: expected at least 1, got {batch_size}")


def _check_out(out: Path, settings: _Settings, names: set[str]) -> None:
    """Refuse to write over anything but what this very command would write again, or add to."""
    if not out.exists():
        return
    hint = "give another --out, or --overwrite to replace it"
    about = read_about(out) if out.is_file() else None
    try:
        made_with = msgspec.json.decode((about or {}).get(_ABOUT, ""), type=_Settings)
    except msgspec.MsgspecError:
        raise UsageError(
            f"`{out}`: something else than a table of `roikit label` is there", hint=hint
        ) from None
    if made_with.key() != settings.key():
        raise UsageError(
            f"`{out}`: holds boxes of another detector or other settings: {_named(made_with)}; "
            f"asked for are {_named(settings)}",
            hint=hint,
        )
    lost = read_names(out) - names
    if lost:
        raise UsageError(
            f"`{out}`: holds boxes of {len(lost):,} pictures that are not asked for now, "
            f"such as `{min(lost)}`",
            hint=hint,
        )


def _named(settings: _Settings) -> str:
    return (
        f"`{settings.detector}` ({settings.fingerprint[:8]}), threshold {settings.threshold:g}, "
        f"at most {settings.max_boxes} boxes"
    )


def _rows(job: Labelling, pictures: Sequence[PictureFile]) -> Iterator[DetectedBox]:
    for picture in pictures:
        found = job.cache.get(job.hashes[picture.name])
        for region in found.regions:
            yield DetectedBox(
                picture.name,
                *region.box_xyxy,
                *found.image_wh,
                region.score or 0.0,
                region.label or "",
                job.detector.name,
            )
