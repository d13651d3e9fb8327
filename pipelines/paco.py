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

from pipelines.coco_names import photograph_places
from pipelines.draft import DatasetSpec, Licence, OfficialCounts, OpenSource, SourceOptions
from pipelines.images import image_roots
from pipelines.lvis_form import FOLDERS, build, find_splits
from pipelines.source import missing_files, require_folder

_FILES = {split: f"paco_lvis_v1_{split}.json" for split in ("train", "val", "test")}
#: As published; a record is the box of an object or of a part.
_OFFICIAL = {
    "train": OfficialCounts(images=45_790, records=217_117 + 395_071),
    "val": OfficialCounts(images=2_410, records=10_794 + 20_945),
    "test": OfficialCounts(images=9_443, records=45_861 + 86_041),
}
_EXPECTS = (*_FILES.values(), *(f"{folder}/" for folder in FOLDERS))


def open_source(source: Path, extra_roots: Sequence[Path], options: SourceOptions) -> OpenSource:
    """Find PACO-LVIS's annotation files in `source` or in its `annotations`.

    Raises:
        UsageError: no such folder, or none of the files in it.
    """
    require_folder(source, SPEC.title, _EXPECTS)
    roots = image_roots((source, source / "images"), extra_roots, photograph_places(source))
    splits = find_splits(source, _FILES, roots, with_masks=options.masks)
    if not splits:
        raise missing_files(source, SPEC.title, _EXPECTS)
    return OpenSource(folder=source, roots=roots, splits=splits, official=_OFFICIAL)


SPEC = DatasetSpec(
    name="paco",
    title="PACO-LVIS",
    version=2,
    expects=_EXPECTS,
    families=("category",),
    open_source=open_source,
    build=build,
    options=("masks",),
    # Source: the dataset's own repository. GPT4RoI does not use it.
    stage="evaluation",
    licence=Licence(
        annotations="none stated; see facebookresearch/paco, whose code is MIT",
        pictures="COCO's, a Flickr licence each",
    ),
    registration=None,
    published=_OFFICIAL,
)
