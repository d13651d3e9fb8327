"""The Parquet file beside each tar: what is in it and where, without opening it.

One row a sample, with its regions and conversations nested. The file's key-value metadata holds
`roikit` (the shard's own facts, `ShardInfo`, as JSON) and `roikit.rejections` (a JSON array of the
records that were to be in this shard and were rejected). A shard is done when its sidecar is there:
it is written last.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from roikit.errors import CorruptSampleError
from roikit.sample import Conversation, Region, Rejection, Turn
from shards.atomic import replacing
from shards.layout import FORMAT_VERSION
from shards.writer import BLOCK_BYTES, MemberRow, member_header, shard_root

INFO_KEY = b"roikit"
REJECTIONS_KEY = b"roikit.rejections"

_REGION = pa.struct(
    [
        ("x0", pa.float64()),
        ("y0", pa.float64()),
        ("x1", pa.float64()),
        ("y1", pa.float64()),
        ("label", pa.string()),
        ("origin", pa.string()),
        ("native_id", pa.string()),
        ("score", pa.float64()),
        ("is_context", pa.bool_()),
        ("has_mask", pa.bool_()),
        ("has_point", pa.bool_()),
    ]
)
_TURN = pa.struct([("role", pa.string()), ("text", pa.string()), ("phrasing", pa.string())])
_CONVERSATION = pa.struct(
    [
        ("id", pa.string()),
        ("task", pa.string()),
        ("independent", pa.bool_()),
        ("source_file", pa.string()),
        ("source_record", pa.string()),
        ("num_turns", pa.int32()),
        ("num_exchanges", pa.int32()),
        ("words", pa.int32()),
        ("answer_words", pa.int32()),
        ("turns", pa.list_(_TURN)),
        ("question_id", pa.string()),
        ("step", pa.string()),
        ("options", pa.list_(pa.string())),
        ("answer", pa.int32()),
    ]
)
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("native_id", pa.string()),
        ("image_file", pa.string()),
        ("extension", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("orientation", pa.int8()),
        ("image_sha256", pa.string()),
        ("image_offset", pa.int64()),
        ("image_length", pa.int64()),
        ("json_sha256", pa.string()),
        ("json_offset", pa.int64()),
        ("json_length", pa.int64()),
        ("converter", pa.string()),
        ("phrasing", pa.string()),
        ("seed", pa.int64()),
        ("regions", pa.list_(_REGION)),
        ("conversations", pa.list_(_CONVERSATION)),
    ]
)


class ShardInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a sidecar says of its shard as a whole."""

    format: int
    dataset: str
    split: str
    stem: str  #: file name without extension
    plan_hash: str  #: of the plan whose task wrote it
    merkle_root: str  #: over the members, in the tar's order
    tar_bytes: int
    samples: int
    regions: int
    conversations: int
    exchanges: int
    tasks: dict[str, int]  #: conversations by task
    rejections: dict[str, int]  #: rejected records by code


def write_sidecar(
    tar_path: Path,
    rows: Sequence[MemberRow],
    *,
    dataset: str,
    split: str,
    plan_hash: str,
    rejections: Sequence[Rejection] = (),
) -> ShardInfo:
    """Write the sidecar of the finished shard at `tar_path`, as `<stem>.parquet` next to it.

    Args:
        tar_path: the tar that `write_shard` returned `rows` for.
        rows: its rows, in order; may be empty.
        dataset: the dataset's name, as in the keys.
        split: the split's name, as in the keys.
        plan_hash: what a rerun recognises the finished task by.
        rejections: every record rejected on the way to this shard, by the plan or by the task.
    """
    conversations = [c for row in rows for c in row.sample.conversations]
    info = ShardInfo(
        format=FORMAT_VERSION,
        dataset=dataset,
        split=split,
        stem=tar_path.stem,
        plan_hash=plan_hash,
        merkle_root=shard_root(rows),
        tar_bytes=tar_path.stat().st_size,
        samples=len(rows),
        regions=sum(len(row.sample.regions) for row in rows),
        conversations=len(conversations),
        exchanges=sum(_num_exchanges(c) for c in conversations),
        tasks=_tally(c.task for c in conversations),
        rejections=_tally(rejection.code for rejection in rejections),
    )
    schema = SCHEMA.with_metadata(
        {INFO_KEY: msgspec.json.encode(info), REJECTIONS_KEY: msgspec.json.encode(list(rejections))}
    )
    table = pa.Table.from_arrays(_columns(rows), schema=schema)
    with replacing(tar_path.with_suffix(".parquet")) as file:
        pq.write_table(table, file, compression="zstd")
    return info


def read_info(path: Path) -> ShardInfo:
    """Read what a sidecar says of its shard, from the file's footer alone.

    Raises:
        CorruptSampleError: the file is missing, cut, or none of ours.
    """
    info: ShardInfo = _decode(path, INFO_KEY, ShardInfo)
    return info


def read_rejections(path: Path) -> list[Rejection]:
    """Read the shard's rejected records, in the order they were given.

    Raises:
        CorruptSampleError: the file is missing, cut, or none of ours.
    """
    rejections: list[Rejection] = _decode(path, REJECTIONS_KEY, list[Rejection])
    return rejections


