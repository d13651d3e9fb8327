"""Wordings for what a person asks: families of templates, written by us, one a line.

`phrasings/<family>.txt` holds a family; lines that start with `#` are comments. Slots in braces
(`{region}`, `{regions}`, `{question}`) are filled by the converter. A wording is drawn by hashing,
so that it depends on the seed and the place it is for, never on the order of the work.
"""

import functools
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from roikit.errors import UsageError
from roikit.sample import Turn

_FOLDER = "phrasings"
_SLOT = re.compile(r"\{(\w+)\}")


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
