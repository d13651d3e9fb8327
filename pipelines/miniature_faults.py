"""Plants faults into the miniature world, and writes down where and by which code each is found.

In: a world that is written. Out: the same world with bad records and pictures beside the good ones,
and `faults.json`, a list of `Planted`. A conversion is to find each under its code, and to lose
nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipelines.miniature_faults_coco import plant_in_coco, plant_in_lvis, plant_in_paco
from pipelines.miniature_faults_flickr30k import plant_in_flickr30k
from pipelines.miniature_faults_lines import (
    plant_in_detections,
    plant_in_jsonl,
    plant_in_llava,
    plant_in_vcr,
)
from pipelines.miniature_faults_refer import REFER_PLANTERS
from pipelines.miniature_faults_vg import plant_in_visual7w, plant_in_visual_genome
from pipelines.miniature_files import write_json
from pipelines.miniature_ground import Planted

FAULTS_FILE = "faults.json"

#: What plants into a dataset's tree, given the world's folder.
_PLANTERS: Mapping[str, tuple[Callable[[Path], list[Planted]], ...]] = {
    "coco": (plant_in_coco,),
    "vg": (plant_in_visual_genome,),
    "vcr": (plant_in_vcr,),
    **{name: (plant,) for name, plant in REFER_PLANTERS.items()},
    "flickr30k": (plant_in_flickr30k,),
    "lvis": (plant_in_lvis,),
    "paco": (plant_in_paco,),
    "visual7w": (plant_in_visual7w,),
    "llava": (plant_in_llava, plant_in_detections),
    "jsonl": (plant_in_jsonl,),
}


def plant_faults(world: Path, datasets: Sequence[str]) -> list[Planted]:
    """Plant faults into the trees named, and list them in `faults.json`."""
    planters = [plant for name in _PLANTERS if name in datasets for plant in _PLANTERS[name]]
    planted = [fault for plant in planters for fault in plant(world)]
    write_json(world / FAULTS_FILE, planted)
    return planted
