"""Sources and shards behind URLs, against an S3 server and a web server of this process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.utils import infer_storage_options

import cli
from pipelines import run, split
from pipelines.places import brought_here
from pipelines.reports import SplitReport
from roikit import remote, urls
from roikit.errors import RoikitError, UsageError
from roikit.remote import RemoteError
from shards import manifest
from shards import remote as store
from shards.layout import COMMIT_NAME, split_dir
from shards.verify import verify
from tests.stores import SECRET, Bucket, web_server

WriteTree = Callable[[Path, int], None]
SHARD_BYTES = 30_000
ROOT = Path(__file__).parents[2]


def convert(
    source: Path | str, out: Path | str, below: Path, *, name: str = "coco", **options: Any
) -> list[SplitReport]:
    settings = {"max_shard_bytes": SHARD_BYTES} | options
    roots = settings.pop("image_roots", ())
    workers = settings.get("workers", 1)
    with brought_here(source, out, roots, below=below, workers=workers) as here:
        return run.convert(name, here.source, here.out, image_roots=here.image_roots, **settings)


def files_of(root: Path) -> dict[str, bytes]:
    """The files of an ordinary root that a store holds, too."""
    names = {".tar", ".parquet", ".arrow"}
    found = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.suffix in names}
    return {name: path.read_bytes() for name, path in found.items()}


def without_run(commit: bytes) -> dict[str, Any]:
    return {k: v for k, v in json.loads(commit).items() if k != "run"}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_from_s3_to_s3_the_bytes_are_those_of_a_local_conversion(
    coco_tree: WriteTree, tmp_path: Path, s3: Bucket, workers: int
) -> None:
    coco_tree(tmp_path / "source", 14)
    convert(tmp_path / "source", tmp_path / "out", tmp_path / "below")
    url = s3.put_tree(tmp_path / "source", "coco")
    (report,) = convert(url, f"{s3.url}/shards", tmp_path / "below", workers=workers)
    assert report.num_shards >= 4
    assert report.images_converted == 14
    there = s3.objects("shards")
    commit = there.pop(f"coco/val/{COMMIT_NAME}")
    local = split_dir(tmp_path / "out", "coco", "val")
    (known,) = local.glob(".known-*")
    for name in (".plan-hash", known.name):
        assert there.pop(f"coco/val/{name}") == (local / name).read_bytes()
    assert there == files_of(tmp_path / "out")
    assert without_run(commit) == without_run((local / COMMIT_NAME).read_bytes())
    assert SECRET.encode() not in commit


def test_pictures_and_annotations_may_lie_apart(
    coco_tree: WriteTree, tmp_path: Path, s3: Bucket
) -> None:
    coco_tree(tmp_path / "source", 5)
    convert(tmp_path / "source", tmp_path / "out", tmp_path / "below")
    url = s3.put_tree(tmp_path / "source" / "val2017", "photographs")
    annotations = tmp_path / "source" / "annotations"
    convert(annotations, tmp_path / "mixed", tmp_path / "below", image_roots=[url])
    tars = {n: d for n, d in files_of(tmp_path / "mixed").items() if n.endswith(".tar")}
    # The name below the image folder differs (`val2017/x.jpg`, `x.jpg`), the pictures do not.
    assert {n.split("/")[-1] for n in tars} == {p.name for p in (tmp_path / "out").rglob("*.tar")}
    assert verify(tmp_path / "mixed").is_good
    assert not list((tmp_path / "below").rglob("*.jpg")), "pictures are not copied here"


def test_a_second_run_writes_nothing_here_and_from_another_machine(
    coco_tree: WriteTree, tmp_path: Path, s3: Bucket
) -> None:
    coco_tree(tmp_path / "source", 6)
    url, out = s3.put_tree(tmp_path / "source", "coco"), f"{s3.url}/shards"
    (first,) = convert(url, out, tmp_path / "here")
    before = s3.stamps("shards")
    (again,) = convert(url, out, tmp_path / "here")
    (elsewhere,) = convert(tmp_path / "source", out, tmp_path / "there")
    assert (first.was_done, again.was_done, elsewhere.was_done) == (False, True, True)
    assert s3.stamps("shards") == before
    assert elsewhere.merkle_root == first.merkle_root
    assert elsewhere.records_converted == first.records_converted == 18
    root = store.local_side(out, tmp_path / "there" / "shards")
    assert manifest.query(root, "select count(*) from regions")[1] == [(18,)]


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[5])
from test_remote import convert
if __name__ == "__main__":
    convert(sys.argv[1], sys.argv[2], Path(sys.argv[3]), workers=int(sys.argv[4]))
"""


