"""Find where a dialogue speaks of an object by its class's name, and put the region beside it.

In: the texts of one dialogue, and the classes that the picture holds exactly one box of. Out: the
same texts, `the dog` now `the dog (<region2>)`. English, and cautious, for a mention that is wrong
teaches more harm than ten good ones do good. A name counts only

- as whole words, in the singular, with a definite determiner right before it or before plain
  adjectives (`the small brown dog`); in an answer `a` and `an` will do where the sentence says that
  it speaks of the picture, since an answer also speaks of dogs at large;
- where the word after it cannot make it part of another name (`the dog food`), and no longer name
  of another class stands there (`the hot dog`);
- in a sentence that does not deny, where the determiner is indefinite;
- if the whole dialogue calls the class by one word, never in the plural and never `another`: else
  there are more of its kind than the detector found.

Each turn carries a region's mention once, where the object is first named.
"""

import enum
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from pipelines.class_names import ObjectClass
from roikit.mentions import join_mentions

_TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?\n]")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_DEFINITE = _set("the this his her its their")
_INDEFINITE = frozenset(("a", "an"))
_ADJECTIVES = _set(
    "red white black brown blue green yellow orange pink purple grey gray golden silver dark light "
    "bright colorful small large big little tiny huge tall short long old young new wooden metal "
    "plastic glass empty full open closed parked main single striped spotted fluffy furry"
)
#: More of the kind than one.
_OTHERS = _set(
    "another other others second third each every both many multiple several few some various two "
    "three four five six seven eight nine ten"
)
#: What may follow a name without becoming part of it.
_FOLLOWERS = _set(
    "is are was were isn't has had can could may might will would should must does seems appears "
    "looks sits stands lies holds wears jumps rests being doing sitting standing lying holding "
    "wearing looking walking running jumping playing eating carrying catching using resting in on "
    "at by near with without from to of for and or but while as that which who whose behind beside "
    "between under underneath above below over next inside outside across along around through "
    "against towards toward into onto off during before after also itself himself herself"
)
_OF_THE_PICTURE = re.compile(r"\b(?:image|picture|photo|photograph|scene)\b|\bthere (?:is|are)\b")
_DENIAL = re.compile(r"\b(?:no|not|without|nor|neither|never|if)\b|n['’]t\b")

_IRREGULAR = {
    "man": "men", "woman": "women", "child": "children", "person": "people", "mouse": "mice",
    "goose": "geese", "foot": "feet", "tooth": "teeth", "ox": "oxen", "policeman": "policemen",
    "knife": "knives", "wife": "wives", "life": "lives", "leaf": "leaves", "loaf": "loaves",
    "wolf": "wolves", "calf": "calves", "half": "halves", "shelf": "shelves", "scarf": "scarves",
}  # fmt: skip
#: Words whose plural looks the same: `the sheep` may be many.
_UNCHANGED = _set("sheep deer fish shrimp salmon squid aircraft bison moose elk swine offspring")


#: How far a sentence is looked at, in characters on either side of a name.
_REACH = 600

#: A name's words, and what they say: the region whose class it names, and in which way.
_Entry = tuple[tuple[str, ...], list[tuple[int, "_Way"]]]


class _Way(enum.Enum):
    SINGULAR = enum.auto()
    PLURAL = enum.auto()
    OTHER = enum.auto()  #: it is the longer name of something else


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """One turn's text, before it is escaped."""

    text: str
    is_answer: bool


class Lexicon:
    """The names to look for in the dialogues about one picture."""

    def __init__(self, regions: Mapping[int, ObjectClass]) -> None:
        """Take the class by region number (1-based), for classes with one box in the picture."""
        ways: dict[tuple[str, ...], list[tuple[int, _Way]]] = {}
        for number, cls in regions.items():
            for words, way in _ways(cls):
                ways.setdefault(words, []).append((number, way))
        #: names by their first word, the longest first
        self.by_head: dict[str, list[_Entry]] = {}
        for entry in ways.items():
            self.by_head.setdefault(entry[0][0], []).append(entry)
        for entries in self.by_head.values():
            entries.sort(key=lambda entry: -len(entry[0]))


@functools.lru_cache(maxsize=4096)
def _ways(cls: ObjectClass) -> list[tuple[tuple[str, ...], _Way]]:
    """Return every name that says something about a class, and what."""
    usable = [word for word in cls.words if word not in _UNCHANGED and word not in _ADJECTIVES]
    many = [plural for word in usable for plural in plurals(word)]
    return [
        (tuple(name.split()), way)
        for names, way in (
            (usable, _Way.SINGULAR),
            (many, _Way.PLURAL),
            (cls.longer, _Way.OTHER),
        )
        for name in names
    ]


class _Token(NamedTuple):
    word: str  #: lower case
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Named:
    """A place where a class is named."""

    first: int  #: token
    after: int  #: token after the last one
    number: int  #: of the region
    way: _Way
    words: tuple[str, ...]


