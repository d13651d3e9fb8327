"""The miniature world: drawn scenes as source trees that the real converters read.

In: a folder, a number of pictures and a seed. Out: below that folder `coco/`, `vg/` and `vcr/` in
the official layouts, the further trees asked for (`miniature_trees.py`), and `scenes.jsonl`, the
scene graphs with what every text speaks of, by which any caption or answer can be checked. The same
arguments give the same bytes, whatever the number of workers. Conversion knows nothing of all this.
"""

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import msgspec

from pipelines.miniature_draw import draw_jpeg
from pipelines.miniature_faults import plant_faults
from pipelines.miniature_files import PICTURE_FOLDERS, link
from pipelines.miniature_language import (
    close_up_captions,
    describe,
    relation_phrase,
    scene_captions,
)
from pipelines.miniature_questions import Question, Tally, ask
from pipelines.miniature_scene import Place, Scene, Statement, Thing, build_scene, clear_pairs
from pipelines.miniature_statements import bracketed
from pipelines.miniature_trees import TREES, write_trees
from pipelines.miniature_vcr import annotation_id, vcr_place, write_vcr
from pipelines.miniature_write import IDS_PER_IMAGE, write_coco, write_scenes, write_visual_genome
from roikit.errors import UsageError
from roikit.path_errors import check_writable, usable

