import json
import os
import shlex
from pathlib import Path

import pytest

from roikit.errors import UsageError
from roikit.urls import (
    clean_command,
    is_url,
    join,
    login_of,
    place,
    with_login,
    without_secrets,
)

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def no_logins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROIKIT_URL_LOGINS", "{}")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("s3://bucket/vcr/", "s3://bucket/vcr"),
        ("S3://Bucket/VCR", "s3://Bucket/VCR"),
        ("hdfs:///user/x", "hdfs:///user/x"),
        ("hdfs:///", "hdfs:///"),
        ("hdfs://", "hdfs:///"),
        ("hdfs://name:8020/user/x", "hdfs://name:8020/user/x"),
        ("memory:///shards", "memory:///shards"),
        ("s3://bucket/run#2/shards", "s3://bucket/run#2/shards"),
        ("s3://bucket/1054_A@3", "s3://bucket/1054_A@3"),
        ("s3://bucket/a:b", "s3://bucket/a:b"),
        ("https://[::1]:8000/vcr", "https://[::1]:8000/vcr"),
        ("abfs://container@account/shards", "abfs://container@account/shards"),
    ],
)
def test_a_url_stays_one_and_loses_nothing_of_its_path(given: str, kept: str) -> None:
    found = place(given)
    assert found == kept
    assert is_url(found)
    assert os.environ["ROIKIT_URL_LOGINS"] == "{}"


@pytest.mark.parametrize("protocol", ["file", "local", "FILE"])
def test_a_url_of_this_machine_is_a_path(protocol: str) -> None:
    assert place(f"{protocol}:///data/my%20run#2") == Path("/data/my run#2")
    assert place(f"{protocol}://localhost/data") == Path("/data")
    with pytest.raises(UsageError, match=r"data/vcr`: .* found a host") as caught:
        place(f"{protocol}://me:{SECRET}@data/vcr")
    assert SECRET not in str(caught.value)


def test_names_are_joined_below_urls_without_a_host_too() -> None:
    assert join("s3://bucket/vcr", "val") == "s3://bucket/vcr/val"
    assert join("hdfs:///user", "val") == "hdfs:///user/val"
    assert join("hdfs:///", "val") == join("hdfs://", "val") == "hdfs:///val"
    assert join("s3://bucket", "") == "s3://bucket"


def test_a_login_is_kept_in_the_environment_alone() -> None:
    url = place(f"sftp://bob:{SECRET}%40%2F@host:22/vcr")
    assert url == "sftp://host:22/vcr"
    login = login_of("sftp://host:22/vcr/train")
    assert login == f"bob:{SECRET}%40%2F"
    assert with_login(url, login) == f"sftp://bob:{SECRET}%40%2F@host:22/vcr"
    assert list(json.loads(os.environ["ROIKIT_URL_LOGINS"])) == ["sftp://host:22"]
    assert login_of("sftp://other/vcr") is None


#: Passwords that a shell's user may type without thinking.
UNESCAPED = [
    f"{SECRET}{x}{SECRET}" for x in ("@", "/", "#", "?", " ", "'", '"', "\\", "/@/", "12/")
]


@pytest.mark.parametrize("password", [*UNESCAPED, f"12/{SECRET}"])
def test_an_unescaped_password_is_refused_and_shown_nowhere(password: str) -> None:
    url = f"https://bob:{password}@host/vcr"
    with pytest.raises(UsageError, match="cannot tell where the login") as caught:
        place(url)
    assert "percent-encode it" in str(caught.value.hint)
    assert SECRET not in str(caught.value)
    for word in (url, f"--images={url}"):
        assert SECRET not in without_secrets(word)
        assert without_secrets(word).endswith("https://host/vcr")
    command = shlex.join(["roikit", "convert", "vcr", url, f"--out={url}", "--split", "a b"])
    assert clean_command(command) == (
        "roikit convert vcr https://host/vcr --out=https://host/vcr --split 'a b'"
    )
    assert SECRET not in os.environ["ROIKIT_URL_LOGINS"]


def test_a_query_behind_a_url_is_refused_without_repeating_it() -> None:
    with pytest.raises(UsageError, match="found a query") as caught:
        place(f"https://host/vcr?token={SECRET}")
    assert SECRET not in str(caught.value)
    with pytest.raises(UsageError, match="found a fragment") as caught:
        place(f"https://host/run#{SECRET}/vcr")
    assert SECRET not in str(caught.value)
    assert "%23" in str(caught.value.hint)


def test_a_command_line_keeps_what_is_no_secret() -> None:
    text = f"roikit convert vcr https://me:{SECRET}@host/a?X-Amz-Signature={SECRET} --seed 1"
    assert clean_command(text) == "roikit convert vcr https://host/a --seed 1"
    assert clean_command("roikit convert vcr 's3://b/A@3 x'") == "roikit convert vcr 's3://b/A@3 x'"
    assert clean_command(f"it's http://me:{SECRET}@host") == "it's http://host"
