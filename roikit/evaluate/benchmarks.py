"""What each benchmark is: its data, its prompt, its generation settings, its metrics.

A declaration is data, no code. Whatever changes a score (prompt, normalisation, metric) raises the
benchmark's `version`: results of two versions are not compared.
"""

from dataclasses import dataclass
from typing import Literal

from roikit.errors import UsageError

Kind = Literal["caption", "category", "choice"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """One benchmark."""

    name: str
    version: int
    kind: Kind
    dataset: str
    split: str  #: the one used where none is named
    task: str  #: of the conversations it reads
    prompt: str  #: how an item becomes a prompt, for the result's reader
    max_new_tokens: int
    headline: tuple[str, ...]  #: metrics shown first; all others are in the result too
    num_items: int | None = None  #: items of the official split: fewer or more is another benchmark


BENCHMARKS: dict[str, Benchmark] = {
    "vg-caption": Benchmark(
        name="vg-caption",
        version=1,
        kind="caption",
        dataset="vg",
        split="test",
        task="caption",
        prompt="one region a prompt, its stored user turn, ground-truth box, greedy decoding",
        max_new_tokens=48,
        headline=("bleu_4", "meteor", "rouge_l", "cider"),
        # Source: GRiT's test.json, which GPT4RoI's numbers are on.
        num_items=232_935,
    ),
    "vcr": Benchmark(
        name="vcr",
        version=1,
        kind="choice",
        dataset="vcr",
        split="val",
        task="choice",
        prompt=(
            "all regions listed, the question alone (Q->A) or with its right answer (QA->R); "
            "likelihood of each option, and the letter (`prompt.letter_question`), decoded greedily"
        ),
        max_new_tokens=8,
        headline=(
            "q_a/likelihood_per_token",
            "qa_r/likelihood_per_token",
            "q_ar/likelihood_per_token",
        ),
        num_items=26_534,
    ),
    "coco-category": Benchmark(
        name="coco-category",
        version=1,
        kind="category",
        dataset="coco",
        split="val",
        task="category",
        prompt="one region a prompt, its stored user turn, ground-truth box, greedy decoding",
        max_new_tokens=16,
        headline=("accuracy",),
        # val2017 without its crowd boxes
        num_items=36_335,
    ),
}


def get(name: str) -> Benchmark:
    """Return the benchmark called `name`.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in BENCHMARKS:
        raise UsageError(f"expected one of {', '.join(BENCHMARKS)}, got `{name}`")
    return BENCHMARKS[name]
