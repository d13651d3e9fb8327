"""One task of a conversion: make one shard from its draft file.

Independent and idempotent: it may run anywhere, any number of times, and be killed at any moment.
The tar is put in place by a rename, then the sidecar; a finished shard is recognised and left.
"""

import hashlib
import heapq
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from pipelines.draft import Built, DatasetSpec, Draft, Picture
from pipelines.images import ImageRoots, changed, planned_roots, safe_name
from pipelines.phrasing import Phraser
from pipelines.plan import Plan, ShardDraft, read_draft, read_plan
from pipelines.registry import find_dataset
from pipelines.rejections import reject
from pipelines.source import unusable_picture
from roikit import images
from roikit.errors import CorruptSampleError, RoikitError, ValidationError
from roikit.mentions import mentioned
from roikit.sample import (
    SCHEMA_VERSION,
    Image,
    Provenance,
    Region,
    Rejection,
    Sample,
    validate_sample,
)
from shards import remote as store
from shards.atomic import write_bytes
from shards.claim import claimed_by
from shards.commit import is_finished
from shards.layout import PLAN_MARK_NAME, sample_key, sidecar_path, split_dir, tar_path
from shards.sidecar import is_done, write_sidecar
from shards.writer import write_shard

#: In a plan's folder: what a shard for a store is made in.
_MAKING_PREFIX = "shard-"
#: Rejections of one code that are shown; all of them are counted, and kept in the manifest.
MAX_EXAMPLES = 10
_DIGITS = re.compile(r"[0-9]+")

#: Called with (images done, bytes read) since the last call.
Tick = Callable[[int, int], None]


class TaskCounts(msgspec.Struct, kw_only=True):
    """What became of one shard's images and records."""

    images_found: int = 0
    images_converted: int = 0
    records_found: int = 0
    records_converted: int = 0
    records_by_policy: int = 0
    boxes_clipped: int = 0
    rejections: dict[str, int] = {}
    #: By code, the first `MAX_EXAMPLES` in their files' order: for the report, not for the commit.
    examples: dict[str, list[Rejection]] = {}

    def add(self, other: "TaskCounts") -> None:
        """Add another shard's counts."""
        for name in self.__struct_fields__:
            if name not in ("rejections", "examples"):
                setattr(self, name, getattr(self, name) + getattr(other, name))
        for code, count in other.rejections.items():
            self.rejections[code] = self.rejections.get(code, 0) + count
        for code, found in other.examples.items():
            self.examples[code] = _first([*self.examples.get(code, ()), *found])

    def committed(self) -> dict[str, Any]:
        """Return what a commit keeps of them: plain values, without the examples."""
        return {name: v for name, v in msgspec.to_builtins(self).items() if name != "examples"}


def run_task(plan_dir: Path, index: int, out: Path | None, tick: Tick) -> TaskCounts:
    """Make shard `index` below `out`, or find it finished.

    Args:
        plan_dir: the plan's folder.
        index: of the shard in the plan.
        out: root of the shards; None reads and checks everything and writes nothing.
        tick: told of progress.

    Raises:
        RoikitError: a picture is not what the plan found, or another plan has taken the folder.
        OSError: the disk is full, or cannot be written.
        RemoteError: a store of pictures or shards does not answer.
    """
    plan = read_plan(plan_dir)
    if out is not None and store.url_of(out) is not None:
        return _run_for_store(plan, plan_dir, index, out, tick)
    spec = find_dataset(plan.name)
    counts_path = _counts_path(plan_dir, index)
    if out is not None:
        number = plan.shard_number(index)
        tar = tar_path(out, plan.dataset, plan.split, number)
        sidecar = sidecar_path(out, plan.dataset, plan.split, number)
        if counts_path.is_file() and is_done(tar, sidecar, plan.plan_hash):
            tick(plan.shards[index].num_images, plan.shards[index].num_bytes)
            return msgspec.json.decode(counts_path.read_bytes(), type=TaskCounts)
    shard = read_draft(plan_dir, index)
    rejections = list(shard.rejections)
    counts = TaskCounts(records_found=len(rejections), rejections={})
    entries = _entries(plan, spec, shard, rejections, counts, tick)
    if out is None:
        for _ in entries:
            pass
        rows = []
    else:
        rows = write_shard(tar, _while_ours(entries, out, plan))
    by_code: dict[str, list[Rejection]] = {}
    for rejection in rejections:
        by_code.setdefault(rejection.code, []).append(rejection)
    counts.rejections = {code: len(found) for code, found in by_code.items()}
    counts.examples = {code: _first(found) for code, found in by_code.items()}
    if out is not None:
        # Before the sidecar, which says that the task is done.
        write_bytes(counts_path, msgspec.json.encode(counts))
        write_sidecar(
            tar,
            rows,
            dataset=plan.dataset,
            split=plan.split,
            plan_hash=plan.plan_hash,
            rejections=rejections,
        )
    return counts


