"""The record: one image of one dataset and split, with everything said about it there.

Stored as canonical JSON (fields in declaration order, no spaces) beside the untouched image bytes.
Decoding is strict: an unknown or missing field is an error that names its path. Nothing here reads
images or files. Schema rule: new fields have defaults, types never change.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import msgspec

from roikit.errors import ValidationError
from roikit.mentions import mentioned

SCHEMA_VERSION = 1

Task = Literal[
    "category",
    "refer",
    "caption",
    "grounded-caption",
    "image-caption",
    "dialogue",
    "reasoning-all",
    "reasoning-single",
    "reasoning-multi",
    "choice",
]
TASKS: tuple[str, ...] = get_args(Task)


class Rle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A mask in COCO's compressed run-length form."""

    size: tuple[int, int]  #: height, width in pixels
    counts: str


class Image(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The picture. Width and height are those of the upright picture."""

    file: str  #: path below the image root, as the dataset names it
    native_id: str  #: the same for one photo wherever it occurs, e.g. `coco:9`, `vg:2317`
    width: int  #: pixels
    height: int  #: pixels
    sha256: str  #: of the stored bytes, hex
    orientation: int = 1  #: EXIF orientation kept in the bytes; readers apply it


class Region(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A part of the picture: always a box, perhaps a mask or a point beside it."""

    box_xyxy: tuple[float, float, float, float]  #: pixels, right and bottom edge exclusive
    label: str | None = None  #: class or object name, as a person would say it
    origin: Literal["annotation", "detector", "user"] = "annotation"
    native_id: str | None = None
    score: float | None = None  #: detector confidence, 0 to 1
    mask_rle: Rle | None = None
    point_xy: tuple[float, float] | None = None  #: pixels
    is_context: bool = False  #: known, but spoken of by no conversation
    #: the class as the dataset spells it, where `label` reads otherwise: `bat_(animal)`; what
    #: benchmarks on such names compare with. Not written where it is unset.
    native_label: str | msgspec.UnsetType = msgspec.UNSET


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One utterance. `<region1>` in the text is `regions[0]` of the sample."""

    role: Literal["user", "assistant"]
    text: str
    phrasing: str | None = None  #: the family of wordings this text was drawn from


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Where in the dataset's own files a conversation comes from."""

    file: str
    record: str


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A multiple-choice question: the options that could follow the last user turn."""

    question_id: str  #: joins the steps of one question
    step: Literal["answer", "rationale"]
    options: tuple[str, ...]  #: texts, with mentions, in the source's order
    answer: int | None = None  #: 0-based index of the right one; None where it is not published


class Conversation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Alternating turns, user first; ends with the assistant, with a `choice` with the user."""

    id: str
    task: Task
    independent: bool  #: exchanges do not lean on each other: they may be shuffled and capped
    source: Source
    turns: tuple[Turn, ...]
    choice: Choice | None = None


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What made this sample."""

    converter: str  #: name@version
    phrasing: str  #: hash of the wordings
    seed: int


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One image with its regions and conversations.

    What it does not show says nothing, but for two lists. Where a dataset is labelled class by
    class (LVIS, PACO), somebody looked for a few classes in each picture and for no others:

    - a class of `absent_labels` is not in the picture: it may be offered as a wrong name for a
      region, and "is there a ...?" may be answered with no;
    - a class of `partly_labelled` is in the picture, and some of its objects may have no region:
      ask neither how many there are, nor which regions are all of them, nor take a place without a
      region for one without the object.

    A class that is in neither list and no region's label is unknown, not absent. One that is a
    region's label and not in `partly_labelled` has all its objects among the regions, where the
    dataset is labelled in this way and no box of the image was rejected.
    """

    schema: int
    key: str  #: no dots: a dot would split a WebDataset key
    dataset: str
    split: str
    image: Image
    regions: tuple[Region, ...]
    conversations: tuple[Conversation, ...]
    provenance: Provenance
    # Not written where they are empty: records without them keep their bytes.
    absent_labels: tuple[str, ...] = ()  #: classes known not to be in the picture
    partly_labelled: tuple[str, ...] = ()  #: classes not all of whose objects are regions


class Rejection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A record that could not become part of a sample, and why."""

    code: str  #: stable, e.g. `E_BOX_OUTSIDE`
    message: str
    source: Source
    native_id: str | None = None  #: of the image, where it is known


class Example(msgspec.Struct, frozen=True):
    """What the stream hands to a trainer: one conversation, its sample, and the picture's bytes."""

    sample: Sample
    conversation: Conversation
    image_bytes: bytes
    position: int  #: place in the epoch's order, from 0
    epoch: int
    source: str  #: name of the mixture's entry it was drawn from
    ordinal: int = 0  #: which of the sample's conversations it is
    passes: int = 0  #: how often its source was gone through before it came up


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Sample)


def encode_sample(sample: Sample) -> bytes:
    """Return the canonical JSON bytes of `sample`."""
    return _encoder.encode(sample)


def decode_sample(data: bytes) -> Sample:
    """Read JSON bytes back.

    Raises:
        ValidationError: not JSON, a field missing, unknown or of the wrong type; names its path.
    """
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise ValidationError(f"sample: {error}") from error


