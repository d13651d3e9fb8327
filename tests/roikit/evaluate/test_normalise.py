import pytest

from roikit.evaluate import normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A Dog.", "dog"),
        ("the traffic  light", "traffic light"),
        ("an apple", "apple"),
        ("Theatre", "theatre"),
        ("a", "a"),
        ("", ""),
        ("cat\n", "cat"),
    ],
)
def test_category_names_lose_case_article_and_stop(text, expected):
    assert normalise.category(text) == expected


def test_captions_keep_their_articles():
    assert normalise.caption("A man, on a  Horse. ") == "a man, on a horse"


def test_mentions_and_escapes_read_as_a_person_reads_them():
    assert normalise.clean("<region2> holds <<region1>") == "region2 holds <region1>"


def test_no_character_that_ends_a_line_survives():
    text = normalise.clean("a\rb\u2028c\x85d\x0be\tf\ng")
    assert text == "a b c d e f g"
    assert len(text.splitlines()) == 1
