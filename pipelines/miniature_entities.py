"""Captions of miniature scenes as Flickr30k Entities has them: phrases tied to coreference chains.

A caption is a list of words and phrases; a phrase belongs to a chain, and a chain to objects of the
scene. An object is a chain, all objects together are another (so a chain has several boxes, and a
box several chains), the background is one without a box, and chain 0 stands for what cannot be
seen.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.miniature_language import NUMBERS, PLACES, describe, with_article
from pipelines.miniature_scene import Scene, clear_pairs, place_of

NOT_VISUAL = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """What phrases of a picture's captions mean."""

    id: int
    type: str  #: of Entities' own
    things: tuple[int, ...]  #: indices; none for the background


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoken:
    """A phrase of a caption."""

    text: str
    chain: int  #: `NOT_VISUAL` or a chain's id
    type: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EntityCaption:
    """One caption, its words set apart by single blanks."""

    kind: str
    parts: tuple[str | Spoken, ...]

    @property
    def text(self) -> str:
        """The plain caption."""
        return " ".join(part if isinstance(part, str) else part.text for part in self.parts)

    @property
    def marked(self) -> str:
        """The caption as a line of the file of sentences."""
        return " ".join(
            part if isinstance(part, str) else f"[/EN#{part.chain}/{part.type} {part.text}]"
            for part in self.parts
        )

    def spans(self) -> list[tuple[int, int, int]]:
        """First character, end and chain of each phrase."""
        found, start = [], 0
        for part in self.parts:
            text = part if isinstance(part, str) else part.text
            if isinstance(part, Spoken):
                found.append((start, start + len(text), part.chain))
            start += len(text) + 1
        return found

    def things(self, chains: Sequence[Chain]) -> tuple[int, ...]:
        """Indices of the objects that its phrases mean."""
        by_id = {chain.id: chain for chain in chains}
        spoken = [chain for _, _, chain in self.spans() if chain != NOT_VISUAL]
        return tuple(sorted({i for chain in spoken for i in by_id[chain].things}))


def chains_of(scene: Scene, first: int) -> list[Chain]:
    """Return a scene's chains, numbered from `first`: its objects, all of them, the background."""
    chains = [Chain(id=first + i, type="other", things=(i,)) for i in range(len(scene.things))]
    everything = tuple(range(len(scene.things)))
    chains.append(Chain(id=first + len(chains), type="other", things=everything))
    chains.append(Chain(id=first + len(chains), type="scene", things=()))
    return chains


def entity_captions(
    scene: Scene, chains: Sequence[Chain], rng: random.Random
) -> list[EntityCaption]:
    """Five captions of a scene of two objects or more."""
    *own, everything, background = chains
    order = sorted(range(len(scene.things)), key=lambda i: (place_of(scene, scene.things[i]), i))
    shown = sorted(rng.sample(order, min(3, len(order))), key=order.index)
    one = rng.choice(order)
    thing = scene.things[one]

    def phrase(i: int, text: str) -> Spoken:
        return Spoken(text=text, chain=own[i].id, type=own[i].type)

    listed: list[str | Spoken] = []
    for place, i in enumerate(shown):
        if place:
            listed.append("and" if place == len(shown) - 1 else ",")
        article = with_article(describe(scene.things[i]))
        listed.append(phrase(i, article.capitalize() if not place else article))
        listed.append(f"is {PLACES[place_of(scene, scene.things[i])]}")
    number = NUMBERS[len(scene.things)]
    counted: list[str | Spoken] = [
        "There are",
        Spoken(text=f"{number} shapes", chain=everything.id, type=everything.type),
        "in",
        Spoken(text="all", chain=NOT_VISUAL, type="notvisual"),
    ]
    described: list[str | Spoken] = [
        phrase(one, with_article(describe(thing, ("colour",))).capitalize()),
        f"is {PLACES[place_of(scene, thing)]} , and",
        phrase(one, "it"),
        f"is {thing.size} and {thing.pattern}",
    ]
    setting: list[str | Spoken] = [
        "It is all on",
        Spoken(
            text=f"{with_article(scene.background)} background",
            chain=background.id,
            type=background.type,
        ),
    ]
    captions = [("list", listed), ("count", counted), ("single", described), ("scene", setting)]
    pairs = clear_pairs(scene)
    if pairs:
        i, j, predicate = rng.choice(pairs)
        subject = with_article(describe(scene.things[i])).capitalize()
        related: list[str | Spoken] = [
            phrase(i, subject),
            f"is {predicate}",
            phrase(j, with_article(describe(scene.things[j]))),
        ]
        captions.insert(1, ("relation", related))
    else:
        other = rng.choice(order)
        text = f"The {describe(scene.things[other])}".strip()
        alone: list[str | Spoken] = [phrase(other, text), f"is one of {number} shapes"]
        captions.insert(1, ("single", alone))
    return [EntityCaption(kind=kind, parts=(*parts, ".")) for kind, parts in captions]
