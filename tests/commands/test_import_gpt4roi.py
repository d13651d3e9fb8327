"""`roikit import-gpt4roi` from the command line, on a synthetic release."""

import json
import signal
import sys
from pathlib import Path

import pytest

import roikit.__main__ as entry
from tests.roikit.model.gpt4roi_release import Release, write_release


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return write_release(tmp_path_factory.mktemp("release"))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["roikit", "import-gpt4roi", *arguments])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def sources(release: Release) -> list[str]:
    named = {"--delta": release.delta, "--base": release.base, "--vision": release.vision}
    return [word for option, path in named.items() for word in (option, str(path))]


def test_a_dry_run_tells_what_the_import_then_writes(
    release: Release,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "model"
    more = ["--out", str(out), "--max-shard-size", "1MB", "--json"]
    assert run(monkeypatch, *sources(release), *more, "--dry-run") == 0
    told = json.loads(capsys.readouterr().out)
    assert not list(tmp_path.iterdir()) and told.pop("written") is False
    assert run(monkeypatch, *sources(release), *more) == 0
    done = json.loads(capsys.readouterr().out)
    assert done.pop("written") is True and done == told
    assert done["dtype"] == "float16" and done["dropped"] == 2
    assert len(list(out.glob("*.safetensors"))) == done["files"] > 1
    assert run(monkeypatch, *sources(release), "--out", str(out)) == 2
    assert "holds a model already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--max-shard-size", "2"), "expected a size like `500MB` or `2GB`, got `2`"),
        (("--max-shard-size", "0MB"), "expected a size like"),
        (("--dtype", "int8"), "dtype: expected auto, fp32, bf16, fp16, got `int8`"),
        (("--base", "nowhere"), "--base nowhere: expected a folder, found nothing"),
    ],
)
def test_wrong_options_are_one_line(
    release: Release,
    tmp_path: Path,
    option: tuple[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *sources(release), "--out", str(tmp_path / "m"), *option) == 2
    err = capsys.readouterr().err.splitlines()
    assert said in err[0] and len(err) <= 2
    assert not list(tmp_path.iterdir())
