"""What a split was made of, image by image: how an extension tells what is new from what changed.

A small file of digests, written with the plan and kept beside the shards (`.known-…`) from the
commit on. It knows what the annotation files said of an image and how long its picture was, not
where in a file that stood: a file that grows at its end moves nothing.
"""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from pipelines.draft import Draft, SplitRecords
from roikit.errors import UsageError
from roikit.sample import Rejection
from shards.atomic import write_bytes
from shards.commit import DatasetInfo
from shards.layout import KNOWN_PREFIX, known_path, split_dir

KNOWN_NAME = "known.msgpack"


class KnownImage(msgspec.Struct, frozen=True, array_like=True):
    """One image, as it was planned."""

    digest: bytes
    native_id: str
    num_records: int


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a split was made of."""

    num_keys: int  #: numbers of keys that were given out
    images: dict[str, KnownImage]  #: by the image's group
    strays: list[tuple[bytes, str]]  #: digest and code of each rejected record of no image


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """The commit that an extension adds to."""

    plan_hash: str
    merkle_root: str
    num_shards: int
    num_keys: int  #: numbers of keys that it has given out
    counts: dict[str, Any]  #: `TaskCounts` of what it keeps: images tried again are taken out
    #: by the stem of its shards, the numbers of the rejections that count no more
    superseded: dict[str, list[int]] = {}


def know(records: SplitRecords) -> Known:
    """Note what a split is made of."""
    return Known(
        num_keys=len(records.drafts),
        images={draft.group: know_image(draft) for draft in records.drafts},
        strays=[know_stray(rejection) for rejection in records.rejections],
    )


def know_image(draft: Draft) -> KnownImage:
    """Note one image."""
    said = [(rejection.code, rejection.message) for rejection in draft.rejections]
    content = (draft.file, draft.num_bytes, draft.image_wh, draft.num_records, draft.payload, said)
    return KnownImage(_digest(content), draft.native_id, draft.num_records)


def know_stray(rejection: Rejection) -> tuple[bytes, str]:
    """Note one rejected record of no image."""
    return _digest((rejection.code, rejection.message, rejection.native_id)), rejection.code


def keep_known(plan_dir: Path, root: Path, dataset: str, split: str, plan_hash: str) -> None:
    """Put a plan's notes beside the shards, before their commit."""
    if (plan_dir / KNOWN_NAME).is_file():
        kept = known_path(root, dataset, split, plan_hash)
        write_bytes(kept, (plan_dir / KNOWN_NAME).read_bytes())


def drop_older(root: Path, dataset: str, split: str, plan_hash: str) -> None:
    """Remove the notes of commits that another one has replaced."""
    kept = known_path(root, dataset, split, plan_hash)
    for path in split_dir(root, dataset, split).glob(f"{KNOWN_PREFIX}*"):
        if path != kept:
            path.unlink(missing_ok=True)


def read_known(root: Path, info: DatasetInfo) -> Known:
    """Read what a committed split was made of.

    Raises:
        UsageError: its conversion did not note it.
    """
    path = known_path(root, info.dataset, info.split, info.plan_hash)
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Known)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(
            f"`{path}`: expected notes of what the split was made of, cannot read them: {error}",
            hint="a copy of shards needs these files, too; a split that was converted before there"
            " were any is converted again with `--overwrite`",
        ) from error


def _digest(content: Any) -> bytes:
    return hashlib.blake2b(msgspec.msgpack.encode(content), digest_size=16).digest()
