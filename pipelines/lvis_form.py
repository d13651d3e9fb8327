"""LVIS's form: COCO's, with federated labels and without file names. LVIS and PACO are read by it.

In: one annotation file. Out: one draft an image, and one `category` conversation, an exchange a
box. The files are cut into records and joined as COCO's are, so that a bad record costs itself only
and no mask is ever decoded. The classes come through the reader of the package `lvis`; the file as
a whole does not: that reader decodes every mask of it at once, many times the file's size in
memory, and stops at the first bad record.

Source: lvisdataset.org; Gupta et al., arXiv 1908.03195. Class names as a person reads them: the
underscores (and PACO's colon between object and part) become blanks, what stands in parentheses
stays, since names differ by it alone: `salmon_(fish)`, `salmon_(food)`. That is also the ground
truth of Osprey's region classification (arXiv 2312.10032), which later work compares on.
"""

import functools
import importlib.util
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pipelines.annotations import Raw, clean_text, decode_record, read_table
from pipelines.class_names import LVIS_V05_CLASSES
from pipelines.coco_form import (
    Box,
    Gathered,
    Int64,
    add_boxes,
    add_category_conversation,
    add_images,
    make_draft,
    read_categories,
)
from pipelines.coco_names import photograph_id
from pipelines.draft import Built, Draft, Picture, SplitRecords
from pipelines.images import ImageRoots, match_frame
from pipelines.rejections import reject
from pipelines.source import relative_name, unusable_picture
from roikit.errors import RoikitError, UsageError
from roikit.sample import Rejection

#: Folders of COCO's photographs that LVIS and PACO draw on.
FOLDERS = ("train2017", "val2017")

_SEPARATORS = re.compile(r"[_:]")


class _Image(msgspec.Struct, gc=False):
    id: Int64
    coco_url: str | None = None
    file_name: str | None = None
    width: Int64 | None = None
    height: Int64 | None = None


class Payload(msgspec.Struct, array_like=True):
    """What the file says about one image."""

    num_crowds: int  #: always 0 in the official files, which have no crowds
    boxes: list[Box] = []


_images = msgspec.json.Decoder(_Image)


def spoken_name(name: str) -> str:
    """Return a class's name as it is read: `mouse_(animal):ear` is `mouse (animal) ear`."""
    return clean_text(_SEPARATORS.sub(" ", name))


def find_splits(
    source: Path, files: Mapping[str, str], roots: ImageRoots
) -> dict[str, Callable[[], SplitRecords]]:
    """Look for annotation files in the source folder and in its `annotations`.

    Args:
        source: the dataset's folder.
        files: the official name of each split's file.
        roots: folders that pictures may come from.

    Returns:
        A function a split that is there.
    """
    splits: dict[str, Callable[[], SplitRecords]] = {}
    for split, name in files.items():
        for path in (source / name, source / "annotations" / name):
            if split not in splits and path.is_file():
                splits[split] = partial(read_split, source, path, roots)
    return splits


def read_split(source: Path, path: Path, roots: ImageRoots) -> SplitRecords:
    """Read and join one annotation file.

    Args:
        source: the dataset's folder.
        path: the file.
        roots: folders that pictures may come from.

    Raises:
        UsageError: the file is not JSON in this form, or is LVIS v0.5.
    """
    table = read_table(path, ("images", "annotations", "categories"))
    if len(table["categories"]) == LVIS_V05_CLASSES:
        raise v05_refused(path, f"found {LVIS_V05_CLASSES:,} classes")
    file = relative_name(path, source)
    gathered: dict[int, Gathered] = {}
    strays: list[Rejection] = []
    add_images(table["images"], partial(_read_image, file), file, gathered, strays)
    labels = _read_labels(table["categories"], file, strays)
    add_boxes(table["annotations"], labels, file, gathered, strays)
    drafts = [
        make_draft(entry, Payload(entry.num_crowds, entry.boxes), roots)
        for entry in gathered.values()
    ]
    return SplitRecords(drafts=drafts, rejections=strays, source_files=(path,))


