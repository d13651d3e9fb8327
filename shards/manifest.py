"""`manifest.duckdb`: everything the sidecars and commits say, as tables to ask questions of.

Wholly derived: `rebuild` makes it again from nothing but the committed splits' files. DuckDB lets
one process write, so a writer holds a lock, works on a copy under another name, and renames it into
place; readers keep the file they opened.

Tables: `datasets`, `shards`, `samples`, `regions`, `conversations`, `rejections`, `source_files`,
`runs`, each with `dataset` and `split`; `images` is a view: one row for each distinct picture, over
all splits.
"""

import contextlib
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa

from roikit.errors import CorruptSampleError, RoikitError, UsageError
from roikit.path_errors import check_writable
from shards import sidecar
from shards.atomic import locked, put_in_place, temporary_files, temporary_path
from shards.commit import DatasetInfo, list_readable, load_dataset, rebuild_index
from shards.layout import COMMIT_NAME, MANIFEST_NAME, manifest_path, split_dir
from shards.remote import pull_all, url_of

_SCHEMA = """
CREATE TABLE datasets (
    dataset VARCHAR, split VARCHAR, format INTEGER, plan_hash VARCHAR, merkle_root VARCHAR,
    shards BIGINT, samples BIGINT, regions BIGINT, conversations BIGINT, exchanges BIGINT,
    rejections BIGINT, tar_bytes BIGINT, settings JSON, licence VARCHAR, registration VARCHAR);
CREATE TABLE shards (
    dataset VARCHAR, split VARCHAR, shard VARCHAR, samples BIGINT, tar_bytes BIGINT,
    merkle_root VARCHAR);
CREATE TABLE samples (
    dataset VARCHAR, split VARCHAR, shard VARCHAR, key VARCHAR, native_id VARCHAR,
    image_file VARCHAR, extension VARCHAR, width INTEGER, height INTEGER, orientation INTEGER,
    image_sha256 VARCHAR, image_offset BIGINT, image_length BIGINT,
    json_sha256 VARCHAR, json_offset BIGINT, json_length BIGINT,
    converter VARCHAR, phrasing VARCHAR, seed BIGINT, num_regions INTEGER,
    num_conversations INTEGER);
CREATE TABLE regions (
    dataset VARCHAR, split VARCHAR, key VARCHAR, number INTEGER,
    x0 DOUBLE, y0 DOUBLE, x1 DOUBLE, y1 DOUBLE, label VARCHAR, origin VARCHAR,
    native_id VARCHAR, score DOUBLE, is_context BOOLEAN, has_mask BOOLEAN, has_point BOOLEAN);
CREATE TABLE conversations (
    dataset VARCHAR, split VARCHAR, key VARCHAR, number INTEGER, id VARCHAR, task VARCHAR,
    independent BOOLEAN, source_file VARCHAR, source_record VARCHAR, num_turns INTEGER,
    num_exchanges INTEGER, words INTEGER, answer_words INTEGER,
    turns STRUCT(role VARCHAR, "text" VARCHAR, phrasing VARCHAR)[],
    question_id VARCHAR, step VARCHAR, options VARCHAR[], answer INTEGER);
CREATE TABLE rejections (
    dataset VARCHAR, split VARCHAR, shard VARCHAR, code VARCHAR, message VARCHAR,
    source_file VARCHAR, source_record VARCHAR, native_id VARCHAR);
CREATE TABLE source_files (
    dataset VARCHAR, split VARCHAR, path VARCHAR, bytes BIGINT, sha256 VARCHAR);
CREATE TABLE runs (
    dataset VARCHAR, split VARCHAR, roikit VARCHAR, started VARCHAR, seconds DOUBLE,
    workers INTEGER, engine VARCHAR, command VARCHAR);
CREATE VIEW images AS
    SELECT image_sha256 AS sha256, any_value(width) AS width, any_value(height) AS height,
        any_value(image_length) AS bytes, list_sort(list(DISTINCT native_id)) AS native_ids,
        list_sort(list(DISTINCT dataset || '/' || split)) AS splits, count(*) AS samples
    FROM samples GROUP BY image_sha256;
"""
TABLES = (
    "datasets",
    "shards",
    "samples",
    "images",
    "regions",
    "conversations",
    "rejections",
    "source_files",
    "runs",
)
_BY_SPLIT = tuple(table for table in TABLES if table != "images")

