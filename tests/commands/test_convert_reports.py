"""What `convert` says of records that are wrong, and of counts that are other than published."""

import json
import re
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

import roikit.__main__ as entry

Said = tuple[int, str, str]
Call = Callable[..., Said]


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run a command at a home of its own; its exit code, stdout and stderr come back."""
    monkeypatch.setenv("ROIKIT_HOME", str(tmp_path))
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["roikit", *arguments])
        with pytest.raises(SystemExit) as ended:
            entry.main()
        assert isinstance(ended.value.code, int)
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run


@pytest.fixture
def own(tmp_path: Path) -> Callable[[int], str]:
    """Write one's own data: a good line, then so many whose box lies outside the picture."""

    def write(num_faults: int) -> str:
        folder = tmp_path / "mine"
        folder.mkdir()
        PIL.Image.new("RGB", (40, 30)).save(folder / "a.png")
        boxes = [[1, 2, 9, 9], *[[50, 2, 90, 9]] * num_faults]
        lines = [{"image": "a.png", "regions": [{"box": box, "label": "cat"}]} for box in boxes]
        (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return str(folder)

    return write


def test_a_dry_run_names_what_is_wrong(call: Call, own: Callable[[int], str]) -> None:
    command = ("convert", "jsonl", own(12), "--dry-run", "--workers", "1")
    code, out, err = call(*command)
    assert code == 3
    listed = re.findall(r"^train +E_BOX_OUTSIDE +train\.jsonl +line (\d+)\S* +(.*)", out, re.M)
    assert [int(line) for line, _ in listed] == list(range(2, 12))
    assert all("[50" in reason for _, reason in listed)
    assert "the first few of each code are listed" in err
    assert "\nhint: nothing was written, `--max-rejects` allows more" in err
    assert "roikit query" not in err
    (report,) = json.loads(call(*command, "--json")[1])
    first = report["examples"]["E_BOX_OUTSIDE"][0]
    assert first["source"]["file"] == "train.jsonl"
    assert first["source"]["record"].startswith("line 2")


@pytest.mark.parametrize("out", ["data/shards", "two words"])
def test_a_rejection_of_each_code_is_shown_and_the_hint_lists_all(
    call: Call, own: Callable[[int], str], tmp_path: Path, out: str
) -> None:
    root = tmp_path / out
    code, text, err = call("convert", "jsonl", own(2), "--out", str(root), "--workers", "1")
    assert code == 3
    head, row = text.splitlines()[-2:]
    assert head.split() == ["dataset", "split", "rejected", "rejections", "for", "example"]
    assert row.split()[:6] == ["jsonl", "train", "E_BOX_OUTSIDE", "2", "train.jsonl:", "line"]
    (hint,) = re.findall(r"`(roikit query .*?)` lists them", err)
    assert ("--shards" in hint) == (out == "two words")
    code, text, _ = call(*shlex.split(hint)[1:], "--json")
    assert (code, len(json.loads(text))) == (0, 2)
    commit = json.loads((root / "jsonl" / "train" / "dataset.json").read_bytes())
    assert commit["settings"]["counts"]["rejections"] == {"E_BOX_OUTSIDE": 2}
    assert "examples" not in commit["settings"]["counts"]
    head = call("stats", "--shards", str(root))[1].splitlines()[-2]
    assert head.split() == ["dataset", "split", "rejected", "rejections"]


def test_ones_own_data_has_no_terms(call: Call, own: Callable[[int], str]) -> None:
    code, _, err = call("convert", "jsonl", own(0), "--workers", "1")
    assert (code, "licence" in err, "registration" in err, "your own" in err) == (0, *[False] * 3)


def test_other_counts_are_told_beside_too_many_rejects(
    call: Call, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data/coco/val2017").mkdir(parents=True)
    (tmp_path / "data/coco/annotations").mkdir()
    PIL.Image.new("RGB", (40, 30)).save(tmp_path / "data/coco/val2017/1.jpg")
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in (1, 2)]
    box = {"category_id": 1, "bbox": [1, 1, 9, 9], "iscrowd": 0}
    boxes = [{**box, "id": i, "image_id": i} for i in (1, 2)]
    table = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "data/coco/annotations/instances_val2017.json").write_text(json.dumps(table))
    command = ("convert", "coco", "--workers", "1")
    differs = r"coco val: 2 images, published 5,000 .*coco val: 2 records, published 36,781"
    assert call(*command)[0] == 3
    assert re.search(f"counts differ: {differs}", caplog.text, re.S)
    code, _, err = call(*command, "--strict")
    assert code == 3
    assert re.search(f"\nerror: lost more than .*; counts differ .*: {differs}", err)
    assert re.search(r"\nhint: the rest is converted; .*; counts: are all files there", err)
