"""The benchmarks that a training keeps clean: whose pictures they hold, and what that drops.

A recipe names them (`DATASET@SPLIT`). Their pictures come from the converted split, from a list at
ROOT/benchmarks/DATASET@SPLIT.txt, or from both; a benchmark with neither is told of, not passed
over. A list holds one identity a line: a native id (`coco:9`), or the SHA-256 of a picture's bytes;
`#` begins a comment line.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roikit.errors import UsageError
from roikit.path_errors import usable
from shards.atomic import write_bytes
from shards.commit import load_dataset
from shards.identity import excluded_hashes, identities, split_identities
from shards.index import open_index
from shards.layout import BENCHMARKS_DIR, check_name, commit_path
from shards.mix import MixEntry

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """One evaluation split whose pictures are known."""

    name: str  #: `DATASET@SPLIT`
    identities: frozenset[str]  #: native ids and SHA-256s of bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptClean:
    """The benchmarks of a recipe, as far as their pictures are known."""

    benchmarks: tuple[Benchmark, ...]
    unresolved: tuple[str, ...]  #: neither converted nor listed

    @property
    def identities(self) -> tuple[str, ...]:
        """Every identity that training must not see, sorted."""
        return tuple(sorted(frozenset[str]().union(*(one.identities for one in self.benchmarks))))

    @property
    def native_ids(self) -> list[str]:
        """The native ids among them."""
        return split_identities(self.identities)[0]

    @property
    def sha256s(self) -> list[str]:
        """The hashes of bytes among them."""
        return split_identities(self.identities)[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """What one entry of a mixture loses to one benchmark."""

    source: str  #: the mixture's entry, by name
    benchmark: str | None  #: None: to all of them together (a picture may stand in several)
    pictures: int
    conversations: int


def dataset_and_split(name: str) -> tuple[str, str]:
    """Take `vg@test` apart.

    Raises:
        UsageError: `name` is not of that form.
    """
    dataset, separator, split = name.partition("@")
    if not separator or not split or not dataset:
        raise UsageError(f"`{name}`: expected DATASET@SPLIT, e.g. `vg@test`")
    return check_name(dataset, "dataset"), check_name(split, "split")


def list_path(root: Path | str, name: str) -> Path:
    """Return where the list of a benchmark's pictures lies, if there is one."""
    return Path(root) / BENCHMARKS_DIR / f"{'@'.join(dataset_and_split(name))}.txt"


def resolve(root: Path | str, names: Sequence[str]) -> KeptClean:
    """Find the pictures of the benchmarks named.

    Raises:
        UsageError: a name is not of the form, or a list is not one.
        CorruptSampleError: a sidecar cannot be read.
    """
    benchmarks, unresolved = [], []
    for name in dict.fromkeys(names):
        dataset, split = dataset_and_split(name)
        file = list_path(root, name)
        known: set[str] = set()
        is_converted = commit_path(root, dataset, split).is_file()
        if is_converted:
            there = identities(root, dataset, split)
            known.update(there.native_ids, there.sha256s)
        if file.is_file():
            known.update(_read_list(file))
        if is_converted or file.is_file():
            benchmarks.append(Benchmark(name=name, identities=frozenset(known)))
        else:
            unresolved.append(name)
    return KeptClean(benchmarks=tuple(benchmarks), unresolved=tuple(unresolved))


def write_list(
    root: Path | str, name: str, known: Iterable[str], *, origin: str, overwrite: bool = False
) -> Path:
    """Write the list of a benchmark's pictures.

    Args:
        root: the shards' root folder.
        name: the benchmark, `DATASET@SPLIT`.
        known: native ids and SHA-256s.
        origin: where they come from, for a reader of the file.
        overwrite: replace another list of that name; the same one may always stand there.

    Raises:
        UsageError: another list stands there, or it cannot be written.
    """
    path = list_path(root, name)
    lines = [f"# the pictures of {name}, from {origin}", *sorted(set(known))]
    data = ("\n".join(lines) + "\n").encode()
    if path.is_file() and path.read_bytes() != data and not overwrite:
        raise UsageError(
            f"{path}: another list of this benchmark lies here",
            hint="pass --overwrite to replace it",
        )
    with usable(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)
    return path


def drops(root: Path | str, mix: Sequence[MixEntry], kept: KeptClean) -> list[Dropped]:
    """Count what each entry of a mixture loses: to each benchmark, then to all of them together.

    Entries that lose nothing have one row, with zeros.

    Raises:
        UsageError: a source is not committed.
    """
    hashes = {one.name: excluded_hashes(one.identities) for one in kept.benchmarks}
    found = []
    for entry in mix:
        info = load_dataset(root, entry.dataset, entry.split)
        index = open_index(root, entry.dataset, entry.split, info.merkle_root)
        is_asked = index.is_task(entry.tasks)
        asked_of = index.conversation_sample[is_asked]
        by_any = np.zeros(len(index), dtype=bool)
        by_benchmark: dict[str | None, npt.NDArray[np.bool_]] = {}
        for name, listed in hashes.items():
            is_hit = index.is_any_of(*listed)
            by_any |= is_hit
            by_benchmark[name] = is_hit
        for benchmark, is_hit in [*by_benchmark.items(), (None, by_any)]:
            conversations = int(is_hit[asked_of].sum())
            if conversations or benchmark is None:
                pictures = len(np.unique(asked_of[is_hit[asked_of]]))
                found.append(
                    Dropped(
                        source=entry.name,
                        benchmark=benchmark,
                        pictures=pictures,
                        conversations=conversations,
                    )
                )
    return found


def _read_list(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot read this list: {error}") from error
    known = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if ":" not in text and not _SHA256.fullmatch(text):
            raise UsageError(
                f"{path}: line {number}: expected a native id like `coco:9` or a SHA-256 in "
                f"lower-case hex, got `{text[:80]}`",
                hint="`roikit list-pictures NAME` writes such lists",
            )
        known.append(text)
    return known