def v05_refused(path: Path, found: str) -> UsageError:
    """Make the error for a file of LVIS v0.5."""
    return UsageError(
        f"`{path}`: expected LVIS v1 (1,203 classes), {found}: this is LVIS v0.5, whose class ids"
        " differ",
        hint="get `lvis_v1_train.json` and `lvis_v1_val.json`; v0.5 is not read",
    )


def build(draft: Draft, picture: Picture) -> Built:
    """Turn one image's boxes into its conversation."""
    built = Built()
    payload = msgspec.convert(draft.payload, Payload)
    built.num_by_policy = payload.num_crowds
    frame = match_frame(picture.header, draft.image_wh)
    if frame is None:
        built.rejections.append(unusable_picture("E_SIZE_MISMATCH", draft, picture.header))
        return built
    add_category_conversation(built, draft, payload.boxes, frame, picture)
    return built


def _read_image(file: str, raw: Raw, record: str) -> Gathered | Rejection:
    image = decode_record(_images, raw, file=file, record=record)
    if isinstance(image, Rejection):
        return image
    path = _path_of_url(image.coco_url or "")
    named = image.file_name or path
    if not named:
        message = "missing field `coco_url`, or it does not end in folder and file of a picture"
        return reject("E_FIELD_MISSING", message, file=file, record=record)
    base = PurePosixPath(named).name or named
    number = photograph_id(base)
    if number is not None and number != image.id:
        message = f"image id {image.id} is not the number of its picture `{named}`"
        return reject("E_NAME_MISMATCH", message, file=file, record=record)
    names = (path, image.file_name, *(f"{folder}/{base}" for folder in FOLDERS), base)
    unique = tuple(dict.fromkeys(name for name in names if name))
    image_wh = (image.width, image.height) if image.width and image.height else None
    return Gathered(image.id, unique, image_wh, file, record)


def _path_of_url(url: str) -> str:
    """Return folder and file: LVIS says only by the URL which folder a picture is in."""
    try:
        path = urlsplit(url).path
    except ValueError:  # an address that is none
        return ""
    parts = path.split("/")[-2:]
    return "/".join(parts) if len(parts) == 2 and all(parts) else ""


def _read_labels(raws: Sequence[Raw], file: str, strays: list[Rejection]) -> dict[int, str]:
    """Return what each class is called, by id: names are spelt differently from release to release.

    Bad records are taken out first, one by one; the reader is given what is left.
    """
    names = read_categories(raws, file, strays)
    return {id: spoken_name(name) for id, name in _through_reader(names).items()}


def _through_reader(names: Mapping[int, str]) -> dict[int, str]:
    """Give the reader of `lvis` a file of these classes alone, and ask it for their names."""
    records = [{"id": id, "name": name} for id, name in names.items()]
    table = {"images": [], "annotations": [], "categories": records}
    with tempfile.TemporaryDirectory(prefix="roikit-lvis-") as folder:
        path = Path(folder) / "categories.json"
        path.write_text(json.dumps(table), encoding="ascii")
        reader = _reader()(str(path))
    ids = reader.get_cat_ids()
    categories = reader.load_cats(ids)
    return {id: category["name"] for id, category in zip(ids, categories, strict=True)}


@functools.cache
def _reader() -> Any:
    """Return `lvis.LVIS` without importing the package around it.

    That one loads OpenCV and pyplot, which no conversion needs and which fail where a server has no
    graphics libraries, and sets up the process's logging.
    """
    package = importlib.util.find_spec("lvis")
    folders = package.submodule_search_locations if package else None
    path = Path(next(iter(folders), "")) / "lvis.py" if folders else Path()
    spec = importlib.util.spec_from_file_location("_roikit_lvis_reader", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise RoikitError(
            "expected the package `lvis`, which reads the class names of LVIS and PACO, found none",
            hint="pip install lvis",
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LVIS
