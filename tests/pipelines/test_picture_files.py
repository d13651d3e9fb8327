from pathlib import Path
from typing import Any

import pytest

from pipelines.picture_files import find_pictures
from roikit.errors import UsageError


def names(source: Path) -> list[str]:
    return [picture.name for picture in find_pictures(source)]


def test_a_folder_is_searched_with_all_below_it(tree: Any) -> None:
    for name in ("b.JPG", "a/z.png", "a/y.webp", "notes.txt", ".hidden.jpg", ".git/x.jpg", "a.tif"):
        tree.put(name, b"")
    assert names(tree.root) == ["a.tif", "a/y.webp", "a/z.png", "b.JPG"]


def test_links_are_followed_but_not_in_circles(tree: Any, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/c.png").write_bytes(b"")
    tree.put("a/b.png", b"")
    (tree.root / "a/up").symlink_to(tree.root)
    (tree.root / "linked").symlink_to(tmp_path / "elsewhere")
    assert names(tree.root) == ["a/b.png", "linked/c.png"]


def test_a_list_names_paths_beside_itself(tree: Any, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.png"
    listed = f"\ufeffb.jpg\r\n\n  a/z.png \nb.jpg\n{elsewhere}\n"
    tree.put("list.txt", listed.encode())
    tree.put("b.jpg", b"")
    found = find_pictures(tree.root / "list.txt")
    assert [picture.path for picture in found] == [
        elsewhere,
        tree.root / "a/z.png",
        tree.root / "b.jpg",
    ]
    assert [picture.name for picture in found] == [str(elsewhere), "a/z.png", "b.jpg"]


def test_a_picture_stands_for_itself(tree: Any) -> None:
    tree.put("a/one.png", b"")
    assert names(tree.root / "a/one.png") == ["one.png"]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("none", None, "found nothing there"),
        ("empty.txt", b"\n\n", "expected pictures, found no file named in it"),
        ("binary.txt", b"\xff\xd8\xff\xe0", "found text that is not UTF-8"),
        (
            "names.txt",
            b"gone.jpg\nlost.jpg\n",
            "found 2 lines that name no file, such as `gone.jpg`",
        ),
        ("words.txt", b"x" * 3000, r"found 1 lines that name no file, such as `x{200} …`"),
        ("records.json", b"[]\n" + b"y" * 4097, "found 4,097 bytes in line 2, too many for a path"),
        (".", None, r"expected pictures, found no file with \.bmp"),
    ],
)
def test_what_holds_no_picture_is_refused(
    tree: Any, name: str, data: bytes | None, said: str
) -> None:
    tree.put("notes.md", b"")
    if data is not None:
        tree.put(name, data)
    with pytest.raises(UsageError, match=said) as refused:
        find_pictures(tree.root / name)
    assert len(str(refused.value)) < 600
