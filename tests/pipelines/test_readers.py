"""Every way to the same samples: a folder, a store, webdataset; over the miniature's datasets."""

from pathlib import Path

import pytest

from pipelines.miniature import make_miniature
from pipelines.run import convert
from pipelines.stages import open_stream
from roikit.config import load_recipe
from shards import remote as store
from shards.commit import list_datasets
from shards.layout import split_dir
from shards.plain_webdataset import pipeline
from shards.read import iter_samples
from tests.stores import Bucket

DATASETS = ("coco", "vg", "vcr", "refcoco")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readers")
    make_miniature(folder / "world", images=32, datasets=DATASETS, odd_sizes=0.2, workers=1)
    for name in DATASETS:
        convert(name, folder / "world" / name, folder / "shards", max_shard_bytes=100_000)
    return folder / "shards"


def test_a_store_and_webdataset_give_the_samples_of_the_folder(
    shards: Path, tmp_path: Path, memory: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROIKIT_CACHE", str(tmp_path / "cache"))
    root = store.local_side(memory.put_tree(shards, "shards"), tmp_path / "here")
    splits = [(info.dataset, info.split) for info in list_datasets(shards)]
    assert {dataset for dataset, _ in splits} == set(DATASETS)
    for names in splits:
        expected = list(iter_samples(shards, *names))
        tars = sorted(split_dir(shards, *names).glob("*.tar"))
        assert list(pipeline(tars)) == expected
        for _ in range(2):  # from the store, then from the cache
            assert list(iter_samples(root, *names)) == expected


def test_a_stage_is_opened_on_a_store_as_on_its_folder(
    shards: Path, tmp_path: Path, memory: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROIKIT_CACHE", str(tmp_path / "cache"))
    root = store.local_side(memory.put_tree(shards, "shards"), tmp_path / "here")
    recipe = load_recipe("tiny", stage="stage2", overrides=["stage2.mix=vcr=2,vg=1"])
    assert recipe.keep_clean
    here, kept_here = open_stream(recipe, root)
    there, kept_there = open_stream(recipe, shards)
    assert kept_here == kept_there and kept_here.identities
    assert here.fingerprint == there.fingerprint
    for place in range(40):
        assert here.example(0, place) == there.example(0, place)
