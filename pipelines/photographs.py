"""Photographs from installed packages as source trees that the real converters read.

In: annotations made by hand (`photographs_read`). Out: below a folder `coco/`, `vg/` and `vcr/` in
the official layouts, without the pictures: those stay in the packages they came with, and
`image_roots()` lists the folders to look in (`--images`). The packages are located, not imported.
docs/photographs.md says where each picture comes from and its licence.
"""

import hashlib
import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pipelines.photographs_read import PROJECTS, Photograph, load_photographs
from pipelines.photographs_write import coco_files, vcr_files, visual_genome_files
from roikit.errors import UsageError
from roikit.images import read_header

_logger = logging.getLogger(__name__)

_INSTALL = 'install them with: make install, or pip install -e ".[photos]" where roikit lies'


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotographsReport:
    """What `write_photographs` wrote."""

    out: Path
    sources: dict[str, Path]  #: `coco`, `vg`, `vcr`: the folder to convert
    image_roots: tuple[Path, ...]  #: where the pictures are
    pictures: dict[str, int]  #: by dataset and split, e.g. `vcr val`
    objects: int
    regions: int
    captions: int
    questions: int


def find_picture(photograph: Photograph) -> Path:
    """Locate the picture inside its installed package, without importing the package.

    Raises:
        UsageError: the package or the file is missing; says how to install it.
    """
    package, _, inside = photograph.file.partition("/")
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        raise UsageError(
            f"photographs: expected the package `{PROJECTS[package]}` for `{photograph.file}`, "
            "found it not installed",
            hint=_INSTALL,
        )
    for folder in folders:
        if (path := Path(folder) / inside).is_file():
            return path
    raise UsageError(
        f"photographs: expected `{inside}` in the installed package `{PROJECTS[package]}` "
        f"({folders[0]}), found no such file",
        hint=f"this release of the package may have dropped it; {_INSTALL}",
    )


def image_roots() -> list[Path]:
    """Return the folders inside the installed packages that hold the pictures, sorted.

    Raises:
        UsageError: a package or a file is missing.
    """
    return sorted({find_picture(photograph).parent for photograph in load_photographs()})


def write_photographs(out: Path, *, overwrite: bool = False) -> PhotographsReport:
    """Write the annotations as COCO, Visual Genome and VCR source trees; no picture is copied.

    Writing again what stands there already changes nothing.

    Args:
        out: folder; gets `coco/`, `vg/` and `vcr/`.
        overwrite: replace files that hold something else.

    Raises:
        UsageError: a package or picture is missing or has another size than the annotated one, or a
            file in `out` holds something else. Then nothing is written.
    """
    photographs = load_photographs()
    for photograph in photographs:
        _check_picture(photograph, find_picture(photograph))
    trees = {
        "coco": coco_files(photographs),
        "vg": visual_genome_files(photographs),
        "vcr": vcr_files(photographs),
    }
    files = {
        out / name / inside: data for name, tree in trees.items() for inside, data in tree.items()
    }
    if not overwrite:
        _refuse_others(files)
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    pictures = {
        f"{dataset} {split}": sum(
            photograph.split == split and (dataset != "vcr" or bool(photograph.questions))
            for photograph in photographs
        )
        for dataset in trees
        for split in ("train", "val")
    }
    return PhotographsReport(
        out=out,
        sources={name: out / name for name in trees},
        image_roots=tuple(image_roots()),
        pictures=pictures,
        objects=sum(len(photograph.objects) for photograph in photographs),
        regions=sum(len(photograph.regions) for photograph in photographs),
        captions=sum(len(photograph.captions) for photograph in photographs),
        questions=sum(len(photograph.questions) for photograph in photographs),
    )


def _check_picture(photograph: Photograph, path: Path) -> None:
    """Make sure that the boxes were drawn on a picture of this size."""
    data = path.read_bytes()
    header = read_header(data)
    found, expected = (header.width, header.height), (photograph.width, photograph.height)
    if found != expected:
        raise UsageError(
            f"`{path}`: expected the annotated picture of {expected[0]} x {expected[1]} pixels, "
            f"found {found[0]} x {found[1]}",
            hint="another release of its package changed it; see docs/photographs.md",
        )
    if hashlib.sha256(data).hexdigest() != photograph.sha256:
        _logger.warning("%s: not the file that was annotated, though of the same size", path)


def _refuse_others(files: dict[Path, bytes]) -> None:
    for path, data in files.items():
        if path.exists() and (not path.is_file() or path.read_bytes() != data):
            raise UsageError(
                f"`{path}`: expected nothing, or what would be written; found something else",
                hint="choose another folder, or pass `--overwrite`",
            )
