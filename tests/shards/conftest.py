"""A small dataset of drawn pictures, written through the real writer, sidecar and commit."""

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image as PilImage

from roikit.sample import (
    SCHEMA_VERSION,
    Choice,
    Conversation,
    Image,
    Provenance,
    Region,
    Rejection,
    Sample,
    Source,
    Turn,
)
from shards.claim import claim_split
from shards.commit import DatasetInfo, commit_dataset
from shards.layout import sample_key, shard_stem, split_dir
from shards.sidecar import write_sidecar
from shards.writer import write_shard

Entry = tuple[Sample, bytes, str]


def picture(seed: int, kind: str = "JPEG") -> bytes:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (24 + seed % 5, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PilImage.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def make_entry(dataset: str, split: str, number: int, num_conversations: int = 2) -> Entry:
    kind, extension = ("PNG", "png") if number % 3 == 2 else ("JPEG", "jpg")
    data = picture(number, kind)
    source = Source(file="a.json", record=str(number))
    turns = (
        Turn(role="user", text="What is <region1>?", phrasing="caption"),
        Turn(role="assistant", text=f"thing {number} <<region9>"),
    )
    conversations = [
        Conversation(
            id=f"{number}/{i}", task="caption", independent=True, source=source, turns=turns
        )
        for i in range(num_conversations)
    ]
    conversations.append(
        Conversation(
            id=f"{number}/choice",
            task="choice",
            independent=False,
            source=source,
            turns=turns[:1],
            choice=Choice(question_id=str(number), step="answer", options=("a", "b"), answer=0),
        )
    )
    sample = Sample(
        schema=SCHEMA_VERSION,
        key=sample_key(dataset, split, number),
        dataset=dataset,
        split=split,
        image=Image(
            file=f"{number}.{extension}",
            native_id=f"native:{number}",
            width=32,
            height=24 + number % 5,
            sha256=hashlib.sha256(data).hexdigest(),
        ),
        regions=(Region(box_xyxy=(1.0, 2.0, 8.5, 9.0), label="thing"),),
        conversations=tuple(conversations),
        provenance=Provenance(converter="made@1", phrasing="0", seed=0),
    )
    return sample, data, extension


def write_split(
    root: Path,
    dataset: str = "made",
    split: str = "train",
    *,
    shard_sizes: tuple[int, ...] = (4, 3),
    first_number: int = 0,
    plan_hash: str = "plan-1",
    num_conversations: int = 2,
) -> DatasetInfo:
    claim_split(root, dataset, split, plan_hash=plan_hash)
    number = first_number
    for index, num_samples in enumerate(shard_sizes):
        tar = split_dir(root, dataset, split) / f"{shard_stem(dataset, split, index)}.tar"
        numbers = range(number, number + num_samples)
        rows = write_shard(tar, (make_entry(dataset, split, n, num_conversations) for n in numbers))
        rejection = Rejection(
            code="E_BOX_OUTSIDE",
            message="box lies outside",
            source=Source(file="a.json", record=f"bad-{index}"),
            native_id="native:999",
        )
        write_sidecar(
            tar, rows, dataset=dataset, split=split, plan_hash=plan_hash, rejections=[rejection]
        )
        number += num_samples
    return commit_dataset(
        root,
        dataset,
        split,
        num_shards=len(shard_sizes),
        plan_hash=plan_hash,
        settings={"seed": 0, "source_files": [{"path": "a.json", "bytes": 7}]},
    )


def scene(seed: int, width: int = 160, height: int = 120) -> PilImage.Image:
    """A picture with detail of every size, like a photograph: neither noise nor flat has a look."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for octave in range(5):
        grid = rng.integers(0, 255, (3 << octave, 4 << octave, 3), dtype=np.uint8)
        grown = PilImage.fromarray(grid).resize((width, height), PilImage.Resampling.BICUBIC)
        total += np.asarray(grown) / 2.0 ** (octave + 1)
    return PilImage.fromarray(total.astype(np.uint8))


def encoded(image: PilImage.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_pictures(
    root: Path, dataset: str, split: str, pictures: list[tuple[str, bytes]], plan_hash: str = "p"
) -> DatasetInfo:
    """Write a split of one shard that holds these pictures, each with a native id."""
    claim_split(root, dataset, split, plan_hash=plan_hash, overwrite=True)
    entries = []
    for number, (native_id, data) in enumerate(pictures):
        sample, _, _ = make_entry(dataset, split, number)
        sha256 = hashlib.sha256(data).hexdigest()
        image = msgspec.structs.replace(sample.image, native_id=native_id, sha256=sha256)
        extension = "png" if data.startswith(b"\x89PNG") else "jpg"
        entries.append((msgspec.structs.replace(sample, image=image), data, extension))
    tar = split_dir(root, dataset, split) / f"{shard_stem(dataset, split, 0)}.tar"
    rows = write_shard(tar, iter(entries))
    write_sidecar(tar, rows, dataset=dataset, split=split, plan_hash=plan_hash)
    return commit_dataset(
        root, dataset, split, num_shards=1, plan_hash=plan_hash, settings={"seed": 0}
    )


@pytest.fixture
def make_pictures() -> Callable[..., DatasetInfo]:
    return write_pictures


@pytest.fixture
def make_scene() -> Callable[..., PilImage.Image]:
    return scene


@pytest.fixture
def encode() -> Callable[..., bytes]:
    return encoded


@pytest.fixture(scope="session")
def make_split() -> Callable[..., DatasetInfo]:
    return write_split


@pytest.fixture
def make_sample() -> Callable[..., Entry]:
    return make_entry


_DESCRIBED = Conversation(
    id="0",
    task="image-caption",
    independent=True,
    source=Source(file="a.json", record="0"),
    turns=(Turn(role="user", text="Describe it."), Turn(role="assistant", text="Grey.")),
)


def _ramp(orientation: int) -> bytes:
    ramp = np.linspace(0, 255, 24 * 32).reshape(24, 32, 1)
    exif = PilImage.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    pixels = np.repeat(ramp, 3, axis=2).astype(np.uint8)
    PilImage.fromarray(pixels).save(buffer, "JPEG", exif=exif.tobytes())
    return buffer.getvalue()


def _sample(
    split: str,
    number: int,
    data: bytes,
    regions: Sequence[Region],
    conversations: Sequence[Conversation] = (_DESCRIBED,),
    orientation: int = 1,
    native_id: str | None = None,
) -> Sample:
    width, height = (24, 32) if orientation > 4 else (32, 24)
    return Sample(
        schema=SCHEMA_VERSION,
        key=sample_key("made", split, number),
        dataset="made",
        split=split,
        image=Image(
            file=f"{number}.jpg",
            native_id=native_id or f"native:{number}",
            width=width,
            height=height,
            sha256=hashlib.sha256(data).hexdigest(),
            orientation=orientation,
        ),
        regions=tuple(regions),
        conversations=tuple(conversations),
        provenance=Provenance(converter="made@1", phrasing="0", seed=0),
    )


@pytest.fixture
def put_split() -> Callable[..., None]:
    """Write one shard: a sample for each list of regions, all with the same conversations."""

    def put(
        root: Path,
        split: str,
        regions: Sequence[Sequence[Region]],
        conversations: Sequence[Conversation] = (_DESCRIBED,),
        native_id: str | None = None,
        rejections: Sequence[Rejection] = (),
    ) -> None:
        claim_split(root, "made", split, plan_hash="plan")
        tar = split_dir(root, "made", split) / f"{shard_stem('made', split, 0)}.tar"
        data = _ramp(1)
        entries = [
            (_sample(split, i, data, found, conversations, native_id=native_id), data, "jpg")
            for i, found in enumerate(regions)
        ]
        rows = write_shard(tar, entries)
        write_sidecar(
            tar, rows, dataset="made", split=split, plan_hash="plan", rejections=rejections
        )
        commit_dataset(root, "made", split, num_shards=1, plan_hash="plan", settings={})

    return put


@pytest.fixture
def turned_entry() -> tuple[Sample, bytes]:
    """A picture that is stored lying on its side."""
    data = _ramp(6)
    return _sample("train", 0, data, [], orientation=6), data
