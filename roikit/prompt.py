"""From record turns to the messages a chat template renders, and back.

The first mention of a region becomes its name and one `REGION_TOKEN` (the processor expands it to
the encoder's number of tokens), later mentions its name alone. Names are given in order of first
mention within the conversation, so the record's `<region7>` may read `region1`; `region_order` maps
them back. Pure text: nothing here knows tokenizers, tensors or files.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from roikit.errors import RoikitError
from roikit.mentions import join_mentions, mention, mentioned, split_mentions
from roikit.sample import Choice, Conversation, Region, Turn

IMAGE_TOKEN = "<|image|>"
REGION_TOKEN = "<|region|>"

#: Private-use characters that stand for text which must never be read as a special token.
_GUARD_START, _GUARD_END = "\ue000", "\ue001"
_NAME = re.compile(r"<region([1-9]\d*)>|\bregion ?([1-9]\d*)\b", re.IGNORECASE)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#: Options that a multiple-choice question may have: each is called by a letter.
MAX_OPTIONS = len(_LETTERS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A picture, its regions and a conversation in record text."""

    image: npt.NDArray[np.uint8]  #: (H, W, 3) RGB, upright
    regions: tuple[Region, ...]  #: `<region1>` in the turns is `regions[0]`
    turns: tuple[Turn, ...]  #: the last one is the user's where an answer is wanted


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """A conversation as chat messages."""

    messages: tuple[dict[str, str], ...]  #: role and content; `IMAGE_TOKEN` opens the first
    region_order: tuple[int, ...]  #: record numbers (1-based) in order of first mention
    guarded: tuple[str, ...]  #: what each guard in the messages stands for


class _Renderer:
    def __init__(self, num_regions: int, special_tokens: Sequence[str]) -> None:
        self.num_regions = num_regions
        self.order: list[int] = []
        self.guarded: list[str] = []
        # a chat template may turn the two placeholders into a tokenizer's tokens
        names = {IMAGE_TOKEN, REGION_TOKEN, *special_tokens}
        dangerous = [re.escape(token) for token in sorted(names, key=len, reverse=True)]
        self._dangerous = re.compile("|".join([*dangerous, f"[{_GUARD_START}{_GUARD_END}]"]))

    def literal(self, text: str) -> str:
        """Replace what a tokenizer would read as a special token by a guard."""
        return self._dangerous.sub(self._guard, text)

    def _guard(self, match: re.Match[str]) -> str:
        self.guarded.append(match[0])
        return f"{_GUARD_START}{len(self.guarded) - 1}{_GUARD_END}"

    def name(self, number: int, where: str) -> str:
        """Return the region's name, with its token the first time."""
        if not 1 <= number <= self.num_regions:
            raise RoikitError(
                f"{where}: `{mention(number)}` does not exist, there are {self.num_regions} regions"
            )
        if number in self.order:
            return f"region{self.order.index(number) + 1}"
        self.order.append(number)
        return f"region{len(self.order)}{REGION_TOKEN}"

    def text(self, text: str, where: str) -> str:
        return "".join(
            self.name(part, where) if isinstance(part, int) else self.literal(part)
            for part in split_mentions(text)
        )


def render(
    turns: Sequence[Turn],
    *,
    num_regions: int,
    special_tokens: Sequence[str],
    options: Sequence[str] = (),
) -> Rendered:
    """Turn a conversation into chat messages.

    A region first spoken of by the assistant is introduced at the end of the user turn before it:
    its features must stand in the prompt, for the model cannot generate them.

    Args:
        turns: record text, user first.
        num_regions: how many regions the picture has.
        special_tokens: the tokenizer's; where they occur in literal text they are guarded.
        options: possible answers to the last user turn; the regions they mention are introduced.

    Raises:
        RoikitError: a mention of a region that does not exist; names the turn.
    """
    renderer = _Renderer(num_regions, special_tokens)
    messages: list[dict[str, str]] = []
    for i, turn in enumerate(turns):
        content = renderer.text(turn.text, f"turns[{i}]")
        if turn.role == "user":
            answers = [turns[i + 1].text] if i + 1 < len(turns) else list(options)
            unseen = [n for a in answers for n in mentioned(a) if n not in renderer.order]
            if unseen:
                names = (renderer.name(n, f"turns[{i + 1}]") for n in dict.fromkeys(unseen))
                content += f" ({', '.join(names)})"
        if i == 0:
            content = f"{IMAGE_TOKEN}\n{content}"
        messages.append({"role": turn.role, "content": content})
    return Rendered(
        messages=tuple(messages),
        region_order=tuple(renderer.order),
        guarded=tuple(renderer.guarded),
    )


