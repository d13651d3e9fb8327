"""What the command does around the libraries: exit codes, one-line errors, JSON, defaults."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import roikit.__main__ as entry
from pipelines.registry import DATASETS
from roikit import paths
from roikit.config import load_recipe
from roikit.errors import ChecksFailedError, CorruptSampleError, UsageError

ROOT = Path(__file__).resolve().parents[1]


def roikit(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-m", "roikit", *arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["roikit", *arguments])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


# --- how failures end ---

_CLOSED = "`/x`: cannot be used: Permission denied"
_RIGHT = "give yourself the right, or choose another path"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--set", "stage1.layuot=plain"], "error: stage1.layuot: unknown key"),
        (["--shards", "nowhere", "--from", "x"], "error: nowhere/coco/train: no such dataset"),
        (["--gpus", "2"], "error: --gpus, --gpu-memory"),
    ],
)
def test_processes_of_one_machine_say_a_wrong_option_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    waited: list[float] = []
    monkeypatch.setattr(entry.time, "sleep", waited.append)
    command = ("train", "stage1", "--recipe", "tiny", *options)
    monkeypatch.setenv("RANK", "2")  # the first of a second machine, whose files may differ
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert run(monkeypatch, *command) == 2
    assert capsys.readouterr().err.startswith(expected) and not waited
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run(monkeypatch, *command) == 1
    # it stays until the other has spoken, since torchrun ends all when one ends
    assert capsys.readouterr().err == "" and waited


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UsageError("`x`: no such folder", hint="make it"), ("`x`: no such folder", "make it", 2)),
        (ChecksFailedError("2 of 9 rejected"), ("2 of 9 rejected", None, 3)),
        (CorruptSampleError("a.tar: b.jpg"), ("a.tar: b.jpg", None, 1)),
        (OSError(errno.EACCES, "Permission denied", "/x"), (_CLOSED, _RIGHT, 2)),
        (OSError(errno.EIO, "I/O error", "/x"), ("/x: I/O error", None, 1)),
        (ValueError("first\nsecond"), ("ValueError: first", None, 1)),
        (ZeroDivisionError(), ("ZeroDivisionError", None, 1)),
    ],
)
def test_an_error_becomes_message_hint_and_exit_code(
    error: Exception, expected: tuple[str, str | None, int]
) -> None:
    assert entry.describe(error) == expected


def test_a_full_disk_says_so_and_where() -> None:
    message, hint, code = entry.describe(OSError(errno.ENOSPC, "No space left", "/data/a.tar"))
    assert (message, code) == ("the disk is full at `/data/a.tar`", 1)
    assert hint is not None and "run it again" in hint


def test_an_unexpected_error_is_one_line_unless_debugging(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: Any) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr("cli.app", fail)
    assert run(monkeypatch) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: ValueError: a defect",
        "hint: run again with --debug to see where",
    ]
    assert run(monkeypatch, "stats", "--debug") == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("error: ValueError: a defect\n")


def test_what_strangers_wrote_cannot_reach_the_terminal_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: Any) -> None:
        raise UsageError("found `a\nb`, `\x1b[2J` and `\ud800`", hint="look\nthere")

    monkeypatch.setattr("cli.app", fail)
    assert run(monkeypatch) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == [r"error: found `a b`, `\x1b[2J` and `\ud800`", "hint: look there"]


def test_debug_may_stand_anywhere_but_not_behind_two_dashes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[list[str]] = []

    def record(*, args: list[str], **_: Any) -> None:
        seen.append(args)

    monkeypatch.setattr("cli.app", record)
    run(monkeypatch, "convert", "--debug", "coco")
    run(monkeypatch, "show", "--", "--debug")
    assert seen == [["convert", "coco"], ["show", "--", "--debug"]]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_with_their_exit_code(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    script = (
        "import os, sys, roikit.__main__ as m, cli\n"
        f"cli.app = lambda **_: os.kill(os.getpid(), {int(sent)}) or __import__('time').sleep(9)\n"
        "m.main()"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, check=False
    )
    assert done.returncode == code
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["no-such-command"], ["stats", "--no-such-option"]])
def test_usage_errors_end_with_2(tmp_path: Path, arguments: list[str]) -> None:
    done = roikit(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""


# --- defaults ---


def test_everything_lies_below_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ROIKIT_HOME", raising=False)
    assert paths.shards_dir() == Path("data/shards")
    monkeypatch.setenv("ROIKIT_HOME", str(tmp_path))
    assert paths.source_dir("vcr") == tmp_path / "data" / "vcr"
    assert paths.shards_dir() == tmp_path / "data" / "shards"
    assert paths.runs_dir() == tmp_path / "runs"


# --- commands, on a small drawn world ---


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the miniature world converted."""
    folder = tmp_path_factory.mktemp("home")
    for arguments in (
        ["miniature", "world", "--images", "64", "--workers", "1"],
        *(["convert", name, f"world/{name}", "--workers", "1"] for name in ("coco", "vg", "vcr")),
    ):
        done = roikit(*arguments, cwd=folder)
        assert (done.returncode, done.stdout != "") == (0, True), done.stderr
    return folder


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROIKIT_HOME", str(home))
    return home


