"""VCR's token lists as text that a person would write, and its class names with their blanks.

The tokeniser split contractions (`doesn`, `'`, `t`) and hyphens (`t`, `-`, `shirt`), and set every
punctuation mark apart; the `*_orig` texts exist for the right choices only, so all texts are put
together here, by one rule.
"""

import re
from collections.abc import Sequence

from roikit.mentions import escape, mentioned

#: Words and lists of 0-based object indices.
Tokens = list[str | list[int]]

#: COCO's class names that VCR writes without their blanks. Source: r2c, `bert_ontology`.
_SPACED = (
    "traffic light", "fire hydrant", "stop sign", "parking meter", "sports ball", "baseball bat",
    "baseball glove", "tennis racket", "wine glass", "hot dog", "potted plant", "dining table",
    "cell phone", "teddy bear", "hair drier",
)  # fmt: skip
_CLASS_NAMES = {name.replace(" ", ""): name for name in _SPACED}

_GLUED_LEFT = frozenset(
    (".", ",", "?", "!", ";", ":", ")", "]", "}", "%", "…", "...", "'s", "n't", "'re", "'ve",
     "'ll", "'d", "'m", "’s", "n’t")
)  # fmt: skip
_GLUED_RIGHT = frozenset(("(", "[", "{", "$", "#", "£", "€"))
_APOSTROPHES = frozenset(("'", "’"))
_ENDINGS = frozenset(("s", "t", "re", "ve", "ll", "d", "m"))
_WORD = re.compile(r"\w+")


def class_name(name: str) -> str:
    """Return the name as a person writes it: `trafficlight` gives `traffic light`."""
    return _CLASS_NAMES.get(name, name)


def mentions_in(text: str) -> set[int]:
    """Return the numbers of the regions that a record's text speaks of."""
    return set(mentioned(text))


def detokenise(tokens: Sequence[str | None], mentions: Sequence[str]) -> str:
    """Put tokens together as record text.

    Args:
        tokens: source words, which are escaped here; None stands for the next of `mentions`.
        mentions: texts that refer to regions, as they are, e.g. `<region1> and <region3>`.
    """
    words = [None if token is None else token.strip() for token in tokens]
    words = [word for word in words if word != ""]
    pieces: list[str | None] = []
    glue_next = True
    in_quotes = False
    for i, word in enumerate(words):
        before = words[i - 1] if i else ""
        after = words[i + 1] if i + 1 < len(words) else ""
        glue = glue_next
        glue_next = False
        if word == '"':
            glue, glue_next = (True, False) if in_quotes else (glue, True)
            in_quotes = not in_quotes
        elif word in _APOSTROPHES:
            joins = after is not None and after.lower() in _ENDINGS
            glue = glue or joins or _ends_plural(before)
            glue_next = joins
        elif word == "-":
            joins = _is_word(before) and _is_word(after)
            glue, glue_next = (True, True) if joins else (glue, False)
        elif word == "/":
            glue, glue_next = True, True
        elif word in _GLUED_LEFT:
            glue = True
        elif word in _GLUED_RIGHT:
            glue_next = True
        if not glue:
            pieces.append(" ")
        pieces.append(word)
    return _escaped(pieces, mentions)


def _is_word(token: str | None) -> bool:
    return token is not None and _WORD.fullmatch(token) is not None


def _ends_plural(token: str | None) -> bool:
    """Tell whether an apostrophe alone may follow as a genitive (`the boys' room`)."""
    return _is_word(token) and token is not None and token.endswith("s")


def _escaped(pieces: Sequence[str | None], mentions: Sequence[str]) -> str:
    """Join the pieces; source text is escaped in whole runs, since a tag may span tokens."""
    text = ""
    run = ""
    following = iter(mentions)
    for piece in pieces:
        if piece is not None:
            run += piece
            continue
        # A `<` right before a mention would read as an escape of it.
        text += escape(run) + " " * run.endswith("<") + next(following)
        run = ""
    return (text + escape(run)).strip()
