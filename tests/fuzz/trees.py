"""Faultless sources to damage: the miniature world's, small, in every layout."""

from pathlib import Path

from pipelines.draft import SourceOptions
from pipelines.miniature import make_miniature
from tests.fuzz.run import Tree


def make_trees(folder: Path) -> list[Tree]:
    """Draw the world below `folder` and name its trees."""
    make_miniature(folder / "world", images=32, seed=0, workers=1)
    world = folder / "world"
    return [
        *(Tree(name, name, world / name, SourceOptions()) for name in ("coco", "vg", "vcr")),
        Tree("coco-masks", "coco", world / "coco", SourceOptions(masks=True)),
    ]
