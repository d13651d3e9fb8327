"""Wordings for what a person asks: families of templates, written by us, one a line.

`phrasings/<family>.txt` holds a family; lines that start with `#` are comments. Slots in braces
(`{region}`, `{regions}`, `{question}`) are filled by the converter. A wording is drawn by hashing,
so that it depends on the seed and the place it is for, never on the order of the work.
"""

import functools
import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from roikit.errors import UsageError
from roikit.prompt import replace_text
from roikit.sample import Turn

_FOLDER = "phrasings"
_SLOT = re.compile(r"\{(\w+)\}")
_MENTION = r"(?<!<)<region[1-9]\d*>"
# A region's name in parentheses, as a detector gives it: `bat (animal)` is one, too.
_LABEL = r" \([^()]*(?:\([^()]*\)[^()]*)*\)"
_NAMED = rf"{_MENTION}(?:{_LABEL})?"
#: What converters put into a slot. A question may be any text, so regions must be a list and
#: nothing else: where they end is then certain. The last comma is GPT4RoI's.
_SLOT_PATTERNS = {
    "region": _MENTION,
    "regions": rf"{_NAMED}(?:(?:, ?| and ){_NAMED})*,?",
    "question": r"(?s:.*)",
}


@functools.cache
def wordings(family: str) -> tuple[str, ...]:
    """Return a family's templates in the file's order.

    Raises:
        UsageError: there is no such family.
    """
    file = resources.files(__package__) / _FOLDER / f"{family}.txt"
    if not file.is_file():
        raise UsageError(f"phrasing: expected one of {', '.join(families())}, got `{family}`")
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def families() -> list[str]:
    """Return the names of all families, sorted."""
    folder = resources.files(__package__) / _FOLDER
    names = (item.name for item in folder.iterdir())
    return sorted(name.removesuffix(".txt") for name in names if name.endswith(".txt"))


def version(names: Sequence[str]) -> str:
    """Return a short hash of the wordings of these families; it changes when one of them does."""
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update("\0".join((name, *wordings(name), "")).encode())
    return digest.hexdigest()[:16]


def draw(family: str, seed: int, key: str, turn: str) -> str:
    """Draw one template.

    Args:
        family: the family's name.
        seed: the conversion's seed.
        key: the sample's key.
        turn: the turn's place inside the sample, e.g. `9/category:4`.
    """
    templates = wordings(family)
    return templates[_number(seed, key, turn, family) % len(templates)]


def _number(seed: int, key: str, turn: str, use: str) -> int:
    place = "\0".join((str(seed), key, turn, use)).encode()
    return int.from_bytes(hashlib.blake2b(place, digest_size=8).digest(), "big")


def fill(template: str, **slots: str) -> str:
    """Put the slots' texts into a template; braces inside those texts pass through untouched."""
    return _SLOT.sub(lambda match: slots.get(match[1], match[0]), template)


def parse(family: str, text: str) -> dict[str, str] | None:
    """Undo `fill`: return the slots' texts, whichever template of the family made the text.

    Returns:
        None where no template fits: the family was another one when the text was made.
    """
    for pattern in _patterns(family):
        match = pattern.fullmatch(text)
        if match is not None:
            return match.groupdict()
    return None


@functools.cache
def _patterns(family: str) -> tuple[re.Pattern[str], ...]:
    return tuple(_pattern(template) for template in wordings(family))


def _pattern(template: str) -> re.Pattern[str]:
    literals = re.split(_SLOT.pattern, template)  # literal, slot, literal, slot, ..., literal
    return re.compile(
        "".join(
            f"(?P<{part}>{_SLOT_PATTERNS[part]})" if i % 2 else re.escape(part)
            for i, part in enumerate(literals)
        )
    )


def rephrase(turn: Turn, generator: random.Random) -> Turn:
    """Say a user turn in another wording of its family.

    A turn that was drawn from no family, or whose text no wording of the family gives, stays as it
    is. One number is taken from the generator in any case.
    """
    drawn = generator.random()
    if turn.phrasing is None or turn.phrasing not in _known_families():
        return turn
    slots = parse(turn.phrasing, turn.text)
    if slots is None:
        return turn
    templates = wordings(turn.phrasing)
    return replace_text(turn, fill(templates[int(drawn * len(templates))], **slots))


@functools.cache
def _known_families() -> frozenset[str]:
    return frozenset(families())


def enumerated(mentions: Sequence[str]) -> str:
    """Join as a person would: `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(mentions[:-1]), *mentions[-1:])))


@dataclass(frozen=True, kw_only=True, slots=True)
class Phraser:
    """Draws the user turns of one sample."""

    seed: int
    key: str

    def ask(self, family: str, place: str, **slots: str) -> Turn:
        """Draw a wording for the turn at `place` and fill it.

        Args:
            family: the family's name.
            place: the turn's place inside the sample, e.g. `9/category:4`.
            **slots: texts for the wording's slots; source text in them must be escaped already.
        """
        template = draw(family, self.seed, self.key, place)
        return Turn(role="user", text=fill(template, **slots), phrasing=family)

    def shuffle(self, numbers: Sequence[int], place: str) -> list[int]:
        """Return the numbers, all different, in an order drawn for `place`."""

        def rank(number: int) -> bytes:
            name = "\0".join((str(self.seed), self.key, place, str(number))).encode()
            return hashlib.blake2b(name, digest_size=8).digest()

        return sorted(numbers, key=rank)

    def toss(self, place: str) -> bool:
        """Say yes to half of the places."""
        return _number(self.seed, self.key, place, " coin") % 2 == 0