_INSERTS = (
    """
    INSERT INTO samples
    SELECT $dataset, $split, parse_filename(filename, true), key, native_id, image_file, extension,
        width, height, orientation, image_sha256, image_offset, image_length,
        json_sha256, json_offset, json_length, converter, phrasing, seed,
        len(regions), len(conversations)
    FROM read_parquet($files, filename = true)
    """,
    """
    INSERT INTO regions
    SELECT $dataset, $split, key, number, r.x0, r.y0, r.x1, r.y1, r.label, r.origin,
        r.native_id, r.score, r.is_context, r.has_mask, r.has_point
    FROM (
        SELECT key, unnest(regions) AS r, generate_subscripts(regions, 1) AS number
        FROM read_parquet($files))
    """,
    """
    INSERT INTO conversations
    SELECT $dataset, $split, key, number, c.id, c.task, c.independent, c.source_file,
        c.source_record, c.num_turns, c.num_exchanges, c.words, c.answer_words, c.turns,
        c.question_id, c.step, c.options, c.answer
    FROM (
        SELECT key, unnest(conversations) AS c, generate_subscripts(conversations, 1) AS number
        FROM read_parquet($files))
    """,
)


def rebuild(root: Path | str) -> Path:
    """Make the manifest, and every committed split's index, again from sidecars and commits.

    Where `root` is the local side of a URL, these are fetched first. Here and in all that follows,
    a commit that cannot be read is left out with a warning.

    Returns:
        The manifest's path.

    Raises:
        UsageError: `root` holds no committed split, or cannot be written.
        CorruptSampleError: a sidecar is missing or cannot be read.
    """
    if url_of(root) is not None:
        pull_all(Path(root))
    datasets = list_readable(root)
    if not datasets:
        raise UsageError(
            f"{url_of(root) or root}: no committed dataset lies here (no `*/*/{COMMIT_NAME}`)",
            hint="`roikit convert` makes one",
        )
    path = manifest_path(root)
    check_writable(path)
    for info in datasets:
        try:
            rebuild_index(root, info.dataset, info.split)
        except CorruptSampleError as error:
            name = f"`{info.dataset}@{info.split}`"
            hint = f"run the `roikit convert` again that made {name}: it makes what is missing"
            raise CorruptSampleError(str(error), hint=hint) from error
    with _replacing(path) as temporary:
        _write(temporary, Path(root), datasets)
    return path


def update(root: Path | str, dataset: str, split: str) -> Path:
    """Bring the manifest up to date after a split's commit; makes it where there is none.

    Other splits that were committed, replaced or removed behind its back are brought up to date
    too. One of an older version, with other columns, is made anew.

    Returns:
        The manifest's path.

    Raises:
        UsageError: the split is not committed.
    """
    load_dataset(root, dataset, split)
    path = manifest_path(root)
    with _replacing(path) as temporary:
        datasets = list_readable(root)
        if path.is_file() and _has_our_columns(path):
            shutil.copyfile(path, temporary)
            known = _known(temporary)
            changed = known ^ {(info.dataset, info.split, info.merkle_root) for info in datasets}
            names = {(dataset, split), *((row[0], row[1]) for row in changed)}
            datasets = [info for info in datasets if (info.dataset, info.split) in names]
            _write(temporary, Path(root), datasets, replaced=names)
        else:
            _write(temporary, Path(root), datasets)
    return path


def nothing_committed(root: Path | str) -> UsageError:
    """Make the error for a root without a committed split."""
    url = url_of(root)
    fetches = f"`roikit manifest rebuild --shards {url}` fetches what lies there"
    return UsageError(
        f"{url or root}: no committed dataset lies here",
        hint=fetches if url else "`roikit convert` makes one",
    )


def connect(root: Path | str) -> duckdb.DuckDBPyConnection:
    """Open the manifest for reading.

    Raises:
        UsageError: there is none, or it does not match the committed splits.
    """
    path = manifest_path(root)
    hint = f"`roikit manifest rebuild --shards {root}` makes it"
    datasets = list_readable(root)
    if not datasets:
        raise nothing_committed(root)
    if not path.is_file():
        raise UsageError(f"{path}: there is no manifest", hint=hint)
    if not _has_our_columns(path):
        raise UsageError(
            f"{path}: made by another version of roikit, with other columns", hint=hint
        )
    known = _known(path)
    on_disk = {(info.dataset, info.split, info.merkle_root) for info in datasets}
    if known != on_disk:
        stale = sorted({f"`{row[0]}@{row[1]}`" for row in known ^ on_disk})
        raise UsageError(f"{path}: out of date for {', '.join(stale)}", hint=hint)
    return duckdb.connect(str(path), read_only=True)


