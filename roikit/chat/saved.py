"""A conversation as a roikit sample: dataset `chat`, regions of origin `user`.

What is written is one record in the form of every other dataset's, and beside it the picture with
its regions drawn. Nothing here knows models.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from roikit.chat.picture import Picture
from roikit.errors import UsageError
from roikit.mentions import mentioned
from roikit.sample import (
    SCHEMA_VERSION,
    Conversation,
    Image,
    Provenance,
    Region,
    Sample,
    Source,
    Turn,
    encode_sample,
    validate_sample,
)

DATASET = "chat"
SPLIT = "chat"
_CONVERTER = "chat@1"


def conversation_sample(
    picture: Picture, regions: Sequence[Region], turns: Sequence[Turn], *, seed: int
) -> Sample:
    """Return picture, regions and turns as one valid sample.

    Regions that no turn speaks of are marked as context.

    Raises:
        UsageError: there are no turns.
    """
    if not turns:
        raise UsageError(
            "nothing has been said yet, so there is no conversation to save",
            hint="ask something first",
        )
    sha256 = picture.sha256()
    key = f"{DATASET}-{sha256[:16]}"
    used = {number for turn in turns for number in mentioned(turn.text)}
    width, height = picture.image_wh
    sample = Sample(
        schema=SCHEMA_VERSION,
        key=key,
        dataset=DATASET,
        split=SPLIT,
        image=Image(
            file=picture.name,
            native_id=f"{DATASET}:{sha256[:16]}",
            width=width,
            height=height,
            sha256=sha256,
            orientation=picture.orientation,
        ),
        regions=tuple(
            msgspec.structs.replace(region, is_context=number not in used)
            for number, region in enumerate(regions, start=1)
        ),
        conversations=(
            Conversation(
                id=f"{key}/0",
                task="dialogue",
                independent=False,
                source=Source(file=picture.name, record="0"),
                turns=tuple(turns),
            ),
        ),
        provenance=Provenance(converter=_CONVERTER, phrasing="", seed=seed),
    )
    validate_sample(sample)
    return sample


def check_same_picture(sample: Sample, picture: Picture) -> None:
    """Make sure that a saved conversation speaks of this very picture.

    Raises:
        UsageError: size or bytes differ.
    """
    saved_wh = (sample.image.width, sample.image.height)
    if saved_wh != picture.image_wh:
        raise UsageError(
            f"`{picture.name}`: expected the conversation's picture of "
            f"{saved_wh[0]} x {saved_wh[1]} pixels, "
            f"got {picture.image_wh[0]} x {picture.image_wh[1]}"
        )
    if picture.sha256() != sample.image.sha256:
        raise UsageError(
            f"`{picture.name}`: is not the picture that the conversation `{sample.key}` is about"
        )


def write_conversation(
    path: str | Path,
    sample: Sample,
    *,
    drawn_png: bytes,
    picture: Picture,
    overwrite: bool = False,
) -> list[Path]:
    """Write `sample` as `PATH.json` and the picture with its regions as `PATH.png`.

    A picture that did not come from a file is written too, undrawn, as `PATH-original.png` (or
    the extension of its bytes), since the record alone does not hold it.

    Args:
        path: with or without `.json`; folders on the way are made.
        sample: the conversation.
        drawn_png: the picture with its regions.
        picture: the picture.
        overwrite: replace files that are there.

    Returns:
        The files written, the record first.

    Raises:
        UsageError: a file is there already, or the folder cannot be written.
    """
    path = Path(path).expanduser()
    stem = path.with_suffix("") if path.suffix in (".json", ".png") else path
    contents = {
        stem.with_name(f"{stem.name}.json"): encode_sample(sample) + b"\n",
        stem.with_name(f"{stem.name}.png"): drawn_png,
    }
    if not picture.is_from_file:
        extension = Path(picture.name).suffix
        contents[stem.with_name(f"{stem.name}-original{extension}")] = picture.encoded()
    for file in contents:
        if file.exists() and not overwrite:
            raise UsageError(f"`{file}`: is there already", hint="save under another name")
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for file, data in contents.items():
            file.write_bytes(data)
    except OSError as error:
        raise UsageError(f"`{stem}`: cannot be written: {error.strerror or error}") from error
    return list(contents)
