"""From streamed examples to training batches: tokens, labels, pixels, boxes.

Everything drawn here (which exchanges, in which words, what is done to the picture) comes from
generators seeded by the run's seed, the conversation, and how often its source was gone through
before, so a batch depends only on its examples.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from msgspec import structs
from torch import Tensor

from roikit import boxes as box_ops
from roikit.augment import augment
from roikit.draws import Place, rng
from roikit.errors import CorruptSampleError, RoikitError, ValidationError
from roikit.exchanges import ask_together, draw_exchanges, kept_exchanges
from roikit.images import decode_rgb
from roikit.prompt import as_dialogue, render
from roikit.sample import Example, Turn
from roikit.views import View, Views, gather

if TYPE_CHECKING:
    from roikit.model.processing import Encoded, RoikitProcessor

#: Says a user turn in other words, drawn by the generator; a turn it cannot say otherwise stays.
Rephrase = Callable[[Turn, random.Random], Turn]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One conversation as tensors."""

    input_ids: list[int]
    labels: list[int]  #: -100 where nothing is learned
    view: View  #: of the picture, with the regions its tokens introduce
    key: str  #: the sample's, for messages


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Rows filled up to one length; what a device takes at once.

    N conversations lie in B rows: as many, or fewer where some share a row.
    """

    input_ids: Tensor  #: (B, T)
    attention_mask: Tensor | None  #: (B, T); None where conversations share rows
    position_ids: Tensor | None  #: (B, T), from 0 in each conversation; None where none share a row
    labels: Tensor  #: (B, T)
    views: Views  #: of N pictures
    num_tokens: int  #: padding not counted
    keys: tuple[str, ...]  #: N samples

    @property
    def num_labels(self) -> int:
        """Tokens that the loss counts: the first of a conversation has nothing before it."""
        return int((self.labels[:, 1:] != -100).sum())


def encode_example(
    example: Example,
    processor: "RoikitProcessor",
    *,
    max_tokens: int,
    max_exchanges: int = 0,
    asked_together: float = 0.0,
    flip: float = 0.0,
    crop: float = 0.0,
    colour: float = 0.0,
    rephrase: Rephrase | None = None,
    seed: int = 0,
) -> Row | None:
    """Turn an example into a row; a dialogue that is too long loses whole trailing exchanges.

    All that is drawn depends on the seed, the example's sample and conversation, and how often its
    source was gone through before: not on the ranks, workers and batches that bring it here.

    Args:
        example: of the stream.
        processor: the model's.
        max_tokens: of a row.
        max_exchanges: drawn from an independent list; 0: all.
        asked_together: share of those lists asked in one turn.
        flip: share of the pictures that are mirrored, where no text speaks of sides.
        crop: share of the pictures that are cropped, where no text speaks of places.
        colour: strength of random changes of colour, 0 to 1.
        rephrase: says a turn in other words, drawn by the generator; None keeps the stored ones.
        seed: the run's.

    Returns:
        None where nothing can be learned: the first exchange alone is too long, or a choice's
        answer is not published.

    Raises:
        CorruptSampleError: the picture or a mask cannot be decoded, or a box lies outside of the
            picture.
    """
    conversation = as_dialogue(example.conversation)
    if conversation is None:
        return None
    place: Place = {
        "seed": seed,
        "key": example.sample.key,
        "ordinal": example.ordinal,
        "passes": example.passes,
    }
    conversation = draw_exchanges(conversation, limit=max_exchanges, **place)
    if rephrase is not None:
        wording = rng(**place, use="wording")
        turns = tuple(t if t.phrasing is None else rephrase(t, wording) for t in conversation.turns)
        conversation = structs.replace(conversation, turns=turns)
    together = ask_together(conversation, share=asked_together, **place)
    regions = example.sample.regions
    encoded = _fit(together.turns, processor, len(regions), max_tokens)
    if encoded is None and together is not conversation:
        together = conversation
        encoded = _fit(conversation.turns, processor, len(regions), max_tokens)
    if encoded is None:
        return None
    spoken_of = [regions[n - 1] for n in encoded.region_order]
    boxes = np.array([region.box_xyxy for region in spoken_of]).reshape(-1, 4)
    image = decode_rgb(example.image_bytes)
    try:  # a picture may have been replaced by one of another size since
        box_ops.check_area(boxes, (image.shape[1], image.shape[0]))
        masks = processor.region_masks(spoken_of, (image.shape[1], image.shape[0]))
    except ValidationError as error:
        raise CorruptSampleError(f"`{example.sample.key}`: {error}") from error
    if flip or crop or colour:
        image, boxes, masks = augment(
            image,
            boxes,
            rng(**place, use="augment"),
            texts=[*(t.text for t in together.turns), *(r.label or "" for r in spoken_of)],
            masks_RMM=masks,
            flip=flip,
            crop=crop,
            colour=colour,
        )
    view = processor.view(image, boxes, masks)
    encoded = processor.write_boxes(encoded, boxes, (image.shape[1], image.shape[0]))
    labels = [
        token if spoken else -100
        for token, spoken in zip(encoded.input_ids, encoded.assistant_mask, strict=True)
    ]
    return Row(
        input_ids=encoded.input_ids,
        labels=labels,
        view=view,
        key=example.sample.key,
    )


def _fit(
    turns: Sequence[Turn], processor: "RoikitProcessor", num_regions: int, max_tokens: int
) -> "Encoded | None":
    tried: list[Encoded] = []

    def num_tokens(num_exchanges: int) -> int:
        rendered = render(
            turns[: 2 * num_exchanges],
            num_regions=num_regions,
            special_tokens=processor.special_tokens,
        )
        tried.append(processor.encode(rendered))
        return len(tried[-1].input_ids)

    kept = kept_exchanges(len(turns) // 2, max_tokens, num_tokens)
    return tried[-1] if kept else None


def collate(rows: Sequence[Sequence[Row]], *, pad_token_id: int) -> Batch:
    """Put conversations into rows, one after the other, and fill the rows up on the right.

    Args:
        rows: the conversations of each row. Where one holds several, each sees itself alone: their
            positions start at 0, and what fills a row up is one more of them, without labels.
        pad_token_id: fills rows up.

    Raises:
        RoikitError: no rows, or an empty one.
    """
    if not rows or not all(rows):
        raise RoikitError("batch: expected at least one row and one conversation in each")
    lengths = [sum(len(one.input_ids) for one in row) for row in rows]
    longest = max(lengths)
    input_ids = torch.full((len(rows), longest), pad_token_id, dtype=torch.long)
    labels = torch.full((len(rows), longest), -100, dtype=torch.long)
    positions = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        end = 0
        for one in row:
            start, end = end, end + len(one.input_ids)
            input_ids[i, start:end] = torch.tensor(one.input_ids)
            # what came before is another conversation: nothing predicts the first token
            labels[i, start + 1 : end] = torch.tensor(one.labels[1:])
            positions[i, start:end] = torch.arange(end - start)
        positions[i, end:] = torch.arange(longest - end)
    is_packed = any(len(row) > 1 for row in rows)
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    flat = [one for row in rows for one in row]
    return Batch(
        input_ids=input_ids,
        attention_mask=None if is_packed else mask,
        position_ids=positions if is_packed else None,
        labels=labels,
        views=gather([one.view for one in flat]),
        num_tokens=sum(lengths),
        keys=tuple(one.key for one in flat),
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch with its tensors on `device`."""
    moved: dict[str, Any] = {
        f.name: value.to(device, non_blocking=True)
        for f in fields(batch)
        if isinstance(value := getattr(batch, f.name), Tensor)
    }
    return replace(batch, views=batch.views.to(device), **moved)