def read_rows(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the shard's rows as an Arrow table, all columns of `SCHEMA` or the named ones.

    A field of a nested column is named like `conversations.list.element.task`.

    Raises:
        CorruptSampleError: the file is missing, cut, or none of ours.
    """
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=None if columns is None else list(columns))
    except (OSError, KeyError, pa.ArrowException) as error:
        raise CorruptSampleError(f"{path}: cannot read this sidecar: {error}") from error


def is_done(tar_path: Path, sidecar_path: Path, plan_hash: str) -> bool:
    """Say whether the shard's task needs not run again.

    True when the sidecar is there with this plan's hash, and the tar has the recorded length and,
    at every recorded offset, the recorded member's header. Data is not hashed again: `roikit
    verify` does that.
    """
    try:
        info = read_info(sidecar_path)
        if info.plan_hash != plan_hash or info.format != FORMAT_VERSION:
            return False
        if tar_path.stat().st_size != info.tar_bytes:
            return False
        columns = ("key", "extension", "image_offset", "image_length", "json_offset", "json_length")
        rows = read_rows(sidecar_path, columns).to_pylist()
        with tar_path.open("rb") as file:
            for row in rows:
                for extension, kind in ((row["extension"], "image"), ("json", "json")):
                    file.seek(row[f"{kind}_offset"] - BLOCK_BYTES)
                    header = member_header(f"{row['key']}.{extension}", row[f"{kind}_length"])
                    if file.read(BLOCK_BYTES) != header:
                        return False
    except (OSError, CorruptSampleError):
        return False
    return True


def _decode(path: Path, key: bytes, kind: Any) -> Any:
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise CorruptSampleError(f"{path}: cannot read this sidecar: {error}") from error
    if key not in metadata:
        raise CorruptSampleError(
            f"{path}: expected metadata `{key.decode()}`, found none: no roikit sidecar"
        )
    try:
        return msgspec.json.decode(metadata[key], type=kind)
    except msgspec.DecodeError as error:
        raise CorruptSampleError(f"{path}: metadata `{key.decode()}`: {error}") from error


def _columns(rows: Sequence[MemberRow]) -> list[Any]:
    """Return the Arrow arrays of `SCHEMA`, in its order.

    Values are gathered by column: a dictionary for each region and turn would take four times as
    long as all else that is done for a shard.
    """
    samples = [row.sample for row in rows]
    images = [sample.image for sample in samples]
    provenances = [sample.provenance for sample in samples]
    flat = (
        [sample.key for sample in samples],
        [image.native_id for image in images],
        [image.file for image in images],
        [row.extension for row in rows],
        [image.width for image in images],
        [image.height for image in images],
        [image.orientation for image in images],
        [image.sha256 for image in images],
        [row.image_offset for row in rows],
        [row.image_length for row in rows],
        [row.json_sha256 for row in rows],
        [row.json_offset for row in rows],
        [row.json_length for row in rows],
        [provenance.converter for provenance in provenances],
        [provenance.phrasing for provenance in provenances],
        [provenance.seed for provenance in provenances],
    )
    columns = [pa.array(values, field.type) for values, field in zip(flat, SCHEMA, strict=False)]
    columns.append(_nested([sample.regions for sample in samples], _REGION, _region_values))
    conversations = [sample.conversations for sample in samples]
    columns.append(_nested(conversations, _CONVERSATION, _conversation_values))
    return columns


def _nested(
    lists: Sequence[Sequence[Any]], kind: Any, values_of: Callable[[list[Any]], Iterable[Any]]
) -> Any:
    """Make the array of a list column: the items of all rows, and where each row's begin.

    Args:
        lists: each row's items.
        kind: the struct type of an item.
        values_of: returns the items' values of each field, as lists or as finished arrays.
    """
    items = list(chain.from_iterable(lists))
    arrays = [
        values if isinstance(values, pa.Array) else pa.array(values, field.type)
        for values, field in zip(values_of(items), kind, strict=True)
    ]
    offsets = list(accumulate(map(len, lists), initial=0))
    structs = pa.StructArray.from_arrays(arrays, fields=list(kind))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs)


def _region_values(regions: list[Region]) -> Iterable[Any]:
    boxes = [region.box_xyxy for region in regions]
    return (
        [box[0] for box in boxes],
        [box[1] for box in boxes],
        [box[2] for box in boxes],
        [box[3] for box in boxes],
        [region.label for region in regions],
        [region.origin for region in regions],
        [region.native_id for region in regions],
        [region.score for region in regions],
        [region.is_context for region in regions],
        [region.mask_rle is not None for region in regions],
        [region.point_xy is not None for region in regions],
    )


def _conversation_values(conversations: list[Conversation]) -> Iterable[Any]:
    # Mentions and escapes hold no blank: there are as many words as a person reads.
    words = [[len(turn.text.split()) for turn in c.turns] for c in conversations]
    choices = [c.choice for c in conversations]
    return (
        [c.id for c in conversations],
        [c.task for c in conversations],
        [c.independent for c in conversations],
        [c.source.file for c in conversations],
        [c.source.record for c in conversations],
        [len(c.turns) for c in conversations],
        [_num_exchanges(c) for c in conversations],
        [sum(each) for each in words],
        [sum(each[1::2]) for each in words],
        _nested([c.turns for c in conversations], _TURN, _turn_values),
        [choice.question_id if choice else None for choice in choices],
        [choice.step if choice else None for choice in choices],
        [choice.options if choice else None for choice in choices],
        [choice.answer if choice else None for choice in choices],
    )


def _turn_values(turns: list[Turn]) -> Iterable[Any]:
    return (
        [turn.role for turn in turns],
        [turn.text for turn in turns],
        [turn.phrasing for turn in turns],
    )


def _num_exchanges(conversation: Conversation) -> int:
    return len(conversation.turns) // 2  # a question that ends it has no answer and is none


def _tally(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))
