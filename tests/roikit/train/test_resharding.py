"""What one number of processes saved, another reads to the last bit: AdamW, Muon, FSDP2, plain."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("resharding.py")


def launch(processes: int, folder: Path, *steps: str) -> None:
    """Run the script on so many processes, without torchrun where it is one."""
    runner = [
        *("-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(processes)),
    ]
    command = [sys.executable, *(runner if processes > 1 else []), str(SCRIPT), str(folder), *steps]
    ended = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]


def test_one_process_to_two_and_back(tmp_path: Path) -> None:
    launch(1, tmp_path, "plain", "make:one")
    launch(
        *(2, tmp_path, "fsdp", "load:one", "save:two", "load:two"),
        "fail:three",
    )
    launch(1, tmp_path, "plain", "load:two")


@pytest.mark.slow
def test_two_to_four_and_replicas_to_shards(tmp_path: Path) -> None:
    launch(2, tmp_path, "fsdp", "make:two")
    launch(4, tmp_path, "fsdp", "load:two", "save:four", "load:four")
    launch(2, tmp_path, "plain", "load:four", "save:replicas")
    launch(2, tmp_path, "fsdp", "load:replicas")
    launch(1, tmp_path, "plain", "load:replicas", "load:four")
