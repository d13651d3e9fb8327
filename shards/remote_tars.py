"""Samples' bytes out of tars in a store, through the cache on this node.

In: a split's index whose root is the local side of a URL, and a check that tells whole bytes from
damaged ones. Out: what the check made of them. What the cache holds is trusted no more than what
the store sends; a file in it carries its shard's Merkle root, so that shards which were made anew
never meet old bytes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from roikit import remote
from roikit.errors import CorruptSampleError, UsageError
from roikit.urls import join
from shards.commit import DatasetInfo, load_dataset
from shards.index import SplitIndex
from shards.layout import COMMIT_NAME, shard_stem
from shards.range_cache import RangeCache
from shards.remote import split_url

#: Of a shard's Merkle root in a cached file's name.
_ROOT_DIGITS = 16

T = TypeVar("T")


class RemoteTars:
    """The tars of one root behind a URL. May be used by several threads at once.

    Args:
        root: the local side.
        cache: where to keep what was read; None keeps nothing.
    """

    def __init__(self, root: Path, cache: RangeCache | None) -> None:
        self._root = root
        self._cache = cache
        #: Cached files' names by split, one a shard.
        self._names: dict[tuple[str, str, str], list[str]] = {}

    def read(
        self,
        index: SplitIndex,
        row: int,
        start: int,
        length: int,
        *,
        check: Callable[[bytes, str], T],
    ) -> T:
        """Read a part of the shard that holds sample `row`.

        Args:
            index: of the split.
            row: of the sample.
            start: first byte, from the tar's start.
            length: bytes.
            check: called with the bytes and the tar's URL; what it returns is returned, and what it
                refuses with a `CorruptSampleError` is not taken from the cache.

        Raises:
            CorruptSampleError: what the store holds is damaged: it was read twice.
            UsageError: the store holds another shard now, or none.
            RemoteError: the store does not answer.
        """
        url = split_url(self._root, index.dataset, index.split)
        stem = shard_stem(index.dataset, index.split, int(index.shard[row]))
        shown = join(url, f"{stem}.tar")
        name = self._cached_name(index, row)
        if self._cache is not None:
            data = self._cache.read(name, start, length)
            if data is not None:
                try:
                    return check(data, shown)
                except CorruptSampleError:
                    pass  # a hole, or half of it: not there
        for is_last in (False, True):
            data = remote.read_range(url, f"{stem}.tar", start, length)
            try:
                found = check(data, shown)
            except CorruptSampleError:
                if is_last:  # twice: not damaged on the way
                    self._refuse_another_shard(index, url, stem)
                    raise
                continue
            if self._cache is not None:
                self._cache.write(name, start, data)
            return found
        raise AssertionError("unreachable")

    def _cached_name(self, index: SplitIndex, row: int) -> str:
        split = (index.dataset, index.split, index.merkle_root)
        names = self._names.get(split)
        if names is None:
            info = load_dataset(self._root, index.dataset, index.split)
            names = self._names[split] = [
                f"{info.dataset}/{info.split}/{shard.stem}-{shard.merkle_root[:_ROOT_DIGITS]}.tar"
                for shard in info.shards
            ]
        return names[int(index.shard[row])]

    def _refuse_another_shard(self, index: SplitIndex, url: str, stem: str) -> None:
        """Raise if damaged bytes have a reason: the shard was replaced after the index was read."""
        here = load_dataset(self._root, index.dataset, index.split)
        try:
            there = msgspec.json.decode(remote.read(url, COMMIT_NAME), type=DatasetInfo)
        except (remote.NothingThereError, msgspec.DecodeError):
            there = None
        roots = [
            {shard.stem: shard.merkle_root for shard in info.shards}.get(stem) if info else None
            for info in (here, there)
        ]
        if roots[0] != roots[1] or here.merkle_root != index.merkle_root:
            raise UsageError(
                f"{url}: `{stem}` was made anew or removed since its index was read",
                hint="begin again, with the shards that are there now",
            )
