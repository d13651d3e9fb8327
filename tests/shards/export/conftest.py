"""Splits with regions and texts of one's choice."""

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage

from roikit.sample import (
    SCHEMA_VERSION,
    Conversation,
    Image,
    Provenance,
    Region,
    Sample,
    Source,
    Turn,
)
from shards.commit import claim_split, commit_dataset
from shards.layout import sample_key, shard_stem, split_dir
from shards.sidecar import write_sidecar
from shards.writer import write_shard

_DESCRIBED = Conversation(
    id="0",
    task="image-caption",
    independent=True,
    source=Source(file="a.json", record="0"),
    turns=(Turn(role="user", text="Describe it."), Turn(role="assistant", text="Grey.")),
)


def _picture(orientation: int) -> bytes:
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
) -> Sample:
    width, height = (24, 32) if orientation > 4 else (32, 24)
    return Sample(
        schema=SCHEMA_VERSION,
        key=sample_key("made", split, number),
        dataset="made",
        split=split,
        image=Image(
            file=f"{number}.jpg",
            native_id=f"native:{number}",
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
    ) -> None:
        claim_split(root, "made", split, plan_hash="plan")
        tar = split_dir(root, "made", split) / f"{shard_stem('made', split, 0)}.tar"
        data = _picture(1)
        entries = [
            (_sample(split, i, data, found, conversations), data, "jpg")
            for i, found in enumerate(regions)
        ]
        rows = write_shard(tar, entries)
        write_sidecar(tar, rows, dataset="made", split=split, plan_hash="plan")
        commit_dataset(root, "made", split, num_shards=1, plan_hash="plan", settings={})

    return put


@pytest.fixture
def turned_entry() -> tuple[Sample, bytes]:
    """A picture that is stored lying on its side."""
    data = _picture(6)
    return _sample("train", 0, data, [], orientation=6), data
