"""Which pictures are the same photo: by native id, or by the SHA-256 of their bytes.

Resized or re-encoded copies under another name are not found here: that takes hashes of the pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shards import sidecar
from shards.commit import load_dataset
from shards.layout import split_dir


@dataclass(frozen=True, kw_only=True, slots=True)
class Identities:
    """A split's pictures. Row i of both tuples is the same sample, in the shards' order."""

    native_ids: tuple[str, ...]
    sha256s: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeakCount:
    """How many of an evaluation's pictures stand in the training data."""

    found: int
    total: int


def identities(root: Path | str, dataset: str, split: str) -> Identities:
    """Return the names and hashes of a committed split's pictures.

    Raises:
        UsageError: there is no such committed split.
        CorruptSampleError: a sidecar cannot be read.
    """
    info = load_dataset(root, dataset, split)
    folder = split_dir(root, dataset, split)
    native_ids: list[str] = []
    sha256s: list[str] = []
    for shard in info.shards:
        table = sidecar.read_rows(folder / f"{shard.stem}.parquet", ("native_id", "image_sha256"))
        native_ids += table["native_id"].to_pylist()
        sha256s += table["image_sha256"].to_pylist()
    return Identities(native_ids=tuple(native_ids), sha256s=tuple(sha256s))


def overlap(
    root: Path | str,
    *,
    eval: tuple[str, str],
    train: Sequence[tuple[str, str]],
) -> LeakCount:
    """Count the evaluation's samples whose picture a training split holds too.

    Args:
        root: the shards' root folder.
        eval: dataset and split of the evaluation.
        train: dataset and split of everything trained on.

    Raises:
        UsageError: one of the splits is not committed.
    """
    known: set[str] = set()
    for dataset, split in train:
        there = identities(root, dataset, split)
        known.update(there.native_ids, there.sha256s)
    asked = identities(root, *eval)
    pairs = list(zip(asked.native_ids, asked.sha256s, strict=True))
    found = sum(native_id in known or sha256 in known for native_id, sha256 in pairs)
    return LeakCount(found=found, total=len(pairs))
