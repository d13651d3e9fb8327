"""What a user is told who converts a dataset for the first time: the terms of its use."""

from pathlib import Path

from pipelines.registry import find_dataset
from shards.layout import COMMIT_NAME


def notice(name: str, out: Path) -> list[str]:
    """Return the lines to show before a conversion.

    None for one's own data, and where a split of the dataset is committed below `out` already: they
    were shown then.

    Args:
        name: the dataset.
        out: root of the shards.

    Raises:
        UsageError: there is no such dataset.
    """
    spec = find_dataset(name)
    if spec.stage == "own data" or any(out.glob(f"{name}/*/{COMMIT_NAME}")):
        return []
    lines = [f"{spec.title}: {spec.licence}"]
    return lines if spec.registration is None else [*lines, f"registration: {spec.registration}"]
