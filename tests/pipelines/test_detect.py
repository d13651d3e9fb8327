"""`roikit label`: pictures and a detector become a table, whatever happens on the way."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest

import roikit.__main__ as entry
from pipelines.detect import LabelReport, check_rejections, default_out, label, read_classes
from roikit.errors import RoikitError, UsageError

ROOT = Path(__file__).resolve().parents[2]
MakeDetector = Callable[..., Path]

#: As it lies on a picture: centre, width, height.
LEFT_TOP = (0.25, 0.25, 0.5, 0.5)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROIKIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def rows(table: Path) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in pq.read_table(table).to_pylist()]


def run(tree: Any, detector: Path, **options: Any) -> LabelReport:
    return label(tree.root, str(detector), **{"threshold": 0.05, **options})


def encoded(image: PIL.Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def fill(tree: Any, count: int = 20) -> None:
    """Pictures of three shapes, in two folders."""
    for i in range(count):
        width, height = ((64, 48), (48, 64), (60, 60))[i % 3]
        tree.picture(f"{'sub/' if i % 2 else ''}{i:03}.jpg", width, height, seed=i)


def test_boxes_are_pixels_of_the_upright_picture(tree: Any, make_detector: MakeDetector) -> None:
    tree.picture("b/turned.jpg", 80, 40, orientation=6)
    tree.picture("a.jpg", 80, 40)
    report = run(tree, make_detector(box=LEFT_TOP))
    assert rows(report.out) == [
        ("a.jpg", 0, 0, 40, 20, 80, 40, 0.7112, "dog", "tiny-detector"),
        ("b/turned.jpg", 0, 0, 20, 40, 40, 80, 0.7112, "dog", "tiny-detector"),
    ]
    assert (report.pictures, report.labelled, report.boxes, report.from_cache) == (2, 2, 2, 0)


def test_pictures_of_every_kind_are_labelled(tree: Any, make_detector: MakeDetector) -> None:
    colours = PIL.Image.fromarray(np.full((40, 60, 3), 99, dtype=np.uint8))
    for mode, kind in (
        *(("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("1", "TIFF")),
        *(("P", "GIF"), ("RGB", "WEBP"), ("RGB", "BMP"), ("I;16", "PNG"), ("LA", "PNG")),
    ):
        picture = colours.convert("L" if mode == "I;16" else mode)
        name = f"{mode.replace(';', '')}.{kind.lower()}"
        tree.put(name, encoded(picture.convert(mode) if mode == "I;16" else picture, kind))
    report = run(tree, make_detector(box=LEFT_TOP))
    assert report.rejections == []
    assert [row[1:7] for row in rows(report.out)] == [(0, 0, 30, 20, 60, 40)] * 10


def test_a_bad_picture_costs_itself_only(
    tree: Any, make_detector: MakeDetector, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tree, 4)
    whole = (tree.root / "000.jpg").read_bytes()
    tree.put("cut.jpg", whole[:-300])
    tree.put("damaged.jpg", whole[:1500] + b"\xff\xd9")
    tree.put("empty.png", b"")
    tree.put("esc\x1b[31m.png", b"it would turn a terminal red")
    tree.put("gone.jpg", b"")
    (tree.root / "gone.jpg").unlink()
    (tree.root / "gone.jpg").symlink_to(tree.root / "nowhere.jpg")
    tree.put("text.gif", b"this is no picture")
    thin = PIL.Image.fromarray(np.zeros((1, 5000, 3), dtype=np.uint8))
    tree.put("thin.png", encoded(thin, "PNG"))
    (tree.root / os.fsdecode(b"latin\xe9.jpg")).write_bytes(whole)
    report = run(tree, make_detector(box=LEFT_TOP))
    assert {one.source.file: one.code for one in report.rejections} == {
        "cut.jpg": "E_IMAGE_TRUNCATED",
        "damaged.jpg": "E_IMAGE_UNREADABLE",
        "empty.png": "E_IMAGE_UNREADABLE",
        "esc\x1b[31m.png": "E_IMAGE_UNREADABLE",
        "gone.jpg": "E_IMAGE_MISSING",
        "latin\\udce9.jpg": "E_IMAGE_UNREADABLE",
        "text.gif": "E_IMAGE_UNREADABLE",
        "thin.png": "E_IMAGE_UNREADABLE",
    }
    assert report.rejected == {
        "E_IMAGE_MISSING": 1, "E_IMAGE_TRUNCATED": 1, "E_IMAGE_UNREADABLE": 6,
    }  # fmt: skip
    assert [row[0] for row in rows(report.out)] == [
        "000.jpg",
        "002.jpg",
        "sub/001.jpg",
        "sub/003.jpg",
    ]
    said = [record.getMessage() for record in caplog.records if record.name.startswith("pipelines")]
    assert len(said) == 8 and not any("\n" in line or "\x1b" in line for line in said)
    assert check_rejections(report) == (
        "8 of 12 pictures could not be used (66.7%, allowed are 1.0%)"
    )
    assert check_rejections(report, 0.7) is None


def test_numbers_that_are_not_finite_reject_the_picture(
    tree: Any, make_detector: MakeDetector
) -> None:
    from safetensors.torch import load_file, save_file

    fill(tree, 2)
    folder = make_detector()
    weights = load_file(folder / "model.safetensors")
    weights["bbox_predictor.layers.2.bias"][:] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    report = run(tree, folder)
    assert (report.rejected, report.labelled, report.boxes) == ({"E_VALUE_RANGE": 2}, 0, 0)


def test_a_second_run_asks_the_cache_and_writes_the_same_bytes(
    tree: Any, make_detector: MakeDetector
) -> None:
    fill(tree)
    detector = make_detector()
    first = run(tree, detector)
    before = first.out.read_bytes()
    again = run(tree, detector)
    assert (first.from_cache, again.from_cache, again.labelled) == (0, 20, 20)
    assert again.out.read_bytes() == before
    assert first.boxes == len(rows(first.out)) > 20


def test_the_same_bytes_under_two_names_are_looked_at_once(
    tree: Any, make_detector: MakeDetector
) -> None:
    fill(tree, 12)
    shutil.copy(tree.root / "000.jpg", tree.root / "zzz.jpg")
    report = run(tree, make_detector(), batch_size=2)
    assert (report.labelled, report.from_cache) == (13, 1)
    found = rows(report.out)
    assert [r[1:] for r in found if r[0] == "zzz.jpg"] == [
        r[1:] for r in found if r[0] == "000.jpg"
    ]


def test_pictures_may_be_added_but_not_be_lost(tree: Any, make_detector: MakeDetector) -> None:
    fill(tree, 10)
    detector = make_detector()
    run(tree, detector)
    tree.picture("0000.jpg", seed=77)
    report = run(tree, detector)
    assert (report.labelled, report.from_cache) == (11, 10)
    (tree.root / "000.jpg").unlink()
    with pytest.raises(UsageError, match=r"boxes of 1 pictures .* such as `000.jpg`"):
        run(tree, detector)
    assert run(tree, detector, overwrite=True).labelled == 10


def test_pictures_without_boxes_may_not_be_lost_either(
    tree: Any, make_detector: MakeDetector
) -> None:
    fill(tree, 4)
    detector = make_detector(box=LEFT_TOP)
    first = run(tree, detector, threshold=0.99)
    assert (first.boxes, first.without_boxes) == (0, 4)
    tree.put("list.txt", b"001.jpg\n000.jpg\n")
    with pytest.raises(UsageError, match=r"boxes of 3 pictures .* such as `002.jpg`"):
        label(tree.root / "list.txt", str(detector), out=first.out, threshold=0.99)


def test_a_long_name_is_cut_where_it_is_said(
    tree: Any, make_detector: MakeDetector, caplog: pytest.LogCaptureFixture
) -> None:
    tree.picture("a.jpg", 80, 40)
    tree.put("list.txt", b"a.jpg\n" + b"x/" * 1500)
    report = label(tree.root / "list.txt", str(make_detector(box=LEFT_TOP)))
    assert report.rejected == {"E_IMAGE_MISSING": 1}
    (said,) = [r.getMessage() for r in caplog.records if r.name.startswith("pipelines")]
    assert len(said) < 600


def test_where_no_picture_can_be_used_an_older_table_stays(
    tree: Any, make_detector: MakeDetector, monkeypatch: Any, capsys: Any
) -> None:
    fill(tree, 2)
    detector = make_detector(box=LEFT_TOP)
    older = run(tree, detector).out
    before = older.read_bytes()
    tree.put("bad/bad.jpg", b"no picture")
    arguments = ["label", str(tree.root / "bad"), "--detector", str(detector)]
    arguments += ["--out", str(older), "--overwrite", "--max-rejects", "1"]
    code, report, lines = command(monkeypatch, capsys, *arguments)
    assert (code, report["out"], report["labelled"]) == (3, None, 0)
    assert lines == ["error: none of 1 pictures could be used; no table was written"]
    assert older.read_bytes() == before


def test_a_table_without_boxes_is_announced(
    tree: Any, make_detector: MakeDetector, monkeypatch: Any, capsys: Any
) -> None:
    fill(tree, 2)
    arguments = ["label", str(tree.root), "--detector", str(make_detector(box=LEFT_TOP))]
    code, report, lines = command(monkeypatch, capsys, *arguments, "--threshold", "0.99")
    assert (code, report["boxes"]) == (0, 0)
    assert lines == [f"wrote {report['out']}; no picture has a box above the threshold"]


@pytest.mark.parametrize("change", ["threshold", "max_boxes", "weights", "dtype"])
def test_other_settings_are_not_mixed_with_what_was_found_before(
    tree: Any, make_detector: MakeDetector, tmp_path: Path, monkeypatch: Any, change: str
) -> None:
    fill(tree, 6)
    first = make_detector("first/detector")
    other: dict[str, Any] = {
        "threshold": {"threshold": 0.2}, "max_boxes": {"max_boxes": 2}, "dtype": {"dtype": "bf16"},
    }.get(change, {})  # fmt: skip
    second = make_detector("second/detector", seed=1) if change == "weights" else first
    out = run(tree, first).out
    before = out.read_bytes()
    with pytest.raises(UsageError, match="holds boxes of another detector or other settings"):
        run(tree, second, **other)
    assert out.read_bytes() == before
    report = run(tree, second, **other, overwrite=True)
    assert report.from_cache == 0
    monkeypatch.setenv("ROIKIT_HOME", str(tmp_path / "fresh"))
    fresh = run(tree, second, **other)
    assert fresh.out != out
    assert fresh.out.read_bytes() == out.read_bytes() != before


def test_a_file_of_somebody_else_is_not_overwritten(
    tree: Any, make_detector: MakeDetector, tmp_path: Path
) -> None:
    fill(tree, 2)
    out = tmp_path / "precious.parquet"
    out.write_bytes(b"my own")
    with pytest.raises(UsageError, match="something else than a table of `roikit label`"):
        run(tree, make_detector(), out=out)
    assert out.read_bytes() == b"my own"
    with pytest.raises(UsageError, match="expected a file to write, found a folder"):
        run(tree, make_detector(), out=tmp_path)


@pytest.mark.parametrize("kind", ["yolos", "detr"])
def test_another_batch_size_moves_boxes_by_noise_only(
    tree: Any, make_detector: MakeDetector, tmp_path: Path, monkeypatch: Any, kind: str
) -> None:
    fill(tree)
    detector = make_detector(kind=kind)
    tables = []
    for batch_size in (1, 5):
        monkeypatch.setenv("ROIKIT_HOME", str(tmp_path / str(batch_size)))
        tables.append(rows(run(tree, detector, batch_size=batch_size).out))
    one, five = tables
    assert len(one) == len(five) > 20
    for a, b in zip(one, five, strict=True):
        assert (a[0], a[5:7], a[8]) == (b[0], b[5:7], b[8])
        assert a[1:5] == pytest.approx(b[1:5], abs=0.02)
        assert a[7] == pytest.approx(b[7], abs=2e-4)


def test_workers_change_nothing(
    tree: Any, make_detector: MakeDetector, tmp_path: Path, monkeypatch: Any
) -> None:
    fill(tree)
    detector = make_detector()
    written = set()
    for workers in (1, 7):
        monkeypatch.setenv("ROIKIT_HOME", str(tmp_path / str(workers)))
        written.add(run(tree, detector, workers=workers).out.read_bytes())
    assert len(written) == 1


_KILLED = """
import os, signal, sys
from pipelines import detect, detect_cache
add, batches = detect_cache.DetectionCache.add, []

