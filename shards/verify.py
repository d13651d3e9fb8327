"""Check committed splits byte by byte: is everything there, is it what was written, is there more.

Each shard is read once, front to back, and every byte of it accounted for: headers, data, padding,
end. The records are validated, matched against the sidecar, and the hashes against the sidecar, the
index and the commit. A problem is one line; nothing is changed.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from roikit.errors import RoikitError, UsageError, ValidationError
from roikit.images import extension, read_header
from roikit.remote import NothingThereError
from roikit.sample import Sample, decode_sample, validate_sample
from shards import merkle, sidecar
from shards.atomic import leftovers
from shards.commit import DatasetInfo, ShardEntry, list_datasets, load_dataset
from shards.index import derive_columns, open_index
from shards.layout import COMMIT_NAME, CONVERSATIONS_INDEX_NAME, SAMPLES_INDEX_NAME, split_dir
from shards.remote import opened_tar, pull_all, stored_paths, url_of
from shards.writer import BLOCK_BYTES, member_header, padded

_COLUMNS = (
    "key",
    "native_id",
    "extension",
    "width",
    "height",
    "image_sha256",
    "image_offset",
    "image_length",
    "json_sha256",
    "json_offset",
    "json_length",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something that is not as it was written."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """What was checked and what was found."""

    splits: int
    shards: int
    samples: int
    tar_bytes: int  #: bytes of tars read
    problems: tuple[Problem, ...]

    @property
    def is_good(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


def verify(
    root: Path | str,
    dataset: str | None = None,
    split: str | None = None,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Check every committed split below `root`, or those of one dataset or split.

    Where `root` is the local side of a URL, the tars are read from there.

    Args:
        root: the shards' root folder.
        dataset: only this dataset.
        split: only this split.
        workers: threads, a shard each; default: one a processor.
        progress: called with (shards done, shards in all) after each.

    Raises:
        UsageError: nothing committed is there to check.
    """
    if url_of(root) is not None:
        pull_all(Path(root))
    stored = stored_paths(root)
    chosen = [
        info
        for info in list_datasets(root)
        if dataset in (None, info.dataset) and split in (None, info.split)
    ]
    if not chosen:
        if dataset is not None and split is not None:
            load_dataset(root, dataset, split)
        wanted = dataset or split
        what = f"no committed split of `{wanted}`" if wanted else "no committed dataset"
        raise UsageError(f"{root}: {what} lies here", hint="`roikit convert` makes one")
    problems: list[Problem] = []
    tasks: list[tuple[Path, DatasetInfo, ShardEntry]] = []
    for info in chosen:
        folder = split_dir(root, info.dataset, info.split)
        problems += _check_folder(folder, info, [path for path in stored if path.parent == folder])
        tasks += [(folder, info, shard) for shard in info.shards]
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as executor:
        for done, found in enumerate(
            executor.map(lambda task: _check_shard(*task), tasks), start=1
        ):
            problems += found
            if progress is not None:
                progress(done, len(tasks))
    for info in chosen:
        problems += _check_index(Path(root), info)
    if dataset is None and split is None:
        problems += _uncommitted(stored)
    return VerifyReport(
        splits=len(chosen),
        shards=len(tasks),
        samples=sum(info.samples for info in chosen),
        tar_bytes=sum(info.tar_bytes for info in chosen),
        problems=tuple(problems),
    )


def _check_folder(folder: Path, info: DatasetInfo, stored: list[Path]) -> Iterator[Problem]:
    """Compare the commit with itself, and with what files there are."""
    stems = {shard.stem for shard in info.shards}
    tars = [path for path in stored if path.suffix == ".tar"]
    for path in sorted([*tars, *folder.glob("*.parquet")]):
        if path.stem not in stems:
            yield Problem(path=path, message=f"`{COMMIT_NAME}` does not list this file")
    for path in sorted([*leftovers(folder), *(path for path in stored if path not in tars)]):
        yield Problem(path=path, message="left by an interrupted run; converting again removes it")
    commit = folder / COMMIT_NAME
    if (info.dataset, info.split) != (folder.parent.name, folder.name):
        yield Problem(path=commit, message=f"speaks of `{info.dataset}@{info.split}`")
    leaves = [merkle.leaf(shard.stem, shard.merkle_root) for shard in info.shards]
    if merkle.root(leaves) != info.merkle_root:
        yield Problem(path=commit, message="merkle_root is not that of the shards listed")
    if sum(shard.samples for shard in info.shards) != info.samples:
        yield Problem(path=commit, message=f"samples: {info.samples} is not the shards' sum")


