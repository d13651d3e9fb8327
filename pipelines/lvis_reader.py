"""Classes and federated labels of LVIS and PACO, through the reader of the package `lvis`.

In: records that were found sound, one by one. Out: what that reader makes of them. It is given
nothing else: of a whole file it decodes every mask at once, many times the file's size in memory,
and it stops at the first bad record.
"""

import functools
import importlib.util
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pipelines.annotations import Int64
from roikit.errors import RoikitError


class Federated(msgspec.Struct, gc=False):
    """Which classes somebody looked for in one image beside those that have boxes."""

    neg_category_ids: list[Int64] | None = None  #: not in the picture
    not_exhaustive_category_ids: list[Int64] | None = None  #: in it, boxed in part


def read(
    names: Mapping[int, str], federated: Mapping[int, Federated]
) -> tuple[dict[int, str], dict[int, Federated]]:
    """Give the reader a file of these classes and images alone, and ask it for them.

    Args:
        names: classes as the file spells them, by id.
        federated: lists by image id.
    """
    table = {
        "images": [{"id": id} | msgspec.to_builtins(lists) for id, lists in federated.items()],
        "annotations": [],
        "categories": [{"id": id, "name": name} for id, name in names.items()],
    }
    with tempfile.TemporaryDirectory(prefix="roikit-lvis-") as folder:
        path = Path(folder) / "lvis.json"
        path.write_text(json.dumps(table), encoding="ascii")
        reader = _reader()(str(path))
    category_ids, image_ids = reader.get_cat_ids(), reader.get_img_ids()
    categories, images = reader.load_cats(category_ids), reader.load_imgs(image_ids)
    return (
        {id: one["name"] for id, one in zip(category_ids, categories, strict=True)},
        {id: msgspec.convert(one, Federated) for id, one in zip(image_ids, images, strict=True)},
    )


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
            "expected the package `lvis`, which reads the classes of LVIS and PACO, found none",
            hint="pip install lvis",
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LVIS
