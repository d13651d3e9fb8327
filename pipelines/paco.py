"""PACO-LVIS: boxes of objects and of their parts on COCO's photographs.

Reads `paco_lvis_v1_{train,val,test}.json`. `pipelines/lvis_form.py` reads the files and makes the
conversations: objects and parts share a list, and each of them is an exchange of its own; a part is
answered with object and part (`dog ear`), as region classification on PACO is scored. Which object
a part belongs to, and the attributes of both, have no place in the record and are not read; the
federated labels do, the attributes' lists of the same kind do not.

PACO's splits do not follow COCO's: its `test` holds photographs of train2017.

Source: Ramanathan et al., "PACO: Parts and Attributes of Common Objects", arXiv 2301.01795.
"""

from collections.abc import Sequence
from pathlib import Path

from pipelines.draft import DatasetSpec, OpenSource, SourceOptions
from pipelines.images import image_roots
from pipelines.lvis_form import FOLDERS, build, find_splits
from pipelines.source import missing_files, require_folder

_FILES = {split: f"paco_lvis_v1_{split}.json" for split in ("train", "val", "test")}
_EXPECTS = (*_FILES.values(), *(f"{folder}/" for folder in FOLDERS))


def open_source(source: Path, extra_roots: Sequence[Path], options: SourceOptions) -> OpenSource:
    """Find PACO-LVIS's annotation files in `source` or in its `annotations`.

    Raises:
        UsageError: no such folder, or none of the files in it.
    """
    require_folder(source, SPEC.title, _EXPECTS)
    roots = image_roots((source, source / "images"), extra_roots)
    splits = find_splits(source, _FILES, roots, with_masks=options.masks)
    if not splits:
        raise missing_files(source, SPEC.title, _EXPECTS)
    return OpenSource(folder=source, roots=roots, splits=splits)


SPEC = DatasetSpec(
    name="paco",
    title="PACO-LVIS",
    version=2,
    expects=_EXPECTS,
    families=("category",),
    open_source=open_source,
    build=build,
    options=("masks",),
)
