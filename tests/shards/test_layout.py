import pytest

from roikit.errors import UsageError
from shards.layout import parse_key, sample_key, shard_stem, split_dir


def test_names_are_those_of_the_format():
    assert shard_stem("vcr", "train", 0) == "vcr-train-000000"
    assert sample_key("refcoco+", "testA", 42) == "refcoco+-testA-000000042"
    assert split_dir("out", "vcr", "train-first1000").parts == ("out", "vcr", "train-first1000")


def test_a_key_is_taken_apart_again():
    key = sample_key("vcr", "train-first1000", 7)
    assert parse_key(key) == ("vcr-train-first1000", 7)
    with pytest.raises(UsageError, match="expected a form like"):
        parse_key("vcr-train-7")


@pytest.mark.parametrize("name", ["", "..", "a/b", "a.b", "-a", "a--b", "a b"])
def test_names_that_would_split_a_key_or_leave_the_folder_are_refused(name):
    with pytest.raises(UsageError, match="split"):
        split_dir("out", "vcr", name)
