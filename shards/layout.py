"""Names and places: where a split's files lie, what shards and samples are called.

Nothing here opens a file. `docs/shards.md` describes the format for readers of other makes.
"""

import re
from pathlib import Path

from roikit.errors import UsageError

#: Raised by one whenever a reader of the older format would read something wrong.
FORMAT_VERSION = 1

COMMIT_NAME = "dataset.json"
SAMPLES_INDEX_NAME = "samples.arrow"
CONVERSATIONS_INDEX_NAME = "conversations.arrow"
PLAN_MARK_NAME = ".plan-hash"
KNOWN_PREFIX = ".known-"
FINGERPRINTS_SUFFIX = ".fingerprints.arrow"
BENCHMARKS_DIR = "benchmarks"
MANIFEST_NAME = "manifest.duckdb"

_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+]*(-[A-Za-z0-9_+]+)*")
#: Digits that a key ends in.
KEY_DIGITS = 9
_KEY = re.compile(rf"(?P<prefix>.+)-(?P<number>\d{{{KEY_DIGITS}}})")


def check_name(name: str, what: str) -> str:
    """Return `name` if it may stand in a key and a folder's name.

    Raises:
        UsageError: it holds anything but letters, digits, `_`, `+` and single hyphens (a dot would
            split a WebDataset key, a slash would leave the folder).
    """
    if not _DATASET.fullmatch(name):
        raise UsageError(f"{what}: expected letters, digits, `_`, `+` and hyphens, got `{name}`")
    return name


def split_prefix(dataset: str, split: str) -> str:
    """Return what all shards and keys of a split start with: `vcr-train`."""
    return f"{check_name(dataset, 'dataset')}-{check_name(split, 'split')}"


def shard_stem(dataset: str, split: str, index: int) -> str:
    """Return a shard's name without extension: `vcr-train-000000`."""
    return f"{split_prefix(dataset, split)}-{index:06d}"


def sample_key(dataset: str, split: str, number: int) -> str:
    """Return a sample's key: `vcr-train-000000042`. Numbers ascend; some may be missing."""
    return f"{split_prefix(dataset, split)}-{number:0{KEY_DIGITS}d}"


def is_key(text: str) -> bool:
    """Tell whether `text` has the form of a key."""
    return _KEY.fullmatch(text) is not None


def parse_key(key: str) -> tuple[str, int]:
    """Take a key apart into the split's prefix (`vcr-train`) and the number.

    Raises:
        UsageError: `key` is not of that form.
    """
    match = _KEY.fullmatch(key)
    if match is None:
        raise UsageError(f"key: expected a form like `vcr-train-000000042`, got `{key}`")
    return match["prefix"], int(match["number"])


def split_dir(root: Path | str, dataset: str, split: str) -> Path:
    """Return the folder that holds a split's files: `ROOT/vcr/train`."""
    return Path(root) / check_name(dataset, "dataset") / check_name(split, "split")


def tar_path(root: Path | str, dataset: str, split: str, index: int) -> Path:
    """Return where shard `index` lies."""
    return split_dir(root, dataset, split) / f"{shard_stem(dataset, split, index)}.tar"


def sidecar_path(root: Path | str, dataset: str, split: str, index: int) -> Path:
    """Return where the sidecar of shard `index` lies."""
    return split_dir(root, dataset, split) / f"{shard_stem(dataset, split, index)}.parquet"


def commit_path(root: Path | str, dataset: str, split: str) -> Path:
    """Return where the commit lies. No such file, no dataset."""
    return split_dir(root, dataset, split) / COMMIT_NAME


def known_path(root: Path | str, dataset: str, split: str, plan_hash: str) -> Path:
    """Return where the notes lie of what a commit's plan was made of, for its extension."""
    return split_dir(root, dataset, split) / f"{KNOWN_PREFIX}{plan_hash[:16]}.msgpack"


def manifest_path(root: Path | str) -> Path:
    """Return where the manifest lies: `ROOT/manifest.duckdb`."""
    return Path(root) / MANIFEST_NAME
