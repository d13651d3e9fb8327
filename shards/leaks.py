"""Which evaluation pictures stand in training data: the table of `roikit leaks`.

In: committed splits, and which of them evaluate and which train. Out: counts by kind of identity
for each pair, and the pairs of pictures that merely look alike. `identity.py` compares.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roikit.errors import UsageError
from shards.fingerprints import ProgressCall, compute_fingerprints
from shards.identity import (
    Comparison,
    Mask,
    Pictures,
    compare,
    identities,
    read_pictures,
    together,
)
from shards.kept_clean import write_list

Split = tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class LeakRow:
    """How many pictures of one evaluation split stand in training data."""

    evaluation: str  #: `DATASET@SPLIT`
    training: str | None  #: `DATASET@SPLIT`; None: all the training splits together
    total: int  #: pictures of the evaluation split
    by_id: int
    by_bytes: int
    by_pixels: int | None  #: None where pixels and looks were not compared; so the next
    found: int  #: by any of the three: certainly the same picture
    similar: int | None  #: further ones that look alike: look at them
    any: int  #: found or similar


@dataclass(frozen=True, kw_only=True, slots=True)
class LookAlike:
    """Two pictures that look alike and are not known to be the same."""

    evaluation: str  #: key of the sample
    training: str  #: key of the sample
    distance: int  #: bits, of 256, that their perceptual hashes differ in


@dataclass(frozen=True, kw_only=True, slots=True)
class LeakTable:
    """What was found."""

    rows: tuple[LeakRow, ...]
    look_alikes: tuple[LookAlike, ...]  #: the most alike first
    hashed: int  #: pictures whose hashes were computed now, rather than read
    lists: tuple[Path, ...]  #: written lists of pictures


def find_leaks(
    root: Path | str,
    *,
    evaluations: Sequence[Split],
    training: Sequence[Split],
    with_pixels: bool = True,
    write_lists: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    progress: ProgressCall | None = None,
) -> LeakTable:
    """Compare every evaluation split with every training split, and with all of them together.

    Args:
        root: the shards' root folder.
        evaluations: (dataset, split) of what is asked about.
        training: (dataset, split) of what is trained on.
        with_pixels: compare pixels and looks too; their hashes are computed where they are missing.
        write_lists: write ROOT/benchmarks/DATASET@SPLIT.txt for each evaluation split: its
            pictures, and the training pictures of the same pixels.
        overwrite: replace other lists of those names.
        workers: threads that hash pictures.
        progress: told of the hashing, then of the comparing.

    Raises:
        UsageError: a split is not committed, only a split and itself are to be compared, or another
            list stands where one is to be written.
        CorruptSampleError: a shard is damaged.
    """
    if {*evaluations, *training} == {*evaluations[:1]}:
        raise UsageError(
            f"nothing to compare: `{_spelt(evaluations[0])}` is the only split on both sides"
        )
    hashed = 0
    if with_pixels:
        every = list(dict.fromkeys([*evaluations, *training]))
        hashed = compute_fingerprints(root, every, workers=workers, progress=progress)
    known = [(_spelt(name), _pictures(root, name, with_pixels)) for name in training]
    rows: list[LeakRow] = []
    alike: dict[tuple[str, str], LookAlike] = {}
    lists = []
    for name in evaluations:
        asked = _pictures(root, name, with_pixels)
        # a split is no leak of itself
        others = [(spelt, there) for spelt, there in known if spelt != _spelt(name)]
        comparisons = []
        for done, (spelt, there) in enumerate(others):
            if progress is not None:
                progress(done, len(others), f"comparing {_spelt(name)}")
            comparison = compare(asked, there)
            comparisons.append(comparison)
            rows.append(_row(_spelt(name), spelt, [comparison]))
            alike |= {(a.evaluation, a.training): a for a in _alike(asked, there, comparison)}
        if len(others) > 1:
            rows.append(_row(_spelt(name), None, comparisons))
        if write_lists:
            everything = together([there for _, there in others])
            copies = _same_pixels(root, asked, everything) if with_pixels else set()
            ours = identities(root, *name)
            lists.append(
                write_list(
                    root,
                    _spelt(name),
                    {*ours.native_ids, *ours.sha256s, *copies},
                    origin="its shards, with training pictures of the same pixels"
                    if with_pixels
                    else "its shards",
                    overwrite=overwrite,
                )
            )
    return LeakTable(
        rows=tuple(rows),
        look_alikes=tuple(sorted(alike.values(), key=lambda a: (a.distance, a.evaluation))),
        hashed=hashed,
        lists=tuple(lists),
    )


def _pictures(root: Path | str, name: Split, with_pixels: bool) -> Pictures:
    pictures = read_pictures(root, *name)
    return pictures if with_pixels else pictures.without_prints()


def _spelt(name: Split) -> str:
    return "@".join(name)


def _row(evaluation: str, training: str | None, comparisons: Sequence[Comparison]) -> LeakRow:
    """Count what stands in any of the training splits that were compared."""

    def any_of(masks: Iterable[Mask | None]) -> Mask | None:
        there = [mask for mask in masks if mask is not None]
        # only where all were compared is a picture that was not found really not there
        return np.any(there, axis=0) if len(there) == len(comparisons) else None

    def number(mask: Mask | None) -> int | None:
        return None if mask is None else int(mask.sum())

    found = np.any([one.found for one in comparisons], axis=0)
    similar = any_of(one.similar for one in comparisons)
    if similar is not None:
        similar &= ~found
    return LeakRow(
        evaluation=evaluation,
        training=training,
        total=len(found),
        by_id=int(np.any([one.by_id for one in comparisons], axis=0).sum()),
        by_bytes=int(np.any([one.by_bytes for one in comparisons], axis=0).sum()),
        by_pixels=number(any_of(one.by_pixels for one in comparisons)),
        found=int(found.sum()),
        similar=number(similar),
        any=int(found.sum()) + (number(similar) or 0),
    )


def _alike(asked: Pictures, known: Pictures, comparison: Comparison) -> Iterable[LookAlike]:
    if comparison.similar is None or comparison.looks_like is None or comparison.distance is None:
        return
    for row in np.flatnonzero(comparison.similar):
        yield LookAlike(
            evaluation=asked.key(int(row)),
            training=known.key(int(comparison.looks_like[row])),
            distance=int(comparison.distance[row]),
        )


def _same_pixels(root: Path | str, asked: Pictures, known: Pictures) -> set[str]:
    """Return the SHA-256s of known pictures that have the pixels of one asked about."""
    if asked.prints is None or known.prints is None:
        return set()
    pixels = known.prints.pixels
    is_copy = np.isin(pixels, asked.prints.pixels) & (pixels != 0)
    found: set[str] = set()
    for number, name in enumerate(known.names):
        is_here = known.source == number
        if is_copy[is_here].any():
            sha256s = identities(root, *name).sha256s
            found.update(sha256s[row] for row in np.flatnonzero(is_copy[is_here]))
    return found