def exchanges(conversation: Conversation) -> Iterator[tuple[Turn, Turn]]:
    """Yield (user, assistant) pairs; a last user turn without an answer is left out."""
    turns = conversation.turns
    for i in range(0, len(turns) - 1, 2):
        yield turns[i], turns[i + 1]


def validate_sample(sample: Sample) -> None:
    """Check everything the types alone do not say.

    Raises:
        ValidationError: the first broken rule, its message starting with the path of the value.
    """
    if sample.schema != SCHEMA_VERSION:
        raise ValidationError(f"schema: expected {SCHEMA_VERSION}, got {sample.schema}")
    if not sample.key or "." in sample.key or "/" in sample.key:
        raise ValidationError(f"key: expected text without dots or slashes, got `{sample.key}`")
    width, height = sample.image.width, sample.image.height
    if width < 1 or height < 1:
        raise ValidationError(f"image: expected a size of at least 1 x 1, got {width} x {height}")
    if not 1 <= sample.image.orientation <= 8:
        raise ValidationError(f"image.orientation: expected 1 to 8, got {sample.image.orientation}")
    for i, region in enumerate(sample.regions):
        _check_region(region, f"regions[{i}]", width, height)
        _check_mask_and_point(region, f"regions[{i}]", width, height)
    labels = {region.label: i for i, region in enumerate(sample.regions)}
    for i, label in enumerate(sample.absent_labels):
        if label in labels:
            raise ValidationError(
                f"absent_labels[{i}]: `{label}` is regions[{labels[label]}].label"
            )
    used: set[int] = set()
    if not sample.conversations:
        raise ValidationError("conversations: expected at least one, got none")
    for i, conversation in enumerate(sample.conversations):
        used |= _check_conversation(conversation, f"conversations[{i}]", len(sample.regions))
    for i, region in enumerate(sample.regions):
        if region.is_context == (i + 1 in used):
            said = "mentioned but marked as context" if region.is_context else "never mentioned"
            raise ValidationError(f"regions[{i}]: is {said}")


def _check_region(region: Region, path: str, width: int, height: int) -> None:
    x0, y0, x1, y1 = region.box_xyxy
    if not all(map(math.isfinite, region.box_xyxy)):
        raise ValidationError(f"{path}.box_xyxy: expected finite numbers, got {region.box_xyxy}")
    if x0 >= x1:
        raise ValidationError(f"{path}.box_xyxy: expected x0 < x1, got {x0} >= {x1}")
    if y0 >= y1:
        raise ValidationError(f"{path}.box_xyxy: expected y0 < y1, got {y0} >= {y1}")
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        raise ValidationError(
            f"{path}.box_xyxy: expected a box inside {width} x {height}, got {region.box_xyxy}"
        )


def _check_mask_and_point(region: Region, path: str, width: int, height: int) -> None:
    rle, point = region.mask_rle, region.point_xy
    if rle is not None and rle.size != (height, width):
        raise ValidationError(
            f"{path}.mask_rle.size: expected the picture's height and width, ({height}, {width}), "
            f"got {rle.size}"
        )
    if point is not None and not (0 <= point[0] <= width and 0 <= point[1] <= height):
        raise ValidationError(
            f"{path}.point_xy: expected a point inside {width} x {height}, got {point}"
        )


def _check_conversation(conversation: Conversation, path: str, num_regions: int) -> set[int]:
    turns = conversation.turns
    if not turns:
        raise ValidationError(f"{path}.turns: expected at least one, got none")
    for j, turn in enumerate(turns):
        expected = "user" if j % 2 == 0 else "assistant"
        if turn.role != expected:
            raise ValidationError(
                f"{path}.turns[{j}].role: expected `{expected}`, got `{turn.role}`"
            )
        if not turn.text.strip():
            raise ValidationError(f"{path}.turns[{j}].text: expected text, got none")
    ends_with = "user" if conversation.choice is not None else "assistant"
    if turns[-1].role != ends_with:
        raise ValidationError(f"{path}.turns: expected the last to be `{ends_with}`'s")
    choice = conversation.choice
    if (choice is None) == (conversation.task == "choice"):
        raise ValidationError(f"{path}.choice: expected it on task `choice` and there only")
    used = _mentions_of([turn.text for turn in turns], f"{path}.turns[{{}}].text", num_regions)
    if choice is not None:
        if len(choice.options) < 2:
            raise ValidationError(f"{path}.choice.options: expected two or more")
        if choice.answer is not None and not 0 <= choice.answer < len(choice.options):
            raise ValidationError(f"{path}.choice.answer: {choice.answer} is no option's index")
        used |= _mentions_of(choice.options, f"{path}.choice.options[{{}}]", num_regions)
    return used


def _mentions_of(texts: Sequence[str], path: str, num_regions: int) -> set[int]:
    """Return the regions that texts speak of; `path` has a place for a text's number."""
    used: set[int] = set()
    for j, text in enumerate(texts):
        for number in mentioned(text):
            if number > num_regions:
                raise ValidationError(
                    f"{path.format(j)}: `<region{number}>` does not exist, "
                    f"the sample has {num_regions}"
                )
            used.add(number)
    return used
