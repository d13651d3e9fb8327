"""Where things lie when no option says otherwise: sources, shards and runs, below one home.

The home is the working directory, or what the environment variable `ROIKIT_HOME` names.
"""

import os
from pathlib import Path


def home() -> Path:
    """Return `ROIKIT_HOME`, or the working directory as `.`."""
    return Path(os.environ.get("ROIKIT_HOME") or ".")


def source_dir(dataset: str) -> Path:
    """Return where a dataset's official files are looked for."""
    return home() / "data" / dataset


def shards_dir() -> Path:
    """Return where conversion writes and everything else reads."""
    return home() / "data" / "shards"


def runs_dir() -> Path:
    """Return where training and evaluation write."""
    return home() / "runs"


def remote_dir() -> Path:
    """Return where what belongs to URLs is kept here: fetched annotations, manifests of shards."""
    return home() / "data" / "remote"


def lengths_dir() -> Path:
    """Return where the measured lengths of conversations are kept; safe to delete."""
    return home() / "data" / "lengths"


def cache_dir() -> Path:
    """Return where samples read from remote shards are kept: `ROIKIT_CACHE`, or below the home.

    On a cluster the home may be a shared disk; the cache belongs on one of the node's own.
    """
    return Path(os.environ.get("ROIKIT_CACHE") or remote_dir() / "cache")
