"""The pages that `stats --html` and `show --html` write: what stands on them, and what must not."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from roikit.draw import COLOURS
from roikit.errors import UsageError
from roikit.page import write_page
from roikit.sample import Choice, Conversation, Region, Rejection, Rle, Source, Turn
from shards import sheet
from shards.commit import DatasetInfo
from shards.manifest import rebuild
from shards.selection import named_splits
from shards.sheet import contact_sheet, rejected_records
from shards.stats_page import stats_page

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg onload=alert(3)>"
KEY = "made-train-000000000"


class Page(HTMLParser):
    """The elements and the texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._is_style = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._is_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._is_style = False

    def handle_data(self, data: str) -> None:
        if not self._is_style:
            self.text += data

    def having(self, name: str) -> list[dict[str, str | None]]:
        """Attributes of the elements of a class."""
        return [a for _, a in self.elements if name in (a.get("class") or "").split()]


def check_harmless(page: str) -> Page:
    """Check that nothing on a page runs or loads."""
    found = Page(page)
    for tag, attributes in found.elements:
        assert tag not in ("script", "img", "iframe", "object", "embed", "link", "form", "base")
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src"):
                assert (value or "").startswith("data:image/"), value
    assert "http-equiv" in page and "default-src 'none'" in page
    return found


def conversation(*texts: str, **more: object) -> Conversation:
    fields: dict[str, object] = {"id": "7", "task": "dialogue", **more}
    return Conversation(
        independent=False,
        source=Source(file="a.json", record="7"),
        turns=tuple(
            Turn(role="assistant" if i % 2 else "user", text=text) for i, text in enumerate(texts)
        ),
        **fields,  # type: ignore[arg-type]
    )


def test_what_strangers_wrote_stays_text(tmp_path: Path, put_split: Callable[..., None]) -> None:
    asked = Choice(question_id="q", step="answer", options=(EVIL, "b"), answer=0)
    told = [
        conversation(f"{EVIL} <region1>?", EVIL, id=EVIL),
        conversation(EVIL, id="2", task="choice", choice=asked),
    ]
    rejection = Rejection(
        code="E_BOX_EMPTY", message=EVIL, source=Source(file=EVIL, record=EVIL), native_id=EVIL
    )
    regions = [[Region(box_xyxy=(1, 2, 9, 9), label=EVIL)]]
    put_split(tmp_path, "train", regions, told, native_id=EVIL, rejections=[rejection])
    rebuild(tmp_path)
    rows = rejected_records(tmp_path, named_splits(tmp_path), limit=5)
    made = contact_sheet(tmp_path, [KEY], rejected=rows, title=EVIL)
    page = check_harmless(made.page)
    # native id, label twice, id, turns thrice, option, title, and the rejection's four
    assert page.text.count("<script>alert(1)</script>") >= 12
    assert check_harmless(stats_page(tmp_path)).text.count("<script>alert(1)</script>") >= 1


def test_boxes_and_mentions_have_their_numbers_colour(
    tmp_path: Path, put_split: Callable[..., None]
) -> None:
    regions = [Region(box_xyxy=(i, 2, i + 5, 9), label=f"thing {i}") for i in range(13)]
    told = [conversation("Is <region2> by <region13>?", "<<region1> is text.")]
    put_split(tmp_path, "train", [regions], told)
    page = check_harmless(contact_sheet(tmp_path, [KEY]).page)
    boxes = {a["class"]: a for a in page.having("box")}
    assert len(boxes) == 13
    assert (boxes["box m2 s1"]["x"], boxes["box m2 s1"]["width"]) == ("1.0", "5.0")
    in_text = [a["class"] for a in page.having("mention")][-2:]
    assert in_text == ["mention m2 c1", "mention m13 c0"]
    assert "<region1> is text." in page.text
    red = "#{:02x}{:02x}{:02x}".format(*COLOURS[0][1])
    assert f".c0 {{ background: {red};" in contact_sheet(tmp_path, [KEY]).page