SCENES_FILE = "scenes.jsonl"
#: Every tree; the first three are drawn, the others show their pictures.
DATASETS = (*PICTURE_FOLDERS, *TREES)
DEFAULT_SHARES = {"coco": 0.45, "vg": 0.25, "vcr": 0.3}
#: Far from the four pictures that readers of Visual Genome leave out by their ids.
_FIRST_VG_ID = 2_000_001
_CHUNK = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniatureReport:
    """What `make_miniature` wrote."""

    out: Path
    images: int  #: different pictures; one that stands in two trees counts once
    close_ups: int
    pictures: dict[str, int]  #: by dataset and split, e.g. `coco train`
    statements: dict[str, int]  #: captions, region phrases and questions by dataset and split
    held_out_objects: int  #: objects of a pair that training never shows; all in evaluation splits
    objects: int
    faults: int  #: planted on purpose; `faults.json` lists them
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """All that one scene follows from, beside the seed."""

    index: int
    is_evaluation: bool
    is_close_up: bool
    image_wh: tuple[int, int]
    places: tuple[tuple[str, Place], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Texts:
    """What the texts about all scenes follow from."""

    seed: int
    relations: float
    questions: int


_Drawn = tuple[Scene, list[Question]]


def make_miniature(
    out: Path,
    *,
    images: int,
    seed: int = 0,
    datasets: Sequence[str] = tuple(PICTURE_FOLDERS),
    shares: Mapping[str, float] | None = None,
    close_ups: float = 0.5,
    shared: float = 0.5,
    relations: float = 0.25,
    questions: int = 3,
    evaluation: float = 0.125,
    image_wh: tuple[int, int] = (128, 128),
    odd_sizes: float = 0.0,
    faults: bool = False,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> MiniatureReport:
    """Draw a world and write it as source trees.

    Args:
        out: folder to make; it appears, whole, only when everything is written.
        images: different pictures in all; at least 32.
        seed: the same gives the same bytes.
        datasets: trees to write, of `DATASETS`. Those that show another tree's pictures bring that
            tree along. They change no byte of the drawn trees.
        shares: how much of `images` is drawn for each of `coco`, `vg` and `vcr`, brought to a sum
            of 1; a dataset that is not named gets no tree. None takes `DEFAULT_SHARES` of those
            that `datasets` needs.
        close_ups: share of COCO's training pictures that show a single object, large.
        shared: share of COCO's whole scenes that stand in Visual Genome too, by `coco_id`.
        relations: share of Visual Genome's phrases that relate two objects.
        questions: about each picture of VCR, fewer where it does not give as many.
        evaluation: share of each dataset's pictures kept for val (and test); held-out colour-shape
            pairs occur only there.
        image_wh: pixels, at least 128 each.
        odd_sizes: share of the pictures that are a quarter wider or taller than `image_wh`.
        faults: plant what the real datasets' files suffer from, a list of it in `faults.json`.
        workers: processes; None takes one a core. 1 stays in this process.
        overwrite: replace a world that stands at `out`.
        progress: called with (pictures written, pictures in all).

    Raises:
        UsageError: a number out of its range, or `out` holds something.
    """
    started = time.monotonic()
    shares = _shares(datasets, shares)
    workers = workers if workers is not None else os.cpu_count() or 1
    _check(images, shares, image_wh)
    _check_range(0, 1, close_ups=close_ups, shared=shared, odd_sizes=odd_sizes)
    _check_range(0, 0.9, relations=relations, evaluation=evaluation)
    _check_range(1, 1000, questions=questions, workers=workers)
    with usable(out, "written"):
        _check_empty(out, overwrite)
        check_writable(out)
    tasks = _plan(images, seed, shares, close_ups, shared, evaluation, image_wh, odd_sizes)
    partial = out.parent / f".{out.name}.part"
    shutil.rmtree(partial, ignore_errors=True)
    for folder in sorted({f"{PICTURE_FOLDERS[d]}/{p.file}" for t in tasks for d, p in t.places}):
        (partial / folder).parent.mkdir(parents=True, exist_ok=True)
    drawn: list[_Drawn] = []
    texts = _Texts(seed=seed, relations=relations, questions=questions)
    for made in _run(tasks, partial, texts, workers):
        drawn += made
        if progress is not None:
            progress(len(drawn), images)
    scenes = [scene for scene, _ in drawn]
    if "coco" in shares:
        write_coco(partial / "coco", scenes)
    if "vg" in shares:
        write_visual_genome(partial / "vg", scenes)
    if "vcr" in shares:
        write_vcr(partial / "vcr", [(scene, asked) for scene, asked in drawn if scene.has("vcr")])
    scenes = write_trees(partial, scenes, seed, datasets)
    write_scenes(partial / SCENES_FILE, scenes)
    planted = plant_faults(partial, [*shares, *datasets]) if faults else []
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)
    return _report(out, scenes, len(planted), time.monotonic() - started)


def read_scenes(world: Path) -> list[Scene]:
    """Read the scene graphs of a world that `make_miniature` wrote.

    Raises:
        UsageError: `world` holds none.
    """
    path = world / SCENES_FILE
    if not path.is_file():
        raise UsageError(
            f"{world}: expected a miniature world, found no `{SCENES_FILE}`",
            hint="make one with `roikit miniature`",
        )
    with path.open("rb") as lines:
        return [msgspec.json.decode(line, type=Scene) for line in lines]


def scenes_by_file(world: Path, dataset: str) -> dict[str, Scene]:
    """Map each picture's file, as the dataset's samples name it, to its scene.

    The keys are the places' files (`train2017/000000000001.jpg`, `VG_100K/2000001.jpg`,
    `lsmdc_…/….jpg`).
    """
    return {scene.places[dataset].file: scene for scene in read_scenes(world) if scene.has(dataset)}


def region_things(scene: Scene, dataset: str, region_id: str) -> tuple[Thing, ...]:
    """Return what lies in a region: one thing, or the two that a relation's box surrounds.

    Args:
        scene: the picture's.
        dataset: coco (or one of RefCOCO's, which keep its ids), vg or vcr.
        region_id: as the annotations name the region, and the record's `native_id` keeps it: COCO's
            annotation id, Visual Genome's region id, VCR's object index from 0.
    """
    if dataset == "vg":
        found = [s.about for s in scene.statements if s.dataset == "vg" and s.id == region_id]
        return tuple(scene.things[i] for i in found[0])
    number = int(region_id)
    return (scene.things[number if dataset == "vcr" else number % IDS_PER_IMAGE],)


def _plan(
    images: int,
    seed: int,
    shares: Mapping[str, float],
    close_ups: float,
    shared: float,
    evaluation: float,
    image_wh: tuple[int, int],
    odd_sizes: float,
) -> list[_Task]:
    """Decide for every picture what it shows, where it stands, and in which split."""
    rng = random.Random(f"miniature/{seed}/plan")
    tasks: list[_Task] = []
    total = sum(shares.values())
    ends = [round(images * sum(list(shares.values())[: i + 1]) / total) for i in range(len(shares))]
    start = 0
    for dataset, end in zip(shares, ends, strict=True):
        count = end - start
        kept = max(2, round(count * evaluation)) if count else 0
        for k in range(count):
            index = start + k
            is_evaluation = k >= count - kept
            # val and test take turns; COCO publishes no test annotations, so there all are val
            split = "train" if not is_evaluation else ("val", "test")[(count - 1 - k) % 2]
            own_split = "val" if dataset == "coco" and is_evaluation else split
            is_close_up = dataset == "coco" and not is_evaluation and rng.random() < close_ups
            places = {dataset: _place(dataset, own_split, index)}
            if dataset == "coco" and not is_close_up and "vg" in shares and rng.random() < shared:
                places["vg"] = _place("vg", split, index)
            tasks.append(
                _Task(
                    index=index,
                    is_evaluation=is_evaluation,
                    is_close_up=is_close_up,
                    image_wh=_draw_size(rng, image_wh, odd_sizes),
                    places=tuple(places.items()),
                )
            )
        start = end
    return tasks


def _draw_size(rng: random.Random, image_wh: tuple[int, int], odd: float) -> tuple[int, int]:
    width, height = image_wh
    if rng.random() >= odd:
        return image_wh
    return rng.choice(((width * 5 // 4, height), (width, height * 5 // 4)))


def _place(dataset: str, split: str, index: int) -> Place:
    if dataset == "vcr":
        return vcr_place(split, index)
    if dataset == "coco":
        return Place(split=split, file=f"{split}2017/{index + 1:012d}.jpg", image_id=str(index + 1))
    number = _FIRST_VG_ID + index
    folder = ("VG_100K", "VG_100K_2")[index % 2]
    return Place(split=split, file=f"{folder}/{number}.jpg", image_id=str(number))


def _run(tasks: list[_Task], out: Path, texts: _Texts, workers: int) -> Iterator[list[_Drawn]]:
    """Yield the scenes of each chunk of tasks, in order, their pictures written."""
    chunks = [tasks[i : i + _CHUNK] for i in range(0, len(tasks), _CHUNK)]
    arguments = [(chunk, out, texts) for chunk in chunks]
    if workers == 1 or len(chunks) == 1:
        yield from map(_make_chunk, arguments)
        return
    # spawn, for a forked child of a process with threads (torch, a progress bar) may hang
    with ProcessPoolExecutor(min(workers, len(chunks)), get_context("spawn")) as pool:
        yield from pool.map(_make_chunk, arguments)


def _make_chunk(arguments: tuple[list[_Task], Path, _Texts]) -> list[_Drawn]:
    """Make some scenes; questions are balanced within a chunk, so workers need not speak."""
    tasks, out, texts = arguments
    tallies = {split: Tally() for split in ("train", "val", "test")}
    return [_make_scene(task, out, texts, tallies) for task in tasks]


def _make_scene(task: _Task, out: Path, texts: _Texts, tallies: dict[str, Tally]) -> _Drawn:
    """Build one scene, write its picture to each tree it stands in, and say what can be said."""
    places = dict(task.places)
    scene = build_scene(
        texts.seed,
        task.index,
        is_evaluation=task.is_evaluation,
        is_close_up=task.is_close_up,
        image_wh=task.image_wh,
        num_things=(3, 6) if "vcr" in places else (2, 6),
    )
    scene = msgspec.structs.replace(scene, places=places)
    _write_picture(scene, out, texts.seed)
    rng = random.Random(f"miniature/{texts.seed}/{task.index}/text")
    statements: list[Statement] = []
    if "coco" in places:
        statements += _captions(scene, rng, int(places["coco"].image_id))
    if "vg" in places:
        statements += _regions(scene, rng, int(places["vg"].image_id), texts.relations)
    questions: list[Question] = []
    if "vcr" in places:
        questions = ask(scene, rng, tallies[places["vcr"].split], texts.questions)
        statements += _right_answers(scene, questions)
    return msgspec.structs.replace(scene, statements=tuple(statements)), questions


def _write_picture(scene: Scene, out: Path, seed: int) -> None:
    data = draw_jpeg(scene, seed)
    places = scene.places.items()
    first, *further = [out / PICTURE_FOLDERS[name] / place.file for name, place in places]
    first.write_bytes(data)
    for path in further:
        link(first, path)


def _captions(scene: Scene, rng: random.Random, image_id: int) -> list[Statement]:
    said = close_up_captions(scene) if scene.is_close_up else scene_captions(scene, rng)
    return [
        Statement(
            dataset="coco", id=str(image_id * IDS_PER_IMAGE + i), kind=kind, text=text, about=about
        )
        for i, (kind, text, about) in enumerate(said)
    ]


def _regions(scene: Scene, rng: random.Random, image_id: int, relations: float) -> list[Statement]:
    """One phrase an object, and phrases for boxes around two so that they make up `relations`."""
    found: list[tuple[str, str, tuple[int, ...]]] = [
        ("attributes", describe(thing), (i,)) for i, thing in enumerate(scene.things)
    ]
    wanted = len(found) * relations / (1 - relations)
    number = int(wanted) + (rng.random() < wanted % 1)
    pairs = clear_pairs(scene)
    for i, j, predicate in rng.sample(pairs, min(number, len(pairs))):
        phrase = relation_phrase(scene.things[i], predicate, scene.things[j])
        found.append(("relation", phrase, (i, j)))
    # region ids do not fit into 32 bits, as some of the original do not
    return [
        Statement(dataset="vg", id=str(image_id * 10_000 + k), kind=kind, text=text, about=about)
        for k, (kind, text, about) in enumerate(found)
    ]


def _right_answers(scene: Scene, questions: list[Question]) -> list[Statement]:
    return [
        Statement(
            dataset="vcr",
            id=annotation_id(scene, number),
            kind=question.kind,
            text=bracketed(question.answers[question.answer_label]),
            about=question.about,
        )
        for number, question in enumerate(questions)
    ]


def _shares(datasets: Sequence[str], shares: Mapping[str, float] | None) -> Mapping[str, float]:
    """Say how much is drawn for each tree that is wanted, or that a wanted one shows."""
    unknown = [name for name in datasets if name not in DATASETS]
    if unknown or not datasets:
        found = unknown[0] if unknown else "none"
        raise UsageError(f"datasets: expected some of {', '.join(DATASETS)}, got `{found}`")
    needed = {TREES[name].shows if name in TREES else name for name in datasets}
    if shares is None:
        return {name: share for name, share in DEFAULT_SHARES.items() if name in needed}
    for name in datasets:
        if name in TREES and TREES[name].shows not in shares:
            raise UsageError(
                f"datasets: `{name}` shows pictures of `{TREES[name].shows}`, which has no share"
            )
    return dict(shares)


def _check(images: int, shares: Mapping[str, float], image_wh: tuple[int, int]) -> None:
    if images < 32:
        raise UsageError(f"images: expected at least 32, got {images}")
    if min(image_wh) < 128:
        raise UsageError(f"image_wh: expected at least 128 × 128 pixels, got {image_wh}")
    unknown = sorted(set(shares) - set(PICTURE_FOLDERS))
    if unknown or not shares or min(shares.values()) <= 0:
        drawn = ", ".join(PICTURE_FOLDERS)
        raise UsageError(f"shares: expected numbers above 0 for some of {drawn}, got {shares}")


def _check_range(low: float, high: float, **values: float) -> None:
    for name, value in values.items():
        if not low <= value <= high:
            raise UsageError(f"{name}: expected {low} to {high}, got {value}")


def _check_empty(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out}: expected a folder, found a file")
    if not any(out.iterdir()):
        return
    if not (out / SCENES_FILE).is_file():
        raise UsageError(f"{out}: expected an empty folder, found files of something else")
    if not overwrite:
        raise UsageError(f"{out}: holds a miniature world already", hint="pass `--overwrite`")


def _report(out: Path, scenes: list[Scene], faults: int, seconds: float) -> MiniatureReport:
    pictures: Counter[str] = Counter()
    statements: Counter[str] = Counter()
    for scene in scenes:
        for dataset, place in scene.places.items():
            name = f"{dataset} {place.split}"
            pictures[name] += 1
            statements[name] += sum(said.dataset == dataset for said in scene.statements)
    return MiniatureReport(
        out=out,
        images=len(scenes),
        close_ups=sum(scene.is_close_up for scene in scenes),
        pictures=dict(sorted(pictures.items())),
        statements=dict(sorted(statements.items())),
        held_out_objects=sum(thing.is_held_out for s in scenes for thing in s.things),
        objects=sum(len(scene.things) for scene in scenes),
        faults=faults,
        seconds=seconds,
    )