@pytest.mark.slow
def test_killed_and_run_again_elsewhere_it_leaves_the_same_objects(
    coco_tree: WriteTree, tmp_path: Path, s3: Bucket
) -> None:
    coco_tree(tmp_path / "source", 30)
    url, out = s3.put_tree(tmp_path / "source", "coco"), f"{s3.url}/shards"
    convert(url, f"{s3.url}/whole", tmp_path / "below")
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = 0
    for i, stop_at in enumerate((1, 5, 12)):
        arguments = [url, out, str(tmp_path / f"machine{i % 2}"), "2", str(Path(__file__).parent)]
        child = subprocess.Popen([sys.executable, str(script), *arguments], env=environment)
        deadline = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < deadline:
            if len(s3.fs.find(f"{s3.path}/shards", refresh=True)) >= stop_at:
                break
            s3.fs.invalidate_cache()
            time.sleep(0.01)
        child.kill()
        killed += child.wait() == -signal.SIGKILL
    assert killed >= 1
    (report,) = convert(url, out, tmp_path / "machine2")
    assert report.images_converted == 30
    whole, found = s3.objects("whole"), s3.objects("shards")
    assert without_run(found.pop(f"coco/val/{COMMIT_NAME}")) == without_run(
        whole.pop(f"coco/val/{COMMIT_NAME}")
    )
    assert found == whole


def test_shards_in_the_store_are_not_made_again(
    coco_tree: WriteTree, tmp_path: Path, s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 12)
    out = f"{s3.url}/shards"

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pipelines.split.commit_dataset", interrupt)
        with pytest.raises(KeyboardInterrupt):
            convert(tmp_path / "source", out, tmp_path / "here")
    before = s3.objects("shards")
    assert f"coco/val/{COMMIT_NAME}" not in before
    s3.fs.rm_file(f"{s3.path}/shards/coco/val/coco-val-000001.tar")
    sent: list[str] = []
    real = remote.upload
    monkeypatch.setattr(remote, "upload", lambda p, u, name: sent.append(name) or real(p, u, name))
    (report,) = convert(tmp_path / "source", out, tmp_path / "there")
    assert [name for name in sent if name.endswith(".tar")] == ["coco-val-000001.tar"]
    assert (report.images_converted, report.records_found) == (12, 36)
    after = s3.objects("shards")
    assert {n: d for n, d in before.items() if n.endswith((".tar", ".parquet"))} == {
        n: d for n, d in after.items() if n.endswith((".tar", ".parquet"))
    }
    assert not [name for name in after if "counts" in name]


