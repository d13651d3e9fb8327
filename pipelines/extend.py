"""Add to a committed split what its source has gained: new images, and none of the old again.

The shards that are there stay as they are, byte for byte; what is new gets further shards and
further keys. An image whose records or picture changed, or that is gone, ends it: the split would
hold what its source no longer says. Images that have no sample yet (their picture was missing or
damaged) are tried again when anything about them has changed.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.draft import Draft, SplitRecords
from pipelines.known import Base, Known, KnownImage, know_image, know_stray, read_known
from pipelines.rejections import is_policy
from roikit.errors import UsageError
from shards import sidecar
from shards.commit import DatasetInfo
from shards.layout import split_dir

log = logging.getLogger(__name__)

#: Images named one by one before the rest is only counted.
_MAX_LISTED = 20
#: Of a commit's settings: what says how it came about, not how samples are made.
_NOT_COMPARED = ("counts", "extends", "kinds", "published")


@dataclass(frozen=True, kw_only=True, slots=True)
class Addition:
    """What is new in a source since a commit."""

    records: SplitRecords  #: of new images only
    base: Base
    known: Known  #: base and addition together

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to add."""
        return not self.records.drafts and not self.records.rejections


def setting_differences(info: DatasetInfo, now: Mapping[str, Any]) -> list[str]:
    """Say in which settings of `plan_settings` a conversion differs from a committed split."""
    before = info.settings
    return [
        f"{key}: `{before.get(key)}` then, `{now.get(key)}` now"
        for key in sorted({*before, *now} - set(_NOT_COMPARED))
        if before.get(key) != now.get(key)
    ]


def find_addition(
    root: Path, info: DatasetInfo, records: SplitRecords, settings: Mapping[str, Any]
) -> Addition:
    """Compare a split as its source has it now with what was committed.

    Args:
        root: of the shards.
        info: the commit.
        records: the split, read now.
        settings: of the conversion, as `plan_settings` makes them.

    Raises:
        UsageError: other settings, or images that changed or are gone; each is named in the log.
    """
    name = f"{info.dataset} {info.split}"
    differing = setting_differences(info, settings)
    if differing:
        raise UsageError(
            f"{name}: expected the settings that it was converted with: {'; '.join(differing)}",
            hint="repeat them, or convert the whole split again with `--overwrite`",
        )
    known = read_known(root, info)
    folder = split_dir(root, info.dataset, info.split)
    stored = _stored_ids(folder, info)
    now = {draft.group: know_image(draft) for draft in records.drafts}
    new = [draft for draft in records.drafts if draft.group not in known.images]
    changed = [d for d in records.drafts if known.images.get(d.group, now[d.group]) != now[d.group]]
    again = [draft for draft in changed if draft.native_id not in stored]
    differing = [
        f"`{draft.file}` ({draft.native_id}): {_difference(draft)}"
        for draft in changed
        if draft.native_id in stored
    ] + [
        f"{image.native_id}: the source no longer has it"
        for group, image in known.images.items()
        if group not in now and image.native_id in stored
    ]
    _refuse(name, differing)
    gone = Counter(known.strays)
    strays = []
    for rejection in records.rejections:
        stray = know_stray(rejection)
        if gone[stray]:
            gone[stray] -= 1
        else:
            strays.append(rejection)
    images = [known.images[draft.group] for draft in again]
    lost, superseded = _superseded(folder, info, known, {one.native_id for one in images}, gone)
    added = [*new, *again]
    return Addition(
        # Kinds are counted in the whole split.
        records=replace(records, drafts=added, rejections=strays),
        base=Base(
            plan_hash=info.plan_hash,
            merkle_root=info.merkle_root,
            num_shards=len(info.shards),
            num_keys=known.num_keys,
            counts=_counts_kept(info, images, lost, gone),
            superseded=superseded,
        ),
        known=Known(
            num_keys=known.num_keys + len(added),
            images=known.images | {draft.group: now[draft.group] for draft in added},
            strays=[know_stray(rejection) for rejection in records.rejections],
        ),
    )


def _difference(draft: Draft) -> str:
    if draft.root is None:
        return "its picture is gone"
    return "its records or its picture changed, or moved inside the annotation file"


def _refuse(name: str, differing: Sequence[str]) -> None:
    if not differing:
        return
    for line in differing[:_MAX_LISTED]:
        log.warning("%s: %s", name, line)
    if len(differing) > _MAX_LISTED:
        log.warning("%s: and %s more", name, f"{len(differing) - _MAX_LISTED:,}")
    raise UsageError(
        f"{name}: expected every image of the shards unchanged in the source,"
        f" {len(differing):,} changed or are gone, the first: {differing[0]}",
        hint="bring them back, or convert the whole split again with `--overwrite`",
    )


def _stored_ids(folder: Path, info: DatasetInfo) -> set[str]:
    """Return the native ids of the images that have a sample."""
    found: set[str] = set()
    for shard in info.shards:
        table = sidecar.read_rows(folder / f"{shard.stem}.parquet", ("native_id",))
        found.update(table["native_id"].to_pylist())
    return found


def _counts_kept(
    info: DatasetInfo,
    again: Sequence[KnownImage],
    lost: Mapping[str, Counter[str]],
    strays_gone: Counter[tuple[bytes, str]],
) -> dict[str, Any]:
    """Return the commit's counts without the images that are tried again and the strays gone."""
    counts = dict(info.settings["counts"])
    rejected = Counter[str](counts["rejections"])
    for image in again:
        counts["images_found"] -= 1
        counts["records_found"] -= image.num_records
        codes = lost.get(image.native_id, Counter())
        by_policy = sum(n for code, n in codes.items() if is_policy(code))
        counts["records_by_policy"] -= min(by_policy, image.num_records)
        rejected -= codes
    for (_, code), number in strays_gone.items():
        counts["records_found"] -= number
        rejected -= Counter({code: number})
    return counts | {"rejections": dict(sorted(rejected.items()))}


def _superseded(
    folder: Path,
    info: DatasetInfo,
    known: Known,
    native_ids: set[str],
    strays_gone: Counter[tuple[bytes, str]],
) -> tuple[dict[str, Counter[str]], dict[str, list[int]]]:
    """Find the rejections that count no more: of images tried again, and of strays gone.

    Returns:
        The codes that each image was rejected for when it was last tried, and by shard the numbers
        of all rejections that count no more, those of extensions before included.
    """
    strays, gone = {stray for stray, _ in known.strays}, Counter(strays_gone)
    last: dict[str, Counter[str]] = {}
    superseded: dict[str, list[int]] = {}
    for shard in info.shards:
        numbers = list(shard.superseded or ())
        codes: dict[str, Counter[str]] = {}
        is_needed = native_ids or gone.total()
        path = folder / f"{shard.stem}.parquet"
        for number, rejection in enumerate(sidecar.read_rejections(path) if is_needed else ()):
            if number in numbers:
                continue
            stray = know_stray(rejection)
            if stray[0] in strays:
                if gone[stray]:
                    gone[stray] -= 1
                    numbers.append(number)
            elif rejection.native_id in native_ids:
                codes.setdefault(rejection.native_id, Counter())[rejection.code] += 1
                numbers.append(number)
        last |= codes
        if numbers:
            superseded[shard.stem] = sorted(numbers)
    return last, superseded
