"""What a run's folder tells without loading it."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from roikit import runs
from roikit.errors import UsageError


def make_run(
    folder: Path, *, start: Path | None = None, splits: tuple[str, ...] = (), finished: bool = True
) -> Path:
    folder.mkdir(parents=True)
    data = {"mix": ",".join(name.split("/")[0] for name in splits)}
    told = {"start": start and str(start), "data": data | {"splits": dict.fromkeys(splits, "root")}}
    (folder / "run.json").write_text(json.dumps(told))
    if finished:
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")
        (folder / "model" / "model.safetensors").write_bytes(b"weights")
    return folder


def test_the_default_model_is_the_newest_finished_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a finished run"):
        runs.default_model(tmp_path)
    first = make_run(tmp_path / "stage1")
    second = make_run(tmp_path / "stage2")
    os.utime(first / "model" / "config.json", ns=(1, 1))
    assert runs.default_model(tmp_path) == second
    os.utime(second / "model" / "config.json", ns=(0, 0))
    assert runs.default_model(tmp_path) == first


def test_each_stage_starts_from_the_one_before(tmp_path: Path) -> None:
    assert runs.default_start(tmp_path, "align") is None
    assert runs.default_start(tmp_path, "stage1") is None  # pretrained parts need no alignment
    align = make_run(tmp_path / "align")
    assert runs.default_start(tmp_path, "stage1") == align
    with pytest.raises(UsageError, match="expected the run that stage2 starts from"):
        runs.default_start(tmp_path, "stage2")
    make_run(tmp_path / "stage1", finished=False)
    with pytest.raises(UsageError, match="not finished"):
        runs.default_start(tmp_path, "stage2")


def test_training_data_is_followed_through_the_runs_before(tmp_path: Path) -> None:
    align = make_run(tmp_path / "align", splits=("coco/train",))
    stage1 = make_run(tmp_path / "stage1", start=align, splits=("coco/train", "refcoco/train"))
    stage2 = make_run(tmp_path / "stage2", start=stage1 / "model", splits=("vg/train",))
    for model in (stage2, stage2 / "model"):
        trained = runs.trained_on(model)
        assert trained is not None
        assert [(one.run, one.mix) for one in trained] == [
            (stage2, "vg"),
            (stage1, "coco,refcoco"),
            (align, "coco"),
        ]
        assert trained[1].splits == {"coco/train": "root", "refcoco/train": "root"}
        assert all(one.excluded == frozenset() for one in trained)  # runs of before there was any
    (align / "run.json").unlink()
    assert runs.trained_on(stage2) is None


def test_the_list_of_pictures_left_out_is_read_and_checked(tmp_path: Path) -> None:
    run = make_run(tmp_path / "align", splits=("coco/train",))
    identities = sorted(["coco:9", "ab" * 32])
    told = json.loads((run / "run.json").read_text())
    told["data"]["kept_clean"] = {"sha256": runs.excluded_sha256(identities)}
    (run / "run.json").write_text(json.dumps(told))

    def excluded() -> frozenset[str] | None:
        (one,) = runs.trained_on(run) or []
        return one.excluded

    assert excluded() is None  # the file is gone
    (run / runs.EXCLUDED_NAME).write_text(runs.excluded_text(identities))
    assert excluded() == {"coco:9", "ab" * 32}
    (run / runs.EXCLUDED_NAME).write_text("coco:9\n")
    assert excluded() is None  # somebody changed it


def test_weights_are_named_by_their_bytes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "stage1")
    expected = hashlib.sha256(hashlib.sha256(b"weights").digest()).hexdigest()
    assert runs.weights_sha256(run) == runs.weights_sha256(run / "model") == expected
    assert runs.weights_sha256(tmp_path / "hub" / "name") is None