def query(root: Path | str, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run one statement on the manifest and return its column names and rows.

    Raises:
        UsageError: the manifest is missing or out of date, or the statement is wrong.
    """
    with connect(root) as connection:
        try:
            if len(connection.extract_statements(sql)) != 1:
                raise UsageError("query: expected one statement", hint="ask them one by one")
            result = connection.execute(sql)
            return [column[0] for column in result.description or []], result.fetchall()
        except duckdb.Error as error:
            said = str(error).partition("\n")[0]  # what follows repeats the statement
            hint = f"the manifest is for reading; its tables: {', '.join(TABLES)}"
            raise UsageError(f"query: {said}", hint=hint) from error


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Hold the manifest's lock and give a name to write under, renamed if the block succeeds."""
    with locked(path.with_name(f".{MANIFEST_NAME}.lock")):
        for left in temporary_files(path.parent):  # nobody else writes: we hold the lock
            if left.name.startswith(f".{MANIFEST_NAME}"):
                left.unlink()
        temporary = temporary_path(path)
        try:
            yield temporary
            put_in_place(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _known(path: Path) -> set[tuple[str, str, str]]:
    """Return dataset, split and Merkle root of everything the database at `path` holds."""
    with _opened(path) as connection:
        sql = "SELECT dataset, split, merkle_root FROM datasets"
        return {(row[0], row[1], row[2]) for row in connection.execute(sql).fetchall()}


def _has_our_columns(path: Path) -> bool:
    """Say whether the database at `path` has the tables and columns that we write."""
    sql = "SELECT table_name, column_name, data_type FROM information_schema.columns ORDER BY ALL"
    with _opened(path) as connection, duckdb.connect() as empty:
        empty.execute(_SCHEMA)
        return connection.execute(sql).fetchall() == empty.execute(sql).fetchall()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    try:
        path.open("rb").close()
    except OSError as error:  # the file may be as good as ever
        raise UsageError(
            f"{path}: this manifest cannot be opened: {error.strerror}",
            hint="see to its permissions" if isinstance(error, PermissionError) else None,
        ) from error
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            yield connection
    except duckdb.Error as error:
        raise UsageError(
            f"{path}: cannot read this manifest: {error}",
            hint="`roikit manifest rebuild` makes it again from the sidecars",
        ) from error


def _write(
    path: Path,
    root: Path,
    datasets: Iterable[DatasetInfo],
    *,
    replaced: Collection[tuple[str, str]] | None = None,
) -> None:
    """Put the rows of `datasets` into the database at `path`.

    Args:
        path: the database; a new one unless `replaced` is given.
        root: the shards' root folder.
        datasets: the committed splits to add.
        replaced: the splits whose older rows go first.
    """
    try:
        with duckdb.connect(str(path)) as connection:
            if replaced is None:
                connection.execute(_SCHEMA)
            connection.execute("BEGIN")
            for table in _BY_SPLIT:
                for name in replaced or ():
                    sql = f"DELETE FROM {table} WHERE dataset = ? AND split = ?"
                    connection.execute(sql, list(name))
            for info in datasets:
                _insert(connection, root, info)
            connection.execute("COMMIT")
    except duckdb.Error as error:
        raise RoikitError(
            f"{manifest_path(root)}: cannot write the manifest: {str(error).splitlines()[0]}",
            hint="`roikit manifest rebuild` makes it again from the sidecars",
        ) from error


def _insert(connection: duckdb.DuckDBPyConnection, root: Path, info: DatasetInfo) -> None:
    name = (info.dataset, info.split)
    folder = split_dir(root, *name)
    counts = (info.samples, info.regions, info.conversations, info.exchanges)
    facts = (info.format, info.plan_hash, info.merkle_root, len(info.shards), *counts)
    settings = msgspec.json.encode(info.settings).decode()
    rejected = sum(info.rejections.values())
    terms = (info.licence, info.registration)
    _rows(connection, "datasets", [(*name, *facts, rejected, info.tar_bytes, settings, *terms)])
    _rows(
        connection,
        "shards",
        [(*name, s.stem, s.samples, s.tar_bytes, s.merkle_root) for s in info.shards],
    )
    files = [str(folder / f"{shard.stem}.parquet") for shard in info.shards]
    for sql in _INSERTS if files else ():
        connection.execute(sql, {"files": files, "dataset": info.dataset, "split": info.split})
    for shard in info.shards:
        every = sidecar.read_rejections(folder / f"{shard.stem}.parquet")
        gone = shard.superseded or ()
        rejections = [one for i, one in enumerate(every) if i not in gone]
        _rows(
            connection,
            "rejections",
            [
                (*name, shard.stem, r.code, r.message, r.source.file, r.source.record, r.native_id)
                for r in rejections
            ],
        )
    sources = [(*name, s.path, s.bytes, s.sha256) for s in info.source_files]
    _rows(connection, "source_files", sources)
    if info.run is not None:
        _rows(connection, "runs", [(*name, *msgspec.structs.astuple(info.run))])


def _rows(connection: duckdb.DuckDBPyConnection, table: str, rows: list[tuple[Any, ...]]) -> None:
    """Append rows to a table; through Arrow, since DuckDB takes single rows slowly."""
    if rows:
        columns = [f"c{i}" for i in range(len(rows[0]))]
        batch = pa.table([pa.array(values) for values in zip(*rows, strict=True)], names=columns)
        connection.register("new_rows", batch)
        connection.execute(f"INSERT INTO {table} SELECT * FROM new_rows")
        connection.unregister("new_rows")
