"""The same samples in four formats, and how each library reads them in shuffled order.

A sample is a picture and its record, both as bytes. Each library writes them in its own format, raw
and uncompressed, with shards of about 64 MB, and reads them through the loader that it recommends,
shuffled with the settings that it recommends. All of them feed batches of 32 to the same function,
which runs in the worker where there are workers, so no pipe carries pictures.
"""

import hashlib
import io
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import PIL.Image

from benchmarks.convert_writing import make_record
from roikit.sample import Sample, encode_sample
from shards.claim import claim_split
from shards.commit import commit_dataset
from shards.layout import shard_stem, split_dir
from shards.sidecar import write_sidecar
from shards.stream import Stream
from shards.writer import write_shard

BATCH = 32
#: Width, height and JPEG quality that give pictures of about so many bytes, and how many there are.
PICTURES = {"20 kB": ((320, 240), 95, 12_000), "100 kB": ((800, 600), 95, 4_000)}
#: Whose files a reader reads, where they are not its own.
FORMATS = {"webdataset": "roikit"}
_SHARD_BYTES = 64_000_000
_DIFFERENT = 64

#: What is done with a sample: its picture's bytes and its record, decoded where it comes decoded.
Use = Callable[[bytes, bytes | Sample], Any]


def make_samples(name: str) -> list[tuple[Sample, bytes]]:
    """Make a size's samples: drawn pictures with detail of every size, 64 different ones."""
    (width, height), quality, count = PICTURES[name]
    pictures = [draw_picture(seed, (width, height), quality) for seed in range(_DIFFERENT)]
    hashes = [hashlib.sha256(data).hexdigest() for data in pictures]
    samples = []
    for i in range(count):
        record = make_record(i)
        image = msgspec.structs.replace(
            record.image, width=width, height=height, sha256=hashes[i % _DIFFERENT]
        )
        record = msgspec.structs.replace(record, image=image)
        samples.append((record, pictures[i % _DIFFERENT]))
    return samples


def draw_picture(seed: int, image_wh: tuple[int, int], quality: int) -> bytes:
    """Draw a picture with detail of every size and return it as JPEG."""
    width, height = image_wh
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for octave in range(7):
        grid = rng.integers(0, 255, (3 << octave, 4 << octave, 3), dtype=np.uint8)
        grown = PIL.Image.fromarray(grid).resize((width, height), PIL.Image.Resampling.BICUBIC)
        total += np.asarray(grown) / 1.8 ** (octave + 1)
    buffer = io.BytesIO()
    pixels = np.clip(total, 0, 255).astype(np.uint8)
    PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


# Writing


def write_roikit(samples: list[tuple[Sample, bytes]], folder: Path) -> None:
    """Write committed shards."""
    claim_split(folder, "coco", "train", plan_hash="0" * 64)
    shards = list(_cut(samples))
    for number, shard in enumerate(shards):
        tar = split_dir(folder, "coco", "train") / f"{shard_stem('coco', 'train', number)}.tar"
        rows = write_shard(tar, ((sample, data, "jpg") for sample, data in shard))
        write_sidecar(tar, rows, dataset="coco", split="train", plan_hash="0" * 64)
    commit_dataset(folder, "coco", "train", num_shards=len(shards), plan_hash="0" * 64, settings={})


def write_mosaicml(samples: list[tuple[Sample, bytes]], folder: Path) -> None:
    """Write MDS with two columns of bytes."""
    from streaming import MDSWriter

    columns = {"image": "bytes", "record": "bytes"}
    with MDSWriter(out=str(folder), columns=columns, size_limit=_SHARD_BYTES) as writer:
        for sample, data in samples:
            writer.write({"image": data, "record": encode_sample(sample)})


def write_litdata(samples: list[tuple[Sample, bytes]], folder: Path) -> None:
    """Write optimised chunks of two fields of bytes."""
    from litdata.streaming import Cache

    cache = Cache(str(folder), chunk_bytes=_SHARD_BYTES)
    for i, (sample, data) in enumerate(samples):
        cache[i] = {"image": data, "record": encode_sample(sample)}
    cache.done()
    cache.merge()


def write_webdataset(samples: list[tuple[Sample, bytes]], folder: Path) -> None:
    """Nothing: webdataset reads roikit's tars."""


def _cut(samples: list[tuple[Sample, bytes]]) -> Iterator[list[tuple[Sample, bytes]]]:
    shard: list[tuple[Sample, bytes]] = []
    size = 0
    for sample in samples:
        shard.append(sample)
        size += len(sample[1])
        if size >= _SHARD_BYTES:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


# Reading: one epoch each time it is iterated over, as the results of batches


def read_roikit(folder: Path, workers: int, use: Use) -> Iterable[Any]:
    """An epoch of a stream, each worker a rank of it. Checked and decoded in any case."""
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info

    stream = Stream(folder, "coco:image-caption", prefetch=0)

    class Epoch(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[Any]:
            if (info := get_worker_info()) is not None:
                stream.rank, stream.world_size = info.id, info.num_workers
            return islice(stream, stream.epoch_length // stream.world_size)

    return DataLoader(
        Epoch(),
        batch_size=BATCH,
        num_workers=workers,
        collate_fn=lambda examples: [use(e.image_bytes, e.sample) for e in examples],
    )


def read_mosaicml(folder: Path, workers: int, use: Use) -> Iterable[Any]:
    """`StreamingDataset(shuffle=True)` with its default algorithm, in torch's DataLoader."""
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)
    return DataLoader(
        dataset,
        batch_size=BATCH,
        num_workers=workers,
        collate_fn=lambda rows: [use(row["image"], row["record"]) for row in rows],
    )


def read_litdata(folder: Path, workers: int, use: Use) -> Iterable[Any]:
    """`StreamingDataset(shuffle=True)` in its own `StreamingDataLoader`."""
    import litdata

    dataset = litdata.StreamingDataset(str(folder), shuffle=True, drop_last=False)
    return litdata.StreamingDataLoader(
        dataset,
        batch_size=BATCH,
        num_workers=workers,
        shuffle=True,
        collate_fn=lambda rows: [use(row["image"], row["record"]) for row in rows],
    )


def read_webdataset(folder: Path, workers: int, use: Use) -> Iterable[Any]:
    """Shuffled shards and a shuffle buffer of 1,000, in its own `WebLoader`."""
    import webdataset

    random.seed(0)
    tars = sorted(str(path) for path in (folder.parent / FORMATS["webdataset"]).rglob("*.tar"))
    dataset = webdataset.WebDataset(tars, shardshuffle=len(tars), detshuffle=True).shuffle(1000)
    return webdataset.WebLoader(
        dataset,
        batch_size=BATCH,
        num_workers=workers,
        collate_fn=lambda rows: [use(row["jpg"], row["json"]) for row in rows],
    )
