"""Visual Genome 1.2 at its official size: invented phrases for regions.

Writes `region_descriptions.json`, `image_data.json`, `densecap_splits.json` and the names of all
pictures. As in the real files, some region ids exceed 32 bits, 5,654 regions have a negative
coordinate (a few of them lie wholly outside), some phrases start or end with a blank, and about
half of the images are photographs of COCO. Written image by image.

Source: counts of docs/datasets.md; the real `region_descriptions.json` takes about 700 MB.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from pipelines.full_scale_coco import photograph_ids
from pipelines.full_scale_draws import Ints, Picture, link, phrases, spread

#: (width, height)
SIZES_WH = ((800, 600), (600, 800), (500, 375), (1024, 768))
_CHUNK = 256
#: Ids are 1 to 5000, then far higher, as the real ones are. Readers know some of the low ones.
_LOW_IDS = 5_000
_HIGH_IDS = 2_315_000
_FOLDERS = ("VG_100K", "VG_100K_2")
_HOST = "http://full-scale.invalid"
#: A region id of the real file; it does not fit into 32 bits.
_LARGE_REGION_ID = 900_100_184_613
_REGION = (
    '{"region_id": %d, "width": %d, "height": %d, "image_id": %d, "phrase": "%s", "y": %d, "x": %d}'
)


@dataclass(frozen=True, kw_only=True, slots=True)
class VgCounts:
    """What the files hold together."""

    images: dict[str, int]  #: by split; `unlisted` are those in no list of densecap's
    regions: dict[str, int]  #: by split
    negative: int  #: regions with a negative coordinate
    coco: int  #: images that are COCO's photographs


#: How the 1,486,557 regions outside train and test lie in val and the unlisted is not published.
COUNTS = VgCounts(
    images={"train": 77_398, "val": 5_000, "test": 5_000, "unlisted": 20_679},
    regions={"train": 3_684_063, "val": 238_488, "test": 238_069, "unlisted": 1_248_069},
    negative=5_654,
    coco=51_208,
)


def write_visual_genome(
    root: Path,
    pictures: Sequence[Picture],
    seed: int,
    tick: Callable[[int], None],
    counts: VgCounts = COUNTS,
) -> None:
    """Write the tree below `root`.

    Args:
        root: an empty folder.
        pictures: to link; those of `SIZES_WH`.
        seed: the same gives the same bytes.
        tick: told of regions written since the last call.
        counts: what to write; others than the official ones are for tests.
    """
    rng = np.random.default_rng([seed, 3])
    num_images = sum(counts.images.values())
    ids = np.arange(1, num_images + 1)
    ids[_LOW_IDS:] += _HIGH_IDS
    shuffled = rng.permutation(num_images)
    num_regions = np.zeros(num_images, np.int64)
    splits: dict[str, list[int]] = {}
    start = 0
    for split, count in counts.images.items():
        places = np.sort(shuffled[start : start + count])
        num_regions[places] = spread(counts.regions[split], count, rng, at_least=1)
        splits[split] = ids[places].tolist()
        start += count
    del splits["unlisted"]
    (root / "densecap_splits.json").write_bytes(msgspec.json.encode(splits))
    shown = rng.integers(len(pictures), size=num_images)
    _write_images(root, ids, pictures, shown, counts.coco, seed, rng)
    sizes_wh = np.array([(p.width, p.height) for p in pictures])[shown]
    negative = rng.choice(int(num_regions.sum()), counts.negative, replace=False)
    with (root / "region_descriptions.json").open("wb") as file:
        first = True
        for entries, number in _regions(ids, num_regions, sizes_wh, np.sort(negative), rng):
            file.write((b"[" if first else b", ") + entries)
            first = False
            tick(number)
        file.write(b"]")


def _write_images(
    root: Path,
    ids: Ints,
    pictures: Sequence[Picture],
    shown: Ints,
    num_coco: int,
    seed: int,
    rng: np.random.Generator,
) -> None:
    """Link the pictures and write `image_data.json`, the only file that says in which folder."""
    for name in _FOLDERS:
        (root / name).mkdir()
    coco_ids = np.concatenate(list(photograph_ids(seed).values()))
    are_coco = rng.permutation(len(ids))[:num_coco].tolist()
    coco_id = dict(
        zip(are_coco, rng.choice(coco_ids, num_coco, replace=False).tolist(), strict=True)
    )
    with (root / "image_data.json").open("wb") as file:
        for i, (image_id, picture) in enumerate(
            zip(ids.tolist(), (pictures[k] for k in shown.tolist()), strict=True)
        ):
            folder = _FOLDERS[image_id % 2]
            link(picture, root / folder / f"{image_id}.jpg")
            image = {
                "width": picture.width,
                "url": f"{_HOST}/rak248/{folder}/{image_id}.jpg",
                "height": picture.height,
                "image_id": image_id,
                "coco_id": coco_id.get(i),
                "flickr_id": None if i not in coco_id else image_id * 7919 % 10**10,
            }
            file.write((b", " if i else b"[") + msgspec.json.encode(image))
        file.write(b"]")


def _regions(
    ids: Ints, num_regions: Ints, sizes_wh: Ints, negative: Ints, rng: np.random.Generator
) -> Iterator[tuple[bytes, int]]:
    """Yield the entries of some images, and how many regions they hold."""
    ends = np.cumsum(num_regions)
    total = int(ends[-1])
    for start in range(0, len(ids), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        counts = num_regions[chunk]
        first = int(ends[start] - num_regions[start])
        count = int(counts.sum())
        whole_wh = np.repeat(sizes_wh[chunk], counts, axis=0)
        shares = np.exp(rng.uniform(np.log(0.04), np.log(0.95), (count, 2)))
        lengths = np.maximum(1, whole_wh * shares).astype(np.int64)
        corners = (rng.random((count, 2)) * (whole_wh - lengths)).astype(np.int64)
        low, high = np.searchsorted(negative, (first, first + count))
        for place in (negative[low:high] - first).tolist():
            # One in fifty is so far out that nothing of the box is left.
            is_far = rng.random() < 0.02
            corners[place, int(rng.integers(2))] = -904 if is_far else -int(rng.integers(1, 9))
        region_ids = np.arange(first, first + count) * 5 + 1382
        if first + count == total:
            region_ids[-1] = _LARGE_REGION_ID
        said = phrases(count, rng)
        for place in range(0, count, 997):
            said[place] = f" {said[place]} "
        rows = [
            _REGION % (region_id, width, height, image_id, phrase, y, x)
            for region_id, (width, height), image_id, phrase, (x, y) in zip(
                region_ids.tolist(),
                lengths.tolist(),
                np.repeat(ids[chunk], counts).tolist(),
                said,
                corners.tolist(),
                strict=True,
            )
        ]
        entries = []
        done = 0
        for image_id, own in zip(ids[chunk].tolist(), counts.tolist(), strict=True):
            inside = ", ".join(rows[done : done + own])
            entries.append(f'{{"regions": [{inside}], "id": {image_id}}}')
            done += own
        yield ", ".join(entries).encode(), count
