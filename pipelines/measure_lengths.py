"""Measure how long each conversation of a split is in tokens, and keep it.

In: a split's sidecars and a tokenizer. Out: an Arrow file for `pipelines/lengths.py`. No picture
and no record is opened.

Kept for each exchange are the tokens of its question and its answer and the regions it introduces;
what a picture and a region take is multiplied in when a length is asked for, so one file serves
models of any image size. The file is named by the split's Merkle root and the tokenizer's hash.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.token_counts import TokenCounter, introduced_text, name_counts
from roikit import paths
from roikit.mentions import mentioned, split_mentions
from roikit.prompt import letter, letter_question
from roikit.sample import Choice
from shards import sidecar
from shards.atomic import replacing
from shards.commit import load_dataset
from shards.index import SplitIndex
from shards.layout import split_dir

#: Raised with any change of what is measured or how it is written.
_VERSION = 1
#: Regions whose names are measured one by one; later ones count as the last.
MOST_NAMES = 200
_EXCHANGE = pa.struct(
    [
        ("question", pa.uint32()),  # tokens, without those of regions
        ("answer", pa.uint32()),
        ("asked", pa.uint16()),  # the only region that the question mentions; 0: none or several
        ("regions", pa.list_(pa.uint16())),  # introduced here: for the first time, in a dialogue
    ]
)
_SCHEMA = pa.schema([("independent", pa.uint8()), ("exchanges", pa.list_(_EXCHANGE))])
_COLUMNS = tuple(
    f"conversations.list.element.{name}"
    for name in ("task", "independent", "turns.list.element.text", "options.list.element", "answer")
)


def measure_lengths(
    index: SplitIndex,
    counter: TokenCounter,
    *,
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Measure a split, unless that has been done.

    Args:
        index: the split's.
        counter: what says how many tokens a text takes.
        folder: where the file is kept; None: `roikit.paths.lengths_dir()`.
        progress: called with (shards done, shards).

    Returns:
        The file.

    Raises:
        CorruptSampleError: a sidecar is missing or unreadable.
    """
    folder = paths.lengths_dir() if folder is None else folder
    path = folder / f"{index.merkle_root[:16]}-{counter.fingerprint}-{_VERSION}.arrow"
    if path.is_file():
        return path
    known: dict[str, int] = {}
    batches = []
    shards = load_dataset(index.root, index.dataset, index.split).shards
    for done, shard in enumerate(shards):
        table = sidecar.read_rows(
            split_dir(index.root, index.dataset, index.split) / f"{shard.stem}.parquet", _COLUMNS
        )
        batches.append(_measure_shard(table, counter, known))
        if progress is not None:
            progress(done + 1, len(shards))
    folder.mkdir(parents=True, exist_ok=True)
    schema = _SCHEMA.with_metadata({"constants": json.dumps(_constants(counter))})
    table = pa.Table.from_batches(batches, schema=_SCHEMA).combine_chunks()
    columns = [
        column.chunk(0) if column.num_chunks else pa.array([], type=column.type)
        for column in table.columns
    ]
    with replacing(path) as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    return path


def _constants(counter: TokenCounter) -> dict[str, Any]:
    """Measure what is the same in every conversation of the tokenizer."""
    frame = counter.frame
    names = [introduced_text(number) for number in range(1, MOST_NAMES + 1)]
    lists = [f"{', '.join(names[: n - 1])} and {names[n - 1]}." for n in range(2, 65)]
    head, question, answer, tail, first, separator = counter.count(
        [frame.head, frame.question, frame.answer, frame.tail, "region1", "region1:\n"]
    )
    return {
        "head": head - 1,  # without the picture's one
        "question": question,
        "answer": answer,
        "tail": tail,
        "separator": separator - first,
        "names": name_counts(counter, MOST_NAMES),
        "lists": [  # by the number of names in them, less two; without the regions' tokens
            count - n for n, count in enumerate(counter.count(lists), 2)
        ],
    }


