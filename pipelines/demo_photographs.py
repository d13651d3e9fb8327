"""The demo on photographs: real pretrained parts, sixteen pictures annotated by hand.

Thirteen pictures teach, three are kept apart. That is far too little to teach a model anything
general: the demo shows that the real weights run through every step, and prints what the model says
about the three, right or wrong.
"""

from collections.abc import Sequence
from pathlib import Path

from pipelines.demo import (
    DemoReport,
    Exchange,
    Watcher,
    closing_report,
    convert_all,
    evaluate_all,
    train_stages,
)
from pipelines.photographs import write_photographs
from roikit.mentions import plain
from roikit.sample import exchanges
from shards.read import iter_samples

CAVEAT = (
    "sixteen photographs, three of them for evaluation: this shows what a model says and measures "
    "nothing"
)
_BENCHMARKS = {"coco-category": ("coco", "val"), "vg-caption": ("vg", "val"), "vcr": ("vcr", "val")}
_REGIONS_A_PICTURE = 3


def run_photographs_demo(
    out: Path,
    *,
    seed: int = 1,
    recipe: str = "small",
    overrides: Sequence[str] = (),
    limit: int | None = None,
    workers: int | None = None,
    device: str = "auto",
    watcher: Watcher | None = None,
) -> DemoReport:
    """Run the whole of roikit on the photographs that lie inside installed packages.

    Args:
        out: folder of everything it makes; pictures are read from the packages.
        seed: of new weights and order.
        recipe: name or file of the recipe.
        overrides: `table.key=value` of the recipe.
        limit: items a benchmark at most; None for all.
        workers: processes of conversion; None takes one a core.
        device: `auto` or a torch device.
        watcher: hears how it goes.

    Raises:
        UsageError: a package with pictures or weights is not installed.
    """
    watcher = watcher or Watcher()
    written = write_photographs(out / "source")
    convert_all(
        written.sources,
        out / "shards",
        seed=seed,
        workers=workers,
        image_roots=written.image_roots,
        watcher=watcher,
    )
    seeded = [f"seed={seed}", f"model.seed={seed}", *overrides]
    model = train_stages(out, recipe, seeded, device=device, watcher=watcher)
    results = evaluate_all(
        out,
        model,
        _BENCHMARKS,
        checks={},
        caveat=CAVEAT,
        seed=seed,
        limit=limit,
        device=device,
        watcher=watcher,
    )
    watcher.phase("chat", "about the three photographs kept apart")
    return closing_report(out, model, results, _chat(out / "shards", model, device), CAVEAT)


def _chat(shards: Path, model: Path, device: str) -> list[Exchange]:
    """Ask for the first regions of every evaluation picture, in one conversation each."""
    from roikit.chat.api import load

    answerer = load(model, device=device)
    said = []
    for sample, data in iter_samples(shards, "vg", "val"):
        session = answerer.session(data, max_new_tokens=32)
        for user, assistant in list(exchanges(sample.conversations[0]))[:_REGIONS_A_PICTURE]:
            number = int(user.text.split("<region")[1].split(">")[0])
            ours = session.add_region(sample.regions[number - 1].box_xyxy)
            question = f"Describe region{ours} briefly."
            said.append(
                Exchange(
                    image=sample.image.file,
                    question=question,
                    answer=session.ask(question),
                    truth=plain(assistant.text),
                )
            )
    return said