def _check_shard(folder: Path, info: DatasetInfo, entry: ShardEntry) -> list[Problem]:
    """Check one tar and its sidecar."""
    tar_path, sidecar_path = folder / f"{entry.stem}.tar", folder / f"{entry.stem}.parquet"
    try:
        shard_info = sidecar.read_info(sidecar_path)
        rows = sidecar.read_rows(sidecar_path, _COLUMNS).to_pylist()
        nested = sidecar.read_rows(sidecar_path, ("regions", "conversations")).to_pylist()
    except RoikitError as error:
        message = str(error).removeprefix(f"{sidecar_path}: ")
        return [Problem(path=sidecar_path, message=message)]
    problems: list[Problem] = []
    if shard_info.plan_hash != info.plan_hash_of(entry):
        problems.append(Problem(path=sidecar_path, message="is of another plan than the commit"))
    if shard_info.merkle_root != entry.merkle_root or len(rows) != entry.samples:
        problems.append(Problem(path=sidecar_path, message="is not the one that was committed"))
    try:
        with opened_tar(folder.parent.parent, tar_path) as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(0)
            if length != entry.tar_bytes:
                message = f"expected {entry.tar_bytes} bytes, found {length}"
                problems.append(Problem(path=tar_path, message=message))
            leaves: list[bytes] = []
            for i, (row, said) in enumerate(zip(rows, nested, strict=True)):
                if length < min(entry.tar_bytes, row["json_offset"] + padded(row["json_length"])):
                    # Nothing that could be said of what is gone would help.
                    lost = f"ends before sample `{row['key']}` does: {len(rows) - i:,} of "
                    message = f"{lost}{len(rows):,} samples are lost"
                    return [*problems, Problem(path=tar_path, message=message)]
                found = _check_sample(file, info, row, said, leaves)
                problems += [Problem(path=tar_path, message=message) for message in found]
            if file.read().strip(b"\0"):
                message = "holds more than the sidecar lists"
                problems.append(Problem(path=tar_path, message=message))
    except OSError as error:
        return [*problems, Problem(path=tar_path, message=f"cannot read: {error.strerror}")]
    except NothingThereError:
        return [*problems, Problem(path=tar_path, message="is not in the store")]
    if not problems and merkle.root(leaves) != entry.merkle_root:
        problems.append(Problem(path=tar_path, message="its Merkle root is not the committed one"))
    return problems


def _check_sample(
    file: BinaryIO,
    info: DatasetInfo,
    row: dict[str, Any],
    said: dict[str, Any],
    leaves: list[bytes],
) -> Iterator[str]:
    """Check a sample's two members, from where the file stands; yield a line for each problem."""
    image_name, json_name = f"{row['key']}.{row['extension']}", f"{row['key']}.json"
    members: list[bytes] = []
    for name, kind in ((image_name, "image"), (json_name, "json")):
        data, message = _read_member(file, name, row[f"{kind}_offset"], row[f"{kind}_length"])
        digest = hashlib.sha256(data).hexdigest()
        leaves.append(merkle.leaf(name, digest))
        members.append(data)
        if message is not None:
            yield f"member `{name}`: {message}"
        elif digest != row[f"{kind}_sha256"]:
            yield f"member `{name}`: its bytes have changed (SHA-256 {digest[:12]}…)"
    try:
        sample = decode_sample(members[1])
        validate_sample(sample)
    except ValidationError as error:
        yield f"member `{json_name}`: {error}"
    else:
        for message in _mismatches(sample, info, row, said):
            yield f"member `{json_name}`: {message}"
    try:
        header = read_header(members[0])
    except RoikitError as error:
        yield f"member `{image_name}`: {error}"
        return
    if (header.width, header.height) != (row["width"], row["height"]):
        size = f"{header.width} x {header.height}"
        expected = f"{row['width']} x {row['height']}"
        yield f"member `{image_name}`: expected {expected} pixels, found {size}"
    if extension(header) != row["extension"]:
        yield f"member `{image_name}`: is of the format {header.format}"


