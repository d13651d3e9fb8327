"""What the classes of a detector are called, and by which words a text may speak of them.

In: an annotation file's `categories` (LVIS's, COCO's), or bare labels. Out: one `ObjectClass` each,
with the label as a person would write it and the words that mean this class and no other. Knows
neither boxes nor texts; `spoken_names.py` looks for the words.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pipelines.annotations import Int64, decode_record, read_table
from pipelines.class_labels import bare_name, spoken_names
from roikit.errors import UsageError
from roikit.sample import Rejection

log = logging.getLogger(__name__)

#: How many categories LVIS v1 has, and v0.5, whose ids mean other things.
LVIS_CLASSES = 1203
LVIS_V05_CLASSES = 1230
#: Where a comma is missing in GPT4RoI's tuple of LVIS names (0-based): `shaver_(electric)` and
#: `shaving_cream` are one string, every later class bears the next one's name, and `background`
#: stands last: 265 wrong names. Source: GPT4RoI `gpt4roi/datasets/det_llava.py`.
_FUSED_AT = 938
_FILLER = "background"

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


class ObjectClass(msgspec.Struct, frozen=True, array_like=True):
    """One class, as texts speak of it."""

    label: str  #: as a person would write it: `traffic light`
    words: tuple[str, ...] = ()  #: lower case, singular: what means this class and no other
    #: longer names of other classes with one of the words in them (`hot dog` where it is `dog`)
    longer: tuple[str, ...] = ()


class _Category(msgspec.Struct):
    id: Int64
    name: str
    synonyms: list[str] = []


_categories = msgspec.json.Decoder(_Category)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassTable:
    """The classes of an annotation file, in the order of their ids."""

    names: tuple[str, ...]  #: as the file spells them: `bat_(animal)`
    synonyms: tuple[tuple[str, ...], ...]
    indices: dict[int, int]  #: place in `names` by category id

    @property
    def is_lvis_v1(self) -> bool:
        """Whether the ids run from 1 to 1,203, as LVIS v1's do."""
        return len(self.names) == LVIS_CLASSES and self.is_contiguous

    @property
    def is_contiguous(self) -> bool:
        """Whether the ids run from 1 without a gap, so that a detector's index is the id less 1."""
        return all(number == index + 1 for number, index in self.indices.items())


def read_class_table(path: Path) -> ClassTable:
    """Read the `categories` of a COCO-like annotation file.

    Raises:
        UsageError: the file is not one, or a category in it cannot be read: names that are wrong
            by one place would be worse than none.
    """
    found: dict[int, _Category] = {}
    for i, raw in enumerate(read_table(path, ("categories",))["categories"]):
        category = decode_record(_categories, raw, file=path.name, record=f"categories[{i}]")
        problem = None
        if isinstance(category, Rejection):
            problem = category.message
        elif category.id in found:
            problem = f"id {category.id} occurs twice"
        elif not category.name.strip():
            problem = "name: expected a name, got none"
        if problem is not None or isinstance(category, Rejection):
            raise UsageError(
                f"`{path}`: categories[{i}]: {problem}",
                hint="give the dataset's own annotation file, e.g. lvis_v1_val.json",
            )
        found[category.id] = category
    if not found:
        raise UsageError(
            f"`{path}`: expected `categories` with names, found none",
            hint="give the dataset's own annotation file, e.g. lvis_v1_val.json",
        )
    return _table(found)


def require_lvis(table: ClassTable, path: Path) -> None:
    """Check that a detector's 0-based LVIS indices can be named by `table`.

    Raises:
        UsageError: its ids do not run from 1, or it is LVIS v0.5's.
    """
    hint = "give LVIS v1's annotation file (lvis_v1_train.json or lvis_v1_val.json)"
    if len(table.names) == LVIS_V05_CLASSES:
        found = f"{len(table.names):,}, as LVIS v0.5 has, whose ids mean other classes"
        raise UsageError(
            f"`{path}`: expected LVIS v1's {LVIS_CLASSES:,} categories, found {found}", hint=hint
        )
    if not table.is_contiguous:
        first, last = min(table.indices), max(table.indices)
        raise UsageError(
            f"`{path}`: expected category ids that run from 1 without a gap, as LVIS v1's do, "
            f"found {len(table.names)} from {first} to {last}",
            hint=hint,
        )
    if not table.is_lvis_v1:
        log.warning(
            "%s: expected LVIS v1's %d categories, found %d", path, LVIS_CLASSES, len(table.names)
        )


def named_classes(names: Sequence[str], synonyms: Sequence[Sequence[str]]) -> list[ObjectClass]:
    """Make the classes of a whole table: a word that two of them bear means neither."""
    own = [_words((name, *others)) for name, others in zip(names, synonyms, strict=True)]
    bearers: dict[str, set[int]] = defaultdict(set)
    by_part: dict[str, set[str]] = defaultdict(set)  # `dog`: `dog`, `hot dog`
    for i, words in enumerate(own):
        for word in words:
            bearers[word].add(i)
            parts = word.split()
            for start in range(len(parts)):
                for end in range(start + 1, len(parts) + 1):
                    by_part[" ".join(parts[start:end])].add(word)
    classes = []
    for label, words in zip(spoken_names(names), own, strict=True):
        longer = {other for word in words for other in by_part[word]} - set(words)
        unambiguous = tuple(word for word in words if len(bearers[word]) == 1)
        classes.append(ObjectClass(label, unambiguous, tuple(sorted(longer))))
    return classes


def shifted_classes(names: Sequence[str]) -> list[ObjectClass]:
    """Make LVIS's classes as GPT4RoI named them: raw spelling, 265 names one place too early."""
    fused = [*names, _FILLER]
    fused[_FUSED_AT : _FUSED_AT + 2] = ["".join(fused[_FUSED_AT : _FUSED_AT + 2])]
    return [ObjectClass(name) for name in fused]


def _table(found: dict[int, _Category]) -> ClassTable:
    ordered = [found[number] for number in sorted(found)]
    return ClassTable(
        names=tuple(category.name for category in ordered),
        synonyms=tuple(tuple(category.synonyms) for category in ordered),
        indices={category.id: i for i, category in enumerate(ordered)},
    )


def _words(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names that can be looked for word by word, each once."""
    shown = (bare_name(name).lower() for name in names)
    return tuple(dict.fromkeys(n for n in shown if all(map(_WORD.fullmatch, n.split())) and n))
