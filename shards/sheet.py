"""`roikit show --html`: many samples on one page, each picture with what is said about it.

Keys go in, HTML text comes out; `roikit/pages/sheet.html` lays it out. Boxes are drawn by the page
over a small copy of the picture, in the colours that `roikit/draw.py` gives the regions' numbers;
mentions in the texts have the same ones. A page is bounded whatever the shards hold: pictures are
shrunk, long texts and lists are cut, and no sample is added to a page that is full.
"""

import base64
import io
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from roikit.draw import COLOURS, colour
from roikit.errors import CorruptSampleError, ValidationError
from roikit.images import decode_rgb
from roikit.masks import decode_mask
from roikit.mentions import split_mentions
from roikit.page import render_page
from roikit.prompt import letter
from roikit.sample import Choice, Conversation, Image, Region, Sample
from shards.commit import DatasetInfo
from shards.manifest import connect
from shards.read import read_sample

#: No sample is added to a page that has more.
MAX_PAGE_BYTES = 48_000_000
_THUMBNAIL_PX = 560  #: longer side
_MAX_REGIONS = 100
_MAX_CONVERSATIONS = 24
_MAX_TURNS = 40
_MAX_OPTIONS = 26
_MAX_CHARS = 1500
_OPEN_CONVERSATIONS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """A finished page."""

    page: str
    num_samples: int  #: on the page; fewer than asked for where it is full
    unreadable: tuple[str, ...]  #: what is wrong with samples that stand there without a picture


