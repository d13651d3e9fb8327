"""What an epoch of a mixture comes to, source by source, before anything is trained on it.

In: a recipe's stream and something that counts tokens. Out: pictures, conversations, exchanges and
tokens of each source. Reads sidecars and indexes, no picture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.lengths import Lengths, measure_lengths
from pipelines.token_counts import TOKENS_A_WORD, TokenCounter, TokenizerCounter, WordCounter
from roikit import paths
from roikit.config import STAGES, Recipe
from roikit.errors import UsageError
from shards.layout import sample_key
from shards.stream import Stream

#: Conversations of a source that are drawn to find their mean length.
_DRAWN = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceTotals:
    """What an epoch takes from a source."""

    source: str
    samples: int  #: pictures that it has
    conversations: int  #: that it has
    positions: int  #: conversations that an epoch takes
    passes: float  #: how often an epoch goes through it
    exchanges: int  #: that an epoch draws, before what is too long is cut
    tokens: int  #: that an epoch takes; the mean of draws of up to 2,000 conversations, times all
    share: float  #: of the epoch's tokens
    unlearnable: int  #: conversations too long even with one exchange


def find_counter(recipe: Recipe) -> tuple[TokenCounter, str]:
    """Return what counts a recipe's tokens, and in words what that is.

    A tokenizer that is learned from the training text is taken from the default runs; before there
    is one, and where a pretrained one cannot be loaded, tokens are estimated from words.
    """
    how = f"tokens are estimated from words, {TOKENS_A_WORD} a word and one a mark"
    if recipe.model.language == "scratch":
        for stage in STAGES:
            folder = paths.runs_dir() / stage / "model"
            if (folder / "tokenizer.json").is_file():
                counter = TokenizerCounter(_learned(folder))
                return counter, f"tokens of the tokenizer in {folder}"
        return WordCounter(), f"{how}: `{STAGES[0]}` has yet to learn a tokenizer"
    from roikit.model.build import load_tokenizer  # imports torch

    try:
        tokenizer = load_tokenizer(recipe.model)
    except UsageError as error:
        return WordCounter(), f"{how}: {error}"
    return TokenizerCounter(tokenizer), f"tokens of `{recipe.model.language}`"


def _learned(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def mixture_totals(
    recipe: Recipe,
    stream: Stream,
    counter: TokenCounter,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[SourceTotals]:
    """Return what an epoch takes from each source, in the mixture's order.

    Args:
        recipe: whose caps and lengths hold.
        stream: of its mixture.
        counter: of its tokens.
        progress: called with (shards measured, shards) of each split that is measured.
    """
    rows: list[dict[str, Any]] = []
    for name, quota in stream.source_quotas.items():
        index, conversations = stream.source_rows(name)
        lengths = Lengths(
            measure_lengths(index, counter, progress=progress),
            index,
            num_image_tokens=recipe.model.image_grid**2,
            num_region_tokens=recipe.model.region_grid**2,
        )
        samples = index.conversation_sample[conversations]
        step = max(1, len(conversations) // _DRAWN)
        drawn = [
            lengths.tokens(
                int(conversations[i]),
                seed=recipe.seed,
                key=sample_key(index.dataset, index.split, int(index.number[samples[i]])),
                passes=i // step,  # others draw other exchanges: a mean over the passes, too
                max_exchanges=recipe.run.max_exchanges,
                asked_together=recipe.run.asked_together,
                max_tokens=recipe.run.max_tokens,
            )
            for i in range(0, len(conversations), step)
        ]
        exchanges = lengths.drawn_exchanges(recipe.run.max_exchanges)[conversations]
        rows.append(
            {
                "source": name,
                "samples": len(np.unique(samples)),
                "conversations": len(conversations),
                "positions": quota,
                "passes": quota / len(conversations),
                "exchanges": round(float(exchanges.mean()) * quota),
                "tokens": round(float(np.mean(drawn)) * quota),
                "unlearnable": int(
                    lengths.is_unlearnable(recipe.run.max_tokens)[conversations].sum()
                ),
            }
        )
    everything = max(1, sum(row["tokens"] for row in rows))
    return [SourceTotals(**row, share=row["tokens"] / everything) for row in rows]
