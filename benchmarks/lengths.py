"""How fast conversations are measured, and how little of a step the layouts planned by that pad.

    roikit miniature data/world --images 400
    for name in coco refcoco vg vcr llava flickr30k; do
      roikit convert $name data/world/$name --split train --out data/world-shards
    done
    python benchmarks/lengths.py --shards data/world-shards

*measuring*: all splits of those shards, one process. *padding*: the share of places without a token
over the first steps of stage 2, from the true lengths of what is encoded (pictures are not
decoded), computed by one process and by two.
"""

import argparse
import os
import sys
import tempfile
import time
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import Table, machine, show
from pipelines.lengths import Lengths, draw_lengths
from pipelines.measure_lengths import measure_lengths
from pipelines.phrasing import rephrase
from pipelines.stages import open_stream, training_texts
from pipelines.token_counts import TokenizerCounter
from roikit import batch
from roikit.config import Recipe, load_recipe
from roikit.model.build import build_model
from roikit.model.processing import RoikitProcessor
from roikit.train.feed import StepReader
from shards.commit import list_datasets
from shards.read import open_split
from shards.steps import Steps

#: By name: preset, and what is set differently. Weights of `base` are not in any package: its
#: settings are held against the tokenizer of `small`, and the mixture against what the world has.
_RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "tiny": ("tiny", ()),
    "small": ("small", ()),
    "base": (
        "base",
        (
            "model.vision=efficientnet-lite0",
            "model.vision_layers=[-2]",
            "model.language=smollm2-135m",
            "stage2.mix=refcoco:refer=1,flickr30k:grounded-caption=1,vg:caption=2,llava:dialogue=1,"
            "vcr:reasoning-all=1,vcr:reasoning-single=1,vcr:reasoning-multi=1,coco:category=0.5",
        ),
    ),
}
_LAYOUTS = ("plain", "packed", "grouped")
_BATCH_SIZES, _MICRO_BATCHES = (8, 16, 64), (4, 8, 0)
_STEPS = 16
_PACKAGES = ("transformers", "tokenizers", "pyarrow", "numpy")


def load(name: str) -> Recipe:
    """Return the stage 2 of a recipe, sized for the miniature world."""
    preset, changes = _RECIPES[name]
    return load_recipe(preset, stage="stage2", overrides=["keep_clean=[]", *changes])


def measure_speed(processor: RoikitProcessor, shards: Path) -> dict[str, Any]:
    """Measure every split once, with nothing known from before."""
    counter = TokenizerCounter(processor.tokenizer)
    exchanges, seconds = 0, 0.0
    for one in list_datasets(shards):
        index = open_split(shards, one.dataset, one.split)
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            path = measure_lengths(index, counter, folder=Path(folder))
            seconds += time.perf_counter() - began
            lengths = Lengths(path, index, num_image_tokens=0, num_region_tokens=0)
            exchanges += int(lengths.num_exchanges.sum())
    return {"exchanges": exchanges, "seconds": seconds}


def measure_padding(name: str, processor: RoikitProcessor, shards: Path) -> list[dict[str, Any]]:
    """Take the padding of a recipe's steps in every layout."""
    recipe = load(name)
    stream, _ = open_stream(recipe, shards)
    planned = draw_lengths(recipe, stream, TokenizerCounter(processor.tokenizer))
    reader = StepReader(
        Steps(stream, batch_size=1),
        processor,
        recipe.run,
        seed=recipe.seed,
        rephrase=rephrase if recipe.run.redraw_wording else None,
    )
    encoded = lru_cache(maxsize=None)(lambda place: _num_tokens(reader, place))
    rows = []
    for size, at_once in product(_BATCH_SIZES, _MICRO_BATCHES):
        row: dict[str, Any] = {"recipe": name, "batch_size": size, "micro_batch": at_once}
        for layout, world_size in product(_LAYOUTS, (1, 2)):
            steps = Steps(
                stream,
                batch_size=size,
                micro_batch=at_once,
                layout=layout,  # type: ignore[arg-type]  # one of the three
                lengths=planned,
                max_tokens=recipe.run.max_tokens,
            )
            held = there = 0
            for step, rank in product(range(_STEPS), range(world_size)):
                for laid in steps.micro_batches(step, rank=rank, world_size=world_size):
                    lengths = [sum(map(encoded, line)) for line in laid]
                    held += sum(lengths)
                    there += max(lengths, default=0) * len(lengths)
            row[f"{layout}, {world_size} rank{'s' * (world_size > 1)}"] = 1 - held / max(1, there)
        rows.append(row)
    return rows


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    batch.decode_rgb = lambda _: np.zeros((9, 9, 3), dtype=np.uint8)
    found: list[dict[str, Any]] = []
    speeds = {}
    with tempfile.TemporaryDirectory() as home:
        os.environ["ROIKIT_HOME"] = home  # lengths are kept there
        for name in _RECIPES:
            texts = training_texts(arguments.shards)
            processor = build_model(load(name).model, texts=texts).processor
            speeds[name] = measure_speed(processor, arguments.shards)
            found += measure_padding(name, processor, arguments.shards)
    layouts = [key for key in found[0] if "rank" in key]
    tables: list[Table] = [
        (
            "Measuring",
            ("tokenizer of", "exchanges", "seconds", "exchanges a minute"),
            [
                (name, one["exchanges"], f"{one['seconds']:.2f}", f"{_rate(one):,.0f}")
                for name, one in speeds.items()
            ],
            [],
        ),
        (
            "Padding",
            ("recipe", "batch_size", "micro_batch", *layouts),
            [
                (
                    row["recipe"],
                    row["batch_size"],
                    row["micro_batch"],
                    *(f"{row[layout]:.1%}" for layout in layouts),
                )
                for row in found
            ],
            [],
        ),
    ]
    results = {"machine": machine(_PACKAGES), "measuring": speeds, "padding": found}
    show(results, tables, as_json=arguments.json)


def _num_tokens(reader: StepReader, place: int) -> int:
    (encoded,) = reader[place].batches
    return 0 if encoded is None else encoded.num_tokens


def _rate(speed: dict[str, Any]) -> float:
    return float(60 * speed["exchanges"] / speed["seconds"])


if __name__ == "__main__":
    main()
