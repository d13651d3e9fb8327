"""From streamed examples to training batches: tokens, labels, pixels, boxes.

Everything drawn here (which exchanges, in which order) comes from a generator seeded by the run's
seed, the conversation and the epoch, so a batch depends only on its examples.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from msgspec import structs
from torch import Tensor

from roikit.errors import RoikitError
from roikit.images import decode_rgb
from roikit.mentions import mention, mentioned
from roikit.prompt import as_dialogue, render, replace_text
from roikit.sample import Conversation, Example, Turn

if TYPE_CHECKING:
    from roikit.model.processing import Encoded, RoikitProcessor


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One conversation as tensors."""

    input_ids: list[int]
    labels: list[int]  #: -100 where nothing is learned
    pixels_3SS: Tensor  #: uint8
    boxes_R4: Tensor  #: float32 xyxy, fractions of the input square, in order of their tokens
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
    pixels: Tensor  #: (N, 3, S, S) uint8
    region_boxes: Tensor  #: (R, 4)
    region_image_index: Tensor  #: (R,) into the N pictures
    num_tokens: int  #: padding not counted
    keys: tuple[str, ...]  #: N samples

    @property
    def num_labels(self) -> int:
        """Tokens that the loss counts: the first of a conversation has nothing before it."""
        return int((self.labels[:, 1:] != -100).sum())


def draw_exchanges(
    conversation: Conversation, *, limit: int, seed: int, key: str, epoch: int
) -> Conversation:
    """Shuffle and cap an independent list of exchanges; any other conversation comes back as it is.

    Args:
        conversation: of a sample.
        limit: most exchanges kept; 0 keeps all.
        seed: the run's.
        key: the sample's.
        epoch: another one gives another draw.
    """
    if not conversation.independent or len(conversation.turns) <= 2:
        return conversation
    rng = _rng(seed, key, conversation.id, epoch)
    order = rng.permutation(len(conversation.turns) // 2)
    turns: list[Turn] = []
    for i in order[: limit or None]:
        turns += conversation.turns[2 * i : 2 * i + 2]
    return structs.replace(conversation, turns=tuple(turns))


def ask_together(
    conversation: Conversation, *, share: float, seed: int, key: str, epoch: int
) -> Conversation:
    """Ask a share of the independent lists of exchanges in one turn, answered region by region.

    In the other lists a region's features stand right before what is said of it. Here all regions
    come first, as in dialogues about several regions, and the answer names each one before it
    speaks of it. The answer keeps the list's order.

    Args:
        conversation: of a sample; it comes back as it is unless it is independent and has two or
            more questions of one region each, all of different regions.
        share: of such conversations, 0 to 1.
        seed: the run's.
        key: the sample's.
        epoch: another one gives another draw.
    """
    questions, answers = conversation.turns[::2], conversation.turns[1::2]
    regions = [mentioned(turn.text) for turn in questions]
    numbers = [found[0] for found in regions if len(found) == 1]
    fits = conversation.independent and 1 < len(questions) == len(set(numbers))
    drawn = float(_rng(seed, key, conversation.id, epoch, "together").random())
    if not fits or drawn >= share:
        return conversation
    names = [mention(n) for n in numbers]
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    question = questions[0].text.replace(names[0], listed)
    answer = "\n".join(f"{name}: {turn.text}" for name, turn in zip(names, answers, strict=True))
    turns = (replace_text(questions[0], question), replace_text(answers[0], answer))
    return structs.replace(conversation, turns=turns)


def _rng(*parts: object) -> np.random.Generator:
    text = "/".join(map(str, parts)).encode()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text).digest()[:8], "little"))


def encode_example(
    example: Example,
    processor: "RoikitProcessor",
    *,
    max_tokens: int,
    max_exchanges: int = 0,
    asked_together: float = 0.0,
    seed: int = 0,
) -> Row | None:
    """Turn an example into a row; a dialogue that is too long loses whole trailing exchanges.

    Returns:
        None where nothing can be learned: the first exchange alone is too long, or a choice's
        answer is not published.

    Raises:
        CorruptSampleError: the picture cannot be decoded.
    """
    conversation = as_dialogue(example.conversation)
    if conversation is None:
        return None
    key = example.sample.key
    conversation = draw_exchanges(
        conversation, limit=max_exchanges, seed=seed, key=key, epoch=example.epoch
    )
    together = ask_together(
        conversation, share=asked_together, seed=seed, key=key, epoch=example.epoch
    )
    regions = example.sample.regions
    encoded = _fit(together.turns, processor, len(regions), max_tokens)
    if encoded is None and together is not conversation:
        encoded = _fit(conversation.turns, processor, len(regions), max_tokens)
    if encoded is None:
        return None
    boxes = np.array([regions[n - 1].box_xyxy for n in encoded.region_order]).reshape(-1, 4)
    pixels, placed = processor.transform(decode_rgb(example.image_bytes), boxes)
    labels = [
        token if spoken else -100
        for token, spoken in zip(encoded.input_ids, encoded.assistant_mask, strict=True)
    ]
    return Row(
        input_ids=encoded.input_ids, labels=labels, pixels_3SS=pixels, boxes_R4=placed, key=key
    )


def _fit(
    turns: Sequence[Turn], processor: "RoikitProcessor", num_regions: int, max_tokens: int
) -> "Encoded | None":
    while turns:
        rendered = render(turns, num_regions=num_regions, special_tokens=processor.special_tokens)
        encoded = processor.encode(rendered)
        if len(encoded.input_ids) <= max_tokens:
            return encoded
        # jump close to what fits, then go on one exchange at a time
        exchanges = len(turns) // 2
        kept = min(exchanges - 1, max(1, exchanges * max_tokens // len(encoded.input_ids) + 1))
        turns = turns[: 2 * kept]
    return None


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
    index = [i for i, one in enumerate(flat) for _ in range(len(one.boxes_R4))]
    return Batch(
        input_ids=input_ids,
        attention_mask=None if is_packed else mask,
        position_ids=positions if is_packed else None,
        labels=labels,
        pixels=torch.stack([one.pixels_3SS for one in flat]),
        region_boxes=torch.cat([one.boxes_R4 for one in flat]),
        region_image_index=torch.tensor(index, dtype=torch.long),
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
    return replace(batch, **moved)
