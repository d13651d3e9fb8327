"""How far apart copies and different pictures lie, and how long looking them up takes.

Run: python benchmarks/look_alikes.py [SHARDS]
SHARDS: a folder of converted splits whose pictures all differ but for their native ids, such as a
miniature world's. Photographs are those inside installed packages (docs/photographs.md).
"""

import io
import sys
import time

import numpy as np
import PIL.Image

from pipelines.photographs import find_picture, load_photographs
from roikit.fingerprint import LOOK_DISTANCE, fingerprint
from roikit.images import decode_rgb
from shards.commit import list_datasets
from shards.read import iter_samples
from shards.similar import nearest

BICUBIC = PIL.Image.Resampling.BICUBIC


def encode(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scaled(image, factor, how=BICUBIC):
    return image.resize([max(1, round(side * factor)) for side in image.size], how)


def cropped(image, px):
    return image.crop((px, px, image.width - px, image.height - px))


COPIES = {
    "JPEG, quality 75": lambda i: encode(i, quality=75),
    "JPEG, quality 40": lambda i: encode(i, quality=40),
    "WebP, quality 60": lambda i: encode(i, "WEBP", quality=60),
    "half the size, JPEG 80": lambda i: encode(scaled(i, 0.5), quality=80),
    "a quarter, JPEG 75": lambda i: encode(scaled(i, 0.25), quality=75),
    "1.6 times, JPEG 85": lambda i: encode(scaled(i, 1.6), quality=85),
    "128 px, nearest pixel, JPEG 85": lambda i: encode(
        scaled(i, 128 / max(i.size), PIL.Image.Resampling.NEAREST), quality=85
    ),
    "squashed to 224 x 224": lambda i: encode(i.resize((224, 224), BICUBIC), quality=85),
    "grey": lambda i: encode(i.convert("L"), "PNG"),
    "brighter by 15 of 255": lambda i: encode(i.point(lambda v: min(255, v + 15)), "PNG"),
    "contrast 1.2": lambda i: encode(i.point(lambda v: 1.2 * (v - 128) + 128), "PNG"),
    "one pixel cut off each side": lambda i: encode(cropped(i, 1), "PNG"),
    "2 % cut off each side": lambda i: encode(cropped(i, round(0.02 * min(i.size))), "PNG"),
    "mirrored": lambda i: encode(i.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT), "PNG"),
}


def bits(data):
    look = fingerprint(data).look
    return None if look is None else np.unpackbits(np.frombuffer(look, np.uint8))


def closest(looks):
    """Return the distances of all pairs, sorted."""
    signs = np.array(looks, dtype=np.float32) * 2 - 1
    distances = (256 - signs @ signs.T) / 2
    return np.sort(distances[np.triu_indices(len(looks), 1)]).astype(int)


def photographs():
    images = [
        PIL.Image.fromarray(decode_rgb(find_picture(one).read_bytes()))
        for one in load_photographs()
    ]
    looks = [bits(encode(image, "PNG", compress_level=1)) for image in images]
    print(f"{len(images)} photographs: bits of 256 that a copy differs in")
    for name, copy in COPIES.items():
        pairs = zip(images, looks, strict=True)
        distances = sorted(int((bits(copy(image)) != look).sum()) for image, look in pairs)
        found = sum(distance <= LOOK_DISTANCE for distance in distances)
        middle = distances[len(distances) // 2]
        print(f"  {name:32s} median {middle:3d}  largest {distances[-1]:3d}  found {found}")
    side = 192
    tiles = [
        image.crop((x, y, x + side, y + side))
        for image in images
        for y in range(0, image.height - side + 1, side)
        for x in range(0, image.width - side + 1, side)
    ]
    different = [look for tile in tiles if (look := bits(encode(tile, "PNG"))) is not None]
    print(f"  different photographs, all pairs: closest {closest(looks)[:3]}")
    print(f"  {len(different)} tiles of {side} px cut from them: closest {closest(different)[:5]}")


def converted(root):
    looks = {}
    for info in list_datasets(root):
        for sample, data in iter_samples(root, info.dataset, info.split):
            if sample.image.sha256 not in looks and (look := bits(data)) is not None:
                looks[sample.image.sha256] = look
    distances = closest(list(looks.values()))
    print(f"{len(looks):,} different pictures of {root}: closest {distances[:5]}")


def search(count):
    rng = np.random.default_rng(0)
    known, asked = (rng.integers(0, 2**64, (count, 4), dtype=np.uint64) for _ in range(2))
    rows = rng.choice(count, count // 10, replace=False)
    copies = np.unpackbits(known[rows].view(np.uint8), axis=1)
    for copy in copies:
        copy[rng.choice(256, rng.integers(0, LOOK_DISTANCE + 1), replace=False)] ^= 1
    asked[: len(rows)] = np.packbits(copies, axis=1).view(np.uint64)
    started = time.process_time()
    found, _ = nearest(asked, known, LOOK_DISTANCE)
    seconds = time.process_time() - started
    hits = int((found[: len(rows)] == rows).sum())
    searched = f"{count:,} among {count:,} hashes: {seconds:.1f} s of processor time"
    print(f"{searched}, {hits:,} of {len(rows):,} found")


if __name__ == "__main__":
    photographs()
    if len(sys.argv) > 1:
        converted(sys.argv[1])
    for count in (10_000, 100_000):
        search(count)
