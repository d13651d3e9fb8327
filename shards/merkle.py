"""One hash for many: the Merkle root that names a shard's or a split's content.

Source: RFC 6962 section 2.1 (Merkle tree hash with SHA-256, leaves and nodes told apart by a prefix
byte).
"""

import hashlib
from collections.abc import Sequence


def leaf(name: str, sha256_hex: str) -> bytes:
    """Return one named thing's leaf: SHA-256 of 0x00, its name, 0x00, its raw SHA-256."""
    return hashlib.sha256(b"\x00" + name.encode() + b"\x00" + bytes.fromhex(sha256_hex)).digest()


def root(leaves: Sequence[bytes]) -> str:
    """Return the root over `leaves` as hex; of nothing, the SHA-256 of nothing.

    An odd one out on a level goes up unchanged, which gives RFC 6962's tree.
    """
    if not leaves:
        return hashlib.sha256(b"").hexdigest()
    level = list(leaves)
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        above = [hashlib.sha256(b"\x01" + left + right).digest() for left, right in pairs]
        level = above + level[len(above) * 2 :]
    return level[0].hex()