@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_half_made_shards_do_not_stay(
    coco_tree: WriteTree,
    tmp_path: Path,
    memory: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """A worker that is ended cannot remove what it was making."""
    coco_tree(tmp_path / "source", 6)
    seen: list[list[str]] = []

    def half_made() -> list[str]:
        return [p.parent.name for p in (tmp_path / "below").rglob("shard-*/half.tar")]

    def end_a_worker(plan_dir: Path, *_: Any, **__: Any) -> Any:
        (plan_dir / "shard-x1y2").mkdir()
        (plan_dir / "shard-x1y2" / "half.tar").write_bytes(b"half")
        raise KeyboardInterrupt

    def look(plan_dir: Path, *arguments: Any, **options: Any) -> Any:
        seen.append(half_made())
        return run_tasks(plan_dir, *arguments, **options)

    run_tasks = split.run_tasks
    with monkeypatch.context() as patched:
        patched.setattr(split, "run_tasks", end_a_worker)
        if how == "killed":
            patched.setattr(run, "remove_half_made", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            convert(tmp_path / "source", f"{memory.url}/shards", tmp_path / "below")
    assert half_made() == (["shard-x1y2"] if how == "killed" else [])
    monkeypatch.setattr(split, "run_tasks", look)
    (report,) = convert(tmp_path / "source", f"{memory.url}/shards", tmp_path / "below")
    assert report.images_converted == 6
    assert seen == [[]]


def test_a_source_that_changed_is_seen(coco_tree: WriteTree, tmp_path: Path, s3: Bucket) -> None:
    coco_tree(tmp_path / "source", 4)
    url = s3.put_tree(tmp_path / "source", "coco")
    (before,) = convert(url, tmp_path / "a", tmp_path / "below")
    name = "annotations/instances_val2017.json"
    text = (tmp_path / "source" / name).read_text()
    changed = text.replace('"cat"', '"cow"')
    assert len(changed) == len(text)
    s3.fs.pipe_file(f"{s3.path}/coco/{name}", changed.encode())
    (after,) = convert(url, tmp_path / "b", tmp_path / "below")
    assert after.merkle_root != before.merkle_root
    s3.fs.rm_file(f"{s3.path}/coco/{name}")
    with pytest.raises(UsageError, match=f"`{url}`") as caught:
        convert(url, tmp_path / "c", tmp_path / "below")
    assert str(tmp_path) not in str(caught.value)


def test_another_plan_is_refused_unless_told_to_overwrite(
    coco_tree: WriteTree, tmp_path: Path, s3: Bucket
) -> None:
    coco_tree(tmp_path / "source", 8)
    out = f"{s3.url}/shards"
    convert(tmp_path / "source", out, tmp_path / "here")
    before = s3.stamps("shards")
    with pytest.raises(UsageError, match=f"{out}/coco/val.*another plan") as caught:
        convert(tmp_path / "source", out, tmp_path / "there", seed=1)
    assert "--overwrite" in str(caught.value.hint)
    assert s3.stamps("shards") == before
    options = {"seed": 1, "overwrite": True, "max_shard_bytes": 10**9}
    (report,) = convert(tmp_path / "source", out, tmp_path / "there", **options)
    assert report.num_shards == 1
    tars = [name for name in s3.objects("shards") if name.endswith(".tar")]
    assert tars == ["coco/val/coco-val-000000.tar"]
    assert verify(store.local_side(out, tmp_path / "here" / "shards")).is_good


def test_only_one_of_two_machines_with_different_plans_claims_a_split(
    tmp_path: Path, s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = store.local_side(f"{s3.url}/shards", tmp_path)
    real = store.pull

    def pull_then_other_claims(*name: Any) -> Any:
        there = real(*name)
        s3.fs.pipe_file(f"{s3.path}/shards/coco/val/.plan-hash", b"other")
        return there

    monkeypatch.setattr(store, "pull", pull_then_other_claims)
    with pytest.raises(UsageError, match="another machine"):
        store.claim(root, "coco", "val", plan_hash="ours", overwrite=False)
    assert s3.objects("shards") == {"coco/val/.plan-hash": b"other"}


def test_tars_of_nobody_are_not_overwritten(
    coco_tree: WriteTree, tmp_path: Path, s3: Bucket
) -> None:
    coco_tree(tmp_path / "source", 2)
    s3.fs.pipe_file(f"{s3.path}/shards/coco/val/coco-val-000000.tar", b"precious")
    with pytest.raises(UsageError, match="not from an unfinished run"):
        convert(tmp_path / "source", f"{s3.url}/shards", tmp_path / "below")
    assert list(s3.objects("shards").values()) == [b"precious"]


def test_verify_reads_the_tars_in_the_store(
    coco_tree: WriteTree, tmp_path: Path, s3: Bucket
) -> None:
    coco_tree(tmp_path / "source", 6)
    out = f"{s3.url}/shards"
    convert(tmp_path / "source", out, tmp_path / "below")
    elsewhere = store.local_side(out, tmp_path / "elsewhere")
    assert manifest.rebuild(elsewhere).is_file()
    assert verify(elsewhere).samples == 6
    assert verify(elsewhere).is_good
    name = f"{s3.path}/shards/coco/val/coco-val-000001.tar"
    data = bytearray(s3.fs.cat_file(name))
    data[600] ^= 1
    s3.fs.pipe_file(name, bytes(data))
    s3.fs.rm_file(f"{s3.path}/shards/coco/val/coco-val-000000.tar")
    problems = [str(problem) for problem in verify(elsewhere).problems]
    assert any("000001.tar" in p and "bytes have changed" in p for p in problems)
    assert any("000000.tar: is not in the store" in p for p in problems)


def copied(bucket: Bucket, name: str, folder: Path) -> Path:
    """Copy a store as `aws s3 sync` does."""
    for below, data in bucket.objects(name).items():
        (folder / below).parent.mkdir(parents=True, exist_ok=True)
        (folder / below).write_bytes(data)
    return folder


def test_a_copy_of_a_store_can_be_extended(
    coco_tree: WriteTree, tmp_path: Path, memory: Bucket
) -> None:
    coco_tree(tmp_path / "source", 6)
    convert(tmp_path / "source", f"{memory.url}/shards", tmp_path / "below")
    convert(tmp_path / "source", tmp_path / "local", tmp_path / "below")
    coco_tree(tmp_path / "source", 9)
    copy = copied(memory, "shards", tmp_path / "copy")
    (report,) = convert(tmp_path / "source", copy, tmp_path / "below", extend=True)
    assert (report.images_added, report.images_converted) == (3, 9)
    convert(tmp_path / "source", tmp_path / "local", tmp_path / "below", extend=True)
    assert files_of(copy) == files_of(tmp_path / "local")
    assert verify(copy).is_good


def test_notes_for_an_extension_are_those_of_the_commit(
    coco_tree: WriteTree, tmp_path: Path, memory: Bucket
) -> None:
    coco_tree(tmp_path / "source", 3)
    out = f"{memory.url}/shards"
    hashes = []
    for seed in (0, 1):
        convert(tmp_path / "source", out, tmp_path / "below", seed=seed, overwrite=bool(seed))
        there = memory.objects("shards")
        hashes.append(json.loads(there[f"coco/val/{COMMIT_NAME}"])["plan_hash"])
        known = [name for name in there if "known" in name]
        assert known == [f"coco/val/.known-{hashes[-1][:16]}.msgpack"]
    assert hashes[0] != hashes[1]
    elsewhere = store.local_side(out, tmp_path / "elsewhere")
    manifest.rebuild(elsewhere)
    assert (elsewhere / known[0]).read_bytes() == there[known[0]]
    stale = f"coco/val/.known-{hashes[0][:16]}.msgpack"
    memory.fs.pipe_file(f"/bucket/shards/{stale}", b"a commit was killed before it tidied up")
    convert(tmp_path / "source", out, tmp_path / "below", seed=1)
    assert stale not in memory.objects("shards")


def test_verify_finds_what_does_not_belong_in_the_store(
    coco_tree: WriteTree, tmp_path: Path, memory: Bucket
) -> None:
    coco_tree(tmp_path / "source", 3)
    out = f"{memory.url}/shards"
    convert(tmp_path / "source", out, tmp_path / "below")
    here = store.local_side(out, tmp_path / "below" / "shards")
    assert verify(here).is_good
    for name in (
        *("val/coco-val-000009.tar", "val/coco-val-000008.parquet", "train/coco-train-000000.tar"),
        f"val/.coco-val-000000.{'0' * 16}.counts.json",
    ):
        memory.fs.pipe_file(f"/bucket/shards/coco/{name}", b"x")
    problems = sorted(str(problem).removeprefix(f"{here}/") for problem in verify(here).problems)
    assert [line.split(" (")[0] for line in problems] == [
        "coco/train: holds shards and no `dataset.json`: its conversion did not finish",
        f"coco/val/.coco-val-000000.{'0' * 16}.counts.json: left by an interrupted run;"
        " converting again removes it",
        "coco/val/coco-val-000008.parquet: `dataset.json` does not list this file",
        "coco/val/coco-val-000009.tar: `dataset.json` does not list this file",
    ]
    assert len(verify(here, "coco", "val").problems) == 3


def test_a_missing_bucket_and_denied_access_are_one_clear_line(
    coco_tree: WriteTree, tmp_path: Path, s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 2)
    missing = "s3://no-such-bucket-here/x"
    for source, out in ((missing, tmp_path / "out"), (tmp_path / "source", missing)):
        with pytest.raises(UsageError, match=f"`{missing}`: found nothing there"):
            convert(source, out, tmp_path / "below")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    s3.fs.clear_instance_cache()
    with pytest.raises(UsageError, match=r"no credentials|access denied") as caught:
        convert(tmp_path / "source", f"{s3.url}/shards", tmp_path / "below")
    assert "AWS_PROFILE" in str(caught.value.hint)


def test_a_lost_connection_ends_the_run_and_is_no_rejection(
    coco_tree: WriteTree, tmp_path: Path, memory: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 4)
    url = memory.put_tree(tmp_path / "source", "coco")
    monkeypatch.setattr(remote, "_PAUSES_S", (0.0, 0.0))
    real = type(memory.fs).cat_file
    calls: list[str] = []

    def fail(fs: Any, path: str, **options: Any) -> bytes:
        if path.endswith(".jpg"):
            calls.append(path)
            if len(calls) != 2:  # the first picture comes at the second try, the next never
                message = f"GET https://x/?X-Amz-Signature={SECRET}"
                raise ConnectionResetError(message)
        data: bytes = real(fs, path, **options)
        return data

    monkeypatch.setattr(type(memory.fs), "cat_file", fail)
    with pytest.raises(RemoteError, match="the connection failed") as caught:
        convert(url, f"{memory.url}/shards", tmp_path / "below")
    assert "again" in str(caught.value.hint)
    assert SECRET not in str(caught.value)
    assert len(calls) == 5
    monkeypatch.undo()
    (report,) = convert(url, f"{memory.url}/shards", tmp_path / "below")
    assert (report.images_converted, report.rejections) == (4, {})


def test_a_picture_that_vanishes_ends_it_in_one_line_and_a_rerun_completes(
    coco_tree: WriteTree, tmp_path: Path, memory: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_tree(tmp_path / "source", 3)
    url = memory.put_tree(tmp_path / "source", "coco")
    real = split.make_plan

    def plan_then_lose(*arguments: Any, **options: Any) -> Any:
        made = real(*arguments, **options)
        memory.fs.rm_file("/bucket/coco/val2017/000000000002.jpg")
        return made

    monkeypatch.setattr(split, "make_plan", plan_then_lose)
    gone = f"`{url}/val2017/000000000002.jpg`: .* it is gone"
    with pytest.raises(RoikitError, match=gone):
        convert(url, tmp_path / "out", tmp_path / "below", max_rejects=1)
    monkeypatch.undo()
    (report,) = convert(url, tmp_path / "out", tmp_path / "below", max_rejects=1, overwrite=True)
    assert (report.images_converted, report.rejections) == (2, {"E_IMAGE_MISSING": 1})


def test_metadata_beside_pictures_is_read_with_them(
    tmp_path: Path, memory: Bucket, tree: Any
) -> None:
    """VCR's: one file a picture, which a plan must not fetch one by one."""
    for i in range(3):
        tree.picture(f"vcr1images/film/clip_{i}@0.jpg", 100, 80, seed=i)
        boxes = [[10, 10, 50, 70, 0.9], [30, 5, 90, 75, 0.8]]
        metadata = {"boxes": boxes, "names": ["person", "dog"], "width": 100, "height": 80}
        tree.json(f"vcr1images/film/clip_{i}@0.json", metadata | {"segms": [[], []]})
    answers = [[[0], "is", "glad", "."]] * 4
    line = {
        "movie": "film",
        "objects": ["person", "dog"],
        "question": ["Why", "is", [0], "glad", "?"],
        "answer_choices": answers,
        "answer_label": 1,
        "rationale_choices": [[[1], "is", "here", "."]] * 4,
        "rationale_label": 2,
    }
    lines = [
        line
        | {
            "annot_id": f"val-{i}",
            "img_fn": f"film/clip_{i}@0.jpg",
            "metadata_fn": f"film/clip_{i}@0.json",
        }
        for i in range(3)
    ]
    tree.lines("val.jsonl", lines)
    url = memory.put_tree(tree.root, "vcr")
    (local,) = convert(tree.root, tmp_path / "a", tmp_path / "below", name="vcr")
    (report,) = convert(url, tmp_path / "b", tmp_path / "below", name="vcr")
    assert report.images_converted == 3
    assert report.merkle_root == local.merkle_root
    fetched = [p.name for p in (tmp_path / "below" / "sources").rglob("*.json*")]
    assert sorted(fetched) == ["fetched.json", "listing.json", "val.jsonl"]


def test_one_file_may_be_the_source(tmp_path: Path, memory: Bucket, tree: Any) -> None:
    tree.picture("images/a.jpg", 60, 40)
    record = {"image": "a.jpg", "regions": [{"box": [1, 2, 30, 30], "label": "cup"}]}
    tree.lines("mine.jsonl", [record])
    (local,) = convert(tree.root / "mine.jsonl", tmp_path / "a", tmp_path / "below", name="jsonl")
    url = memory.put_tree(tree.root, "own")
    (report,) = convert(f"{url}/mine.jsonl", tmp_path / "b", tmp_path / "below", name="jsonl")
    assert report.merkle_root == local.merkle_root
    assert report.images_found == 1


def test_a_web_server_s_listing_is_a_source(coco_tree: WriteTree, tmp_path: Path) -> None:
    coco_tree(tmp_path / "source", 4)
    convert(tmp_path / "source", tmp_path / "a", tmp_path / "below")
    with web_server(tmp_path / "source") as host:
        convert(f"http://{host}", tmp_path / "b", tmp_path / "below")
        with pytest.raises(UsageError, match="nothing can be written over http"):
            convert(tmp_path / "source", f"http://{host}", tmp_path / "below")
    assert files_of(tmp_path / "b") == files_of(tmp_path / "a")


@pytest.mark.parametrize("out", ["memory://shards", "memory:///shards"])
def test_memory_is_refused_to_a_pool(tmp_path: Path, out: str) -> None:
    with pytest.raises(UsageError, match="one process's own"):
        convert(tmp_path, urls.place(out), tmp_path / "below", workers=2)


def test_a_url_without_a_host_is_no_path(
    coco_tree: WriteTree, tmp_path: Path, memory: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROIKIT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    coco_tree(tmp_path / "source", 3)
    convert(tmp_path / "source", tmp_path / "out", tmp_path / "below")
    memory.put_tree(tmp_path / "source", "coco#1")
    options = ["--workers", "1", "--max-shard-bytes", str(SHARD_BYTES)]
    arguments = ["memory:///bucket/coco#1", "--out", "memory:///bucket/shards#2", *options]
    cli.app(["convert", "coco", *arguments], standalone_mode=False)
    there = {n: d for n, d in memory.objects("shards#2").items() if n.endswith(".tar")}
    assert there == {n: d for n, d in files_of(tmp_path / "out").items() if n.endswith(".tar")}
    assert not [path for path in tmp_path.iterdir() if ":" in path.name]


def test_a_login_reaches_a_store_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str, str, str]] = []

    class Vault(fsspec.AbstractFileSystem):  # type: ignore[misc]
        protocol = "vault"
        cachable = False

        def __init__(self, host: str, username: str, password: str) -> None:
            super().__init__()
            given.append((host, username, password))

        @staticmethod
        def _get_kwargs_from_urls(urlpath: str) -> dict[str, Any]:
            found = infer_storage_options(urlpath)
            return {k: v for k, v in found.items() if k in ("host", "username", "password")}

        def find(self, path: str, **_: Any) -> dict[str, Any]:
            return {}

    fsspec.register_implementation("vault", Vault, clobber=True)
    monkeypatch.setenv("ROIKIT_URL_LOGINS", "{}")
    url = urls.place("vault://bob:p%40ss%2Fword@host/vcr")
    assert remote.list_files(str(url)) == {}
    assert given == [("host", "bob", "p@ss/word")]


def test_the_command_takes_urls_and_keeps_logins_to_itself(
    coco_tree: WriteTree,
    tmp_path: Path,
    memory: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ROIKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ROIKIT_URL_LOGINS", "{}")
    coco_tree(tmp_path / "source", 3)
    out = "memory://bucket/shards"
    with web_server(tmp_path / "source", f"me:{SECRET}") as host:
        with pytest.raises(UsageError, match="access denied"):
            cli.app(["convert", "coco", f"http://{host}"], standalone_mode=False)
        url = f"http://me:{SECRET}@{host}"
        arguments = ["convert", "coco", url, "--out", out, "--workers", "1"]
        monkeypatch.setattr(sys, "argv", ["roikit", *arguments])
        cli.app(arguments, standalone_mode=False)
    said = capsys.readouterr()
    assert out in said.err
    commit = memory.objects("shards")[f"coco/val/{COMMIT_NAME}"]
    assert f"roikit convert coco http://{host} --out" in json.loads(commit)["run"]["command"]
    kept = [p.read_bytes() for p in (tmp_path / "home").rglob("*") if p.is_file()]
    assert not any(SECRET.encode() in data for data in (commit, *kept))
    assert SECRET not in said.out + said.err


def test_the_next_step_is_named_without_a_login(
    coco_tree: WriteTree,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ROIKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ROIKIT_URL_LOGINS", "{}")
    coco_tree(tmp_path / "source", 3)
    with web_server(tmp_path / "source", f"me:{SECRET}") as host:
        source, out = f"http://me:{SECRET}@{host}", str(tmp_path / "out")
        for more in (["--step", "plan"], ["--step", "plan", "--json"]):
            arguments = ["convert", "coco", source, "--out", out, *more]
            monkeypatch.setattr(sys, "argv", ["roikit", *arguments])
            cli.app(arguments, standalone_mode=False)
        said = capsys.readouterr()
        assert f"roikit convert coco http://{host} --out" in said.err
        assert f"roikit convert coco http://{host} --out" in said.out
        arguments[-2:] = ["commit"]
        with pytest.raises(RoikitError, match="not finished") as caught:
            cli.app(arguments, standalone_mode=False)
    assert SECRET not in said.out + said.err + str(caught.value.hint)


def test_commands_work_on_shards_behind_a_url_or_say_that_they_cannot(
    coco_tree: WriteTree,
    tmp_path: Path,
    memory: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ROIKIT_HOME", str(tmp_path / "home"))
    coco_tree(tmp_path / "source", 3)
    where = ["--shards", f"{memory.url}/shards"]
    convert(tmp_path / "source", where[1], tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="no committed dataset") as caught:
        cli.app(["stats", *where], standalone_mode=False)
    assert f"manifest rebuild --shards {where[1]}" in str(caught.value.hint)
    for command in ("manifest rebuild", "verify", "stats", "datasets"):
        cli.app([*command.split(), *where], standalone_mode=False)
    assert "3 samples" in capsys.readouterr().out
    convert_it = ["convert", "coco", str(tmp_path / "source"), "--out", where[1], "--workers", "1"]
    with pytest.raises(UsageError, match="step: the steps apart need a folder"):
        cli.app([*convert_it, "--step", "plan"], standalone_mode=False)
    with pytest.raises(UsageError, match="extend: adds to shards in a folder"):
        cli.app([*convert_it, "--extend"], standalone_mode=False)
    cli.app(["show", "coco-val-000000000", *where], standalone_mode=False)
    assert "coco-val-000000000" in capsys.readouterr().out