def read_counts(plan_dir: Path, index: int) -> TaskCounts:
    """Read what a finished task noted."""
    return msgspec.json.decode(_counts_path(plan_dir, index).read_bytes(), type=TaskCounts)


def unfinished_tasks(plan: Plan, plan_dir: Path, out: Path) -> list[int]:
    """Return the tasks that have yet to run, as far as footers and lengths show."""
    return [
        index
        for index in range(len(plan.shards))
        if not _counts_path(plan_dir, index).is_file()
        or not is_finished(out, plan.dataset, plan.split, plan.shard_number(index), plan.plan_hash)
    ]


def remove_half_made(plan_dir: Path) -> None:
    """Remove the shards for a store that killed tasks left; no task of the plan may be running."""
    for folder in plan_dir.glob(f"{_MAKING_PREFIX}*/"):
        shutil.rmtree(folder, ignore_errors=True)


def _run_for_store(plan: Plan, plan_dir: Path, index: int, out: Path, tick: Tick) -> TaskCounts:
    """Make shard `index` beside its plan and put it into the store that `out` stands for."""
    name: dict[str, Any] = {"dataset": plan.dataset, "split": plan.split, "index": index}
    found = store.finished_counts(out, **name, plan_hash=plan.plan_hash)
    if found is not None:
        tick(plan.shards[index].num_images, plan.shards[index].num_bytes)
        return msgspec.json.decode(found, type=TaskCounts)
    with tempfile.TemporaryDirectory(dir=plan_dir, prefix=_MAKING_PREFIX) as folder:
        made = Path(folder)
        claimed = split_dir(made, plan.dataset, plan.split)
        claimed.mkdir(parents=True)
        write_bytes(claimed / PLAN_MARK_NAME, plan.plan_hash.encode())
        counts = run_task(plan_dir, index, made, tick)
        store.put_shard(
            out, **name, made=made, counts=_counts_path(plan_dir, index), plan_hash=plan.plan_hash
        )
    return counts


def _first(rejections: list[Rejection]) -> list[Rejection]:
    """Return the first of them in the order of their files: `line 9` comes before `line 10`."""

    def place(rejection: Rejection) -> tuple[str, str]:
        source = rejection.source
        return source.file, _DIGITS.sub(lambda number: number[0].zfill(20), source.record)

    return heapq.nsmallest(MAX_EXAMPLES, rejections, key=place)


def _counts_path(plan_dir: Path, index: int) -> Path:
    return plan_dir / f"{index:06d}.counts.json"


def _while_ours(
    entries: Iterator[tuple[Sample, bytes, str]], out: Path, plan: Plan
) -> Iterator[tuple[Sample, bytes, str]]:
    """Pass the entries on, and stop before the tar is put in place where it has no place any more.

    A task of a job array may outlive its plan: its shard must not replace one of the next plan.
    """
    yield from entries
    if claimed_by(out, plan.dataset, plan.split) != plan.plan_hash:
        raise RoikitError(
            f"{plan.dataset} {plan.split}: another plan has taken the place of the one this task"
            " was begun for",
            hint="nothing was replaced; run the tasks of the new plan",
        )


def _entries(
    plan: Plan,
    spec: DatasetSpec,
    shard: ShardDraft,
    rejections: list[Rejection],
    counts: TaskCounts,
    tick: Tick,
) -> Iterator[tuple[Sample, bytes, str]]:
    """Yield the shard's samples; rejections and counts are added on the way."""
    roots = planned_roots(plan.roots)
    for offset, draft in enumerate(shard.drafts):
        key = sample_key(plan.dataset, plan.split, shard.first + offset)
        counts.images_found += 1
        counts.records_found += draft.num_records
        rejections.extend(draft.rejections)
        made = _make(plan, spec, roots, draft, key)
        rejections.extend(made.rejections)
        counts.records_by_policy += made.num_by_policy
        counts.boxes_clipped += made.num_clipped
        if made.entry is not None:
            counts.images_converted += 1
            counts.records_converted += made.num_converted
            yield made.entry
        tick(1, draft.num_bytes)


