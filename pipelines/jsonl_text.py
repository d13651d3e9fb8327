"""A conversation as a user writes it in `jsonl`, checked and turned into turns.

In: a JSON list of exchanges. Out: turns, and the options where it ends with a multiple-choice
question. The text is the record's own (`roikit/mentions.py`): `<region1>` is the line's first
region, `<<region1>` the same characters without a meaning, any other tag plain text. What looks
like a mention and is none (`<region0>`, `<Region 1>`) is refused, for it was meant as one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from pipelines.annotations import Int64, decode_record
from pipelines.rejections import reject
from roikit.mentions import join_mentions, plain, split_mentions
from roikit.prompt import MAX_OPTIONS
from roikit.sample import Rejection, Turn

_LIKE_A_MENTION = re.compile(r"(?<!<)(<+)(\s{0,3}region[\s_#-]{0,3}\d*\s{0,3})>", re.IGNORECASE)
_MENTION = re.compile(r"region[1-9]\d{0,5}")


class _Exchange(msgspec.Struct, forbid_unknown_fields=True):
    user: str
    assistant: str | None = None
    options: list[str] | None = None
    answer: str | None = None


_exchanges = msgspec.json.Decoder(list[_Exchange])


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something cannot be used: a rejection without its place."""

    code: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadTurns:
    """One conversation, read."""

    turns: tuple[Turn, ...]
    options: tuple[str, ...] = ()  #: of the multiple-choice question it ends with
    answer: Int64 | None = None  #: index of the right option, where it is known


def read_turns(
    raw: msgspec.Raw, numbers: Sequence[int | None], *, file: str, record: str
) -> ReadTurns | Rejection:
    """Read one conversation.

    Args:
        raw: a JSON list of exchanges.
        numbers: the sample's number of each of the line's regions; None where its box is unusable.
        file: the source file's name.
        record: the conversation's place in it.
    """
    exchanges = decode_record(_exchanges, raw, file=file, record=record)
    if isinstance(exchanges, Rejection):
        return exchanges
    read = _read(exchanges, numbers)
    if isinstance(read, Problem):
        return reject(read.code, read.message, file=file, record=record)
    return read


def _read(exchanges: Sequence[_Exchange], numbers: Sequence[int | None]) -> ReadTurns | Problem:
    if not exchanges:
        return Problem("E_PHRASE_EMPTY", "expected an exchange, got an empty list")
    turns: list[Turn] = []
    options: list[str] = []
    answer: Int64 | None = None
    for i, exchange in enumerate(exchanges):
        problem = _form_problem(exchange, f"[{i}]", is_last=i == len(exchanges) - 1)
        if problem is not None:
            return problem
        asked = _text(exchange.user, f"[{i}].user", numbers)
        if isinstance(asked, Problem):
            return asked
        turns.append(Turn(role="user", text=asked))
        if exchange.assistant is not None:
            said = _text(exchange.assistant, f"[{i}].assistant", numbers)
            if isinstance(said, Problem):
                return said
            turns.append(Turn(role="assistant", text=said))
        for j, option in enumerate(exchange.options or ()):
            text = _text(option, f"[{i}].options[{j}]", numbers)
            if isinstance(text, Problem):
                return text
            options.append(text)
        if exchange.answer is not None:
            right = _text(exchange.answer, f"[{i}].answer", numbers)
            if isinstance(right, Problem):
                return right
            if options.count(right) != 1:
                message = (
                    f"[{i}].answer: expected the text of one option, `{exchange.answer}` is that"
                    f" of {options.count(right)}"
                )
                return Problem("E_OPTIONS_AMBIGUOUS", message)
            answer = options.index(right)
    return ReadTurns(turns=tuple(turns), options=tuple(options), answer=answer)


def _form_problem(exchange: _Exchange, path: str, *, is_last: bool) -> Problem | None:
    """Say what is wrong with the fields an exchange has: an answer, or options."""
    if exchange.options is None:
        if exchange.answer is not None:
            return Problem("E_FIELD_MISSING", f"{path}: `answer` needs `options`")
        if exchange.assistant is None:
            message = f"{path}: missing field `assistant` (or `options`, for multiple choice)"
            return Problem("E_FIELD_MISSING", message)
        return None
    if exchange.assistant is not None:
        message = f"{path}: expected `assistant` or `options`, got both"
        return Problem("E_RECORD_INVALID", message)
    if not is_last:
        message = f"{path}.options: expected in the last exchange only, nothing can follow them"
        return Problem("E_RECORD_INVALID", message)
    if not 2 <= len(exchange.options) <= MAX_OPTIONS:
        message = f"{path}.options: expected 2 to {MAX_OPTIONS}, got {len(exchange.options)}"
        return Problem("E_VALUE_RANGE", message)
    return None


def _text(text: str, path: str, numbers: Sequence[int | None]) -> str | Problem:
    """Make the sample's text of the user's; line breaks inside it stay."""
    for match in _LIKE_A_MENTION.finditer(text):
        is_escaped = len(match[1]) % 2 == 0
        if not is_escaped and _MENTION.fullmatch(match[2]) is None:
            message = (
                f"{path}: `<{match[2][:20]}>`: a region is written `<region1>`, counted from 1"
                " (and `<<` stands for a plain `<`)"
            )
            return Problem("E_REF_NO_ANNOTATION", message)
    parts: list[str | int] = []
    for part in split_mentions(text.strip()):
        if isinstance(part, str):
            parts.append(part)
            continue
        if part > len(numbers):
            message = f"{path}: `<region{part}>` does not exist, the line has {len(numbers)}"
            return Problem("E_REF_NO_ANNOTATION", message)
        number = numbers[part - 1]
        if number is None:
            message = f"{path}: `<region{part}>` has no usable box; its own rejection says why"
            return Problem("E_REF_NO_ANNOTATION", message)
        parts.append(number)
    joined = join_mentions(parts)
    if not plain(joined).strip():
        return Problem("E_PHRASE_EMPTY", f"{path}: expected a text, got none")
    return joined
