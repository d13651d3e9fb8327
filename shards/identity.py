"""Which pictures are the same photo, and how many of an evaluation's stand in training data.

Four kinds of identity: the native id (COCO 2014, COCO 2017 and what borrows from them name a photo
alike), the SHA-256 of the bytes, the SHA-256 of the decoded pixels, and a perceptual hash. The
first three are certain; what merely looks alike is counted apart, for a person to look at. Pixels
and looks are compared where `shards/fingerprints.py` has hashed every split that takes part.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from roikit.fingerprint import LOOK_DISTANCE
from shards import sidecar
from shards.commit import load_dataset
from shards.fingerprints import Fingerprints, read_fingerprints
from shards.index import native_hashes, open_index, short_hashes
from shards.layout import sample_key, split_dir
from shards.mix import MixEntry
from shards.selection import Chosen
from shards.similar import nearest

Mask = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]

#: Kinds of identity, as reports name them.
IDS, BYTES, PIXELS, LOOKS = "ids", "bytes", "pixels", "looks"


@dataclass(frozen=True, kw_only=True, slots=True)
class Identities:
    """A split's pictures. Row i of both tuples is the same sample, in the shards' order."""

    native_ids: tuple[str, ...]
    sha256s: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """Pictures of one or several splits, as their hashes; row i of all is the same sample."""

    names: tuple[tuple[str, str], ...]  #: (dataset, split) of those they come from
    source: npt.NDArray[np.int64]  #: (N,) index into `names`
    numbers: npt.NDArray[np.int64]  #: (N,) of the samples' keys
    native: Hashes  #: (N,) as the index keeps them; so the next
    image: Hashes  #: (N,)
    prints: Fingerprints | None  #: None where a split was not hashed

    def __len__(self) -> int:
        return len(self.native)

    def key(self, row: int) -> str:
        """Return the key of sample `row`."""
        dataset, split = self.names[self.source[row]]
        return sample_key(dataset, split, int(self.numbers[row]))

    def without_prints(self) -> "Pictures":
        """Return the same pictures, to be compared by ids and bytes alone."""
        return replace(self, prints=None)

    def those(self, mask: Mask) -> "Pictures":
        """Return the pictures where `mask` is true."""
        prints = self.prints
        if prints is not None:
            prints = Fingerprints(
                pixels=prints.pixels[mask],
                looks=prints.looks[mask],
                has_look=prints.has_look[mask],
            )
        return Pictures(
            names=self.names,
            source=self.source[mask],
            numbers=self.numbers[mask],
            native=self.native[mask],
            image=self.image[mask],
            prints=prints,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Which of the asked pictures stand among the known ones, by each kind of identity."""

    by_id: Mask
    by_bytes: Mask
    by_pixels: Mask | None  #: None where pixels and looks were not compared; so the next two
    looks_like: npt.NDArray[np.int64] | None  #: row of the known picture most alike; -1 for none
    distance: npt.NDArray[np.int64] | None  #: bits that those two differ in; -1

    @property
    def compared(self) -> tuple[str, ...]:
        """The kinds of identity that were looked at."""
        return (IDS, BYTES) if self.by_pixels is None else (IDS, BYTES, PIXELS, LOOKS)

    @property
    def found(self) -> Mask:
        """Whether it certainly is the same picture: by id, bytes or pixels."""
        found = self.by_id | self.by_bytes
        return found if self.by_pixels is None else found | self.by_pixels

    @property
    def similar(self) -> Mask | None:
        """Whether it looks like one, and is not found."""
        return None if self.looks_like is None else (self.looks_like >= 0) & ~self.found


@dataclass(frozen=True, slots=True)
class LeakCount:
    """How many of an evaluation's pictures stand in the training data."""

    found: int
    total: int
    compared: tuple[str, ...] = (IDS, BYTES)  #: kinds of identity that were looked at
    similar: int | None = None  #: further ones that merely look alike; None: not compared


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