class _Made:
    """What one draft became."""

    def __init__(self, built: Built, entry: tuple[Sample, bytes, str] | None = None) -> None:
        self.rejections = built.rejections
        self.num_by_policy = built.num_by_policy
        self.num_clipped = built.num_clipped
        self.num_converted = built.num_converted
        self.entry = entry


def _make(plan: Plan, spec: DatasetSpec, roots: ImageRoots, draft: Draft, key: str) -> _Made:
    if draft.num_records == 0:
        message = f"`{draft.file}`: the files say nothing about it"
        return _Made(Built(rejections=[_about_image("E_IMAGE_UNANNOTATED", draft, message)]))
    picture = _read_picture(draft, roots, decode=bool(plan.settings.get("decode_images")))
    if isinstance(picture, Rejection):
        return _Made(Built(rejections=[picture]))
    data, header = picture
    phraser = Phraser(seed=plan.seed, key=key)
    is_faithful = bool(plan.settings.get("faithful"))
    built = spec.build(
        draft, Picture(header=header, roots=roots, phraser=phraser, is_faithful=is_faithful)
    )
    if not built.conversations:
        return _Made(built)
    sample = Sample(
        schema=SCHEMA_VERSION,
        key=key,
        dataset=plan.dataset,
        split=plan.split,
        image=Image(
            file=draft.file,
            native_id=draft.native_id,
            width=header.width,
            height=header.height,
            sha256=hashlib.sha256(data).hexdigest(),
            orientation=header.orientation,
        ),
        regions=_with_context_marked(built),
        conversations=tuple(built.conversations),
        provenance=Provenance(converter=plan.converter, phrasing=plan.phrasing, seed=plan.seed),
        absent_labels=built.absent_labels,
        partly_labelled=built.partly_labelled,
    )
    try:
        validate_sample(sample)
    except ValidationError as error:
        built.rejections.append(_about_image("E_RECORD_INVALID", draft, str(error)))
        return _Made(built)
    return _Made(built, (sample, data, images.extension(header)))


def _read_picture(
    draft: Draft, roots: ImageRoots, *, decode: bool
) -> tuple[bytes, images.ImageHeader] | Rejection:
    """Read a picture's bytes and check them as far as is cheap: header and end; pixels if asked.

    Raises:
        RoikitError: the file is not the one that the plan found, or its disk does not answer.
    """
    if not safe_name(draft.file):
        reason = "this path leaves the image folder"
        return unusable_picture("E_NAME_UNSAFE", draft, reason=reason)
    if draft.root is None:
        folders = ", ".join(f"`{folder}`" for folder in roots.folders) or "no image folder"
        return unusable_picture("E_IMAGE_MISSING", draft, reason=f"not found in {folders}")
    folder, then = roots.folders[draft.root], f"had {draft.num_bytes:,} bytes"
    try:
        data = roots.read(draft.root, draft.file)
    except FileNotFoundError as error:
        raise changed(folder, draft.file, then, "it is gone") from error
    except PermissionError as error:
        reason = f"cannot be read: {error.strerror}"
        return unusable_picture("E_IMAGE_UNREADABLE", draft, reason=reason)
    if len(data) != draft.num_bytes:
        raise changed(folder, draft.file, then, f"it has {len(data):,}")
    try:
        header = images.read_header(data)
    except CorruptSampleError as error:
        return unusable_picture("E_IMAGE_UNREADABLE", draft, reason=str(error))
    if not images.is_complete(data, header):
        reason = f"the {header.format.upper()} ends after {len(data):,} bytes without its end mark"
        return unusable_picture("E_IMAGE_TRUNCATED", draft, reason=reason)
    if decode:
        try:
            images.decode_rgb(data)
        except CorruptSampleError as error:
            return unusable_picture("E_IMAGE_UNDECODABLE", draft, reason=str(error))
    return data, header


def _with_context_marked(built: Built) -> tuple[Region, ...]:
    """Mark the regions that no conversation speaks of."""
    used: set[int] = set()
    for conversation in built.conversations:
        for turn in conversation.turns:
            used.update(mentioned(turn.text))
        if conversation.choice is not None:
            for option in conversation.choice.options:
                used.update(mentioned(option))
    return tuple(
        region if i + 1 in used else msgspec.structs.replace(region, is_context=True)
        for i, region in enumerate(built.regions)
    )


def _about_image(code: str, draft: Draft, message: str) -> Rejection:
    return reject(
        code, message, file=draft.source_file, record=draft.record, native_id=draft.native_id
    )
