"""Convert damaged sources, many thousands of them: `python -m tests.fuzz.run --cases 20000`.

In: source trees in the official layouts (the miniature world's). One annotation file of a tree, now
and then a picture, is damaged (`mutate.py`), then the tree is converted. Right is: it ends, in
reports or in one clear line. Wrong is: any other exception, a crash of the process, no end within a
minute, counts that do not add up, a file outside the output, a process started, code run from a
pickle. Every case is drawn from (seed, tree, number) and can be run again with `--only
TREE:NUMBER`.
"""

import argparse
import contextlib
import faulthandler
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.draft import SourceOptions
from pipelines.registry import find_dataset
from pipelines.rejections import CODES
from pipelines.run import convert
from roikit.errors import RoikitError
from tests.fuzz.mutate import CANARY, mutate

SECONDS_A_CASE = 60
MEMORY_BYTES = 6 << 30
MAX_MESSAGE = 2000
_PICTURES = (".jpg", ".jpeg", ".png")
_FORBIDDEN_EVENTS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork")
_WRITING_EVENTS = ("os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir")


@dataclass(frozen=True)
class Tree:
    """One source that converts faultlessly."""

    name: str
    dataset: str
    folder: Path
    options: SourceOptions = field(default_factory=SourceOptions)  #: files: below the folder
    images: tuple[Path, ...] = ()  #: further folders of pictures, which stay as they are


@dataclass(frozen=True)
class Failure:
    """One case that ended in a way it should not."""

    case: str
    file: str
    what: str


class Watch:
    """Sees what the interpreter is asked to do: files written, processes started."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] = ()
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.allowed:
            return
        if event.startswith(_FORBIDDEN_EVENTS):
            self.seen.append(f"{event} {args!r:.200}")
        elif event == "open":
            path, _, flags = args
            writes = (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and isinstance(path, str | bytes | os.PathLike):
                self._check(event, path)
        elif event in _WRITING_EVENTS:
            num_paths = 2 if event in ("os.rename", "os.link") else 1
            folders = args[-num_paths:]  # descriptors that relative paths start from, or -1
            for path, folder in zip(args[:num_paths], folders, strict=True):
                if isinstance(path, str | bytes | os.PathLike):
                    start = (
                        f"/proc/self/fd/{folder}"
                        if isinstance(folder, int) and folder >= 0
                        else "."
                    )
                    self._check(event, Path(start).resolve() / os.fsdecode(path))

    def _check(self, event: str, path: Any) -> None:
        name = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - links stay what they are
        inside = any(name == top or name.startswith(top + os.sep) for top in self.allowed)
        if not inside and name != os.devnull:
            self.seen.append(f"{event} {name}")


class TooSlow(Exception):
    """A case did not end."""


def _too_slow(signum: int, frame: Any) -> None:
    raise TooSlow(
        f"no end within {SECONDS_A_CASE} s\n" + "".join(traceback.format_stack(frame)[-6:])
    )


def files_of(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the tree's annotation files and its pictures, sorted."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    pictures = [path for path in files if path.suffix in _PICTURES]
    return [path for path in files if path.suffix not in _PICTURES], pictures


def run_case(tree: Tree, number: int, seed: int, work: Path, watch: Watch) -> tuple[str, str]:
    """Damage one file and convert. Returns the file and how it ended: an outcome, or a failure.

    `work` holds a copy of the tree as `source`; it is as before afterwards.
    """
    rng = random.Random(f"{seed}/{tree.name}/{number}")
    source = work / "source"
    annotations, pictures = files_of(tree.folder)
    hit_picture = bool(pictures) and rng.random() < 0.05
    if hit_picture:
        name = rng.choice(pictures)
    else:  # a file a kind is as likely as another kind: VCR has a metadata file a picture
        kinds: dict[tuple[str, int], list[Path]] = {}
        for path in annotations:
            kinds.setdefault((path.suffix, len(path.parts)), []).append(path)
        name = rng.choice(rng.choice([kinds[kind] for kind in sorted(kinds)]))
    intact = (tree.folder / name).read_bytes()
    damaged = mutate(name.name, intact, rng)
    path = source / name
    path.unlink()
    path.write_bytes(damaged)
    is_dry = rng.random() < 0.9
    try:
        return str(name), _convert(tree, source, work, watch, dry_run=is_dry)
    finally:
        path.unlink()
        os.link(tree.folder / name, path)
        shutil.rmtree(work / "out", ignore_errors=True)


def _convert(tree: Tree, source: Path, work: Path, watch: Watch, *, dry_run: bool) -> str:
    options = SourceOptions(
        **{
            name: source / value if isinstance(value, Path) else value
            for name, value in tree.options.given().items()
        }
    )
    watch.seen.clear()
    watch.allowed = (str(work / "out"), str(work / "tmp"))
    signal.alarm(SECONDS_A_CASE)
    outcome = ""
    try:
        reports = convert(
            tree.dataset,
            source,
            work / "out",
            options=options,
            image_roots=tree.images,
            max_rejects=1.0,
            dry_run=dry_run,
        )
    except RoikitError as error:
        text = str(error)
        outcome = f"one line: {type(error).__name__}"
        # Control characters are spelled out where the line is printed.
        if "\n" in text or len(text) > MAX_MESSAGE:
            outcome = f"FAILED a message that is no clear line: {text[:500]!r}"
    except BaseException as error:
        outcome = f"FAILED {''.join(traceback.format_exception(error)[-6:])}"
    else:
        lost = any(report.rejections for report in reports)
        outcome = "rejections" if lost else "converted"
        for report in reports:
            accounted = report.records_converted + report.records_by_policy
            if accounted > report.records_found or not report.rejections.keys() <= CODES.keys():
                outcome = f"FAILED counts do not add up: {report}"
    finally:
        signal.alarm(0)
        watch.allowed = ()
    if watch.seen:
        outcome = f"FAILED outside the output: {watch.seen[:4]}"
    canary = Path.cwd() / CANARY
    if canary.exists():
        outcome = "FAILED a pickle ran code"
        canary.unlink()
    return outcome


def run_cases(tree: Tree, numbers: range, seed: int, results: Any) -> None:
    """Run some cases of a tree in this process; each outcome goes to the queue `results`."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGALRM, _too_slow)
    with tempfile.TemporaryDirectory(prefix="roikit-fuzz-") as name:
        work = Path(name).resolve()
        (work / "tmp").mkdir()
        tempfile.tempdir = str(work / "tmp")
        os.chdir(work)
        shutil.copytree(tree.folder, work / "source", copy_function=os.link)
        find_dataset(tree.dataset)
        watch = Watch()
        for number in numbers:
            results.put((number, None, None))
            results.put((number, *run_case(tree, number, seed, work, watch)))


