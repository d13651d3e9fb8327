"""What is drawn for a conversation each time it comes up: a pure function of where it stands.

Every draw is seeded by the run's seed, the sample's key, which of its conversations it is, how
often its source was gone through before, and what is drawn: never by a rank, a worker or the order
of the work. Knows neither texts nor pictures nor torch.
"""

import hashlib
import random
from collections.abc import Sequence
from typing import TypedDict, TypeVar

Item = TypeVar("Item")


class Place(TypedDict):
    """Where a conversation stands in a run: what all its draws are seeded by."""

    seed: int
    key: str
    ordinal: int
    passes: int


def rng(seed: int, key: str, ordinal: int, passes: int, use: str) -> random.Random:
    """Return the generator of one use of one draw of a conversation.

    Python's own: it is seeded in 8 us, numpy's in 12, and this is done several times a
    conversation.

    Args:
        seed: the run's.
        key: the sample's.
        ordinal: which of the sample's conversations it is, from 0.
        passes: how often its source was gone through before.
        use: what is drawn; another one gives an independent generator.
    """
    place = "\0".join((str(seed), key, str(ordinal), str(passes), use)).encode()
    return random.Random(int.from_bytes(hashlib.blake2b(place, digest_size=16).digest(), "big"))


def shuffled(items: Sequence[Item], generator: random.Random) -> list[Item]:
    """Return `items` in a drawn order."""
    # Only `random()` is promised to give the same numbers in every version of Python.
    ranks = [generator.random() for _ in items]
    return [items[i] for i in sorted(range(len(items)), key=ranks.__getitem__)]


def drawn_exchanges(
    num_exchanges: int, limit: int, *, seed: int, key: str, ordinal: int, passes: int
) -> list[int]:
    """Return which exchanges of an independent list one pass takes, in the order it takes them.

    Drawn without replacement over the passes: `ceil(num_exchanges / limit)` passes make a cycle, in
    which every exchange comes exactly once; their numbers of exchanges differ by at most one. Each
    cycle is shuffled anew.

    Args:
        num_exchanges: how many there are.
        limit: most that one pass takes; 0 takes all.
        seed: the run's.
        key: the sample's.
        ordinal: which of the sample's conversations it is, from 0.
        passes: how often its source was gone through before.

    Returns:
        Different indices from 0 to num_exchanges - 1; none where there is no exchange.
    """
    parts = -(-num_exchanges // limit) if limit and num_exchanges else 1
    cycle, part = divmod(passes, parts)
    order = shuffled(range(num_exchanges), rng(seed, key, ordinal, cycle, "exchanges"))
    return order[num_exchanges * part // parts : num_exchanges * (part + 1) // parts]
