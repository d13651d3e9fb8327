"""Samples' bytes out of tars in a store, through the cache on this node.

In: a split's index whose root is the local side of a URL, and a check that tells whole bytes from
damaged ones. Out: what the check made of them. What the cache holds is trusted no more than what
the store sends; a file in it carries its shard's Merkle root, so that shards which were made anew
never meet old bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from roikit import remote
from roikit.errors import CorruptSampleError, UsageError
from roikit.urls import join
from shards import merkle
from shards.commit import DatasetInfo, load_dataset
from shards.index import SplitIndex
from shards.layout import COMMIT_NAME
from shards.range_cache import RangeCache
from shards.remote import split_url

#: Of a shard's Merkle root in a cached file's name.
_ROOT_DIGITS = 16

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tar:
    url: str  #: of the folder
    name: str  #: below it
    shown: str  #: the whole URL, for messages
    merkle_root: str
    cached_name: str


class RemoteTars:
    """The tars of one root behind a URL. May be used by several threads at once.

    Args:
        root: the local side.
        cache: where to keep what was read; None keeps nothing.
    """

    def __init__(self, root: Path, cache: RangeCache | None) -> None:
        self._root = root
        self._cache = cache
        #: By dataset, split and Merkle root, in the shards' order.
        self._known: dict[tuple[str, str, str], list[_Tar]] = {}

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
        tar = self._tars(index)[int(index.shard[row])]
        if self._cache is not None:
            data = self._cache.read(tar.cached_name, start, length)
            if data is not None:
                try:
                    return check(data, tar.shown)
                except CorruptSampleError:
                    pass  # a hole, or half of it: not there
        for is_last in (False, True):
            data = remote.read_range(tar.url, tar.name, start, length)
            try:
                found = check(data, tar.shown)
            except CorruptSampleError:
                if is_last:  # twice: not damaged on the way
                    self._refuse_another_shard(tar)
                    raise
                continue
            if self._cache is not None:
                self._cache.write(tar.cached_name, start, data)
            return found
        raise AssertionError("unreachable")

    def _tars(self, index: SplitIndex) -> list[_Tar]:
        split = (index.dataset, index.split, index.merkle_root)
        tars = self._known.get(split)
        if tars is None:
            url = split_url(self._root, index.dataset, index.split)
            info = load_dataset(self._root, index.dataset, index.split)
            if not _has_shards_of(info, index):  # another process brought a later commit here
                raise _replaced(url)
            tars = self._known[split] = [
                _Tar(
                    url=url,
                    name=f"{shard.stem}.tar",
                    shown=join(url, f"{shard.stem}.tar"),
                    merkle_root=shard.merkle_root,
                    cached_name=f"{info.dataset}/{info.split}/{shard.stem}"
                    f"-{shard.merkle_root[:_ROOT_DIGITS]}.tar",
                )
                for shard in info.shards
            ]
        return tars

    def _refuse_another_shard(self, tar: _Tar) -> None:
        """Raise if damaged bytes have a reason: the shard was replaced after the index was read."""
        try:
            there = msgspec.json.decode(remote.read(tar.url, COMMIT_NAME), type=DatasetInfo)
        except (remote.NothingThereError, msgspec.DecodeError):
            roots = {}
        else:
            roots = {f"{shard.stem}.tar": shard.merkle_root for shard in there.shards}
        if roots.get(tar.name) != tar.merkle_root:
            raise _replaced(tar.shown)


def _has_shards_of(info: DatasetInfo, index: SplitIndex) -> bool:
    """Tell whether a commit is the index's own, or an extension, which keeps all older shards."""
    if info.merkle_root == index.merkle_root:
        return True
    leaves = [merkle.leaf(shard.stem, shard.merkle_root) for shard in info.shards]
    first = int(index.shard.max()) + 1
    return any(
        merkle.root(leaves[:num]) == index.merkle_root for num in range(first, len(leaves) + 1)
    )


def _replaced(shown: str) -> UsageError:
    return UsageError(
        f"{shown}: was made anew or removed since its index was read",
        hint="begin again, with the shards that are there now",
    )
