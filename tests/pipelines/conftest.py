"""Tiny source trees in the official layouts, and short ways to read what became of them."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from roikit.sample import Conversation, Rejection, Sample
from shards.layout import split_dir
from shards.read import iter_samples
from shards.sidecar import read_rejections


def picture_bytes(width: int, height: int, *, orientation: int = 1, seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    exif = PIL.Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    PIL.Image.fromarray(noise).save(buffer, "JPEG", exif=exif.tobytes())
    return buffer.getvalue()


class Tree:
    """A folder that files are put into."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, name: str, data: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def picture(self, name: str, width: int = 64, height: int = 48, **options: int) -> None:
        self.put(name, picture_bytes(width, height, **options))

    def json(self, name: str, value: Any) -> None:
        self.put(name, json.dumps(value).encode())

    def lines(self, name: str, values: list[Any]) -> None:
        self.put(name, b"".join(json.dumps(value).encode() + b"\n" for value in values))


class Shards:
    """What lies below a root of shards."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def samples(self, dataset: str, split: str) -> dict[str, Sample]:
        """Samples by native id."""
        found = iter_samples(self.root, dataset, split)
        return {sample.image.native_id: sample for sample, _ in found}

    def rejections(self, dataset: str, split: str) -> list[Rejection]:
        sidecars = sorted(split_dir(self.root, dataset, split).glob("*.parquet"))
        return [rejection for path in sidecars for rejection in read_rejections(path)]

    def codes(self, dataset: str, split: str) -> dict[str, str]:
        """Rejection codes by their place in the source file."""
        return {r.source.record: r.code for r in self.rejections(dataset, split)}

    def tars(self, dataset: str, split: str) -> dict[str, bytes]:
        return {
            path.name: path.read_bytes()
            for path in split_dir(self.root, dataset, split).glob("*.tar")
        }


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "source")


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    return Shards(tmp_path / "shards")


@pytest.fixture
def coco_tree() -> Callable[[Path, int], None]:
    """Write a faultless COCO validation split of so many pictures."""

    def write(root: Path, num_images: int) -> None:
        tree = Tree(root)
        images = []
        annotations = []
        for i in range(1, num_images + 1):
            name = f"{i:012d}.jpg"
            tree.picture(f"val2017/{name}", 96, 64, seed=i)
            images.append({"id": i, "file_name": name, "width": 96, "height": 64})
            for j in range(3):
                box = [4.5 * j, 3.0, 20.25, 30.0]
                annotations.append(
                    {
                        "id": 10 * i + j,
                        "image_id": i,
                        "category_id": 1 + j,
                        "bbox": box,
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": 1 + j, "name": name} for j, name in enumerate(("cat", "dog", "cup"))]
        tree.json(
            "annotations/instances_val2017.json",
            {"images": images, "annotations": annotations, "categories": categories},
        )

    return write


def conversation(sample: Sample, id: str) -> Conversation:
    return next(c for c in sample.conversations if c.id == id)


@pytest.fixture
def find() -> Callable[[Sample, str], Conversation]:
    return conversation