def _measure_shard(table: pa.Table, counter: TokenCounter, known: dict[str, int]) -> pa.RecordBatch:
    """Measure a shard's conversations.

    Args:
        table: the sidecar's.
        counter: what counts.
        known: what each text takes that was counted before; grows, since wordings and names of
            classes come again and again.
    """
    frame = counter.frame
    independent, said = [], []
    for conversation in _conversations(table):
        independent.append(int(conversation.independent))
        said.append(list(_rendered(conversation)))
    framed = [
        text
        for exchanges in said
        for each in exchanges
        for text in (frame.question + each.question, frame.answer + each.answer)
    ]
    new = [text for text in dict.fromkeys(framed) if text not in known]
    known.update(zip(new, counter.count(new), strict=True))
    between, before = counter.count([frame.question, frame.answer])
    flat = [each for exchanges in said for each in exchanges]
    counts = np.array([known[text] for text in framed], dtype=np.int64).reshape(-1, 2)
    placeholders = np.array([each.num_placeholders for each in flat], dtype=np.int64)
    regions = [each.regions for each in flat]
    values = np.array([n for numbers in regions for n in numbers], dtype=np.uint16)
    exchanges = pa.StructArray.from_arrays(
        [
            pa.array((counts[:, 0] - between - placeholders).astype(np.uint32)),
            pa.array((counts[:, 1] - before).astype(np.uint32)),
            pa.array([each.asked for each in flat], pa.uint16()),
            pa.ListArray.from_arrays(_offsets(regions), pa.array(values)),
        ],
        fields=list(_EXCHANGE),
    )
    return pa.RecordBatch.from_arrays(
        [pa.array(independent, pa.uint8()), pa.ListArray.from_arrays(_offsets(said), exchanges)],
        schema=_SCHEMA,
    )


def _offsets(lists: Sequence[Sequence[Any]]) -> pa.Array:
    return pa.array(list(accumulate(map(len, lists), initial=0)), pa.int32())


@dataclass(frozen=True, slots=True)
class _Said:
    """A conversation of a sidecar, as it would be learned."""

    independent: bool
    texts: list[str]  #: question, answer, question, ...; empty where nothing can be learned


def _conversations(table: pa.Table) -> Iterator[_Said]:
    column = table["conversations"].combine_chunks()
    found = column.flatten()
    turns = found.field("turns")
    texts = turns.flatten().field("text").to_pylist()
    counts = turns.value_lengths().to_pylist()
    options = found.field("options").to_pylist()
    start = 0
    for task, independent, count, possible, answer in zip(
        found.field("task").to_pylist(),
        found.field("independent").to_pylist(),
        counts,
        options,
        found.field("answer").to_pylist(),
        strict=True,
    ):
        own = texts[start : start + count]
        start += count
        if task == "choice":
            if answer is None:
                own = []
            else:
                choice = Choice(question_id="", step="answer", options=tuple(possible))
                own = [*own[:-1], letter_question(choice, own[-1]), f"({letter(answer)})"]
            independent = False
        yield _Said(independent, own)


@dataclass(frozen=True, slots=True)
class _Exchange:
    """An exchange's texts as they are tokenised."""

    question: str
    answer: str
    num_placeholders: int  #: of regions, in the question
    asked: int
    regions: list[int]


def _rendered(said: _Said) -> Iterator[_Exchange]:
    """Yield the exchanges as `roikit.prompt.render` writes them; each of a list as a first one."""
    order: list[int] = []
    for question, answer in zip(said.texts[::2], said.texts[1::2], strict=True):
        if said.independent:
            order = []
        known = len(order)
        asked, answered = _named(question, order), mentioned(answer) if "<" in answer else []
        unseen = [n for n in dict.fromkeys(answered) if n not in order]
        if unseen:
            order += unseen
            places = range(len(order) - len(unseen) + 1, len(order) + 1)
            asked += f" ({', '.join(map(introduced_text, places))})"
        mentions = mentioned(question)
        yield _Exchange(
            question=asked,
            answer=_named(answer, order),
            num_placeholders=len(order) - known,
            asked=mentions[0] if len(mentions) == 1 else 0,
            regions=order[known:],
        )


def _named(text: str, order: list[int]) -> str:
    """Write mentions as names, introducing those that are not in `order`, which grows."""
    if "<" not in text:
        return text
    written = ""
    for part in split_mentions(text):
        if isinstance(part, str):
            written += part.replace("<|", "< |")  # no special token: it is tokenised as text
        elif part in order:
            written += f"region{order.index(part) + 1}"
        else:
            order.append(part)
            written += introduced_text(len(order))
    return written
