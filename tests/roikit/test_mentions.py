from hypothesis import given
from hypothesis import strategies as st

from roikit.mentions import escape, mention, mentioned, plain, split_mentions

TAGGY = st.lists(
    st.sampled_from(
        ["<", "<<", ">", "region1", "region12", "image", "|im_end|", "/s", "a", " ", "<image>"]
    ),
    max_size=12,
).map("".join)


@given(TAGGY | st.text(max_size=30))
def test_escaped_text_mentions_nothing_and_comes_back(text: str) -> None:
    assert "".join(map(str, split_mentions(escape(text)))) == text
    assert mentioned(escape(text)) == []
    assert plain(escape(text)) == text


def test_mentions_are_found_in_order_with_repeats() -> None:
    text = f"Why is {mention(2)} near {mention(1)}, not {mention(2)}?"
    assert mentioned(text) == [2, 1, 2]
    assert split_mentions(text) == ["Why is ", 2, " near ", 1, ", not ", 2, "?"]
    assert plain(text) == "Why is region2 near region1, not region2?"


def test_literal_tags_beside_mentions() -> None:
    text = escape("press <region1> or <|im_end|> in ") + mention(3)
    assert split_mentions(text) == ["press <region1> or <|im_end|> in ", 3]


def test_region_zero_and_other_tags_are_text() -> None:
    assert split_mentions("<region0> <region01> <b> a<b") == ["<region0> <region01> <b> a<b"]


def test_a_long_run_of_brackets_takes_no_time() -> None:
    # Tried from each of its characters, it would take minutes.
    text = "<" * 100_000
    assert escape(text) == text
    assert split_mentions(text + mention(1)) == [text[:50_000], 1]


@given(TAGGY | st.text(alphabet="<>region109 /|a\n", max_size=40))
def test_the_short_way_to_mentions_agrees_with_the_long_one(text: str) -> None:
    assert mentioned(text) == [part for part in split_mentions(text) if isinstance(part, int)]


@given(TAGGY | st.text(max_size=30))
def test_reading_a_text_plainly_keeps_the_number_of_its_words(text: str) -> None:
    # The sidecar counts words without undoing escapes.
    assert len(plain(text).split()) == len(text.split())