def test_the_right_option_is_marked(tmp_path: Path, put_split: Callable[..., None]) -> None:
    asked = Choice(question_id="q", step="answer", options=("wrong", "good"), answer=1)
    hidden = Choice(question_id="r", step="answer", options=("a", "b"))
    told = [
        conversation("Which?", task="choice", choice=asked),
        conversation("Hm?", id="8", task="choice", choice=hidden),
    ]
    put_split(tmp_path, "train", [[]], told)
    page = contact_sheet(tmp_path, [KEY]).page
    (right,) = re.findall(r'class="option right">(.*?)</div>', page)
    assert "good" in right and "wrong" not in right
    assert page.count("The right option is not published") == 1


def test_masks_lie_over_the_picture_and_damaged_ones_are_left_out(
    tmp_path: Path, put_split: Callable[..., None]
) -> None:
    inside = np.zeros((24, 32), np.uint8, order="F")
    inside[3:9, 3:9] = 1
    counts = coco_mask.encode(inside)["counts"].decode()
    masks = [Rle((24, 32), counts), Rle((24, 32), "!!bad"), Rle((9, 9), counts), None]
    regions = [Region(box_xyxy=(1, 2, 9, 9), mask_rle=rle) for rle in masks]
    put_split(tmp_path, "train", [regions])
    page = check_harmless(contact_sheet(tmp_path, [KEY]).page)
    pictures = [a["href"] or "" for tag, a in page.elements if tag == "image"]
    assert [href.partition(";")[0] for href in pictures] == ["data:image/jpeg", "data:image/png"]


def test_a_page_is_bounded(
    tmp_path: Path, put_split: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    regions = [Region(box_xyxy=(1, 2, 9, 9)) for _ in range(300)]
    told = [conversation(*["word " * 600] * 50, id=str(i)) for i in range(40)]
    put_split(tmp_path, "train", [regions, regions, []], told)
    keys = [f"made-train-{i:09d}" for i in range(3)]
    made = contact_sheet(tmp_path, keys)
    assert made.num_samples == 3
    assert len(made.page) < 6_000_000  # of 18 MB of text
    assert "and 200 more regions" in made.page and "and 10 more turns" in made.page
    assert "and 16 more conversations" in made.page
    monkeypatch.setattr(sheet, "MAX_PAGE_BYTES", 1_000_000)
    assert contact_sheet(tmp_path, keys).num_samples < 3


def test_a_damaged_sample_costs_only_itself(
    tmp_path: Path, make_split: Callable[..., DatasetInfo]
) -> None:
    make_split(tmp_path, shard_sizes=(2,))
    tar = tmp_path / "made/train/made-train-000000.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    made = contact_sheet(tmp_path, [KEY, "made-train-000000001"])
    assert made.num_samples == 2
    assert len(made.unreadable) == 1 and "have changed" in made.unreadable[0]
    page = check_harmless(made.page)
    assert "have changed" in page.text and len(page.having("picture")) == 1


def test_the_counts_page_has_every_split_and_its_bars(
    tmp_path: Path, make_split: Callable[..., DatasetInfo]
) -> None:
    make_split(tmp_path, split="train", shard_sizes=(4, 3))
    make_split(tmp_path, split="val", shard_sizes=(2,))
    rebuild(tmp_path)
    page = check_harmless(stats_page(tmp_path))
    for text in ("made@train", "made@val", "E_BOX_OUTSIDE", "7 in all, median 1"):
        assert text in page.text
    # 7.5 x 7 of 32 x 24, 25 and 26 pixels (5 pictures) is above 6.25 %, of 27 and 28 (2) below
    assert "3.1 to 6.2 %: 2" in page.text and "6.2 to 12 %: 5" in page.text
    only = check_harmless(stats_page(tmp_path, ["made@val"])).text
    assert "made@val" in only and "made@train" not in only


def test_a_page_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    write_page(path, "one")
    with pytest.raises(UsageError, match="is there already"):
        write_page(path, "two")
    write_page(path, "two \ud800", overwrite=True)
    assert path.read_bytes() == b"two ?"
