import pytest

from roikit.errors import UsageError
from shards.mix import MixEntry, parse_mix


def test_a_mixture_is_read_as_it_is_written():
    assert parse_mix("vcr:reasoning-single=2, vg=1,vcr@val:choice=0.5,refcoco+@testA") == (
        MixEntry("vcr", task="reasoning-single", weight=2.0),
        MixEntry("vg"),
        MixEntry("vcr", "val", "choice", 0.5),
        MixEntry("refcoco+", "testA"),
    )


@pytest.mark.parametrize("name", ["vcr", "vcr@val", "vcr:refer", "vcr@val-first10:refer"])
def test_an_entry_s_name_reads_back_as_the_entry(name):
    (entry,) = parse_mix(name)
    assert entry.name == name


def test_without_a_task_everything_with_an_answer_is_meant():
    assert "choice" not in MixEntry("vcr").tasks
    assert "caption" in MixEntry("vcr").tasks
    assert MixEntry("vcr", task="choice").tasks == ("choice",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected `DATASET"),
        ("vcr,", "expected `DATASET"),
        ("vcr:nonsense", "unknown task `nonsense`"),
        ("vcr=0", "positive weight, got `0`"),
        ("vcr=-1", "positive weight"),
        ("vcr=nan", "positive weight"),
        ("vcr=lots", "positive weight, got `lots`"),
        ("vcr=1,vcr=2", "stands twice"),
    ],
)
def test_wrong_mixtures_are_refused_with_the_entry(text, message):
    with pytest.raises(UsageError, match=message):
        parse_mix(text)
