"""LVIS v1: boxes of 1,203 classes on COCO's photographs.

Reads `lvis_v1_{train,val}.json`, and `lvis_v1_minival_inserted_image_name.json` on request: its
photographs are those of `val` that lie in COCO's val2017. `pipelines/lvis_form.py` reads the files
and makes the conversations.

Source: lvisdataset.org; Gupta et al., arXiv 1908.03195.
"""

from collections.abc import Sequence
from pathlib import Path

from pipelines.class_names import LVIS_CLASSES
from pipelines.coco_form import PublishedCategories
from pipelines.coco_names import photograph_places
from pipelines.draft import DatasetSpec, Licence, OfficialCounts, OpenSource, SourceOptions
from pipelines.images import image_roots
from pipelines.lvis_form import FOLDERS, build, find_splits, v05_refused
from pipelines.source import missing_files, require_folder

_FILES = {
    "train": "lvis_v1_train.json",
    "val": "lvis_v1_val.json",
    "minival": "lvis_v1_minival_inserted_image_name.json",
}
#: As published; a record is a box. The boxes of `minival` are not.
_OFFICIAL = {
    "train": OfficialCounts(images=100_170, records=1_270_141),
    "val": OfficialCounts(images=19_809, records=244_707),
    "minival": OfficialCounts(images=4_809),
}
_EXPECTS = (_FILES["train"], _FILES["val"], *(f"{folder}/" for folder in FOLDERS))


def open_source(source: Path, extra_roots: Sequence[Path], options: SourceOptions) -> OpenSource:
    """Find LVIS's annotation files in `source` or in its `annotations`.

    Raises:
        UsageError: no such folder, none of the files in it, or only those of v0.5.
    """
    require_folder(source, SPEC.title, _EXPECTS)
    roots = image_roots((source, source / "images"), extra_roots, photograph_places(source))
    classes = PublishedCategories(title=SPEC.title, count=LVIS_CLASSES, max_id=LVIS_CLASSES)
    splits = find_splits(source, _FILES, roots, with_masks=options.masks, published=classes)
    if not splits:
        for folder in (source, source / "annotations"):
            for path in sorted(folder.glob("lvis_v0.5_*.json")):
                raise v05_refused(path, f"found `{path.name}`")
        raise missing_files(source, SPEC.title, _EXPECTS)
    on_request = ("minival",) if len(splits) > 1 and "minival" in splits else ()
    return OpenSource(
        folder=source, roots=roots, splits=splits, on_request=on_request, official=_OFFICIAL
    )


SPEC = DatasetSpec(
    name="lvis",
    title="LVIS",
    version=2,
    expects=_EXPECTS,
    families=("category",),
    open_source=open_source,
    build=build,
    options=("masks",),
    # Source: lvisdataset.org. GPT4RoI reads none of its annotations, only its list of names.
    stage="evaluation",
    licence=Licence(annotations="CC BY 4.0", pictures="COCO's, a Flickr licence each"),
    registration=None,
    published=_OFFICIAL,
)
