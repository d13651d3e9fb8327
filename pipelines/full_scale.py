"""Source trees of official size: what conversion has to hold out against, without the real data.

In: a folder and a seed. Out: below it one tree a dataset, in the official layout, with exactly as
many images and records as were published. Texts, boxes and outlines are invented and mean nothing;
pictures are hard links to a few hundred drawn scenes. For measuring time, memory and counts, not
for training. Each tree appears whole or not at all, so a second run makes only what is missing.
"""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pipelines import (
    full_scale_coco,
    full_scale_lvis,
    full_scale_vcr,
    full_scale_visual_genome,
)
from pipelines.full_scale_draws import Picture, draw_pictures
from roikit.errors import RoikitError, UsageError
from roikit.path_errors import check_writable, usable
from shards.atomic import locked

#: Raised when the same seed would give other bytes.
VERSION = 1
MARK_FILE = "full-scale.json"
README_FILE = "README.md"
#: Called with (done, total, what is being done).
Progress = Callable[[int, int, str], None]

_PICTURES_EACH = 48
_LOCK_FILE = ".lock"
_README = """# Synthetic data: {title}

This tree has the file names, fields and counts of {title}, and nothing else of it. Every
phrase, box, outline and answer is invented and says nothing about the picture beside it; a few
hundred drawn pictures stand under all the names, so counting equal pictures here means nothing
either. It is there to measure time and memory of conversion. Do not train on it.

Written by `roikit miniature --scale full` with seed {seed} (form {version}).
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class FullScaleReport:
    """What became of one dataset's tree."""

    dataset: str
    folder: Path
    images: int
    records: int
    file_bytes: int  #: of all files but pictures, whose bytes are shared
    seconds: float
    was_done: bool  #: it stood there already, of this seed


