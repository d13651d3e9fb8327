"""Regions written as text: a box's coordinates in the places of its tokens.

`[012,345,678,999]`: x0, y0, x1, y1 in thousandths of the input square, rounded down, three digits
each, so that all regions take as many tokens. Each character is a token of its own, which every
tokenizer with single digits has: a text could be cut otherwise, and into another number of tokens.

Thousandths of the input square and not of the picture: that is what the model sees, and what a
mirrored or cropped picture changes together with its boxes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from roikit.errors import UsageError

_CHARACTERS = "0123456789[],"
#: Fractions that were rounded once may lie this far below a whole thousandth, in thousandths.
_SLACK = 1e-3


def box_text(box_xyxy_norm: Sequence[float]) -> str:
    """Return a box as a prompt has it; coordinates at the square's end read 999.

    Args:
        box_xyxy_norm: fractions of the input square, 0 to 1.
    """
    numbers = np.floor(1000 * np.asarray(box_xyxy_norm, dtype=np.float64) + _SLACK).clip(0, 999)
    return f"[{','.join(f'{int(number):03d}' for number in numbers)}]"


def character_ids(tokenizer: Any) -> dict[str, int]:
    """Look up the tokens of single characters that boxes are written in.

    Raises:
        UsageError: the tokenizer lacks one.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [character for character in _CHARACTERS if character not in vocabulary]
    if missing:
        raise UsageError(
            f"tokenizer: expected a token for each of `{_CHARACTERS}`, found none for "
            f"`{''.join(missing)}`",
            hint="model.region_encoder=text writes boxes a character at a time: take another "
            "language model or region encoder",
        )
    return {character: vocabulary[character] for character in _CHARACTERS}


def write_boxes(
    input_ids: Sequence[int],
    boxes_xyxy_norm: npt.NDArray[Any],
    *,
    region_token_id: int,
    ids: Mapping[str, int],
) -> list[int]:
    """Put boxes in the places that a prompt keeps for its regions.

    Args:
        input_ids: with `TEXT_REGION_TOKENS` placeholders a region.
        boxes_xyxy_norm: (R, 4) fractions of the input square, in the order of their tokens.
        region_token_id: the placeholder.
        ids: of the characters.
    """
    written = iter([ids[character] for box in boxes_xyxy_norm for character in box_text(box)])
    return [next(written) if token == region_token_id else token for token in input_ids]
