"""Places that cannot be read or written: one line that names them, exit 2, before long work."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import roikit.__main__ as entry
from pipelines import detect
from pipelines.miniature import make_miniature
from pipelines.run import convert
from roikit import path_errors
from roikit.errors import UsageError
from shards import leaks, manifest
from shards.atomic import write_bytes

Said = tuple[int, str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with some of COCO and Visual Genome converted, and a file that is no folder."""
    folder = tmp_path_factory.mktemp("home")
    make_miniature(folder / "world", images=32, datasets=("coco", "vg"), workers=1)
    for name in ("coco", "vg"):
        convert(name, folder / "world" / name, folder / "data" / "shards", max_rejects=1)
    (folder / "file").touch()
    return folder


@pytest.fixture
def call(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    monkeypatch.setenv("ROIKIT_HOME", str(home))
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["roikit", *arguments])
        with pytest.raises(SystemExit) as ended:
            entry.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, capsys.readouterr().err

    return run


def no_work(*_: object, **__: object) -> None:
    raise AssertionError("long work was begun")


@pytest.mark.parametrize(
    "command",
    [
        ("export", "coco", "coco@val", "--out", "{}"),
        ("export", "energon", "coco@val", "--out", "{}"),
        ("miniature", "{}", "--images", "32", "--workers", "1"),
        ("miniature", "{}", "--scale", "full", "--datasets", "coco"),
        ("leaks", "--save", "{}"),
        ("label", "{world}", "--detector", "none", "--out", "{}"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(
    command: tuple[str, ...],
    home: Path,
    call: Callable[..., Said],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("_plan", "write_trees"):
        monkeypatch.setattr(f"pipelines.miniature.{name}", no_work)
    monkeypatch.setattr(leaks, "compute_fingerprints", no_work)
    place = home / "file" / "below"
    filled = [one.format(place, world=home / "world" / "coco" / "val2017") for one in command]
    code, err = call(*filled)
    assert (code, err.splitlines()[0]) == (
        2,
        f"error: `{place}`: cannot be written: Not a directory",
    )


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no file be made anywhere, as in a folder without the right to."""

    def refuse(*, dir: Path) -> None:
        raise PermissionError(13, "Permission denied", str(dir / "tmp1234"))

    monkeypatch.setattr(path_errors.tempfile, "TemporaryFile", refuse)


def test_lists_of_pictures_are_looked_at_before_the_work(
    closed: None, home: Path, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaks, "compute_fingerprints", no_work)
    code, err = call("leaks", "--write-list")
    place = home / "data/shards/benchmarks/coco@val.txt"
    assert (code, err.splitlines()[0]) == (
        2,
        f"error: `{place}`: cannot be written: Permission denied",
    )


def test_a_manifest_that_cannot_be_written_is_named(
    closed: None, home: Path, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "rebuild_index", no_work)
    code, err = call("manifest", "rebuild")
    place = home / "data/shards/manifest.duckdb"
    assert (code, err.splitlines()[0]) == (
        2,
        f"error: `{place}`: cannot be written: Permission denied",
    )


def test_a_list_below_a_file_is_refused(home: Path, call: Callable[..., Said]) -> None:
    shards = home / "file"
    code, err = call("list-pictures", "vg", str(home / "world/vg"), "--shards", str(shards))
    place = shards / "benchmarks"
    assert (code, err.splitlines()[0].split("@")[0]) == (2, f"error: `{place}/vg")
    assert "cannot be written: Not a directory" in err


def test_a_folder_is_no_table_of_boxes(home: Path) -> None:
    with pytest.raises(UsageError, match="expected a file to write, found a folder"):
        detect.label(home / "world/coco/val2017", "none", out=home / "world")


def test_a_source_that_cannot_be_read_is_named(
    home: Path, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = home / "world" / "coco"
    real = Path.iterdir

    def refuse(folder: Path) -> object:
        if folder.is_relative_to(source):
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    code, err = call("convert", "jsonl", str(source), "--workers", "1")
    assert (code, err.splitlines()[0]) == (
        2,
        f"error: `{source}`: cannot be read: Permission denied",
    )


def test_a_temporary_name_is_told_to_nobody(home: Path) -> None:
    with pytest.raises(NotADirectoryError) as raised:
        write_bytes(home / "file" / "x", b"")
    assert raised.value.filename == str(home / "file" / "x")
