from typing import Any

import pytest

from pipelines.class_names import (
    read_class_table,
    require_lvis,
    shifted_classes,
)
from roikit.errors import UsageError


def table(*ids: int, **more: Any) -> dict[str, Any]:
    return {"categories": [{"id": i, "name": f"c{i}", **more} for i in ids]}


def test_the_missing_comma_makes_265_names_wrong() -> None:
    names = [f"c{i}" for i in range(1203)]
    shifted = [cls.label for cls in shifted_classes(names)]
    assert len(shifted) == 1203
    assert sum(a != b for a, b in zip(names, shifted, strict=True)) == 265
    assert shifted[937:940] == ["c937", "c938c939", "c940"]
    assert shifted[-1] == "background"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"images": []}, "with `categories`"),
        ({"categories": []}, "found none"),
        ({"categories": [{"id": 1}]}, r"categories\[0\]: missing field `name`"),
        ({"categories": [{"id": 1, "name": " "}]}, "expected a name, got none"),
        (table(1, 1), "id 1 occurs twice"),
        (table(1, synonyms=[3]), r"synonyms\[0\]"),
        ([], "JSON object"),
    ],
)
def test_a_file_without_names_is_refused(tree: Any, content: Any, expected: str) -> None:
    tree.json("c.json", content)
    with pytest.raises(UsageError, match=expected):
        read_class_table(tree.root / "c.json")


def test_only_lvis_v1_numbers_a_detectors_classes(
    tree: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for ids, expected in (
        (range(1, 1231), "LVIS v0.5"),
        (range(2, 1205), "without a gap, as LVIS v1's do, found 1203 from 2 to 1204"),
        (range(0, 1203), "without a gap"),
    ):
        tree.json("c.json", table(*ids))
        with pytest.raises(UsageError, match=expected):
            require_lvis(read_class_table(tree.root / "c.json"), tree.root / "c.json")
    tree.json("c.json", table(*range(1, 1204)))
    require_lvis(read_class_table(tree.root / "c.json"), tree.root / "c.json")
    assert not caplog.records
    tree.json("c.json", table(3, 1, 2))
    found = read_class_table(tree.root / "c.json")
    require_lvis(found, tree.root / "c.json")
    assert found.names == ("c1", "c2", "c3")
    assert "expected LVIS v1's 1203 categories, found 3" in caplog.text