def guard(text: str, *, special_tokens: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Put guards where literal text would be read as a special token.

    Returns:
        The text with guards, and what each stands for.
    """
    renderer = _Renderer(0, special_tokens)
    return renderer.literal(text), tuple(renderer.guarded)


def render_answer(text: str, region_order: Sequence[int]) -> str:
    """Render an answer to a prompt already rendered: names only, no region is introduced.

    Raises:
        RoikitError: it mentions a region the prompt did not introduce.
    """
    pieces = []
    for part in split_mentions(text):
        if isinstance(part, int):
            if part not in region_order:
                raise RoikitError(f"answer: `{mention(part)}` was not introduced by the prompt")
            pieces.append(f"region{list(region_order).index(part) + 1}")
        else:
            pieces.append(part)
    return "".join(pieces)


def map_back(text: str, region_order: Sequence[int]) -> str:
    """Turn a model's words into record text: `region1` becomes the mention it stood for.

    A name that stands for nothing stays as the words it is.
    """
    parts: list[str | int] = []
    position = 0
    for match in _NAME.finditer(text):
        index = int(match[1] or match[2]) - 1
        if index >= len(region_order):
            continue
        parts += [text[position : match.start()], region_order[index]]
        position = match.end()
    return join_mentions([*parts, text[position:]])


def split_guards(text: str) -> list[tuple[str, int | None]]:
    """Cut rendered text at its guards: (text, None) or ("", index into `guarded`)."""
    pieces: list[tuple[str, int | None]] = []
    for i, piece in enumerate(re.split(f"{_GUARD_START}(\\d+){_GUARD_END}", text)):
        if i % 2:
            pieces.append(("", int(piece)))
        elif piece:
            pieces.append((piece, None))
    return pieces


def letter(index: int) -> str:
    """0 is A."""
    return _LETTERS[index]


def letter_question(choice: Choice, question: str) -> str:
    """Write a multiple-choice question out: question, lettered options, instruction.

    Source: GPT4RoI's VCR protocol asks for one of (A) to (D) in a single turn; the wording is ours.
    """
    options = "\n".join(f"({letter(i)}) {option}" for i, option in enumerate(choice.options))
    return f"{question}\n{options}\nAnswer with the letter."


def as_dialogue(conversation: Conversation) -> Conversation | None:
    """A conversation that ends with the assistant: a choice becomes a question with its letter.

    Returns:
        None for a choice whose answer is not published: nothing can be learned from it.
    """
    choice = conversation.choice
    if choice is None:
        return conversation
    if choice.answer is None:
        return None
    last = conversation.turns[-1]
    # With the options in it, the text is no longer of the family that it was drawn from.
    asked = Turn(role="user", text=letter_question(choice, last.text))
    answer = Turn(role="assistant", text=f"({letter(choice.answer)})")
    return Conversation(
        id=conversation.id,
        task=conversation.task,
        independent=False,
        source=conversation.source,
        turns=(*conversation.turns[:-1], asked, answer),
    )


def replace_text(turn: Turn, text: str) -> Turn:
    """The same turn saying something else."""
    return Turn(role=turn.role, text=text, phrasing=turn.phrasing)


def with_turns(prompt: Prompt, turns: Sequence[Turn]) -> Prompt:
    """The same picture and regions with another conversation."""
    return replace(prompt, turns=tuple(turns))


def special_token_names(tokenizer: Any) -> tuple[str, ...]:
    """Every text a tokenizer would read as a special token."""
    return tuple(str(token) for token in tokenizer.get_added_vocab())
