import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roikit.chat.parsing import (
    answer_to_record_text,
    format_box,
    join_mentions,
    known_mentions,
    parse_box,
    to_record_text,
)
from roikit.errors import UsageError
from roikit.mentions import mentioned, plain, split_mentions

WH = (640, 480)


@pytest.mark.parametrize(
    ("given_box", "expected"),
    [
        ("10,20,300,400", (10, 20, 300, 400)),
        (" 10 20  300,400 ", (10, 20, 300, 400)),
        ("[10; 20; 300; 400]", (10, 20, 300, 400)),
        ("10.5,20,300.25,400", (10.5, 20, 300.25, 400)),
        ("0.25,0.5,0.5,1.0", (160, 240, 320, 480)),
        ("0,0,.5,1", (0, 0, 320, 480)),
        ("0,0,1,1", (0, 0, 1, 1)),
        ("-5,-5,10,10", (0, 0, 10, 10)),
        ("600,400,9999,9999", (600, 400, 640, 480)),
        ((10, 20, 300, 400), (10, 20, 300, 400)),
        ([0.0, 0.0, 1.0, 1.0], (0, 0, 640, 480)),
        ([0, 0, 1, 1], (0, 0, 1, 1)),
        (np.array([0, 0, 1, 1]), (0, 0, 1, 1)),
        (np.array([0, 0, 0.5, 0.5], dtype=np.float32), (0, 0, 320, 240)),
        (np.array([[1, 2, 3, 4]]), (1, 2, 3, 4)),
    ],
)
def test_boxes_are_read_as_pixels_or_fractions_and_clipped(given_box, expected):
    assert parse_box(given_box, WH) == expected


def test_xywh_boxes_are_read_in_pixels_and_in_fractions():
    assert parse_box("10,20,30,40", WH, "xywh") == (10, 20, 40, 60)
    assert parse_box("0.5,0.5,0.25,0.5", WH, "xywh") == (320, 240, 480, 480)


@pytest.mark.parametrize(
    ("given_box", "box_format", "says"),
    [
        ("", "xyxy", "expected four numbers `x0,y0,x1,y1`, got 0"),
        ("10,20,30", "xyxy", "expected four numbers `x0,y0,x1,y1`, got 3"),
        ("1,2,3,4,5", "xywh", "expected four numbers `x,y,width,height`, got 5"),
        ("1,2,x,4", "xyxy", "`x` is none"),
        ("1,2,nan,4", "xyxy", "finite"),
        ("1,2,inf,4", "xyxy", "finite"),
        ("300,20,10,400", "xyxy", "x0 < x1, got 300 >= 10"),
        ("10,400,300,20", "xyxy", "y0 < y1, got 400 >= 20"),
        ("10,10,10,20", "xyxy", "x0 < x1, got 10 >= 10"),
        ("10,10,0,20", "xywh", "width and height above 0, got 0 and 20"),
        ("700,10,800,20", "xyxy", "outside the picture, which is 640 x 480 pixels"),
        ("-20,-20,-1,-1", "xyxy", "outside the picture"),
        ("1,2,3,4", "yxyx", "expected `xyxy` or `xywh`, got `yxyx`"),
    ],
)
def test_a_wrong_box_says_what_was_expected(given_box, box_format, says):
    with pytest.raises(UsageError) as raised:
        parse_box(given_box, WH, box_format)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_box_turned_inside_out_hints_at_the_other_format():
    with pytest.raises(UsageError) as raised:
        parse_box("300,20,10,400", WH)
    assert "xywh" in raised.value.hint


@given(st.tuples(st.integers(0, 600), st.integers(0, 400), st.integers(1, 40), st.integers(1, 80)))
def test_a_formatted_box_reads_back(xywh):
    box = parse_box([*xywh], WH, "xywh")
    assert parse_box(format_box(box), WH) == box


@pytest.mark.parametrize(
    ("typed", "record"),
    [
        ("What is <region1>?", "What is <region1>?"),
        ("what is Region 2 doing", "what is <region2> doing"),
        ("REGION1's hat", "<region1>'s hat"),
        ("region #2 and < region 1 >", "<region2> and <region1>"),
        ("compare regions 1, 2 and 3", "compare <region1>, <region2> and <region3>"),
        ("regions 1 & #2 differ?", "<region1> & <region2> differ?"),
        ("in this region 12 people", None),
        ("the regional 1 and subregion 2", "the regional 1 and subregion 2"),
        ("is <image> or </s> here", "is <<image> or <</s> here"),
        ("a < b and <<region1>", "a < b and <<<region1>"),
        ("region_1", "region_1"),
    ],
)
def test_typed_names_become_mentions(typed, record):
    if record is None:
        with pytest.raises(UsageError, match="region12"):
            to_record_text(typed, 3)
    else:
        assert to_record_text(typed, 3) == record


def test_a_literal_bracket_before_a_name_survives_as_text():
    record = to_record_text("<<region1>", 1)
    assert mentioned(record) == [1]
    assert plain(record) == "<region1"


@pytest.mark.parametrize(
    ("num_regions", "says"),
    [
        (0, "`region4` does not exist; there are no regions yet"),
        (1, "`region4` does not exist; there is region1"),
        (3, "`region4` does not exist; there are region1, region2 and region3"),
    ],
)
def test_an_unknown_region_lists_those_that_exist(num_regions, says):
    with pytest.raises(UsageError) as raised:
        to_record_text("and Region 4?", num_regions)
    assert str(raised.value) == says


def test_many_regions_are_listed_as_a_range():
    with pytest.raises(UsageError, match="there are region1 to region40"):
        to_record_text("region 0", 40)


def test_unknown_regions_in_an_answer_stay_words():
    record = answer_to_record_text("region1 is near region9, <image>", 2)
    assert record == "<region1> is near region9, <<image>"
    assert known_mentions("<region1> by <region9> and <<region1>", 2) == (
        "<region1> by region9 and <<region1>"
    )


@given(st.lists(st.one_of(st.integers(1, 9), st.text("<>/|region1 a\n", max_size=8))))
def test_joining_undoes_splitting(parts):
    text = join_mentions(parts)
    shown = "".join(f"region{part}" if isinstance(part, int) else part for part in parts)
    assert mentioned(text) == [part for part in parts if isinstance(part, int)]
    assert plain(text) == shown
    assert join_mentions(split_mentions(text)) == text
