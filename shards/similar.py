"""Find hashes that differ in a few bits only, among very many, without comparing all with all.

In: two tables of binary hashes. Out: for each hash of the first the nearest of the second. Exact:
256 bits are cut into 16 bands of 16; two hashes that differ in fewer than 32 bits differ in at most
one bit in at least one band, so only hashes that share a band but for one bit are compared.

Source: Norouzi, Punjani and Fleet, Fast Search in Hamming Space with Multi-Index Hashing (2012).
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

_BAND_BITS = 16
_BANDS = 16
#: Hashes are rows of so many 64-bit words.
WORDS = _BANDS * _BAND_BITS // 64
#: The largest distance that the bands find for certain.
MAX_DISTANCE = 2 * _BANDS - 1
#: Pairs compared at once: a few dozen megabytes.
_CHUNK = 1 << 20

Words = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]


def nearest(asked: Words, known: Words, max_distance: int = MAX_DISTANCE) -> tuple[Rows, Rows]:
    """Find each asked hash's nearest known one.

    Args:
        asked: (N, 4) words; N may be 0.
        known: (M, 4) words; M may be 0.
        max_distance: bits that two hashes may differ in, at most `MAX_DISTANCE`.

    Returns:
        (N,) rows of `known`, -1 where none is near enough, and (N,) distances, -1 there. Of several
        at the same distance it is the first of `known`.
    """
    if max_distance > MAX_DISTANCE:
        raise ValueError(f"max_distance: expected at most {MAX_DISTANCE}, got {max_distance}")
    rows = np.full(len(asked), -1, dtype=np.int64)
    distances = np.full(len(asked), -1, dtype=np.int64)
    if not len(asked) or not len(known):
        return rows, distances
    # Many pictures of a kind (all black, one logo) share one hash: each is looked for once.
    ours, back = np.unique(asked, axis=0, return_inverse=True)
    theirs, first = np.unique(known, axis=0, return_index=True)
    found = (hits for band in range(_BANDS) for hits in _near(ours, theirs, band, max_distance))
    hits = np.concatenate([np.zeros((0, 3), np.int64), *found])
    hits[:, 1] = first[hits[:, 1]]
    hits = hits[np.lexsort((hits[:, 1], hits[:, 2], hits[:, 0]))]
    ours_found, at = np.unique(hits[:, 0], return_index=True)
    best = np.full((len(ours), 2), -1, dtype=np.int64)
    best[ours_found] = hits[at, 1:]
    rows, distances = best[back.reshape(-1)].T
    return rows, distances


def _near(ours: Words, theirs: Words, band: int, max_distance: int) -> Iterator[Rows]:
    """Yield (our row, their row, distance) of what shares a band but for one bit, and is near."""
    our_codes, their_codes = (
        np.ascontiguousarray(words).view(np.uint16)[:, band] for words in (ours, theirs)
    )
    order = np.argsort(their_codes, kind="stable")
    sorted_theirs = theirs[order]  # the pairs of one bucket then lie side by side in memory
    ends = np.cumsum(np.bincount(their_codes, minlength=1 << _BAND_BITS))
    starts = np.concatenate([[0], ends[:-1]])
    for flip in (0, *(1 << bit for bit in range(_BAND_BITS))):
        codes = our_codes ^ np.uint16(flip)
        counts = ends[codes] - starts[codes]
        for begin, end in _chunks(counts):
            num = counts[begin:end]
            ours_rows = np.repeat(np.arange(begin, end), num)
            # place of each pair within its bucket: 0, 1, … anew for each of our rows
            place = np.arange(len(ours_rows)) - np.repeat(np.cumsum(num) - num, num)
            places = np.repeat(starts[codes[begin:end]], num) + place
            differing = np.bitwise_count(ours[ours_rows] ^ sorted_theirs[places]).sum(axis=1)
            near = np.flatnonzero(differing <= max_distance)
            hits = (ours_rows[near], order[places[near]], differing[near])
            yield np.stack(hits, axis=1).astype(np.int64)


def _chunks(counts: Rows) -> Iterator[tuple[int, int]]:
    """Cut rows into runs of about `_CHUNK` pairs; a single row may have more."""
    total = np.cumsum(counts)
    begin = 0
    while begin < len(counts) and total[-1]:
        before = total[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, before + _CHUNK, side="right")))
        yield begin, end
        begin = end
