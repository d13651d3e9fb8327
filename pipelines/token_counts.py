"""How many tokens text takes, without making the tokens of every conversation.

A `TokenCounter` says what each of many texts takes: with a tokenizer, exactly and all at once in
its Rust code; without one, by words. A `Frame` is what a chat template puts around what is said.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from roikit.prompt import IMAGE_TOKEN, REGION_TOKEN

#: Tokens a word, where there is no tokenizer: words of English in a vocabulary of 30 to 50
#: thousand take about so many.
TOKENS_A_WORD = 1.2
_WORD = re.compile(r"<\|\w+\|>|\w+|[^\w\s]")
_SAID = ("\ue010", "\ue011", "\ue012", "\ue013")  # private-use characters, for two exchanges


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """What a chat template puts before, between and after what is said."""

    head: str  #: before the first question, the picture's token included
    question: str  #: between an answer and the next question
    answer: str  #: between a question and its answer
    tail: str  #: after the last answer


#: The frame of ChatML, which is guessed where the tokenizer is not at hand.
CHATML_FRAME = Frame(
    head=f"<|im_start|>user\n{IMAGE_TOKEN}\n",
    question="<|im_end|>\n<|im_start|>user\n",
    answer="<|im_end|>\n<|im_start|>assistant\n",
    tail="<|im_end|>\n",
)


class TokenCounter(Protocol):
    """Says what texts take."""

    @property
    def frame(self) -> Frame:
        """Of the chat template."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes with whatever changes a count."""
        ...

    @property
    def is_estimate(self) -> bool:
        """Whether the counts are guessed from words."""
        ...

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text; a placeholder of a picture or region is one."""
        ...


class WordCounter:
    """Guesses from words: `TOKENS_A_WORD` a word, one a mark."""

    frame = CHATML_FRAME
    fingerprint = f"words-{TOKENS_A_WORD}"
    is_estimate = True

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return about what each text takes."""
        counts = []
        for text in texts:
            words = _WORD.findall(text)
            plain = sum(word[0].isalnum() for word in words)
            counts.append(round(TOKENS_A_WORD * plain) + len(words) - plain)
        return counts


class TokenizerCounter:
    """Counts with a tokenizer.

    Args:
        tokenizer: fast, with a chat template and the two placeholders' tokens, as a processor's is.
    """

    is_estimate = False

    def __init__(self, tokenizer: Any) -> None:
        self._backend = tokenizer.backend_tokenizer
        self.frame = _frame(tokenizer)
        self._region = _region(tokenizer)
        digest = hashlib.sha256(self._backend.to_str().encode())
        digest.update(repr(self.frame).encode())
        self.fingerprint = digest.hexdigest()[:16]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return what each text takes."""
        written = [text.replace(REGION_TOKEN, self._region) for text in texts]
        encodings = self._backend.encode_batch_fast(written, add_special_tokens=False)
        return [len(encoding) for encoding in encodings]


def _frame(tokenizer: Any) -> Frame:
    roles = ("user", "assistant", "user", "assistant")
    messages = [{"role": role, "content": said} for role, said in zip(roles, _SAID, strict=True)]
    messages[0]["content"] = f"{IMAGE_TOKEN}\n{_SAID[0]}"
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    head, answer, question, _, tail = re.split("|".join(_SAID), rendered)
    return Frame(head=head, question=question, answer=answer, tail=tail)


def _region(tokenizer: Any) -> str:
    """What the template makes of a region's placeholder: some formats have a name of their own."""
    message = {"role": "user", "content": f"{_SAID[0]}{REGION_TOKEN}{_SAID[1]}"}
    rendered: str = tokenizer.apply_chat_template([message], tokenize=False)
    return re.split("|".join(_SAID), rendered)[1]


def name_counts(counter: TokenCounter, most: int) -> list[int]:
    """Return what the name of each region takes in running text, from 1 to `most`."""
    return counter.count([f" region{number}" for number in range(1, most + 1)])


def introduced_text(number: int) -> str:
    """Return a region's name as its first mention reads."""
    return f"region{number}{REGION_TOKEN}"
