"""The miniature world's further trees: official layouts written from scenes that are drawn already.

`coco`, `vg` and `vcr` are drawn; the trees here show pictures of theirs again, each stored once and
linked. To add one: write a module with a function as those in the table, and name the tree whose
pictures it shows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from pipelines.miniature_files import Placed
from pipelines.miniature_flickr30k import write_flickr30k
from pipelines.miniature_forms import COCO_2014, GRIT, write_coco_2014, write_grit
from pipelines.miniature_jsonl import write_jsonl
from pipelines.miniature_llava import write_llava
from pipelines.miniature_lvis import write_lvis
from pipelines.miniature_paco import write_paco
from pipelines.miniature_refcoco import REFER_SETS, write_refer
from pipelines.miniature_scene import Scene
from pipelines.miniature_visual7w import write_visual7w

#: Writes one tree below the world's folder, given all scenes and the world's seed.
Write = Callable[[Path, Sequence[Scene], int], dict[int, Placed]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """One further tree."""

    shows: str  #: the drawn tree whose pictures it shows
    write: Write


TREES: Mapping[str, Tree] = {
    **{name: Tree(shows="coco", write=partial(write_refer, dataset=name)) for name in REFER_SETS},
    "flickr30k": Tree(shows="vg", write=write_flickr30k),
    "lvis": Tree(shows="coco", write=write_lvis),
    "paco": Tree(shows="coco", write=write_paco),
    "visual7w": Tree(shows="vg", write=write_visual7w),
    "llava": Tree(shows="coco", write=write_llava),
    "jsonl": Tree(shows="vcr", write=write_jsonl),
    COCO_2014: Tree(shows="coco", write=write_coco_2014),
    GRIT: Tree(shows="vg", write=write_grit),
}


def write_trees(
    world: Path, scenes: Sequence[Scene], seed: int, names: Sequence[str]
) -> list[Scene]:
    """Write the trees named, in the table's order.

    Returns:
        The scenes, with what they are in these trees; in order.
    """
    placed = {name: TREES[name].write(world, scenes, seed) for name in TREES if name in names}
    return [_with(scene, placed) for scene in scenes]


def _with(scene: Scene, placed: Mapping[str, Mapping[int, Placed]]) -> Scene:
    own = {name: there[scene.index] for name, there in placed.items() if scene.index in there}
    said = [statement for entry in own.values() for statement in entry.statements]
    return msgspec.structs.replace(
        scene,
        places=scene.places | {name: entry.place for name, entry in own.items()},
        statements=(*scene.statements, *said),
    )