def _read_member(file: BinaryIO, name: str, offset: int, length: int) -> tuple[bytes, str | None]:
    """Read a member where the sidecar says it lies; return its data and what is wrong, if so."""
    position = file.tell()
    message = None
    if position != offset - BLOCK_BYTES:
        message = f"expected the header at byte {position}, the sidecar says {offset - BLOCK_BYTES}"
        file.seek(max(0, offset - BLOCK_BYTES))
    header = file.read(BLOCK_BYTES)
    block = file.read(padded(length))
    if len(header) < BLOCK_BYTES or len(block) < padded(length):
        return block[:length], "the shard ends before it does"
    if header != member_header(name, length):
        message = message or "its header is not the one that was written"
    if block[length:].strip(b"\0"):
        message = message or "its padding is not empty"
    return block[:length], message


def _mismatches(
    sample: Sample, info: DatasetInfo, row: dict[str, Any], said: dict[str, Any]
) -> Iterator[str]:
    """Yield where a record and its row in the sidecar differ."""
    image = sample.image
    boxes = [[region[name] for name in ("x0", "y0", "x1", "y1")] for region in said["regions"]]
    pairs: dict[str, tuple[object, object]] = {
        "key": (sample.key, row["key"]),
        "dataset": (sample.dataset, info.dataset),
        "split": (sample.split, info.split),
        "image.native_id": (image.native_id, row["native_id"]),
        "image.width": (image.width, row["width"]),
        "image.height": (image.height, row["height"]),
        "image.sha256": (image.sha256, row["image_sha256"]),
        "regions": ([list(region.box_xyxy) for region in sample.regions], boxes),
        "conversations": (
            [(c.id, c.task, [turn.text for turn in c.turns]) for c in sample.conversations],
            [(c["id"], c["task"], [t["text"] for t in c["turns"]]) for c in said["conversations"]],
        ),
    }
    for name, (recorded, listed) in pairs.items():
        if recorded != listed:
            shown = "" if isinstance(recorded, list) else f": `{recorded}`, not `{listed}`"
            yield f"{name} is not what the sidecar says{shown}"


def _check_index(root: Path, info: DatasetInfo) -> Iterator[Problem]:
    """Compare the stream's index with the sidecars it was made from."""
    name = (info.dataset, info.split)
    folder = split_dir(root, *name)
    path = folder / SAMPLES_INDEX_NAME
    try:
        index = open_index(root, *name, info.merkle_root)
        columns = derive_columns(folder, len(info.shards), dataset=info.dataset, split=info.split)
    except RoikitError as error:
        yield Problem(path=path, message=str(error).removeprefix(f"{path}: "))
        return
    hint = "`roikit manifest rebuild` makes it again"
    for column, values in columns.items():
        if not np.array_equal(getattr(index, column), values):
            is_sample = not column.startswith("conversation_")
            path = folder / (SAMPLES_INDEX_NAME if is_sample else CONVERSATIONS_INDEX_NAME)
            yield Problem(path=path, message=f"`{column}` differs from the sidecars; {hint}")


def _uncommitted(stored: list[Path]) -> Iterator[Problem]:
    """Yield folders with shards and no commit."""
    for folder in sorted({path.parent for path in stored if path.suffix == ".tar"}):
        if not (folder / COMMIT_NAME).is_file():
            message = f"holds shards and no `{COMMIT_NAME}`: its conversion did not finish"
            yield Problem(path=folder, message=message)
