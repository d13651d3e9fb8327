import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "shards.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("number", range(5))
def test_the_documented_readers_read(tmp_path, make_split, monkeypatch, capsys, number):
    make_split(tmp_path / "data" / "shards", "vcr", "train")
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) == 5
    exec(compile(BLOCKS[number], f"{PAGE}, block {number}", "exec"), {})
    printed = capsys.readouterr().out
    expected = [
        "vcr-train-000000006 jpg",
        "vcr-train-000000003 (27, 32, 3) 1",
        "What is <region1>?",
        "caption",
        "vcr-train-000000002",
    ]
    assert expected[number] in printed
