"""Every dataset that `roikit convert` knows.

To add one: write a module that offers a `SPEC` (see `pipelines/draft.py`), put it into the table
below, and give it a section in docs/datasets.md and a test with a tiny tree in its official layout.
"""

from pipelines import (
    coco,
    flickr30k,
    jsonl,
    llava,
    lvis,
    paco,
    refcoco,
    vcr,
    visual7w,
    visual_genome,
)
from pipelines.draft import DatasetSpec
from roikit.errors import UsageError

DATASETS: dict[str, DatasetSpec] = {
    "coco": coco.SPEC,
    "refcoco": refcoco.REFCOCO,
    "refcoco+": refcoco.REFCOCO_PLUS,
    "refcocog": refcoco.REFCOCOG,
    "flickr30k": flickr30k.SPEC,
    "vg": visual_genome.SPEC,
    "vcr": vcr.SPEC,
    "lvis": lvis.SPEC,
    "paco": paco.SPEC,
    "visual7w": visual7w.SPEC,
    "jsonl": jsonl.SPEC,
    "llava": llava.SPEC,
}


def find_dataset(name: str) -> DatasetSpec:
    """Return the dataset called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in DATASETS:
        raise UsageError(f"dataset: expected one of {', '.join(DATASETS)}, got `{name}`")
    return DATASETS[name]
