"""Two hashes of a picture: one of its pixels, one of its look.

In: a picture's bytes. Out: a SHA-256 that is the same wherever the decoded pixels are (other
metadata, another lossless format), and a perceptual hash that differs little between a picture and
its resized or re-encoded copies. Knows no shards.
"""

import hashlib
from dataclasses import dataclass

import imagehash
import numpy as np
import PIL.Image

from roikit.images import decode_rgb

#: Raised whenever the same picture would get other hashes: caches of the older kind are left.
FINGERPRINT_VERSION = 1

#: Side of the square of DCT coefficients kept; one bit each.
_LOOK_SIDE = 16
LOOK_BYTES = _LOOK_SIDE * _LOOK_SIDE // 8

#: Pictures look alike whose perceptual hashes differ in at most so many of the 256 bits.
#: docs/leaks.md tells how it was found: re-encoded and resized photographs differ in up to 24,
#: different ones in at least 76; of 32 million pairs of drawn scenes three are within 31.
LOOK_DISTANCE = 31

#: Below this spread of grey levels (0 to 255) a picture has no look to compare: its hash is noise.
_PLAIN_SPREAD = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """A picture's two hashes."""

    pixels: bytes  #: SHA-256 of width, height and the upright 8-bit RGB pixels
    look: bytes | None  #: 256 bits of perceptual hash; None where the picture is too plain for one


def fingerprint(data: bytes) -> Fingerprint:
    """Return the hashes of an encoded picture.

    Source: the perceptual hash is ImageHash's `phash`: grey, 64 x 64, DCT, its lowest 16 x 16
    coefficients against their median.

    Raises:
        CorruptSampleError: the bytes cannot be decoded in full.
    """
    pixels = decode_rgb(data)
    height, width = pixels.shape[:2]
    digest = hashlib.sha256(f"{width}x{height}\n".encode())
    digest.update(pixels.data)
    grey = PIL.Image.fromarray(pixels).convert("L")
    return Fingerprint(pixels=digest.digest(), look=_look(grey))


def _look(grey: PIL.Image.Image) -> bytes | None:
    side = 4 * _LOOK_SIDE
    # the size that `phash` would bring it to; a coarse reduction first takes a third of the time
    small = grey.resize((side, side), PIL.Image.Resampling.LANCZOS, reducing_gap=2.0)
    if float(np.asarray(small).std()) < _PLAIN_SPREAD:
        return None
    return bytes(np.packbits(imagehash.phash(small, hash_size=_LOOK_SIDE).hash).tobytes())
