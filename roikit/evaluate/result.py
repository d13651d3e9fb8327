"""What an evaluation leaves behind: a JSON file, and all answers beside it as Parquet.

Scores are times 100. Nothing in the file depends on the clock or the machine's speed: the same
checkpoint, data and seed give the same bytes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from roikit.errors import UsageError

RESULT_VERSION = 1


class Score(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One number with its 95 % interval over images."""

    value: float | None  #: None where no item has a say
    low: float | None  #: None with a single image, or where the metric has no interval
    high: float | None
    n: int  #: items that have a say


class Scores(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Scores by metric, over everything and by group."""

    overall: dict[str, Score]
    groups: dict[str, dict[str, Score]]


class Control(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A control beside the score with true boxes and pictures, over the same items."""

    items: int  #: scored in the control, and in its paired counterpart
    left_out: dict[str, int]  #: items in neither of the two, by reason
    paired: Scores  #: true boxes and pictures
    control: Scores  #: against the same references
    difference: Scores  #: paired minus control
    follows_box: Scores | None  #: swapped boxes: against what is in the box that was given
    same_reference: Score | None  #: swapped boxes: items where both boxes call for the same answer


class Leak(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many of the benchmark's images the training data contained."""

    found: int  #: certainly the same picture
    total: int
    compared: tuple[str, ...] = ("ids", "bytes")  #: kinds of identity that were looked at
    similar: int | None = None  #: further ones that merely look alike; None: not compared


class ClassScore(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Accuracy on one class."""

    n: int
    right: int
    accuracy: float


class ResultRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The JSON file."""

    result_version: int
    benchmark: str
    benchmark_version: int
    dataset: str
    split: str
    data_root: str | None  #: Merkle root of the evaluation shards
    system: str | None  #: what answered: a run, a hub name, or a predictions file
    system_hash: str | None  #: of the checkpoint's or the file's bytes
    metric_versions: dict[str, str]
    settings: dict[str, str | int | float]  #: prompt, lengths, resampling
    seed: int
    limit: int | None  #: items at most; None is all
    images: int
    items: int
    skipped: dict[str, int]  #: what gave no item, by reason
    scores: Scores
    per_class: dict[str, ClassScore]
    controls: dict[str, Control]
    leak: Leak | None  #: None where it was not counted
    caveats: list[str]  #: why the scores do not compare with published ones
    notes: list[str]  #: what else a reader should know
    predictions: str | None  #: name of the Parquet file beside this one
    leak_unknown: str | None = None  #: why `leak` could not be counted, where it was tried


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """An evaluation: the record, and one row an item and control."""

    record: ResultRecord
    predictions: Any = None  #: pyarrow.Table in `PREDICTIONS_SCHEMA`; None for a result read back

    @property
    def scores(self) -> dict[str, Score]:
        """Scores over everything, by metric."""
        return self.record.scores.overall

    @property
    def seen_in_training(self) -> str:
        """Say how many of the benchmark's images were trained on."""
        leak = self.record.leak
        if leak is None and self.record.leak_unknown is not None:
            why = self.record.leak_unknown
            return f"unknown whether benchmark images were in the training data: {why}"
        if leak is None:
            return "whether benchmark images were in the training data was not counted"
        alike = f"; {leak.similar:,} more look like one" if leak.similar else ""
        return (
            f"{leak.found:,} of {leak.total:,} benchmark images were in the training data"
            f"{alike} (compared: {', '.join(leak.compared)})"
        )


PREDICTIONS_SCHEMA = pa.schema(
    [
        ("item", pa.string()),
        ("native_id", pa.string()),
        ("key", pa.string()),  # of the sample
        ("image", pa.string()),  # native id of the photograph
        ("group", pa.string()),
        ("control", pa.string()),  # `true` (nothing changed), `swapped` or `blank`
        ("step", pa.string()),  # of a question; null for regions
        ("prompt", pa.string()),
        ("references", pa.list_(pa.string())),
        ("given_item", pa.string()),  # whose box it was given, where not its own
        ("box_xyxy", pa.list_(pa.float64())),  # the box given, pixels
        ("answer", pa.string()),  # text, or the generated letter
        ("right_option", pa.int32()),
        ("picks", pa.map_(pa.string(), pa.int32())),  # by way of picking; null: none
        ("log_probs", pa.list_(pa.float64())),
        ("num_tokens", pa.list_(pa.int32())),
    ]
)


def save(result: Result, path: Path, *, overwrite: bool = False) -> ResultRecord:
    """Write the record to `path` (.json) and the predictions beside it (.parquet), each by rename.

    Returns:
        The record as written: it names the Parquet file.

    Raises:
        UsageError: `path` is there already and `overwrite` is not set, or it does not end in .json.
    """
    if path.suffix != ".json":
        raise UsageError(f"`{path}`: expected a name that ends in .json")
    if path.exists() and not overwrite:
        raise UsageError(f"`{path}` exists", hint="pass --overwrite, or another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    record = result.record
    if result.predictions is not None:
        rows = path.with_suffix(".parquet")
        temporary = rows.with_name(f".{rows.name}.partial")
        pq.write_table(result.predictions, temporary)
        temporary.replace(rows)
        record = msgspec.structs.replace(record, predictions=rows.name)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    temporary.replace(path)
    return record


def load(path: Path) -> Result:
    """Read a result's JSON file; its per-item rows stay on disk.

    Raises:
        UsageError: no such file, or not a result.
    """
    try:
        record = msgspec.json.decode(path.read_bytes(), type=ResultRecord)
    except OSError as error:
        raise UsageError(
            f"`{path}`: expected an evaluation's JSON file, {error.strerror}"
        ) from error
    except msgspec.DecodeError as error:
        raise UsageError(f"`{path}`: not an evaluation's JSON file: {error}") from error
    return Result(record=record)


def rows_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return rows as a table of `PREDICTIONS_SCHEMA`; fields a row lacks are null."""
    return pa.Table.from_pylist(list(rows), schema=PREDICTIONS_SCHEMA)
