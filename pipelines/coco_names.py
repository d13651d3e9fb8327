"""COCO's own names: of its categories, of the files of its photographs, and of their folders.

Many datasets speak of COCO's photographs, under several names for the same one; and detectors
number what they find by COCO's category ids, without a file that says what the numbers mean.
"""

import re
from pathlib import Path, PurePosixPath

#: The 80 categories with their own ids, by supercategory. Source: instances_val2017.json.
CATEGORIES: tuple[tuple[str, dict[int, str]], ...] = (
    ("person", {1: "person"}),
    ("vehicle", {2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane"}),
    ("vehicle", {6: "bus", 7: "train", 8: "truck", 9: "boat"}),
    ("outdoor", {10: "traffic light", 11: "fire hydrant", 13: "stop sign"}),
    ("outdoor", {14: "parking meter", 15: "bench"}),
    ("animal", {16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep", 21: "cow"}),
    ("animal", {22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe"}),
    ("accessory", {27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase"}),
    ("sports", {34: "frisbee", 35: "skis", 36: "snowboard", 37: "sports ball", 38: "kite"}),
    ("sports", {39: "baseball bat", 40: "baseball glove", 41: "skateboard"}),
    ("sports", {42: "surfboard", 43: "tennis racket"}),
    ("kitchen", {44: "bottle", 46: "wine glass", 47: "cup", 48: "fork", 49: "knife"}),
    ("kitchen", {50: "spoon", 51: "bowl"}),
    ("food", {52: "banana", 53: "apple", 54: "sandwich", 55: "orange", 56: "broccoli"}),
    ("food", {57: "carrot", 58: "hot dog", 59: "pizza", 60: "donut", 61: "cake"}),
    ("furniture", {62: "chair", 63: "couch", 64: "potted plant", 65: "bed"}),
    ("furniture", {67: "dining table", 70: "toilet"}),
    ("electronic", {72: "tv", 73: "laptop", 74: "mouse", 75: "remote"}),
    ("electronic", {76: "keyboard", 77: "cell phone"}),
    ("appliance", {78: "microwave", 79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator"}),
    ("indoor", {84: "book", 85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear"}),
    ("indoor", {89: "hair drier", 90: "toothbrush"}),
)
CATEGORY_IDS = {name: number for _, group in CATEGORIES for number, name in group.items()}

#: `000000000009.jpg` (2017), `COCO_train2014_000000000009.jpg` (2014).
_FILE = re.compile(r"(?:COCO_[a-z]+2\d{3}_)?([0-9]{12})\.jpg", re.ASCII)


def photograph_id(file: str) -> int | None:
    """Return the photograph's id, the same in both cuts; None for a name that is not COCO's.

    Args:
        file: a file's name, with or without a folder before it.
    """
    match = _FILE.fullmatch(PurePosixPath(file).name)
    return int(match[1]) if match else None


def photograph_places(folder: Path) -> tuple[Path, ...]:
    """Return where COCO's photographs may lie for a dataset that has none of its own.

    REFER keeps them in data/images/mscoco/images, beside the datasets' folders; data/coco is where
    `roikit convert coco` looks by default.

    Args:
        folder: with the dataset's annotation files.
    """
    below = ("", "images", "images/mscoco/images", "coco")
    return tuple(place / name for place in (folder, folder.absolute().parent) for name in below)
