"""What the steps of a conversion hand to each other, and what a dataset's module must offer.

A dataset's module reads its annotation files into one `Draft` an image (in the plan), and turns a
draft and its picture's header into regions and conversations (in a task). Everything between is
shared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import msgspec

from pipelines.images import ImageRoots
from pipelines.phrasing import Phraser
from roikit.images import ImageHeader
from roikit.sample import Conversation, Region, Rejection


class Draft(msgspec.Struct, frozen=True, array_like=True):
    """Everything the annotation files say about one image of one split."""

    group: str  #: the image's id, unique in its split; the order is made from it
    file: str  #: path below an image folder
    native_id: str  #: e.g. `coco:9`
    root: int | None  #: index of the image folder it was found in; None where it was not
    num_bytes: int  #: of the picture's file; 0 where it was not found
    image_wh: tuple[int, int] | None  #: size that the annotations name, where they do
    source_file: str  #: annotation file, relative to the source folder
    record: str  #: the image's place in it
    num_records: int  #: records (boxes, captions, questions) that speak of the image
    payload: Any  #: what the dataset's `build` needs; anything msgpack can hold
    rejections: tuple[Rejection, ...] = ()  #: found while planning


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitRecords:
    """One split, read and joined."""

    drafts: list[Draft]
    rejections: list[Rejection]  #: of records that belong to no image
    source_files: tuple[Path, ...]  #: annotation files read
    #: how many of its records, usable or not, are of the kinds that `OfficialCounts.kinds` names
    kinds: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class OfficialCounts:
    """What a split holds as its publishers count it; None where they do not say."""

    images: int | None = None
    records: int | None = None  #: as `Draft.num_records` counts them
    #: records of one kind, such as `captions`, where they do not say how many there are of others
    kinds: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Licence:
    """Under what terms a dataset may be used."""

    annotations: str
    pictures: str

    def __str__(self) -> str:
        return f"annotations: {self.annotations}; pictures: {self.pictures}"


#: Where GPT4RoI's recipe uses a dataset. What it does not train on is there to measure.
Stage = Literal["1", "2", "evaluation", "own data"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenSource:
    """A dataset's files, found and recognised."""

    folder: Path
    roots: ImageRoots
    #: split name to a function that reads it; the order is that of `--split`'s default
    splits: Mapping[str, Callable[[], SplitRecords]]
    #: splits that are there but converted only when named
    on_request: tuple[str, ...] = ()
    #: by split, where they are known
    official: Mapping[str, OfficialCounts] = field(default_factory=dict)
    #: of the splits converted by default together, where those of each are not known
    official_sum: OfficialCounts | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceOptions:
    """What a user says about a source beside its folder. A dataset names those it takes."""

    split_by: str | None = None  #: authority of the splits, where several lie side by side
    split_file: Path | None = None  #: list of the images of each split
    detections: Path | None = None  #: file of detected boxes
    categories: Path | None = None  #: annotation file that gives detected classes their names
    masks: bool = False  #: keep the masks, where the files have them
    faithful: bool = False  #: bring back the reference's defects that change training text

    def given(self) -> dict[str, Any]:
        """Return the options that differ from their defaults."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value not in (None, False)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """What `build` is given beside the draft."""

    header: ImageHeader
    roots: ImageRoots
    phraser: Phraser
    is_faithful: bool = False  #: the user asked for the reference's defects


@dataclass(kw_only=True, slots=True)
class Built:
    """What one draft became. No conversation, no sample."""

    regions: list[Region] = field(default_factory=list)
    conversations: list[Conversation] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    absent_labels: tuple[str, ...] = ()  #: see `Sample`
    partly_labelled: tuple[str, ...] = ()
    num_converted: int = 0  #: records that are in the conversations
    num_by_policy: int = 0  #: records left out on purpose
    num_clipped: int = 0  #: boxes that overshot the picture


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSpec:
    """One dataset: how to open its source and how to build its samples."""

    name: str  #: in keys and folders
    title: str
    version: int  #: raised when the same source would give other samples
    expects: tuple[str, ...]  #: official names of what the source folder holds
    families: tuple[str, ...]  #: wordings it draws from
    open_source: Callable[[Path, Sequence[Path], SourceOptions], OpenSource]
    build: Callable[[Draft, Picture], Built]
    stage: Stage
    licence: Licence
    registration: str | None  #: form or agreement, and what for; None where there is none
    #: counts of the usual form of the files; `OpenSource.official` has those of what is there
    published: Mapping[str, OfficialCounts] = field(default_factory=dict)
    options: tuple[str, ...] = ()  #: fields of `SourceOptions` that it takes

    @property
    def converter(self) -> str:
        """Name and version, as they stand in a sample's provenance."""
        return f"{self.name}@{self.version}"
