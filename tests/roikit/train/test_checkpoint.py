"""What a stop, a full disk or a damaged file costs a run: time, and nothing else."""

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import state_dict_saver

from roikit.errors import RoikitError
from roikit.model.generate import load_model
from roikit.train import checkpoint, checkpoint_files
from roikit.train.checkpoint import Checkpoints
from roikit.train.checkpoint_files import find_latest
from roikit.train.checkpoint_reader import Reader
from roikit.train.checkpoint_space import check_room, checkpoint_bytes, num_bytes
from roikit.train.checkpoint_tensors import collect
from roikit.train.loop import Interrupted
from tests.roikit.train.test_train import Stopping, losses, make_recipe, run
from tests.roikit.train.test_train import aligned as aligned


def same_weights(one: Path, two: Path) -> bool:
    once, twice = (load_model(x, device="cpu").model.state_dict() for x in (one, two))
    return all(torch.equal(once[name], twice[name]) for name in once)


def data_file(path: Path) -> Path:
    return max(path.glob("*.distcp"), key=lambda p: p.stat().st_size)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


# --- a small model of its own ---


class Toy(nn.Module):
    """A frozen part, a learning one with a buffer, and a weight with two names."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.frozen = nn.Linear(width, width).requires_grad_(False)
        self.embedding = nn.Embedding(width, width)
        self.head = nn.Linear(width, width, bias=False)
        self.head.weight = self.embedding.weight
        self.norm = nn.BatchNorm1d(width)
        self.unused = nn.Linear(width, 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.head(self.norm(self.frozen(self.embedding(ids))))
        return hidden.square().mean()


def make_toy(width: int = 8, **arguments: Any) -> tuple[Toy, list[torch.optim.Optimizer]]:
    torch.manual_seed(0)
    model = Toy(width)
    learning = [p for p in model.parameters() if p.requires_grad]
    return model, [torch.optim.AdamW(learning, lr=0.1)]


def toy_checkpoints(folder: Path, **changes: Any) -> tuple[Toy, Any, Checkpoints]:
    model, optimizers = make_toy(changes.pop("width", 8))
    return (
        model,
        optimizers,
        Checkpoints(folder, model=model, optimizers=optimizers, **({"keep": 9} | changes)),
    )


def learn(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> float:
    loss = model(torch.arange(8))
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach())


def test_buffers_and_weights_without_gradients_go_on_as_they_were(tmp_path: Path) -> None:
    model, optimizers, checkpoints = toy_checkpoints(tmp_path)
    for _ in range(3):
        learn(model, optimizers)
    checkpoints.save(step=3, state={"stream": 7})
    went_on = [learn(model, optimizers) for _ in range(3)]
    checkpoints.finish()
    again, optimizers, checkpoints = toy_checkpoints(tmp_path)
    state = checkpoints.load_latest()
    assert state is not None
    assert (state["step"], state["stream"]) == (3, 7)
    assert not any(p in optimizers[0].state for p in again.unused.parameters())
    assert [learn(again, optimizers) for _ in range(3)] == went_on
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_only_what_learns_is_saved_and_what_is_shared_once(tmp_path: Path) -> None:
    model, optimizers, checkpoints = toy_checkpoints(tmp_path)
    learn(model, optimizers)
    checkpoints.save(step=1, state={}, wait=True)
    names = Reader(tmp_path / "latest").read_metadata().state_dict_metadata
    assert {"model.embedding.weight", "model.norm.running_mean"} <= set(names)
    assert not any("frozen" in name or "head" in name for name in names)


def test_a_save_does_not_see_the_steps_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, may_write = state_dict_saver.save, threading.Event()

    def slow(*args: Any, **kwargs: Any) -> Any:
        may_write.wait(10)
        return writing(*args, **kwargs)

    monkeypatch.setattr(state_dict_saver, "save", slow)
    model, optimizers, checkpoints = toy_checkpoints(tmp_path)
    learn(model, optimizers)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    checkpoints.save(step=1, state={})
    for _ in range(2):  # the step loop goes on while nothing is written yet
        learn(model, optimizers)
        checkpoints.check()
    assert find_latest(tmp_path) is None
    may_write.set()
    checkpoints.finish()
    again, _, checkpoints = toy_checkpoints(tmp_path)
    checkpoints.load_latest()
    assert all(torch.equal(before[name], value) for name, value in again.state_dict().items())


def test_other_frozen_weights_or_other_parts_are_refused(tmp_path: Path) -> None:
    model, optimizers, checkpoints = toy_checkpoints(tmp_path)
    learn(model, optimizers)
    checkpoints.save(step=1, state={}, wait=True)
    changed, optimizers = make_toy()
    with torch.no_grad():
        changed.frozen.weight[0, 0] += 1e-6
    other = Checkpoints(tmp_path, model=changed, optimizers=optimizers, keep=1)
    with pytest.raises(RoikitError, match="other frozen weights"):
        other.load_latest()
    model.unused = nn.Identity()  # type: ignore[assignment]
    optimizers = [torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)]
    other = Checkpoints(tmp_path, model=model, optimizers=optimizers, keep=1)
    with pytest.raises(RoikitError, match=r"differ in 2, the first is `unused\.bias`"):
        other.load_latest()


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    model, optimizers, checkpoints = toy_checkpoints(tmp_path, keep=1, keep_best=2)
    for step, score in enumerate([3.0, 1.0, None, 2.0, float("nan"), 5.0, None], start=1):
        learn(model, optimizers)
        checkpoints.save(step=step, state={}, score=score)
    checkpoints.finish()
    assert [p.name[-1] for p in sorted(tmp_path.glob("step-*"))] == ["2", "4", "6", "7"]
    assert (tmp_path / "best").resolve().name == "step-00000002"
    assert (tmp_path / "latest").resolve().name == "step-00000007"
    fewer = Checkpoints(tmp_path, model=model, optimizers=optimizers, keep=0)
    fewer.save(step=8, state={}, wait=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000008"]


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit])
def test_a_damaged_file_is_seen_whichever_it_is(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizers, checkpoints = toy_checkpoints(tmp_path)
    for step in (1, 2):
        learn(model, optimizers)
        checkpoints.save(step=step, state={}, wait=True)
    latest = tmp_path / "step-00000002"
    for path in sorted(latest.iterdir()):
        whole = path.read_bytes()
        damage(path)
        caplog.clear()
        assert find_latest(tmp_path) == tmp_path / "step-00000001", path
        assert len(caplog.messages) == 1
        assert path.name in caplog.messages[0]
        path.write_bytes(whole)
    assert find_latest(tmp_path) == latest


def test_where_all_are_damaged_one_line_says_what_to_do(tmp_path: Path) -> None:
    model, optimizers, checkpoints = toy_checkpoints(tmp_path)
    assert checkpoints.load_latest() is None
    learn(model, optimizers)
    checkpoints.save(step=1, state={}, wait=True)
    flip_a_bit(data_file(tmp_path / "latest"))
    with pytest.raises(RoikitError, match=r"all 1 are damaged: step-00000001: `__0_0") as caught:
        toy_checkpoints(tmp_path)[2].load_latest()
    assert "--overwrite" in str(caught.value.hint)


def test_a_damaged_checkpoint_is_replaced_and_not_kept_for_a_sound_one(tmp_path: Path) -> None:
    model, optimizers, checkpoints = toy_checkpoints(tmp_path, keep=0)
    learn(model, optimizers)
    checkpoints.save(step=6, state={}, wait=True)
    whole = data_file(tmp_path / "latest").read_bytes()
    for damage in (cut_short, flip_a_bit):
        damage(data_file(tmp_path / "step-00000006"))
        checkpoints.save(step=5, state={}, wait=True)  # older, but the only sound one
        assert find_latest(tmp_path) == tmp_path / "step-00000005"
        checkpoints.save(step=6, state={}, wait=True)
        assert data_file(tmp_path / "latest").read_bytes() == whole
        assert find_latest(tmp_path) == tmp_path / "step-00000006"


def test_metadata_may_not_name_functions(tmp_path: Path) -> None:
    model, optimizers, checkpoints = toy_checkpoints(tmp_path)
    learn(model, optimizers)
    checkpoints.save(step=1, state={}, wait=True)

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "evil"),)

    folder = tmp_path / "step-00000001"
    (folder / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(RoikitError, match=r"posix\.mkdir` has no place"):
        checkpoint.read_tensors(folder, model=model, optimizers=optimizers)
    assert not (tmp_path / "evil").exists()


# --- disks ---


def test_a_disk_without_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizers, checkpoints = toy_checkpoints(tmp_path)
    learn(model, optimizers)
    checkpoints.save(step=1, state={}, wait=True)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**6, 10**6, 5000))
    monkeypatch.setattr(checkpoint, "begin", None)  # nothing may be made
    checkpoints.save(step=2, state={})
    with pytest.raises(RoikitError, match=r"step-00000002: .* about 1\.0 MB, 5\.0 kB are free"):
        wait_for_the_error(checkpoints)
    assert find_latest(tmp_path) == tmp_path / "step-00000001"


def test_a_run_that_will_not_fit_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizers, checkpoints = toy_checkpoints(tmp_path / "run" / "checkpoints")
    expected = checkpoint_bytes(model, optimizers)
    for _ in range(2):
        learn(model, optimizers)
    # a step number a weight and what has no gradient are all that it cannot know
    assert expected == pytest.approx(
        checkpoint.EXTRA_BYTES + num_bytes(collect(model, optimizers).values()), abs=300
    )
    usage = namedtuple("usage", "total used free")

    def check(free: int, **changes: int) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, free))
        how = {"saves": 100, "kept": 3} | changes
        check_room(tmp_path / "run", model=model, optimizers=optimizers, **how)

    check(4 * expected)
    check(2 * expected + num_bytes(model.parameters()), saves=2)
    with pytest.raises(RoikitError, match=r"up to 4 at once, the model takes") as caught:
        check(4 * expected - 1)
    assert "`keep`" in str(caught.value.hint)
    checkpoints.save(step=2, state={}, wait=True)  # what the run has is not needed once more
    taken = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*.distcp"))
    check(4 * expected - taken)
    monkeypatch.undo()
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, 5000))
    with pytest.raises(RoikitError, match=r"found 5\.0 kB: a checkpoint takes about"):
        run(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def wait_for_the_error(checkpoints: Checkpoints) -> None:
    """As a step loop does: look after each step."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        checkpoints.check()
        time.sleep(0.01)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB, where mounting one is allowed."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_during_a_save_costs_that_save_alone(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizers, checkpoints = toy_checkpoints(small_disk, width=256)  # 0.8 MB each
    monkeypatch.setattr(checkpoint, "EXTRA_BYTES", -(10**9))  # somebody else fills it afterwards
    monkeypatch.setattr(checkpoint_files, "prune", lambda *_, **__: None)
    ids = torch.arange(8)

    def step() -> None:
        model(ids).backward()
        optimizers[0].step()

    with pytest.raises(RoikitError, match="no space left on the disk") as caught:
        for number in range(1, 9):
            step()
            checkpoints.save(step=number, state={}, wait=True)
    assert number > 1
    assert "goes on from the checkpoint before" in str(caught.value.hint)
    assert find_latest(small_disk) == small_disk / f"step-{number - 1:08d}"
    assert not list(small_disk.glob(".writing*"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    checkpoints.save(step=number, state={}, wait=True)
    assert find_latest(small_disk) == small_disk / f"step-{number:08d}"


# --- whole runs ---


def test_a_damaged_checkpoint_costs_a_run_the_steps_since_the_one_before(
    aligned: Path, tmp_path: Path
) -> None:
    for damage in (cut_short, flip_a_bit):
        out = tmp_path / damage.__name__
        with pytest.raises(RuntimeError):
            run(out, source=Stopping(after=14))
        newest = find_latest(out / "checkpoints")
        assert newest is not None
        assert newest.name == "step-00000006"
        damage(data_file(newest))
        assert run(out).resumed_from == 3
        assert losses(out) == losses(aligned)
        assert same_weights(out, aligned)
        assert find_latest(out / "checkpoints") == (out / "checkpoints" / "latest").resolve()


def test_a_signal_during_a_save_saves_its_own_step_too(
    aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = state_dict_saver.save

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.3)
        return writing(*args, **kwargs)

    monkeypatch.setattr(state_dict_saver, "save", slow)
    out = tmp_path / "run"

    def stop(report: Any) -> None:
        if report.step == 4:  # the one of step 3 is being written
            assert find_latest(out / "checkpoints") is None
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        run(out, on_step=stop)
    names = [path.name for path in sorted((out / "checkpoints").glob("step-*"))]
    assert names == ["step-00000003", "step-00000004"]
    assert run(out).resumed_from == 4
    assert losses(out) == losses(aligned)
    assert same_weights(out, aligned)


_KILLED = """
import sys
import threading
import time
from pathlib import Path
from roikit.train import checkpoint
writing = checkpoint.state_dict_saver.save
def slow(*args, **kwargs):
    time.sleep(float(sys.argv[2]) / 2)
    result = writing(*args, **kwargs)
    time.sleep(float(sys.argv[2]) / 2)
    return result
checkpoint.state_dict_saver.save = slow
from tests.roikit.train.test_train import make_recipe, run
run(Path(sys.argv[1]), make_recipe(save_every=1, keep=1), on_step=lambda _: time.sleep(0.03))
"""


def kill_and_resume(out: Path, times_s: list[float | None], slowness_s: float) -> int:
    """Kill a run several times, then let it end; how many kills hit a save.

    Args:
        out: its folder.
        times_s: after the first step since the kill before; None for as soon as a save is under
            way.
        slowness_s: how long a save is made to take.
    """
    environment = os.environ | {"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    hits = 0
    for wait_s in times_s:
        process = subprocess.Popen(
            [sys.executable, "-c", _KILLED, str(out), str(slowness_s)],
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        before = len(losses(out))
        deadline = time.monotonic() + 60
        while len(losses(out)) == before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        while wait_s is None and not list((out / "checkpoints").glob(".writing-*")):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(wait_s or 0.0)
        process.kill()
        process.wait()
        hits += bool(list((out / "checkpoints").glob(".writing-*")))
        find_latest(out / "checkpoints")  # raises where none of those there loads
    run(out, make_recipe(save_every=1, keep=1))
    return hits


def test_kill_9_at_any_moment_costs_nothing_but_time(aligned: Path, tmp_path: Path) -> None:
    assert kill_and_resume(tmp_path / "run", [None, 0.1], 0.1) > 0
    assert losses(tmp_path / "run") == losses(aligned)
    assert same_weights(tmp_path / "run", aligned)


@pytest.mark.slow
def test_kill_9_at_many_moments(aligned: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    hits = 0
    for number in range(4):
        out = tmp_path / str(number)
        hits += kill_and_resume(out, [draw.uniform(0, 0.2) for _ in range(4)], 0.05)
        assert losses(out) == losses(aligned)
        assert same_weights(out, aligned)
    assert hits > 0