class _Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished tree says of itself."""

    synthetic: bool
    version: int
    seed: int
    images: int
    records: int
    file_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Dataset:
    title: str
    sizes_wh: Sequence[tuple[int, int]]
    images: int
    records: int
    disk_bytes: int  #: roughly, of the finished tree with its folders
    write: Callable[[Path, Sequence[Picture], int, Callable[[int], None]], None]


_COCO_SPLITS = (full_scale_coco.TRAIN, full_scale_coco.VAL)
#: To add one: a module with its counts and a `write` like theirs, and a row here.
DATASETS: dict[str, _Dataset] = {
    "coco": _Dataset(
        title="COCO 2017",
        sizes_wh=full_scale_coco.SIZES_WH,
        images=sum(split.images for split in _COCO_SPLITS),
        records=sum(split.annotations + split.captions for split in _COCO_SPLITS),
        disk_bytes=800_000_000,
        write=full_scale_coco.write_coco,
    ),
    "vg": _Dataset(
        title="Visual Genome 1.2",
        sizes_wh=full_scale_visual_genome.SIZES_WH,
        images=sum(full_scale_visual_genome.COUNTS.images.values()),
        records=sum(full_scale_visual_genome.COUNTS.regions.values()),
        disk_bytes=900_000_000,
        write=full_scale_visual_genome.write_visual_genome,
    ),
    "vcr": _Dataset(
        title="VCR",
        sizes_wh=full_scale_vcr.SIZES_WH,
        images=sum(split.images for split in full_scale_vcr.SPLITS),
        records=sum(split.questions for split in full_scale_vcr.SPLITS),
        disk_bytes=1_500_000_000,
        write=full_scale_vcr.write_vcr,
    ),
    "lvis": _Dataset(
        title="LVIS v1",
        sizes_wh=full_scale_coco.SIZES_WH,
        images=sum(sum(split.images.values()) for split in full_scale_lvis.SPLITS),
        records=sum(split.annotations for split in full_scale_lvis.SPLITS),
        disk_bytes=1_500_000_000,
        write=full_scale_lvis.write_lvis,
    ),
}


def make_full_scale(
    out: Path,
    *,
    datasets: Sequence[str] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[FullScaleReport]:
    """Write trees of official size below `out`, one folder a dataset.

    Args:
        out: folder for the trees; made where it is missing.
        datasets: some of `DATASETS`; None takes all.
        seed: the same gives the same bytes (pictures also depend on the versions of Pillow and of
            its JPEG library).
        overwrite: replace trees that were made from another seed.
        progress: told of the records written.

    Returns:
        A report a dataset, in the order asked for.

    Raises:
        UsageError: an unknown dataset, a folder in the way that holds something else, or another
            process at work there.
        RoikitError: too little space, or a file system without hard links.
    """
    chosen = list(dict.fromkeys(datasets if datasets is not None else DATASETS))
    for name in chosen:
        if name not in DATASETS:
            known = ", ".join(DATASETS)
            raise UsageError(f"datasets: expected some of {known}, got `{name}`")
    if seed < 0:
        raise UsageError(f"seed: expected 0 or more, got {seed}")
    with usable(out, "written"):
        done = {name: mark for name in chosen if (mark := _finished(out / name, seed, overwrite))}
        out.mkdir(parents=True, exist_ok=True)
        check_writable(out / _LOCK_FILE)
    missing = [name for name in chosen if name not in done]
    _check_space(out, missing)
    reports = []
    with locked(out / _LOCK_FILE, wait=False):
        for name in chosen:
            started = time.monotonic()
            mark = done.get(name) or _make(out, name, seed, progress)
            reports.append(
                FullScaleReport(
                    dataset=name,
                    folder=out / name,
                    images=mark.images,
                    records=mark.records,
                    file_bytes=mark.file_bytes,
                    seconds=time.monotonic() - started,
                    was_done=name in done,
                )
            )
    return reports


def _finished(folder: Path, seed: int, overwrite: bool) -> _Mark | None:
    """Return the mark of a tree that needs not be made again.

    Raises:
        UsageError: something else stands there.
    """
    if not folder.exists():
        return None
    if folder.is_dir() and not any(folder.iterdir()):
        return None
    try:
        mark = msgspec.json.decode((folder / MARK_FILE).read_bytes(), type=_Mark)
    except (OSError, msgspec.DecodeError):
        raise UsageError(
            f"`{folder}`: expected nothing there, or a tree of `--scale full`, found other files",
            hint="choose another folder; nothing was changed",
        ) from None
    if (mark.seed, mark.version) == (seed, VERSION):
        return mark
    if not overwrite:
        raise UsageError(
            f"`{folder}`: expected a tree of seed {seed}, found one of seed {mark.seed}"
            f" (form {mark.version}, now {VERSION})",
            hint="`--overwrite` replaces it",
        )
    return None


def _check_space(out: Path, names: Sequence[str]) -> None:
    needed = sum(DATASETS[name].disk_bytes for name in names)
    free = shutil.disk_usage(out).free
    if free < needed:
        raise RoikitError(
            f"`{out}`: expected about {needed / 1e9:.1f} GB free for {', '.join(names)},"
            f" found {free / 1e9:.1f} GB",
            hint="free some space, or name fewer `--datasets`",
        )


def _make(out: Path, name: str, seed: int, progress: Progress | None) -> _Mark:
    dataset = DATASETS[name]
    partial = out / f".{name}.part"
    # Beside the tree, not in it, and on the same file system: hard links need that.
    drawn = out / ".pictures.part"
    for folder in (partial, drawn):
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left
        folder.mkdir()
    done = 0

    def tick(number: int) -> None:
        nonlocal done
        done += number
        if progress is not None:
            progress(done, dataset.records, name)

    tick(0)
    pictures = draw_pictures(drawn, dataset.sizes_wh, _PICTURES_EACH, seed)
    dataset.write(partial, pictures, seed, tick)
    shutil.rmtree(drawn)
    text = _README.format(title=dataset.title, seed=seed, version=VERSION)
    (partial / README_FILE).write_text(text, encoding="utf-8")
    mark = _Mark(
        synthetic=True,
        version=VERSION,
        seed=seed,
        images=dataset.images,
        records=dataset.records,
        file_bytes=_file_bytes(partial),
    )
    (partial / MARK_FILE).write_bytes(msgspec.json.encode(mark))
    final = out / name
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    return mark


def _file_bytes(folder: Path) -> int:
    return sum(
        (Path(where) / name).stat().st_size
        for where, _, names in os.walk(folder)
        for name in names
        if not name.endswith(".jpg")
    )
