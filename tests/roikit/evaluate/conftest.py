"""A drawn world of five pictures, and systems that answer about it in known ways."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest

from roikit.mentions import mentioned
from roikit.prompt import Prompt
from roikit.sample import (
    SCHEMA_VERSION,
    Choice,
    Conversation,
    Image,
    Provenance,
    Region,
    Sample,
    Source,
    Turn,
)

#: A colour (RGB) for each name: a system with eyes can tell what is in a box.
COLOURS = {"cat": (200, 20, 20), "dog": (20, 200, 20), "cup": (20, 20, 200), "bus": (200, 200, 20)}
PICTURES = (("cat", "dog", "cup"), ("dog", "bus"), ("cat",), ("cup", "bus"), ("bus", "cat", "dog"))
#: The right answer's place differs from question to question.
QUESTION_NAMES = ("cat", "dog", "cup", "bus")

Samples = list[tuple[Sample, bytes]]


def png(names: Sequence[str]) -> bytes:
    pixels = np.full((20, 20 * max(1, len(names)), 3), 90, dtype=np.uint8)
    for i, name in enumerate(names):
        pixels[4:16, 20 * i + 4 : 20 * i + 16] = COLOURS[name]
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def region(i: int, native_id: str) -> Region:
    return Region(box_xyxy=(20.0 * i + 4, 4.0, 20.0 * i + 16, 16.0), native_id=native_id)


def make_sample(
    index: int,
    names: Sequence[str],
    conversations: Iterable[Conversation],
    *,
    dataset: str,
    split: str = "val",
) -> tuple[Sample, bytes]:
    regions = tuple(region(i, f"{index}{i}") for i in range(len(names)))
    sample = Sample(
        schema=SCHEMA_VERSION,
        key=f"{dataset}-{split}-{index:09d}",
        dataset=dataset,
        split=split,
        image=Image(
            file=f"{index}.png",
            native_id=f"{dataset}:{index}",
            width=20 * max(1, len(names)),
            height=20,
            sha256="0" * 64,
        ),
        regions=regions,
        conversations=tuple(conversations),
        provenance=Provenance(converter="test@1", phrasing="", seed=0),
    )
    return sample, png(names)


def region_conversation(task: str, pairs: Sequence[tuple[str, str]]) -> Conversation:
    """An independent list of (question, answer)."""
    turns = [
        Turn(role=role, text=text)
        for question, answer in pairs
        for role, text in (("user", question), ("assistant", answer))
    ]
    return Conversation(
        id=task,
        task=task,
        independent=True,
        source=Source(file="f", record="r"),
        turns=tuple(turns),
    )


def choice_conversations(number: int, name: str, position: int) -> list[Conversation]:
    """Both steps of "What is <region1>?"; the right option stands at `position`."""
    others = [other for other in QUESTION_NAMES if other != name]
    options = tuple(f"a {n}" for n in [*others[:position], name, *others[position:]])
    question = Turn(role="user", text="With <region1> and <region2>. What is <region1>?")
    dialogue = (question, Turn(role="assistant", text=f"a {name}"), Turn(role="user", text="Why?"))
    steps = {"answer": (question,), "rationale": dialogue}
    return [
        Conversation(
            id=f"q{number}/choice-{step}",
            task="choice",
            independent=False,
            source=Source(file="val.jsonl", record=f"q{number}"),
            turns=turns,
            choice=Choice(question_id=f"q{number}", step=step, options=options, answer=position),
        )
        for step, turns in steps.items()
    ]


@pytest.fixture
def world() -> SimpleNamespace:
    """What tests make samples of their own with."""
    return SimpleNamespace(
        sample=make_sample,
        region_conversation=region_conversation,
        choice_conversations=choice_conversations,
        Constant=Constant,
        PicksByBox=PicksByBox,
    )


@pytest.fixture
def category_samples() -> Samples:
    return [
        make_sample(
            i,
            names,
            [
                region_conversation(
                    "category", [(f"What is <region{k + 1}>?", n) for k, n in enumerate(names)]
                )
            ],
            dataset="coco",
        )
        for i, names in enumerate(PICTURES)
    ]


@pytest.fixture
def caption_samples() -> Samples:
    return [
        make_sample(
            i,
            names,
            [
                region_conversation(
                    "caption",
                    [
                        (f"Describe <region{k + 1}>.", f"a small {n} on a grey wall in picture {i}")
                        for k, n in enumerate(names)
                    ],
                )
            ],
            dataset="vg",
            split="test",
        )
        for i, names in enumerate(PICTURES)
    ]


@pytest.fixture
def vcr_samples() -> Samples:
    """Four questions, one a picture of two or more regions; right options at 0, 1, 2, 3."""
    pictures = [names for names in PICTURES if len(names) > 1]
    return [
        make_sample(i, names, choice_conversations(i, names[0], i % 4), dataset="vcr")
        for i, names in enumerate(pictures)
    ]


@dataclass
class Scored:
    log_prob: float
    num_tokens: int


def seen_in(prompt: Prompt, number: int) -> str | None:
    """What the box of a region holds, by the colour at its centre; None on grey."""
    x0, y0, x1, y1 = prompt.regions[number - 1].box_xyxy
    pixel = tuple(int(v) for v in prompt.image[int((y0 + y1) / 2), int((x0 + x1) / 2)])
    return next((name for name, colour in COLOURS.items() if colour == pixel), None)


class PicksByBox:
    """Says what is in the first region's box of the last question, as a perfect model would."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        self.batches.append(len(prompts))
        answers = []
        for prompt in prompts:
            question = prompt.turns[-1].text
            name = seen_in(prompt, self.region(prompt)) or "nothing"
            lettered = [line for line in question.splitlines() if line.endswith(f" a {name}")]
            answers.append(lettered[0][:3] if lettered else f"The {name}.")
        return answers

    def score_options(
        self, prompts: Sequence[Prompt], options: Sequence[Sequence[str]]
    ) -> list[list[Scored]]:
        self.batches.append(len(prompts))
        return [
            [
                Scored(log_prob=-1.0 if text.endswith(f" {seen_in(p, 1)}") else -9.0, num_tokens=3)
                for text in texts
            ]
            for p, texts in zip(prompts, options, strict=True)
        ]

    @staticmethod
    def region(prompt: Prompt) -> int:
        return next(iter(mentioned(prompt.turns[-1].text)), 1)


class Constant:
    """Says the same whatever it is shown."""

    def __init__(self, text: str = "cat") -> None:
        self.text = text

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        return [self.text] * len(prompts)

    def score_options(
        self, prompts: Sequence[Prompt], options: Sequence[Sequence[str]]
    ) -> list[list[Scored]]:
        return [[Scored(log_prob=-2.0, num_tokens=2) for _ in texts] for texts in options]
