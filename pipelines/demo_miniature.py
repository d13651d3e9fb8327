"""The demo on the miniature world: every answer can be checked against the scene graph.

World, weights and order follow from one seed. The recipe `tiny` was tuned on the world of seed 0,
so the demo's default is another one.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.demo import (
    HELD_OUT,
    SEEN,
    DemoReport,
    Exchange,
    Watcher,
    closing_report,
    convert_all,
    evaluate_all,
    train_stages,
)
from pipelines.miniature import SCENES_FILE, make_miniature, region_things, scenes_by_file
from pipelines.miniature_language import is_caption_right, read_relation, relation_is_true
from pipelines.miniature_scene import Scene
from roikit.errors import UsageError
from shards.read import iter_samples

if TYPE_CHECKING:
    from roikit.evaluate.items import Item

CAVEAT = "miniature world: drawn scenes, not photographs"
_BENCHMARKS = {
    "coco-category": ("coco", "val"),
    "vg-caption": ("vg", "test"),
    "vcr": ("vcr", "val"),
}


def run_demo(
    out: Path,
    *,
    seed: int = 1,
    images: int = 8000,
    recipe: str = "tiny",
    overrides: Sequence[str] = (),
    limit: int | None = None,
    workers: int | None = None,
    device: str = "auto",
    watcher: Watcher | None = None,
) -> DemoReport:
    """Run the whole of roikit on a world drawn for the occasion.

    Args:
        out: folder of everything it makes.
        seed: of world, weights and order.
        images: pictures of the world.
        recipe: name or file of the recipe.
        overrides: `table.key=value` of the recipe.
        limit: items a benchmark at most; None for all.
        workers: processes of drawing and conversion; None takes one a core.
        device: `auto` or a torch device.
        watcher: hears how it goes.

    Raises:
        UsageError: `out` holds a demo of another world.
    """
    watcher = watcher or Watcher()
    _check_same_world(out / "demo.json", {"images": images, "seed": seed})
    world, shards = out / "source", out / "shards"
    if not (world / SCENES_FILE).is_file():
        watcher.phase("draw", f"a miniature world of {images:,} pictures")
        make_miniature(world, images=images, seed=seed, workers=workers, progress=watcher.count)
    sources = {name: world / name for name in ("coco", "vg", "vcr")}
    convert_all(sources, shards, seed=seed, workers=workers, watcher=watcher)
    seeded = [f"seed={seed}", f"model.seed={seed}", *overrides]
    model = train_stages(out, recipe, seeded, device=device, watcher=watcher)
    results = evaluate_all(
        out,
        model,
        _BENCHMARKS,
        checks={name: SceneChecks(name, world) for name in ("coco", "vg")},
        caveat=CAVEAT,
        seed=seed,
        limit=limit,
        device=device,
        watcher=watcher,
    )
    watcher.phase("chat", "about a picture that training never saw")
    return closing_report(out, model, results, _chat(shards, world, model, device), CAVEAT)


def _check_same_world(file: Path, wanted: dict[str, int]) -> None:
    """Write down which world this is, or refuse a folder that holds another one."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(wanted), encoding="utf-8")
        return
    found = json.loads(file.read_text(encoding="utf-8"))
    if found != wanted:
        raise UsageError(
            f"{file.parent}: holds a demo of {found['images']:,} pictures and seed "
            f"{found['seed']}, asked for were {wanted['images']:,} and {wanted['seed']}",
            hint="name another folder with --out",
        )


class SceneChecks:
    """What the scene graph says about an item and an answer.

    Args:
        dataset: `coco` or `vg`.
        world: folder of the miniature world.
    """

    def __init__(self, dataset: str, world: Path) -> None:
        self._dataset = dataset
        self._scenes: dict[str, Scene] = scenes_by_file(world, dataset)

    def group(self, item: "Item") -> str | None:
        """Whether the colour and shape of each object spoken of stood together in training."""
        things = region_things(self._scene(item), self._dataset, item.native_id or "")
        if not things:
            return None
        return HELD_OUT if any(thing.is_held_out for thing in things) else SEEN

    def measure(self, item: "Item", answer: str) -> dict[str, float | None]:
        """Whether a caption of one object names all attributes, one of two a true relation."""
        if self._dataset != "vg":
            return {}
        scene = self._scene(item)
        things = region_things(scene, self._dataset, item.native_id or "")
        if len(things) == 1:
            return {"attributes": float(is_caption_right(answer, things[0])), "relations": None}
        is_true = read_relation(answer) is not None and bool(relation_is_true(scene, answer))
        return {"attributes": None, "relations": float(is_true)}

    def _scene(self, item: "Item") -> Scene:
        return self._scenes[item.sample.image.file]


def _chat(shards: Path, world: Path, model: Path, device: str) -> list[Exchange]:
    """Ask about the first two regions of an evaluation picture, in one conversation."""
    from roikit.chat.api import load

    samples = iter_samples(shards, "coco", "val")
    sample, data = next((s, d) for s, d in samples if len(s.regions) >= 2)
    scene = scenes_by_file(world, "coco")[sample.image.file]
    session = load(model, device=device).session(data)
    exchanges = []
    for region in sample.regions[:2]:
        number = session.add_region(region.box_xyxy)
        (thing,) = region_things(scene, "coco", region.native_id or "")
        truth = f"{thing.size} {thing.colour} {thing.pattern} {thing.shape}"
        for question in (f"What is region{number}? Be brief.", f"Describe region{number} briefly."):
            answer = session.ask(question)
            exchanges.append(
                Exchange(image=sample.key, question=question, answer=answer, truth=truth)
            )
    return exchanges