def with_mentions(dialogue: Sequence[Utterance], lexicon: Lexicon) -> list[str]:
    """Return the turns' texts in the record's form, mentions put in and the rest escaped.

    Args:
        dialogue: its turns in order.
        lexicon: the names to look for.
    """
    tokens = [_tokens(utterance.text) for utterance in dialogue]
    named = [
        list(_find(turn, utterance.text, lexicon))
        for turn, utterance in zip(tokens, dialogue, strict=True)
    ]
    unsure = _said_of_several(tokens, named)
    texts = []
    for utterance, turn, places in zip(dialogue, tokens, named, strict=True):
        ends: dict[int, int] = {}  # the place in the text that a region's mention follows
        for place in places:
            if place.way is not _Way.SINGULAR or place.number in unsure or place.number in ends:
                continue
            if _is_sure(turn, place, utterance):
                ends[place.number] = turn[place.after - 1].end
        texts.append(_joined(utterance.text, ends))
    return texts


def _said_of_several(
    tokens: Sequence[Sequence[_Token]], named: Sequence[Sequence[_Named]]
) -> set[int]:
    """Return the regions whose class the dialogue speaks of as of several."""
    unsure = set()
    called: dict[int, set[tuple[str, ...]]] = {}
    for turn, places in zip(tokens, named, strict=True):
        for place in places:
            if place.way is _Way.PLURAL:
                unsure.add(place.number)
            elif place.way is _Way.SINGULAR:
                called.setdefault(place.number, set()).add(place.words)
                if place.first and turn[place.first - 1].word in _OTHERS:
                    unsure.add(place.number)
    return unsure | {number for number, names in called.items() if len(names) > 1}


def _find(turn: Sequence[_Token], text: str, lexicon: Lexicon) -> Iterator[_Named]:
    """Yield each name in a turn, from left to right, the longest at a place."""
    after = 0
    for i, token in enumerate(turn):
        if i < after:
            continue
        for words, ways in lexicon.by_head.get(token.word, ()):
            following = turn[i : i + len(words)]
            if tuple(t.word for t in following) == words and all(
                text[a.end : b.start].isspace() for a, b in pairwise(following)
            ):
                after = i + len(words)
                yield from (_Named(i, after, number, way, words) for number, way in ways)
                break


def _is_sure(turn: Sequence[_Token], place: _Named, utterance: Utterance) -> bool:
    """Tell whether the words around a name leave no doubt that the one object is meant."""
    text = utterance.text
    end = turn[place.after - 1].end
    if place.after < len(turn) and text[end : turn[place.after].start].isspace():
        following = turn[place.after].word
        if following not in _FOLLOWERS:
            return False
        coloured = place.after + 1 < len(turn) and turn[place.after + 1].word in _ADJECTIVES
        if following in ("and", "or") and coloured:
            return False
    elif text[end : end + 1] in ("'", "’", "-", "/", "_"):
        return False
    before = place.first - 1
    start = turn[place.first].start
    while before >= 0 and text[turn[before].end : start].isspace():
        start = turn[before].start
        if turn[before].word not in _ADJECTIVES:
            break
        before -= 1
    else:
        return False
    if turn[before].word in _DEFINITE:
        return True
    if turn[before].word not in _INDEFINITE or not utterance.is_answer:
        return False
    sentence = _sentence(text, start).lower()
    return bool(_OF_THE_PICTURE.search(sentence)) and not _DENIAL.search(sentence)


def _sentence(text: str, position: int) -> str:
    first = max(0, position - _REACH)
    start = max((m.end() for m in _SENTENCE_END.finditer(text, first, position)), default=first)
    end = _SENTENCE_END.search(text, position, position + _REACH)
    return text[start : end.start() if end else position + _REACH]


def _joined(text: str, ends: Mapping[int, int]) -> str:
    parts: list[str | int] = []
    position = 0
    opening = ""
    for number, end in sorted(ends.items(), key=lambda item: item[1]):
        parts += [f"{opening}{text[position:end]} (", number]
        position, opening = end, ")"
    return join_mentions([*parts, opening + text[position:]])


def _tokens(text: str) -> list[_Token]:
    return [_Token(m[0].lower(), m.start(), m.end()) for m in _TOKEN.finditer(text)]


@functools.cache
def plurals(name: str) -> tuple[str, ...]:
    """Return what several are called. A name that is a plural itself (`scissors`) has none."""
    *head, last = name.split()
    if last in _IRREGULAR:
        found = [_IRREGULAR[last]]
        if last == "person":
            found.append("persons")
    elif last.endswith("s") and not last.endswith(("ss", "us", "is", "as")):
        return ()
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        found = [last[:-1] + "ies"]
    elif last.endswith(("s", "x", "z", "ch", "sh", "o")):
        found = [last + "es", last + "s"]
    else:
        found = [last + "s"]
    return tuple(" ".join((*head, word)) for word in found)
