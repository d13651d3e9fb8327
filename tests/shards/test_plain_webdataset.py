"""A pipeline on webdataset: the same samples as our own reader's, and damage that is named."""

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roikit.errors import CorruptSampleError
from roikit.images import decode_rgb
from shards.commit import DatasetInfo
from shards.plain_webdataset import pipeline
from shards.read import iter_samples
from tests.stores import SECRET, web_server

webdataset = pytest.importorskip("webdataset")

MakeSplit = Callable[..., DatasetInfo]
FOLDER = "made/train"


@pytest.fixture
def root(tmp_path: Path, make_split: MakeSplit) -> Path:
    make_split(tmp_path, shard_sizes=(4, 3, 2))
    return tmp_path


@pytest.mark.parametrize("kind", ["path", "list", "file", "pipe", "http"])
def test_samples_are_those_of_our_own_reader(root: Path, kind: str) -> None:
    pattern = f"{FOLDER}/made-train-{{000000..000002}}.tar"
    expected = list(iter_samples(root, "made", "train"))
    if kind == "http":
        with web_server(root, f"me:{SECRET}") as host:
            assert list(pipeline(f"http://me:{SECRET}@{host}/{pattern}")) == expected
        return
    urls: Any = {
        "path": root / pattern,
        "list": [root / FOLDER / f"made-train-00000{i}.tar" for i in range(3)],
        "file": f"file:{root}/{pattern}",
        "pipe": f"pipe:cat {root}/{pattern}",
    }[kind]
    found = pipeline(urls)
    assert isinstance(found, webdataset.DataPipeline)
    assert list(found) == expected
    assert list(found) == expected, "every iteration begins anew"


def test_pixels_are_decoded_as_everywhere(root: Path) -> None:
    found = list(pipeline(root / FOLDER / "made-train-{000000..000002}.tar", pixels=True))
    expected = list(iter_samples(root, "made", "train"))
    assert [sample for sample, _ in found] == [sample for sample, _ in expected]
    for (_, pixels), (_, data) in zip(found, expected, strict=True):
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, decode_rgb(data))


def test_tars_are_shared_as_the_user_says(root: Path) -> None:
    def odd(urls: Any) -> Any:
        return (url for i, url in enumerate(urls) if i % 2)

    pattern = root / FOLDER / "made-train-{000000..000002}.tar"
    expected = [sample.key for sample, _ in iter_samples(root, "made", "train")][4:7]
    for given in ({"nodesplitter": odd}, {"workersplitter": odd}):
        assert [sample.key for sample, _ in pipeline(pattern, **given)] == expected
    twice = [root / FOLDER / "made-train-000001.tar"] * 2
    assert [sample.key for sample, _ in pipeline(twice)] == expected * 2


def test_a_dataloader_s_workers_read_each_tar_once(root: Path) -> None:
    found = pipeline(root / FOLDER / "made-train-{000000..000002}.tar")
    loader = webdataset.WebLoader(found, num_workers=2, batch_size=None)
    keys = sorted(sample.key for sample, _ in loader)
    assert keys == [sample.key for sample, _ in iter_samples(root, "made", "train")]


def repacked(tar: Path, order: Callable[[list[str]], list[str]]) -> None:
    with tarfile.open(tar) as file:
        members = {info.name: (info, file.extractfile(info)) for info in file.getmembers()}
        data = {name: (info, stream.read()) for name, (info, stream) in members.items() if stream}
    with tarfile.open(tar, "w") as file:
        for name in order(list(data)):
            info, content = data[name]
            with (tar.parent / "member").open("wb+") as stream:
                stream.write(content)
                stream.seek(0)
                file.addfile(info, stream)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (
            lambda names: [*names[::2], *names[1::2]],
            "member `made-train-000000000.jpg`: expected its record `made-train-000000000.json`"
            " behind it, found `made-train-000000001.jpg`",
        ),
        (
            lambda names: [names[1], names[0], *names[2:]],
            "member `made-train-000000000.json`: expected the picture of `made-train-000000000`",
        ),
        (
            lambda names: [*names[4:], *names[:4]],
            "member `made-train-000000000.json`: expected a key after `made-train-000000003`",
        ),
        (
            lambda names: names[:-1],
            "member `made-train-000000003.jpg`: expected its record .* the shard ends",
        ),
        (
            lambda names: [names[0], names[3], *names[4:]],
            "member `made-train-000000000.jpg`: .* found `made-train-000000001.json`",
        ),
    ],
)
def test_shuffled_members_and_missing_halves_are_refused(
    root: Path, order: Callable[[list[str]], list[str]], message: str
) -> None:
    tar = root / FOLDER / "made-train-000000.tar"
    repacked(tar, order)
    with pytest.raises(CorruptSampleError, match=f"{tar}: {message}"):
        list(pipeline(tar))


def test_changed_bytes_are_named_or_passed_over(root: Path) -> None:
    tar = root / FOLDER / "made-train-000000.tar"
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(data)
    with pytest.raises(CorruptSampleError, match=r"made-train-000000000\.jpg`: its bytes have"):
        list(pipeline(f"pipe:cat {tar}"))
    with pytest.warns(UserWarning, match="its bytes have changed"):
        found = list(pipeline(tar, handler=webdataset.warn_and_continue))
    assert [sample.key[-1] for sample, _ in found] == ["1", "2", "3"]
    data[data.index(b'"schema"') + 1] ^= 1
    tar.write_bytes(data)
    with pytest.raises(CorruptSampleError, match=r"made-train-000000000\.json`"):
        list(pipeline(tar))


def test_a_login_is_in_no_message(root: Path) -> None:
    repacked(root / FOLDER / "made-train-000000.tar", lambda names: names[:-1])
    with web_server(root, f"me:{SECRET}") as host:
        url = f"http://me:{SECRET}@{host}/{FOLDER}/made-train-000000.tar"
        with pytest.raises(CorruptSampleError) as caught:
            list(pipeline(url))
    assert str(caught.value).startswith(f"http://{host}/{FOLDER}/made-train-000000.tar: member")
