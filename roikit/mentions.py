r"""How text speaks of regions: `<region1>` is the sample's first region, wherever it stands.

Source text may hold the same characters without meaning a region (`<region1>`, `<image>`, `</s>`,
`<|im_end|>`). `escape` doubles the `<` of anything that looks like a tag; `split_mentions` undoes
it. In a run of n `<` before a tag, each pair stands for one literal `<`; an odd one left over is
ours.
"""

import re
from collections.abc import Iterable

# Starts where a run of `<` starts: else a long run would be tried from each of its characters.
_TAG = re.compile(r"(?<!<)(<+)(?=(/?\|?[A-Za-z_][\w|]*)>)")
_REGION = re.compile(r"region([1-9]\d*)")
# `_TAG` with a region's name in it.
_MENTION = re.compile(r"(?<!<)(<+)region([1-9]\d*)>")


def mention(number: int) -> str:
    """Return the text that refers to region `number` (1-based)."""
    return f"<region{number}>"


def escape(text: str) -> str:
    """Make source text safe to stand in a turn: nothing in it will refer to a region."""
    return _TAG.sub(lambda match: match[1] * 2, text)


def split_mentions(text: str) -> list[str | int]:
    """Take a turn's text apart into literal strings (unescaped) and region numbers (1-based).

    Empty strings are left out; the order is that of the text.
    """
    parts: list[str | int] = []
    literal = ""
    position = 0
    for match in _TAG.finditer(text):
        literal += text[position : match.start()]
        position = match.end()
        run, body = match[1], match[2]
        region = _REGION.fullmatch(body)
        literal += "<" * (len(run) // 2)
        if len(run) % 2 == 0:
            continue
        if region is None:
            literal += "<"  # an unescaped tag that is not a region is plain text
            continue
        if literal:
            parts.append(literal)
            literal = ""
        parts.append(int(region[1]))
        position += len(body) + 1
    literal += text[position:]
    if literal:
        parts.append(literal)
    return parts


def join_mentions(parts: Iterable[str | int]) -> str:
    """Undo `split_mentions`: literal strings and region numbers become a turn's text."""
    text = ""
    literal = ""
    for part in parts:
        if isinstance(part, str):
            literal += part
            continue
        # `<` right before a mention would be read together with it: each is doubled.
        body = literal.rstrip("<")
        text += escape(body) + "<" * (2 * (len(literal) - len(body))) + mention(part)
        literal = ""
    return text + escape(literal)


def mentioned(text: str) -> list[int]:
    """Region numbers that `text` refers to, in order, repeats included."""
    # Not by `split_mentions`: this is asked of each text several times, and there are millions.
    return [int(number) for run, number in _MENTION.findall(text) if len(run) % 2]


def plain(text: str) -> str:
    """Return the text as a person reads it: `region1` for a mention, escapes undone."""
    if "<" not in text:
        return text
    return "".join(f"region{p}" if isinstance(p, int) else p for p in split_mentions(text))