def fuzz(tree: Tree, cases: int, seed: int, first: int = 0) -> Iterator[tuple[int, str, str]]:
    """Yield (number, file, outcome) of so many cases, run in a process of their own."""
    context = multiprocessing.get_context("spawn")
    end = first + cases
    while first < end:
        results = context.SimpleQueue()
        process = context.Process(target=run_cases, args=(tree, range(first, end), seed, results))
        process.start()
        under_way = first
        while process.is_alive() or not results.empty():
            if results.empty():
                time.sleep(0.01)
                continue
            number, file, outcome = results.get()
            under_way = number
            if outcome is not None:
                first = number + 1
                yield number, file, outcome
        process.join()
        if process.exitcode:
            yield under_way, "?", f"FAILED the process ended with {process.exitcode}"
            first = under_way + 1


def main() -> int:
    """Run the cases of the command line and print what came of them."""
    from tests.fuzz.trees import make_trees

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000, help="in all, spread over the trees")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tree", action="append", help="only this one; may be given several times")
    parser.add_argument("--only", metavar="TREE:NUMBER", help="run one case again")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.only:
        args.tree = [args.only.split(":")[0]]
    failures: list[Failure] = []
    table: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory(prefix="roikit-fuzz-trees-") as folder:
        trees = [t for t in make_trees(Path(folder)) if not args.tree or t.name in args.tree]
        for i, tree in enumerate(trees):
            cases = args.cases // len(trees) + (i < args.cases % len(trees))
            first = int(args.only.split(":")[1]) if args.only else 0
            started = time.monotonic()
            counts = table.setdefault(tree.name, Counter())
            for number, file, outcome in fuzz(tree, 1 if args.only else cases, args.seed, first):
                counts["FAILED" if outcome.startswith("FAILED") else outcome] += 1
                if outcome.startswith("FAILED"):
                    failures.append(Failure(f"{tree.name}:{number}", file, outcome))
                    print(f"{tree.name}:{number} {file}\n{outcome}", file=sys.stderr, flush=True)
            seconds = time.monotonic() - started
            print(f"{tree.name}: {dict(counts)} in {seconds:.0f} s", file=sys.stderr, flush=True)
    total = sum(sum(counts.values()) for counts in table.values())
    if args.json:
        print(
            json.dumps({"seed": args.seed, "cases": total, "failed": len(failures), "trees": table})
        )
    else:
        print(f"{total:,} cases, {len(failures):,} failed")
    return 3 if failures else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
