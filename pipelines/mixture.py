"""What an epoch of a mixture comes to, source by source, before anything is trained on it.

In: a recipe's stream and something that counts tokens. Out: pictures, conversations, exchanges and
tokens of each source. Reads sidecars and indexes, no picture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.lengths import open_lengths, recipe_tokens
from pipelines.token_counts import TOKENS_A_WORD, TokenCounter, TokenizerCounter, WordCounter
from roikit import paths
from roikit.config import STAGES, Recipe
from roikit.errors import UsageError
from shards.stream import Stream

#: Conversations of a source that are drawn at most to find their mean length, spread over it.
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
    tokens: int  #: that an epoch takes: the mean of up to 2,000 conversations, times all
    share: float  #: of the epoch's tokens
    unlearnable: int  #: conversations too long even with one exchange


def find_counter(recipe: Recipe) -> tuple[TokenCounter, str]:
    """Return what counts a recipe's tokens, and in words what that is.

    A tokenizer that is learned from the training text is taken from the default runs; before there
    is one, and where a pretrained one cannot be loaded, tokens are estimated from words.
    """
    if recipe.model.language == "scratch":
        for stage in STAGES:
            folder = paths.runs_dir() / stage / "model"
            if (folder / "tokenizer.json").is_file():
                counter = TokenizerCounter(_learned(folder))
                return counter, f"tokens of the tokenizer in {folder}"
        return WordCounter(), estimated_from_words(f"`{STAGES[0]}` has yet to learn a tokenizer")
    from roikit.model.build import load_tokenizer  # imports torch

    try:
        tokenizer = load_tokenizer(recipe.model)
    except UsageError as error:
        return WordCounter(), estimated_from_words(str(error))
    return TokenizerCounter(tokenizer), f"tokens of `{recipe.model.language}`"


def estimated_from_words(why: str) -> str:
    """Say that tokens are estimated, and why."""
    return f"tokens are estimated from words, {TOKENS_A_WORD} a word and one a mark: {why}"


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
        lengths = open_lengths(recipe, index, counter, progress=progress)
        tokens = recipe_tokens(recipe, lengths)
        count = min(_DRAWN, len(conversations))
        drawn = conversations[np.arange(count) * len(conversations) // count].tolist()
        # others draw other exchanges: a mean over the passes, too
        mean = np.mean([tokens(row, passes) for passes, row in enumerate(drawn)])
        exchanges = lengths.drawn_exchanges(recipe.run.max_exchanges)[conversations]
        rows.append(
            {
                "source": name,
                "samples": len(np.unique(index.conversation_sample[conversations])),
                "conversations": len(conversations),
                "positions": quota,
                "passes": quota / len(conversations),
                "exchanges": round(float(exchanges.mean()) * quota),
                "tokens": round(float(mean) * quota),
                "unlearnable": int(
                    lengths.is_unlearnable(recipe.run.max_tokens)[conversations].sum()
                ),
            }
        )
    everything = max(1, sum(row["tokens"] for row in rows))
    return [SourceTotals(**row, share=row["tokens"] / everything) for row in rows]