def result(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> Any:
    """Run a command with `--json` and return its document."""
    assert run(monkeypatch, *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_datasets_says_what_is_converted(
    at_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {one["name"]: one for one in result(capsys, monkeypatch, "datasets")}
    assert list(found) == list(DATASETS)
    assert found["coco"]["source"] == str(at_home / "data" / "coco")
    assert found["vcr"]["converted"].keys() == {"train", "val", "test"}
    assert found["vcr"]["stage"] == "2"
    assert found["vcr"]["licence"].keys() == {"annotations", "pictures"}
    assert "agreement" in found["vcr"]["registration"]
    counts = {"images": 9_929, "records": 26_534, "kinds": {}}
    assert found["vcr"]["published"]["val"] == counts
    assert found["coco"]["registration"] is None


def test_the_table_of_datasets_fits_a_terminal_of_100_columns(
    at_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "datasets") == 0
    shown = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in shown) <= 100
    names = [line.split()[0] for line in shown[1:] if not line.startswith(" ")]
    assert names == list(DATASETS)
    text = "\n".join(shown)
    for expected in (
        "v7w_pointing_answers.json", "or GRiT's *.json", "complex_reasoning_77k.json",
        "instances_*2017.json", "{train,val,test}.jsonl", "train 118,287 / 1,451,754",
        "registration: agreement",
    ):  # fmt: skip
        assert expected in text


def test_terms_are_shown_at_a_datasets_first_conversion_only(
    at_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = str(at_home / "world" / "coco")
    base = ["convert", "coco", source, "--out", str(tmp_path), "--workers", "1", "--json"]
    assert run(monkeypatch, *base, "--split", "val") == 0
    said = capsys.readouterr()
    json.loads(said.out)
    assert said.err.startswith("COCO: annotations: CC BY 4.0; pictures: a Flickr licence")
    assert "registration" not in said.err
    assert run(monkeypatch, *base) == 0
    assert "CC BY" not in capsys.readouterr().err
    commit = json.loads((tmp_path / "coco" / "val" / "dataset.json").read_bytes())
    assert commit["licence"].startswith("annotations: CC BY 4.0")
    assert commit["registration"] is None
    asked = ["query", "select licence, registration from datasets", "--shards", str(tmp_path)]
    assert run(monkeypatch, *asked, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows == [{"licence": commit["licence"], "registration": None}] * 2


def test_masks_are_an_option_of_the_datasets_that_have_them(
    at_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = str(at_home / "world" / "coco")
    base = ["convert", "coco", source, "--out", str(tmp_path), "--workers", "1"]
    result(capsys, monkeypatch, *base, "--split", "val", "--masks")
    asked = ["query", "select distinct has_mask from regions", "--shards", str(tmp_path)]
    assert result(capsys, monkeypatch, *asked) == [{"has_mask": True}]
    assert run(monkeypatch, "convert", "vg", str(at_home / "world" / "vg"), "--masks") == 2
    assert "`--masks`: Visual Genome has no use for it" in capsys.readouterr().err


def test_converting_again_writes_nothing(
    at_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = at_home / "data" / "shards" / "vg" / "test" / "dataset.json"
    before = commit.stat().st_mtime_ns
    source = str(at_home / "world" / "vg")
    reports = result(capsys, monkeypatch, "convert", "vg", source, "--workers", "1")
    assert all(report["was_done"] for report in reports)
    assert commit.stat().st_mtime_ns == before


def test_a_dry_run_writes_nothing(
    at_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    source = str(at_home / "world" / "coco")
    arguments = ["convert", "coco", source, "--out", str(out), "--dry-run", "--workers", "1"]
    reports = result(capsys, monkeypatch, *arguments, "--split", "val", "--limit", "2")
    assert [(r["split"], r["images_converted"]) for r in reports] == [("val-first2", 2)]
    assert not out.exists()


def test_too_many_rejects_end_with_3_after_the_commit_and_the_report(
    at_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, out = tmp_path / "coco", tmp_path / "out"
    shutil.copytree(at_home / "world" / "coco", source)
    next((source / "val2017").glob("*.jpg")).unlink()
    arguments = ["--out", str(out), "--split", "val", "--workers", "1", "--json"]
    assert run(monkeypatch, "convert", "coco", str(source), *arguments) == 3
    said = capsys.readouterr()
    assert list(json.loads(said.out)[0]["rejections"]) == ["E_IMAGE_MISSING"]
    assert "\nerror: lost more than 1.0% of the records" in said.err
    assert (out / "coco" / "val" / "dataset.json").is_file()


def test_show_draws_and_prints_a_sample(
    at_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture = tmp_path / "sample.png"
    assert run(monkeypatch, "show", "vcr-val-000000000", "--save", str(picture)) == 0
    said = capsys.readouterr().out
    assert said.startswith("vcr-val-000000000  ")
    assert "\nreasoning-all  " in said and "  user       " in said and "<region" not in said
    assert picture.read_bytes().startswith(b"\x89PNG")
    sample = result(capsys, monkeypatch, "show", "vcr-val-000000000")
    assert sample["key"] == "vcr-val-000000000"


def test_query_and_stats_agree(
    at_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sql = "select count(*) as n from conversations where task = 'caption' and split = 'train'"
    (row,) = result(capsys, monkeypatch, "query", sql)
    tasks = result(capsys, monkeypatch, "stats")["tasks"]
    assert [
        t["conversations"] for t in tasks if (t["task"], t["split"]) == ("caption", "train")
    ] == [row["n"]]


def test_damage_is_found_and_ends_with_3(
    at_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "verify") == 0
    shards = tmp_path / "shards"
    shutil.copytree(at_home / "data" / "shards", shards)
    tar = shards / "vg" / "test" / "vg-test-000000.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    capsys.readouterr()
    assert run(monkeypatch, "verify", "--shards", str(shards)) == 3
    assert str(tar) in capsys.readouterr().out


def test_the_manifest_can_be_made_again(
    at_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(at_home / "data" / "shards", shards)
    (shards / "manifest.duckdb").unlink()
    assert run(monkeypatch, "stats", "--shards", str(shards)) == 2
    assert run(monkeypatch, "manifest", "rebuild", "--shards", str(shards)) == 0
    assert run(monkeypatch, "stats", "--shards", str(shards)) == 0


def test_a_picture_on_both_sides_is_counted_as_a_leak(
    at_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["leaks", "--eval", "vg@train", "--train", "coco@train"]
    (leak,) = result(capsys, monkeypatch, *arguments)["rows"]
    assert 0 < leak["found"] < leak["total"]  # half of the scenes stand in both, by coco_id
    assert leak["by_id"] == leak["by_bytes"] == leak["by_pixels"] == leak["found"]
    assert leak["similar"] == 0  # drawn scenes are much alike, and yet told apart
    arguments[2:] = ["vg@test", "--train", "coco@train", "--no-pixels"]
    (none,) = result(capsys, monkeypatch, *arguments)["rows"]
    assert (none["found"], none["by_pixels"], none["similar"]) == (0, None, None)


def test_leaks_fails_on_request_and_after_its_table(
    at_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = tmp_path / "alike.html"
    arguments = ["leaks", "--eval", "vg@train", "--train", "coco@train", "--strict"]
    assert run(monkeypatch, *arguments, "--save", str(page)) == 3
    said = capsys.readouterr()
    assert said.out.startswith("evaluation  training") and "vg@train    coco@train" in said.out
    assert "error: pictures of vg@train stand in training data" in said.err
    assert page.is_file()
    assert run(monkeypatch, *arguments, "--save", str(page)) == 2  # it is there already
    assert run(monkeypatch, "leaks", "--eval", "vg@test", "--train", "coco@train", "--strict") == 0


def test_pictures_are_listed_without_them_and_left_out_of_training(
    at_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, shards = tmp_path / "coco", tmp_path / "shards"
    (shards / "vg").mkdir(parents=True)
    (shards / "vg" / "train").symlink_to(at_home / "data" / "shards" / "vg" / "train")
    shutil.copytree(at_home / "world" / "coco" / "annotations", source / "annotations")
    at_shards = ["--shards", str(shards)]
    explain = ["mix", "explain", "vg", *at_shards, "--set", 'keep_clean=["coco@train","lvis@val"]']
    before = result(capsys, monkeypatch, *explain)
    assert before["not_kept_clean"] == ["coco@train", "lvis@val"]
    listing = ["list-pictures", "coco", str(source), *at_shards, "--split", "train"]
    (listed,) = result(capsys, monkeypatch, *listing)
    assert listed["benchmark"] == "coco@train"
    assert Path(listed["path"]) == shards / "benchmarks" / "coco@train.txt"
    after = result(capsys, monkeypatch, *explain)
    assert after["not_kept_clean"] == ["lvis@val"]
    by_coco, by_all = after["dropped"]
    assert (by_coco["benchmark"], by_all["benchmark"]) == ("coco@train", None)
    assert by_coco["pictures"] == by_all["pictures"] > 0
    assert after["epoch"] == before["epoch"] - by_all["conversations"]
    emptied = result(capsys, monkeypatch, *explain[:-1], "keep_clean=[]")
    assert (emptied["epoch"], emptied["dropped"][0]["pictures"]) == (before["epoch"], 0)
    assert run(monkeypatch, *explain) == 0
    said = capsys.readouterr()
    assert "left out for" in said.out
    assert said.err.startswith("not kept clean, since neither converted nor listed: lvis@val")


@pytest.mark.slow
def test_a_run_freezes_what_it_leaves_out_and_refuses_another_list(
    at_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(at_home / "data" / "shards", shards)
    keep = 'keep_clean=["coco@val","coco@train","paco@test"]'
    train = ["train", "align", "--shards", str(shards), "--out", str(tmp_path / "align")]
    train += ["--recipe", "tiny", "--device", "cpu", "--set", keep, "--set", "align.mix=vg"]
    train += ["--set", "align.steps=1", "--set", "align.batch_size=2"]
    result(capsys, monkeypatch, *train)
    assert [r.getMessage() for r in caplog.records if "not kept clean" in r.getMessage()] == [
        "not kept clean, since neither converted nor listed: paco@test (`roikit list-pictures "
        "NAME` lists their pictures from the annotation files alone)"
    ]
    told = json.loads((tmp_path / "align" / "run.json").read_text())["data"]["kept_clean"]
    excluded = (tmp_path / "align" / "excluded.txt").read_bytes()
    assert told == {
        "sha256": hashlib.sha256(excluded).hexdigest(),
        "unresolved": ["paco@test"],
    }
    scored = ["eval", "coco-category", "--shards", str(shards), "--model", str(tmp_path / "align")]
    scored += ["--limit", "1", "--controls", "none", "--split", "train"]
    scored += ["--out", str(tmp_path / "result.json"), "--overwrite"]
    record = result(capsys, monkeypatch, *scored)
    # half of vg's pictures are coco's, and training left those out
    assert record["leak"]["found"] == 0 and "ids" in record["leak"]["compared"]
    (shards / "benchmarks").mkdir()
    (shards / "benchmarks" / "coco@val.txt").write_text("coco:999999\n")
    assert run(monkeypatch, *train) == 2
    assert "holds a run with another data.kept_clean.sha256" in capsys.readouterr().err
    shutil.rmtree(shards / "vg" / "train")
    record = result(capsys, monkeypatch, *scored)
    assert record["leak"] is None and "`vg@train`, which" in record["leak_unknown"]


def test_mix_explain_gives_each_source_its_share(
    at_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    explained = result(capsys, monkeypatch, "mix", "explain", "vcr:reasoning-all=2,vg=1")
    twice, once = explained["sources"]
    assert (twice["passes"], once["passes"]) == (2.0, 1.0)
    assert explained["epoch"] == twice["positions"] + once["positions"]
    assert twice["exchanges"] == 2 * twice["positions"]  # an answer and its reason
    assert twice["samples"] <= twice["conversations"]
    assert twice["share"] + once["share"] == pytest.approx(1.0)
    # the picture alone takes so many in each conversation
    picture = load_recipe("small", stage="stage2").model.image_grid ** 2
    assert once["tokens"] > picture * once["positions"]
    assert twice["unlearnable"] == once["unlearnable"] == 0
    assert explained["tokens_estimated"] == ("estimated from words" in explained["tokens_counted"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["convert", "coco", "no-such-folder"], "`no-such-folder`: expected a folder"),
        (["convert", "nothing", "world"], f"expected one of {', '.join(DATASETS)}, got `nothing`"),
        (["show", "coco-val-000099999"], "no sample `coco-val-000099999`"),
        (["query", "selct 1"], "syntax error"),
        (["query", "select 1; select 2"], "expected one statement"),
        (["query", "delete from regions"], "read-only"),
        (["train", "stage2"], "expected the run that stage2 starts from"),
        (["train", "align", "--recipe", "tiny", "--set", "align.stepz=3"], "align.stepz: unknown"),
        (["train", "align", "--gpus", "2"], "--mfu belong to --estimate"),
        (["train", "align", "--estimate", "--mfu", "2"], "--mfu: expected a share above 0"),
        (["train", "align", "--recipe", "tiny", "--mix", "vg=x"], "expected a positive weight"),
        (["eval", "nothing"], "got `nothing`"),
        (["chat", "photo.jpg"], "expected a finished run"),
        (["report"], "found no results"),
        (["leaks", "--eval", "vg"], "expected DATASET@SPLIT"),
    ],
)
def test_what_the_user_got_wrong_is_one_error_and_exit_2(
    at_home: Path,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and said in captured.err.splitlines()[0]
    assert "Traceback" not in captured.err


def test_a_cost_card_says_how_each_figure_is_known_and_leaves_nothing(
    at_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = at_home / "data" / "lengths"  # of texts, as training keeps them

    def others() -> list[Path]:
        return [path for path in sorted(at_home.rglob("*")) if kept not in (path, *path.parents)]

    before = others()
    arguments = ["train", "stage2", "--recipe", "tiny", "--device", "cpu", "--estimate"]
    arguments += ["--gpus", "4", "--set", "stage2.batch_size=8", "--where", "answer_words > 0"]
    card = result(capsys, monkeypatch, *arguments)
    assert others() == before
    explain = ["mix", "explain", "--recipe", "tiny", "--where", "answer_words > 0"]
    explained = result(capsys, monkeypatch, *explain)
    figures = {figure["name"]: figure for figure in card["figures"]}
    assert figures["language_model (learns)"]["known"] == "counted"
    assert figures["tokens an epoch"]["known"] == "sampled"
    for name in ("exchanges", "tokens"):
        told = sum(source[name] for source in explained["sources"])
        assert explained["tokens_estimated"] or figures[f"{name} an epoch"]["value"] == told
    assert figures["activations"]["known"] == "computed"
    assert figures["GPU-hours"]["known"] == "assumed"
    assert figures["steps"]["value"] == 700
    assert figures["a step of a GPU's share on cpu"]["known"] == "measured"
    assert card["trial"]["conversations"] == 2  # of the step's eight, a quarter
    assert card["fits"] and not card["advice"]
    assert "tiles a picture, beside itself" not in figures
    tiled = ["--set", "model.image_size=64", "--set", "model.max_tiles=4"]
    assert run(monkeypatch, *arguments, *tiled, "--gpu-memory", "0.5") == 0
    said = capsys.readouterr().out
    _, _, told = said.partition("tiles a picture, beside itself")
    assert 1 < float(told.split()[0]) <= 4
    assert "does not fit into 0.5 GiB a GPU, nor with any setting that was tried" in said
    assert "989 TFLOP/s a GPU at its peak, of which training reaches 35%" in said


def test_a_runs_own_recipe_goes_on_with_it(
    at_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "align"
    train = ["train", "align", "--out", str(out), "--device", "cpu"]
    tiny = ["--recipe", "tiny", "--mix", "vg", "--where", 'answer_words > 0 -- a "note"']
    steps = ["--set", "align.steps=1", "--set", "align.batch_size=2"]
    result(capsys, monkeypatch, *train, *tiny, *steps)
    told = (out / "recipe.toml").read_text()
    assert told.startswith('name = "tiny"') and 'mix = "vg"' in told
    again = result(capsys, monkeypatch, *train, "--recipe", str(out / "recipe.toml"))
    assert again["resumed_from"] == 1


def test_training_evaluation_and_chat_follow_each_other(
    at_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "data").symlink_to(at_home / "data")
    monkeypatch.setenv("ROIKIT_HOME", str(tmp_path))
    runs = tmp_path / "runs"
    small = ["--recipe", "tiny", "--device", "cpu"]
    for i, stage in enumerate(("align", "stage1", "stage2")):
        steps = ["--set", f"{stage}.steps=2", "--set", f"{stage}.batch_size=2"]
        trained = result(capsys, monkeypatch, "train", stage, *small, *steps)
        assert (trained["steps"], trained["model"]) == (2, str(runs / stage / "model"))
        told = json.loads((runs / stage / "run.json").read_text())
        before = (None, str(runs / "align"), str(runs / "stage1"))[i]
        assert told["start"] == before
    record = result(
        capsys, monkeypatch, "eval", "coco-category", "--limit", "3", "--controls", "none"
    )
    assert (record["items"], record["system"]) == (3, str(runs / "stage2"))
    # the runs say what they were trained on: coco in align and stage 1, vg in stage 2
    assert record["leak"]["found"] == 0 and record["leak"]["total"] > 0
    assert (runs / "eval" / record["predictions"]).is_file()
    card = (runs / "stage2" / "model" / "README.md").read_text()
    assert "| `coco-category@val` | " in card and "limited to 3 items" in card
    (reported,) = result(capsys, monkeypatch, "report")
    assert reported["benchmark"] == "coco-category"
    picture = next((at_home / "world" / "coco" / "val2017").glob("*.jpg"))
    asked = ["chat", str(picture), "--box", "10,10,60,60", "--ask", "What is region1?"]
    (said,) = result(capsys, monkeypatch, *asked, "--max-new-tokens", "4")
    assert said["question"] == "What is region1?" and isinstance(said["answer"], str)


@pytest.mark.parametrize("option", [("--images", "99"), ("--workers", "2"), ("--faults",)])
def test_what_full_scale_has_no_use_for_is_refused(option: tuple[str, ...], tmp_path: Path) -> None:
    done = roikit("miniature", "full", "--scale", "full", *option, cwd=tmp_path)
    assert done.returncode == 2
    assert f"{option[0]}: `--scale full` has no use for it" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_help_says_what_full_scale_writes_and_refuses(tmp_path: Path) -> None:
    from pipelines.full_scale import DATASETS

    said = " ".join(roikit("miniature", "--help", cwd=tmp_path).stdout.replace("│", " ").split())
    *others, last = DATASETS
    assert f"{', '.join(others)} and {last}; takes no --images, --faults or --workers" in said


def test_a_tree_of_official_size_is_found_by_its_mark(tmp_path: Path) -> None:
    mark = {"synthetic": True, "version": 1, "seed": 0, "images": 3, "records": 4, "file_bytes": 5}
    (tmp_path / "full" / "vcr").mkdir(parents=True)
    (tmp_path / "full" / "vcr" / "full-scale.json").write_text(json.dumps(mark))
    arguments = ("miniature", "full", "--scale", "full", "--datasets", "vcr")
    done = roikit(*arguments, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)
    assert (report["dataset"], report["was_done"], report["records"]) == ("vcr", True, 4)
    done = roikit(*arguments, cwd=tmp_path)
    assert "there already" in done.stdout and "synthetic" in done.stderr


def test_chosen_trees_of_the_miniature_world_alone_are_written(tmp_path: Path) -> None:
    arguments = ("--images", "32", "--workers", "1", "--datasets", "vcr")
    done = roikit("miniature", "world", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "world").iterdir()) == ["scenes.jsonl", "vcr"]
    done = roikit("miniature", "other", "--images", "32", "--datasets", "mars", cwd=tmp_path)
    assert done.returncode == 2 and "mars" in done.stderr and "Traceback" not in done.stderr