def read_pictures(
    root: Path | str,
    dataset: str,
    split: str,
    *,
    entries: Sequence[MixEntry] | None = None,
    excluded: Collection[str] = (),
    chosen: Chosen | None = None,
    held_out: float = 0.0,
) -> Pictures:
    """Return the pictures of a committed split, or those of it that a mixture trains on.

    Args:
        root: the shards' root folder.
        dataset: the dataset's name.
        split: the split's name.
        entries: only pictures with a conversation that one of these takes; None takes all.
        excluded: identities to leave out, see `shards/kept_clean.py`.
        chosen: only pictures with one of these conversations; None takes all.
        held_out: share of the pictures that is left out.

    Raises:
        UsageError: there is no such committed split, or its index is missing.
    """
    info = load_dataset(root, dataset, split)
    index = open_index(root, dataset, split, info.merkle_root)
    pictures = Pictures(
        names=((dataset, split),),
        source=np.zeros(len(index), dtype=np.int64),
        numbers=index.number.astype(np.int64),
        native=index.native_hash,
        image=index.image_hash,
        prints=read_fingerprints(root, info),
    )
    is_asked = np.ones(len(index.conversation_sample), dtype=bool)
    if entries is not None:
        is_asked &= index.is_task({task for entry in entries for task in entry.tasks})
    if chosen is not None:
        is_asked &= chosen.of(index)
    is_kept = np.zeros(len(index), dtype=bool)
    is_kept[index.conversation_sample[is_asked]] = True
    if entries is None and chosen is None:
        is_kept[:] = True  # samples without a conversation, too
    is_kept &= ~index.is_any_of(*excluded_hashes(excluded)) & ~index.is_held_out(held_out)
    return pictures.those(is_kept)


def together(parts: Sequence[Pictures]) -> Pictures:
    """Put the pictures of several splits one after the other; they have prints if all have."""
    prints = [part.prints for part in parts if part.prints is not None]
    names = tuple(name for part in parts for name in part.names)
    offsets = np.cumsum([0, *(len(part.names) for part in parts)])
    return Pictures(
        names=names,
        source=_concat([p.source + o for p, o in zip(parts, offsets, strict=False)], np.int64),
        numbers=_concat([part.numbers for part in parts], np.int64),
        native=_concat([part.native for part in parts], np.uint64),
        image=_concat([part.image for part in parts], np.uint64),
        prints=None
        if len(prints) < len(parts)
        else Fingerprints(
            pixels=_concat([one.pixels for one in prints], np.uint64),
            looks=_concat([np.zeros((0, 4), np.uint64), *(one.looks for one in prints)], np.uint64),
            has_look=_concat([one.has_look for one in prints], np.bool_),
        ),
    )


def compare(asked: Pictures, known: Pictures) -> Comparison:
    """Look each of the asked pictures up among the known ones."""
    by_pixels, looks_like, distance = None, None, None
    if asked.prints is not None and known.prints is not None:
        ours, theirs = asked.prints, known.prints
        by_pixels = np.isin(ours.pixels, theirs.pixels[theirs.pixels != 0])
        looks_like = np.full(len(asked), -1, dtype=np.int64)
        distance = looks_like.copy()
        their_rows = np.flatnonzero(theirs.has_look)
        rows, bits = nearest(ours.looks[ours.has_look], theirs.looks[their_rows], LOOK_DISTANCE)
        looks_like[ours.has_look] = np.where(rows >= 0, np.append(their_rows, -1)[rows], -1)
        distance[ours.has_look] = bits
    return Comparison(
        by_id=np.isin(asked.native, known.native),
        by_bytes=np.isin(asked.image, known.image),
        by_pixels=by_pixels,
        looks_like=looks_like,
        distance=distance,
    )


def count(asked: Pictures, known: Pictures) -> LeakCount:
    """Count the asked pictures that stand among the known ones."""
    comparison = compare(asked, known)
    similar = comparison.similar
    return LeakCount(
        found=int(comparison.found.sum()),
        total=len(asked),
        compared=comparison.compared,
        similar=None if similar is None else int(similar.sum()),
    )


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
    known = together([read_pictures(root, *name) for name in train])
    return count(read_pictures(root, *eval), known)


def excluded_hashes(identities: Collection[str]) -> tuple[Hashes, Hashes]:
    """Return native ids and SHA-256s, told apart by their form, as the index keeps them."""
    native_ids, sha256s = split_identities(identities)
    return native_hashes(native_ids), short_hashes(sha256s)


def split_identities(identities: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the native ids (`coco:9`; they hold a colon) and the SHA-256s (they hold none)."""
    native_ids = [one for one in identities if ":" in one]
    return native_ids, [one for one in identities if ":" not in one]


def _concat(arrays: Sequence[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype=dtype)
