"""Read big annotation files record by record, so that a bad record costs itself only.

A file is mapped into memory and cut into records without decoding them (`msgspec.Raw` points into
the mapping); each record is then decoded into a typed struct, and what does not fit gives one
rejection that names the record and the field. `docs/datasets.md` lists the codes.
"""

import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from pipelines.rejections import reject
from roikit.errors import UsageError
from roikit.sample import Rejection

#: A whole number that fits into 64 bits: anything larger is damage, and no draft file can hold it.
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]

#: One record's JSON, not decoded yet.
Raw = msgspec.Raw | bytes | memoryview

#: What reading bytes that are no JSON, or nested without end, may raise.
JSON_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

T = TypeVar("T")

_WRONG_FILE = "is this the dataset's own file? docs/datasets.md names it"
#: What msgspec says of a field, and the code for it.
_FIELD_CODES = (
    ("missing required field", "E_FIELD_MISSING"),
    ("contains unknown field", "E_FIELD_UNKNOWN"),
    ("Expected `int` >=", "E_VALUE_RANGE"),
    ("Expected `int` <=", "E_VALUE_RANGE"),
    ("Integer value out of range", "E_VALUE_RANGE"),
)


def clean_text(text: str) -> str:
    """Strip, and make every run of white space (line breaks, too) one blank."""
    return " ".join(text.split())


def map_file(path: Path) -> mmap.mmap | bytes:
    """Map a file's bytes, read-only, so that its records take no memory of their own.

    Raises:
        UsageError: the file is missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                return b""
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UsageError(f"`{path}`: cannot be read: {error.strerror or error}") from error


def read_table(
    path: Path, lists: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, list[Raw]]:
    """Cut a JSON object of lists (COCO's form) into the records of the lists named.

    Lists named in `optional` are left out of the result where the file lacks them.

    Raises:
        UsageError: the file is not JSON, or not an object holding these lists.
    """
    table = _split(path, map_file(path), dict, "the file")
    missing = [name for name in lists if name not in table]
    if missing:
        found = ", ".join(f"`{name[:40]}`" for name in list(table)[:8]) or "nothing"
        raise UsageError(
            f"`{path}`: expected a JSON object with `{missing[0]}`, found {found}", hint=_WRONG_FILE
        )
    there = (*lists, *(name for name in optional if name in table))
    return {name: _split(path, table[name], list, f"`{name}`") for name in there}


def read_list(path: Path) -> list[Raw]:
    """Cut a JSON list into its records.

    Raises:
        UsageError: the file is not JSON or not a list.
    """
    return _split(path, map_file(path), list, "the file")


def read_lines(path: Path) -> Iterator[tuple[int, memoryview]]:
    """Yield (line number from 1, bytes) of a JSON-lines file; blank lines hold no record.

    Raises:
        UsageError: the file is missing or cannot be read.
    """
    mapped = map_file(path)
    view = memoryview(mapped)
    start, number = 0, 0
    while start < len(mapped):
        end = mapped.find(b"\n", start)
        end = len(mapped) if end < 0 else end
        number += 1
        line = view[start:end]
        if bytes(line[:64]).strip() or bytes(line).strip():
            yield number, line
        start = end + 1


def decode_record(
    decoder: "msgspec.json.Decoder[T]",
    raw: Raw,
    *,
    file: str,
    record: str,
    native_id: str | None = None,
) -> T | Rejection:
    """Decode one record, or say in a rejection what is wrong with it.

    Args:
        decoder: of the struct that the record should be.
        raw: the record's JSON, bytes or `msgspec.Raw`.
        file: the source file's name, for the rejection.
        record: the record's place in it, for the rejection.
        native_id: of the image, where it is known.
    """
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        return _misfit(error, file, record, native_id)
    except JSON_ERRORS as error:
        message = f"not valid JSON: {error}"
        return reject("E_JSON_INVALID", message, file=file, record=record, native_id=native_id)


def convert_record(
    value: Any, kind: type[T], *, file: str, record: str, native_id: str | None = None
) -> T | Rejection:
    """Do the same for a record that is decoded already: one of a pickle.

    Args:
        value: plain data.
        kind: the struct that the record should be.
        file: the source file's name, for the rejection.
        record: the record's place in it, for the rejection.
        native_id: of the image, where it is known.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return _misfit(error, file, record, native_id)
    except UnicodeEncodeError:  # a pickle can hold half surrogates, which nothing can write
        message = "it holds text that is not Unicode"
        return reject("E_FIELD_TYPE", message, file=file, record=record, native_id=native_id)


def _misfit(
    error: msgspec.ValidationError, file: str, record: str, native_id: str | None
) -> Rejection:
    """Make the rejection of a record that is not what its struct says."""
    message = str(error)
    code = next((code for words, code in _FIELD_CODES if words in message), "E_FIELD_TYPE")
    return reject(code, _readable(message), file=file, record=record, native_id=native_id)


def _readable(message: str) -> str:
    """Turn msgspec's "Expected `int`, got `str` - at `$.bbox[0]`" into "bbox[0]: expected ..."."""
    text, _, path = message.partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    text = text.replace("Object missing required field", "missing field")
    text = text.replace("Object contains unknown field", "unknown field")
    text = text[:1].lower() + text[1:]
    return f"{path}: {text}" if path else text


_Parts = TypeVar("_Parts", dict[str, Raw], list[Raw])


def _split(path: Path, data: Any, kind: type[_Parts], what: str) -> _Parts:
    """Cut a JSON object or list into its values, none of them decoded."""
    parts: Any = dict[str, msgspec.Raw] if kind is dict else list[msgspec.Raw]
    try:
        result: _Parts = msgspec.json.decode(data, type=parts)
    except msgspec.ValidationError as error:
        raise _not_a(kind, path, what) from error
    except JSON_ERRORS as error:
        return _split_leniently(path, data, kind, what, str(error))
    return result


def _split_leniently(path: Path, data: Any, kind: type[_Parts], what: str, problem: str) -> _Parts:
    """Read what the standard library takes and msgspec does not: NaN, Infinity, half surrogates.

    Slow and hungry, and rare. Each value is written out again, so that the bad one is found later,
    alone.
    """
    try:
        value = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"`{path}`: not valid JSON: {problem}",
            hint="it may have been cut off while downloading: get it again",
        ) from error
    if not isinstance(value, kind):
        raise _not_a(kind, path, what)
    if isinstance(value, dict):
        return {name: json.dumps(item).encode() for name, item in value.items()}
    return [json.dumps(item).encode() for item in value]


def _not_a(kind: type[Any], path: Path, what: str) -> UsageError:
    expected = "a JSON object" if kind is dict else "a JSON list"
    return UsageError(f"`{path}`: expected {what} to be {expected}", hint=_WRONG_FILE)
