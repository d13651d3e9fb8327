"""The photographs' annotation files: their form, and a check of every name and box.

In: `photograph_annotations/*.json`, one file a picture, written by a person looking at it. Out: one
`Photograph` each. Needs no picture and none of the packages that the pictures come from.
"""

import re
from importlib import resources
from typing import Literal

import msgspec

from roikit.errors import ValidationError

#: Import name and project name of the packages that hold the pictures.
PROJECTS = {
    "gradio": "gradio",
    "matplotlib": "matplotlib",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}
#: `[cup]` or `[cup, spoon]`: one mention, of one object or several, in a question's text.
MENTION = re.compile(r"\[([a-z0-9_]+(?:, [a-z0-9_]+)*)\]")


class PhotographObject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A thing in the picture, with its box."""

    id: str  #: unique in the picture; regions and questions refer to it
    name: str
    coco: str | None = None  #: COCO category, where there is one
    box_xyxy: tuple[int, int, int, int]  #: pixels, right and bottom edge exclusive


class PhotographRegion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A phrase about an object, or about a box of its own; exactly one of the two is given."""

    phrase: str  #: lower case, no full stop, as Visual Genome's are
    object: str | None = None
    box_xyxy: tuple[int, int, int, int] | None = None


class PhotographQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A multiple-choice question with a reason; the right options stand first, here only."""

    question: str
    likelihood: Literal["likely", "possible", "unlikely"]
    answers: tuple[str, str, str, str]
    rationales: tuple[str, str, str, str]


class Photograph(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that was written about one picture."""

    number: int  #: stable; the ids in all three formats follow from it
    file: str  #: package and path inside it, e.g. `skimage/data/coffee.png`
    sha256: str  #: of the file the boxes were drawn on
    width: int  #: pixels
    height: int  #: pixels
    split: Literal["train", "val"]  #: the same in all three formats
    captions: tuple[str, ...]
    objects: tuple[PhotographObject, ...]
    regions: tuple[PhotographRegion, ...]
    questions: tuple[PhotographQuestion, ...] = ()

    @property
    def file_name(self) -> str:
        """The picture's base name, by which it is found below one of `image_roots()`."""
        return self.file.rpartition("/")[2]

    @property
    def coco_objects(self) -> tuple[PhotographObject, ...]:
        """Objects of COCO's classes, in order: those that COCO and VCR can speak of."""
        return tuple(thing for thing in self.objects if thing.coco is not None)

    def box_of(self, region: PhotographRegion) -> tuple[int, int, int, int]:
        """Return the region's own box, or that of the object it names."""
        if region.box_xyxy is not None:
            return region.box_xyxy
        return next(thing.box_xyxy for thing in self.objects if thing.id == region.object)


def load_photographs() -> tuple[Photograph, ...]:
    """Read and check the annotation files, ordered by number. Needs none of the packages.

    Raises:
        ValidationError: an annotation file breaks a rule; the message names file and field.
    """
    folder = resources.files("pipelines").joinpath("photograph_annotations")
    photographs = []
    for entry in folder.iterdir():
        if entry.name.endswith(".json"):
            photographs.append(_read_annotations(entry.name, entry.read_bytes()))
    photographs.sort(key=lambda photograph: photograph.number)
    for what in ("number", "file", "file_name"):
        if len({getattr(photograph, what) for photograph in photographs}) != len(photographs):
            raise ValidationError(f"photograph_annotations: two pictures share a {what}")
    return tuple(photographs)


def _read_annotations(name: str, data: bytes) -> Photograph:
    try:
        photograph = msgspec.json.decode(data, type=Photograph)
    except msgspec.DecodeError as error:
        raise ValidationError(f"photograph_annotations/{name}: {error}") from error
    problem = _problem(photograph)
    if problem:
        raise ValidationError(f"photograph_annotations/{name}: {problem}")
    return photograph


def _problem(photograph: Photograph) -> str | None:
    """Return the first broken rule, starting with the path of the value; None where all is well."""
    if photograph.file.partition("/")[0] not in PROJECTS:
        return f"file: expected one of the packages {', '.join(PROJECTS)}, got `{photograph.file}`"
    ids = [thing.id for thing in photograph.objects]
    if len(set(ids)) != len(ids):
        return "objects: expected ids that differ"
    boxes = {f"objects[{i}]": thing.box_xyxy for i, thing in enumerate(photograph.objects)}
    for i, region in enumerate(photograph.regions):
        if (region.object is None) == (region.box_xyxy is None):
            return f"regions[{i}]: expected either `object` or `box_xyxy`"
        if region.object is not None and region.object not in ids:
            return f"regions[{i}].object: no object has the id `{region.object}`"
        boxes[f"regions[{i}]"] = photograph.box_of(region)
    for path, (x0, y0, x1, y1) in boxes.items():
        if not (0 <= x0 < x1 <= photograph.width and 0 <= y0 < y1 <= photograph.height):
            return f"{path}.box_xyxy: not a box inside {photograph.width} x {photograph.height}"
    known = {thing.id for thing in photograph.coco_objects}
    for i, asked in enumerate(photograph.questions):
        for text in (asked.question, *asked.answers, *asked.rationales):
            for mentioned in MENTION.findall(text):
                for one in mentioned.split(", "):
                    if one not in known:
                        return f"questions[{i}]: `[{one}]` is no object of a COCO class"
    return None