def contact_sheet(
    root: Path | str,
    keys: Sequence[str],
    *,
    tasks: Collection[str] = (),
    rejected: Sequence[dict[str, Any]] = (),
    title: str = "Samples",
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Sheet:
    """Lay samples out on a page.

    Args:
        root: the shards' root folder.
        keys: the samples, in order.
        tasks: only conversations of these; none takes all.
        rejected: rows of `rejected_records`, listed at the end.
        title: the page's heading.
        progress: told how many samples are done.

    Raises:
        UsageError: a key that no committed split holds.
    """
    cards: list[dict[str, Any]] = []
    unreadable: list[str] = []
    num_bytes = 0
    for done, key in enumerate(keys, start=1):
        try:
            card = _card(*read_sample(root, key), tasks)
        except CorruptSampleError as error:
            unreadable.append(str(error))
            card = {"key": key, "error": str(error)}
        num_bytes += _weight(card)
        if num_bytes > MAX_PAGE_BYTES:
            break
        cards.append(card)
        progress(done, len(keys))
    most = max((len(card.get("regions", ())) for card in cards), default=0)
    page = render_page(
        "sheet.html",
        title=title,
        cards=cards,
        num_asked=len(keys),
        colours=[(_css(rgb), _ink(rgb)) for _, rgb in COLOURS],
        most_regions=most,
        rejected=rejected,
    )
    return Sheet(page=page, num_samples=len(cards), unreadable=tuple(unreadable))


def rejected_records(
    root: Path | str, splits: Collection[DatasetInfo], *, limit: int, seed: int = 0
) -> list[dict[str, Any]]:
    """Draw rejected records, as the manifest has them, in the order of a hash of the seed.

    Raises:
        UsageError: the manifest is missing or out of date.
    """
    sql = """
    SELECT dataset, split, code, message, source_file, source_record, native_id
    FROM rejections WHERE (dataset || '@' || split) IN (SELECT unnest($splits))
    ORDER BY md5(concat_ws(' ', $seed, dataset, split, code, source_file, source_record, message))
    LIMIT $limit
    """
    names = [f"{info.dataset}@{info.split}" for info in splits]
    with connect(root) as connection:
        asked = connection.execute(sql, {"splits": names, "seed": str(seed), "limit": limit})
        columns = [column[0] for column in asked.description or []]
        rows = asked.fetchall()
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    return [{**row, "message": _cut(row["message"])} for row in found]


def _card(sample: Sample, image_bytes: bytes, tasks: Collection[str]) -> dict[str, Any]:
    conversations = [c for c in sample.conversations if not tasks or c.task in tasks]
    shown = conversations[:_MAX_CONVERSATIONS]
    regions = sample.regions[:_MAX_REGIONS]
    try:
        picture = PIL.Image.fromarray(decode_rgb(image_bytes))
    except CorruptSampleError as error:
        raise CorruptSampleError(f"{sample.key}: {error}") from error
    return {
        "key": sample.key,
        "name": f"{sample.dataset}@{sample.split}",
        "image": sample.image,
        "picture": _thumbnail(picture),
        "regions": _regions(regions, sample.image),
        "regions_left_out": len(sample.regions) - len(regions),
        "conversations": [
            {**_conversation(c), "is_open": i < _OPEN_CONVERSATIONS} for i, c in enumerate(shown)
        ],
        "conversations_left_out": len(conversations) - len(shown),
        "mark_px": max(sample.image.width, sample.image.height) / 26,
    }


def _thumbnail(picture: PIL.Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=82)
    return _data_uri("image/jpeg", buffer.getvalue())


def _regions(regions: Sequence[Region], image: Image) -> list[dict[str, Any]]:
    """Describe regions for the page, the largest first: a small box inside stays whole."""
    found = []
    for number, region in enumerate(regions, start=1):
        x0, y0, x1, y1 = region.box_xyxy
        found.append(
            {
                "number": number,
                "colour": (number - 1) % len(COLOURS),
                "x": x0,
                "y": y0,
                "width": x1 - x0,
                "height": y1 - y0,
                "label": _cut(region.label or ""),
                "is_context": region.is_context,
                "score": region.score,
                "point": region.point_xy,
                "mask": _mask(region, number, image),
            }
        )
    return sorted(found, key=lambda one: -one["width"] * one["height"])


def _mask(region: Region, number: int, image: Image) -> str | None:
    """Return the mask as a transparent picture in the region's colour; None without one."""
    rle = region.mask_rle
    if rle is None or rle.size != (image.height, image.width):
        return None
    try:
        inside = decode_mask(rle)
    except ValidationError:  # counts that are none, or do not fill the picture
        return None
    opacity = PIL.Image.fromarray(120 * inside.astype(np.uint8))
    opacity.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    layer = PIL.Image.new("RGBA", opacity.size, (*colour(number)[1], 0))
    layer.putalpha(opacity)
    buffer = io.BytesIO()
    layer.save(buffer, format="PNG", optimize=True)
    return _data_uri("image/png", buffer.getvalue())


def _conversation(conversation: Conversation) -> dict[str, Any]:
    turns = conversation.turns[:_MAX_TURNS]
    return {
        "id": conversation.id,
        "task": conversation.task,
        "source": conversation.source,
        "turns": [(turn.role, _parts(turn.text)) for turn in turns],
        "turns_left_out": len(conversation.turns) - len(turns),
        "options": _options(conversation.choice),
        "is_unanswered": conversation.choice is not None and conversation.choice.answer is None,
    }


def _options(choice: Choice | None) -> list[dict[str, Any]]:
    if choice is None:
        return []
    return [
        {"letter": letter(i), "parts": _parts(option), "is_right": i == choice.answer}
        for i, option in enumerate(choice.options[:_MAX_OPTIONS])
    ]


def _parts(text: str) -> list[tuple[str, int | None]]:
    """Take a text apart into (words, region number or None), cut where it is too long."""
    parts: list[tuple[str, int | None]] = []
    left = _MAX_CHARS
    for part in split_mentions(text):
        if isinstance(part, int):
            parts.append((f"region{part}", part))
            continue
        parts.append((_cut(part, left), None))
        left -= len(part)
        if left <= 0:
            break
    return parts


def _cut(text: str, length: int = _MAX_CHARS) -> str:
    return text if len(text) <= length else f"{text[:length]} …"


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _weight(card: dict[str, Any]) -> int:
    """Return about how many bytes of page a card takes; markup counts a little for each piece."""
    total = 2_000 + len(card.get("picture", ""))
    for region in card.get("regions", ()):
        total += 800 + len(region["mask"] or "")
    for conversation in card.get("conversations", ()):
        spoken = [parts for _, parts in conversation["turns"]]
        spoken += [option["parts"] for option in conversation["options"]]
        # A character takes up to six bytes once it is escaped.
        total += sum(100 + 6 * len(words) for parts in spoken for words, _ in parts)
    return total


def _css(rgb: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def _ink(rgb: tuple[int, int, int]) -> str:
    """Return black or white, whichever can be read on this colour."""
    luminance = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
    return "#000" if luminance > 128 else "#fff"
