"""How much room the shards still need, and whether the disk has it."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from pipelines.plan import Plan, draft_bytes
from roikit.errors import RoikitError
from roikit.render import bytes_text
from shards.claim import claimed_by
from shards.layout import split_dir, tar_path

#: Records, sidecars, index and manifest take up to so many times the annotations in a draft file.
_ANNOTATION_FACTOR = 4


def expected_bytes(
    plan: Plan, plan_dir: Path, out: Path, indices: Sequence[int] | None = None
) -> int:
    """Return about how many bytes a plan's tasks, or some of them, have yet to write."""
    is_ours = claimed_by(out, plan.dataset, plan.split) == plan.plan_hash
    missing = [
        index
        for index in (range(len(plan.shards)) if indices is None else indices)
        if not is_ours
        or not tar_path(out, plan.dataset, plan.split, plan.shard_number(index)).is_file()
    ]
    return sum(
        plan.shards[index].num_bytes + _ANNOTATION_FACTOR * draft_bytes(plan_dir, index)
        for index in missing
    )


def free_bytes(out: Path) -> int:
    """Return the free space of the file system that `out` lies on, or will lie on."""
    there = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    return shutil.disk_usage(there).free


def check_space(
    plan: Plan, plan_dir: Path, out: Path, indices: Sequence[int] | None = None
) -> None:
    """Refuse to begin what cannot end.

    Raises:
        RoikitError: the disk has less room than the plan needs.
    """
    needed, free = expected_bytes(plan, plan_dir, out, indices), free_bytes(out)
    if plan.base is None and claimed_by(out, plan.dataset, plan.split) != plan.plan_hash:
        # Another plan's shards go first, or the folder is refused before anything is written.
        folder = split_dir(out, plan.dataset, plan.split)
        free += sum(path.stat().st_size for path in folder.glob("*.tar"))
    if needed > free:
        raise RoikitError(
            f"`{out}`: {plan.dataset} {plan.split} needs about {bytes_text(needed)} there,"
            f" {bytes_text(free)} are free",
            hint=f"free {bytes_text(needed - free)}, or choose another `--out`; nothing was"
            " written or removed",
        )
