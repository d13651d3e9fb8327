"""Faultless sources to damage: the miniature world's, small, in every layout and form."""

import os
from collections.abc import Iterator
from pathlib import Path

from pipelines.draft import SourceOptions
from pipelines.miniature import DATASETS, make_miniature
from tests.fuzz.run import Tree

_MDETR = {
    "refcoco": "finetune_refcoco_*",
    "refcoco+": "finetune_refcoco+_*",
    "refcocog": "finetune_refcocog_*",
    "flickr30k": "final_flickr_*",
}


def make_trees(folder: Path) -> list[Tree]:
    """Draw the world below `folder` and name its trees."""
    world = folder / "world"
    make_miniature(world, images=32, seed=0, datasets=DATASETS, workers=1)
    return list(_trees(world, folder))


def _trees(world: Path, folder: Path) -> Iterator[Tree]:
    refer_pictures = (world / "images" / "mscoco" / "images" / "train2014",)
    flickr_pictures = (world / "flickr30k" / "flickr30k-images",)
    for name in ("coco", "vg", "vcr", "lvis", "paco", "visual7w", "jsonl", "flickr30k"):
        yield Tree(name, name, world / name)
    for name in ("refcoco", "refcoco+", "refcocog"):
        yield Tree(name, name, world / name, images=refer_pictures)
    for name, pattern in _MDETR.items():
        own = folder / f"{name}-mdetr"
        own.mkdir()
        for path in (world / "mdetr_annotations").glob(pattern):
            os.link(path, own / path.name)
        pictures = flickr_pictures if name == "flickr30k" else refer_pictures
        yield Tree(own.name, name, own, images=pictures)
    yield Tree("coco-2014", "coco", world / "coco-2014")
    yield Tree("vg-grit", "vg", world / "vg-grit")
    v7w_pictures = (world / "visual7w" / "images",)
    yield Tree("visual7w-joined", "visual7w", world / "visual7w-joined", images=v7w_pictures)
    for file, names in (
        ("detections.parquet", None),
        ("detections_coco.json", world / "coco" / "annotations" / "instances_train2017.json"),
        ("llava_150k_bbox_pred_results.pkl", world / "lvis" / "lvis_v1_val.json"),
    ):
        options = SourceOptions(detections=Path(file), categories=names)
        yield Tree(f"llava-{file.split('.')[-1]}", "llava", world / "llava", options)
    masks, faithful = SourceOptions(masks=True), SourceOptions(faithful=True)
    yield Tree("coco-masks", "coco", world / "coco", masks)
    yield Tree("lvis-masks", "lvis", world / "lvis", masks)
    yield Tree("refcoco-masks", "refcoco", world / "refcoco", masks, refer_pictures)
    yield Tree("vcr-faithful", "vcr", world / "vcr", faithful)
    yield Tree("flickr30k-faithful", "flickr30k", world / "flickr30k", faithful)