def add_and_die(self, found):
    batches.append(1)
    if len(batches) == int(sys.argv[3]):
        if sys.argv[4] == "inside":  # the rows are written, but not yet committed
            self._db.set_progress_handler(lambda: os.kill(os.getpid(), signal.SIGKILL), 1)
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    add(self, found)

detect_cache.DetectionCache.add = add_and_die
detect.label(__import__("pathlib").Path(sys.argv[1]), sys.argv[2], threshold=0.05, batch_size=3)
"""


@pytest.mark.parametrize(("batch", "moment"), [(3, "before"), (2, "inside")])
def test_a_killed_run_goes_on_and_writes_the_same_bytes(
    tree: Any,
    make_detector: MakeDetector,
    tmp_path: Path,
    monkeypatch: Any,
    batch: int,
    moment: str,
) -> None:
    fill(tree)
    tree.put("bad.jpg", b"no picture")
    detector = make_detector()
    whole = run(tree, detector, batch_size=3)
    killed_home = tmp_path / "killed"
    monkeypatch.setenv("ROIKIT_HOME", str(killed_home))
    died = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tree.root), str(detector), str(batch), moment],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert not list(killed_home.rglob("*.parquet"))
    resumed = run(tree, detector, batch_size=3)
    assert (resumed.from_cache, resumed.labelled) == (3 * (batch - 1), 20)
    assert resumed.out.read_bytes() == whole.out.read_bytes()


def test_a_damaged_cache_says_what_to_delete(tree: Any, make_detector: MakeDetector) -> None:
    fill(tree, 2)
    detector = make_detector()
    report = run(tree, detector)
    report.cache.write_bytes(b"nonsense" * 1000)
    with pytest.raises(RoikitError, match=r"sqlite`: the cache of detections cannot be used") as no:
        run(tree, detector)
    assert "delete the file" in (no.value.hint or "")


def test_limit_takes_the_first_pictures_and_progress_reaches_the_end(
    tree: Any, make_detector: MakeDetector
) -> None:
    fill(tree)
    tree.put("bad.jpg", b"")
    told: list[tuple[int, int]] = []
    report = run(tree, make_detector(), limit=7, progress=lambda *now: told.append(now))
    assert report.labelled == 7
    assert sorted({row[0] for row in rows(report.out)}) == [f"{i:03}.jpg" for i in range(0, 14, 2)]
    assert told == sorted(told) and told[-1] == (7, 7)
    run(tree, make_detector(), progress=lambda *now: told.append(now))
    assert told[-1] == (21, 21)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 1.5}, "threshold: expected 0 to 1"),
        ({"max_boxes": 0}, "max_boxes: expected at least 1"),
        ({"batch_size": 0}, "batch_size: expected at least 1"),
    ],
)
def test_senseless_settings_are_refused(tree: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run(tree, Path("no-detector"), **options)


def test_the_table_is_called_after_pictures_and_detector(home: Path, tree: Any) -> None:
    tree.put("list.txt", b"a.jpg")
    folder = home / "data" / "detections"
    assert default_out(tree.root, "facebook/detr-resnet-50") == folder / (
        "source-detr-resnet-50.parquet"
    )
    assert default_out(tree.root / "list.txt", "models/x/") == folder / "list-x.parquet"


def test_classes_come_from_a_list_or_an_annotation_file(tree: Any) -> None:
    tree.put("classes.txt", b"cat\n\n traffic_light \ncat\n")
    assert read_classes(tree.root / "classes.txt") == [
        ("cat", "cat"),
        ("traffic_light", "traffic light"),
    ]
    categories = [{"id": 2, "name": "dog"}, {"id": 1, "name": "bat_(animal)", "synonyms": ["bat"]}]
    tree.json("lvis.json", {"categories": categories})
    assert read_classes(tree.root / "lvis.json") == [("bat_(animal)", "bat"), ("dog", "dog")]
    tree.put("empty.txt", b"\n")
    for name, said in (("empty.txt", "found none"), ("none.txt", "No such file")):
        with pytest.raises(UsageError, match=said):
            read_classes(tree.root / name)


# --- the command ---


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, Any, list[str]]:
    """Run `roikit ... --json` in this process: exit code, document, lines of stderr."""
    monkeypatch.setattr(sys, "argv", ["roikit", *arguments, "--json"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        entry.main()
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, json.loads(said.out), said.err.splitlines()


def test_labelled_pictures_are_converted_with_their_regions(
    tree: Any, shards: Any, make_detector: MakeDetector, home: Path, monkeypatch: Any, capsys: Any
) -> None:
    records = []
    for i in range(1, 9):
        tree.picture(f"train2017/{i:012}.jpg", 80, 40, seed=i, orientation=6 if i == 8 else 1)
        said = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "The dog is there."}]
        records.append({"id": str(i), "image": f"{i:012}.jpg", "conversations": said})
    tree.json("llava_instruct_150k.json", records)
    tree.put("train2017/bad.jpg", b"no picture")
    table = home / "boxes.parquet"
    labelling = ["label", str(tree.root / "train2017"), "--out", str(table)]
    labelling += ["--detector", str(make_detector(box=LEFT_TOP))]
    code, report, lines = command(monkeypatch, capsys, *labelling)
    assert (code, report["boxes"], report["rejected"]) == (3, 8, {"E_IMAGE_UNREADABLE": 1})
    assert lines == [
        "error: 1 of 9 pictures could not be used (11.1%, allowed are 1.0%)",
        "hint: the others are labelled; `--max-rejects` allows more bad ones",
    ]
    code, report, _ = command(monkeypatch, capsys, *labelling, "--max-rejects", "0.2")
    assert (code, report["from_cache"]) == (0, 8)
    converting = ["convert", "llava", str(tree.root), "--detections", str(table)]
    converting += ["--out", str(shards.root), "--workers", "1"]
    code, _, _ = command(monkeypatch, capsys, *converting)
    assert code == 0
    samples = shards.samples("llava", "train")
    assert {native_id: s.regions[0].box_xyxy for native_id, s in samples.items()} == {
        **{f"coco:{i}": (0, 0, 40, 20) for i in range(1, 8)},
        "coco:8": (0, 0, 20, 40),
    }
    (region,) = samples["coco:1"].regions
    assert (region.label, region.origin, region.score) == ("dog", "detector", 0.7112)
    texts = [c.turns[0].text for s in samples.values() for c in s.conversations]
    assert any("<region1> (dog)" in text for text in texts)
