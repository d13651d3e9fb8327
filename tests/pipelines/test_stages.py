"""What training reads, from shards to batches, whoever shares the work and wherever it stopped."""

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.stages import run_stage
from roikit.config import StageRecipe, load_recipe
from roikit.model.box_text import box_text
from roikit.model.build import build_model
from roikit.model.processing import RoikitProcessor
from roikit.train import run as running
from roikit.train.feed import Feeding, StepReader, feed
from shards.steps import Steps
from shards.stream import Draw, Stream
from tests.roikit.conftest import TEXTS, TINY
from tests.shards.conftest import write_split

RUN = StageRecipe(batch_size=6, max_tokens=500)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_split(root, "made", shard_sizes=(4, 3))
    write_split(root, "other", shard_sizes=(9,), first_number=100, num_conversations=1)
    return root


@pytest.fixture(scope="module")
def processor() -> RoikitProcessor:
    torch.set_num_threads(1)
    return build_model(TINY, texts=TEXTS).processor


@pytest.fixture(scope="module")
def text_processor() -> RoikitProcessor:
    return build_model(replace(TINY, region_encoder="text"), texts=TEXTS).processor


def tokens(draw: Draw) -> int:
    return 20 + random.Random(draw.row * 31 + draw.passes).randrange(60)


def open_steps(root: Path, mix: str, layout: Any, micro_batch: int = 0) -> Steps:
    stream = Stream(root, mix, seed=5)
    return Steps(stream, batch_size=6, micro_batch=micro_batch, layout=layout, lengths=tokens)


def content(feedings: list[Feeding]) -> list[Any]:
    """What a step's batches hold on all ranks together: each conversation's tokens and boxes."""
    found = []
    for batch in (b for feeding in feedings for b in feeding.batches if b is not None):
        boxes = [
            batch.views.boxes_R4[batch.views.image_index_R == i] for i in range(len(batch.keys))
        ]
        places = [
            (row, start) for row in range(len(batch.input_ids)) for start in starts_of(batch, row)
        ]
        for i, (row, (start, end)) in enumerate(places):
            ids, labels = (t[row, start:end].tolist() for t in (batch.input_ids, batch.labels))
            found.append((batch.keys[i], ids, labels, boxes[i].tolist()))
    return sorted(found)


def starts_of(batch: Any, row: int) -> list[tuple[int, int]]:
    """Where the conversations of a row begin and end."""
    length = batch.input_ids.shape[1]
    if batch.position_ids is None:
        return [(0, int(batch.attention_mask[row].sum()))]
    starts = (batch.position_ids[row] == 0).nonzero().flatten().tolist()
    runs = list(zip(starts, [*starts[1:], length], strict=True))
    return [run for run in runs if (batch.labels[row, slice(*run)] != -100).any()]


@pytest.mark.parametrize("layout", ["plain", "packed", "grouped"])
@pytest.mark.parametrize("mix", ["made", "made=2,other:caption=0.5"])
def test_ranks_workers_and_stops_change_nothing_of_what_is_trained_on(
    root: Path, processor: RoikitProcessor, mix: str, layout: str
) -> None:
    whole = open_steps(root, mix, layout)
    steps = -(-2 * whole.epoch_length // 6)
    alone = StepReader(whole, processor, RUN, seed=5)
    expected = [content([one]) for one in feed(alone, first=0, steps=steps)]
    assert sum(map(len, expected)) == 6 * steps
    rng = random.Random(f"{mix} {layout}")
    step = 0
    while step < steps:  # legs of a run that is stopped and goes on with other machines
        world_size, workers = rng.choice([1, 2, 4]), rng.choice([0, 2])
        micro_batch, stop = rng.choice([0, 1, 2]), min(steps, step + rng.randrange(1, 5))
        source = open_steps(root, mix, layout, micro_batch)
        source.check(whole.state(step))
        feeds = [
            feed(
                StepReader(source, processor, RUN, seed=5, rank=rank, world_size=world_size),
                first=step,
                steps=stop,
                workers=workers,
            )
            for rank in range(world_size)
        ]
        for ranks in zip(*feeds, strict=True):
            assert content(list(ranks)) == expected[step], (world_size, workers, micro_batch)
            assert {str(one.state) for one in ranks} == {str(whole.state(step + 1))}
            step += 1


@pytest.mark.parametrize("layout", ["plain", "packed", "grouped"])
def test_boxes_as_text_come_from_shards_in_every_layout(
    root: Path, text_processor: RoikitProcessor, layout: str
) -> None:
    source = open_steps(root, "made=2,other:caption=0.5", layout)
    run = replace(RUN, flip=0.5)
    seen = set()
    for step in feed(StepReader(source, text_processor, run, seed=5), first=0, steps=4):
        for _, ids, labels, boxes in content([step]):
            said = text_processor.tokenizer.decode(ids)
            coordinates = re.findall(r"region1\[(\d{3}),\d{3},(\d{3}),\d{3}\]", said)
            assert len(coordinates) == 1
            assert [f"region1{box_text(box)}" in said for box in boxes] == [True]
            assert all(
                label == -100
                for token, label in zip(ids, labels, strict=True)
                if text_processor.tokenizer.decode([token]) in ("[", "]")
            )
            seen.update(coordinates)
    # a box from pixel 1 to 8.5 of 32, as it stands or mirrored
    assert seen == {("031", "265"), ("734", "968")}


def test_the_limit_of_bad_samples_holds_for_a_process_and_for_the_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(running, "train_stage", lambda recipe, **how: asked.update(how))
    recipe = load_recipe("tiny", stage="align", overrides=["keep_clean=[]", "align.mix=made"])
    run_stage(recipe, shards=root, out=tmp_path, on_bad="quarantine", max_bad=7)
    assert asked["max_bad"] == asked["source"].stream.max_bad == 7
