from pathlib import Path

import pytest

import cli
from roikit.errors import UsageError


@pytest.mark.parametrize("value", ["", " "])
@pytest.mark.parametrize(
    "option",
    ["--out", "--split", "--images", "--split-by", "--split-file", "--detections", "--categories"],
)
def test_an_empty_value_is_refused_and_the_option_named(
    option: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"`{option}`: expected a value, found it empty"):
        cli.app(["convert", "vg", str(tmp_path), option, value], standalone_mode=False)
    assert not list(tmp_path.iterdir())


def test_an_empty_source_is_not_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="`SOURCE`: expected a value"):
        cli.app(["convert", "vg", ""], standalone_mode=False)
