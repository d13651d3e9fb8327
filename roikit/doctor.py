"""What this machine has, and what each missing piece switches off.

Returns data; `commands/` shows it. Uses the standard library alone, so that it works where every
package is missing or broken: packages are imported in processes of their own, and one that crashes
or hangs is reported like one that raises. `python -m roikit.doctor` prints the plain report even
where the command line cannot start.
"""

import concurrent.futures
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import roikit
from roikit import paths
from roikit.doctor_imports import ImportOutcome, try_imports
from roikit.doctor_packages import (
    OPTIONAL,
    REQUIRED,
    WEIGHTS,
    declared_requirements,
    installed_version,
    is_new_enough,
    module_folder,
)

Status = Literal["ok", "note", "missing", "old", "broken"]
Group = Literal["python", "machine", "device", "package", "optional", "weights", "tool"]

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "firefox")
_CPU_FEATURES = (
    *("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"),
    *("asimd", "sve", "bf16", "i8mm"),
)
_GIB = 2**30
_LOW_MEMORY_GIB = 4.0
_LOW_DISK_GIB = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked for."""

    group: Group
    name: str
    status: Status  #: `note`: there, but worth knowing about
    found: str  #: version, size, place, or what went wrong; one line
    is_required: bool = False  #: roikit counts as unusable without it
    switches_off: str | None = None  #: what does not work; only where the status is not `ok`
    hint: str | None = None  #: how to get it


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything that was looked for, in the order it is shown."""

    findings: tuple[Finding, ...]

    @property
    def is_usable(self) -> bool:
        """Whether everything required is there, new enough and whole."""
        return not any(
            finding.is_required and finding.status not in ("ok", "note")
            for finding in self.findings
        )

    @property
    def lacking(self) -> tuple[Finding, ...]:
        """What is missing, old or broken, required or not."""
        return tuple(f for f in self.findings if f.status in ("missing", "old", "broken"))


def examine(*, home: Path | None = None, with_imports: bool = True) -> Report:
    """Look at Python, packages, devices, memory, disk, Java, browsers and the small weights.

    Args:
        home: where data and runs will be written; default `roikit.paths.home()`.
        with_imports: also import every package (some ten seconds), which finds broken ones and the
            accelerators; False reads version numbers only.
    """
    home = paths.home() if home is None else home
    imports: dict[str, ImportOutcome] = {}
    devices: dict[str, object] | None = None
    if with_imports:
        imports, devices = _import_all()
    findings = [
        *_python(),
        _processor(),
        _memory(),
        _disk(home),
        *(_devices(devices, imports.get("torch")) if with_imports else ()),
        *_required_packages(imports),
        *_optional_packages(imports),
        *_weights(),
        _java(),
        _browser(),
    ]
    return Report(findings=tuple(findings))


def plain_lines(report: Report) -> Iterator[str]:
    """Yield the report as text, one finding a line, its advice below it."""
    for finding in report.findings:
        mark = "" if finding.status == "ok" else f"{finding.status}: "
        yield f"{finding.group:<9} {finding.name:<34} {mark}{finding.found}"
        if finding.switches_off:
            yield f"{'':<10}switches off: {finding.switches_off}"
        if finding.hint:
            yield f"{'':<10}hint: {finding.hint}"


def _python() -> Iterator[Finding]:
    is_new = sys.version_info >= (3, 11)
    yield Finding(
        group="python",
        name="python",
        status="ok" if is_new else "old",
        found=f"{platform.python_version()} at {sys.executable}",
        is_required=True,
        switches_off=None if is_new else "everything: roikit needs 3.11 or newer",
    )
    yield Finding(
        group="python",
        name="roikit",
        status="ok",
        found=f"{roikit.__version__} at {Path(roikit.__file__).parent}",
    )


def _processor() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    features = _cpu_features()
    known = f"; {' '.join(features)}" if features else ""
    is_slow = platform.machine().lower() in ("x86_64", "amd64") and "avx2" not in features
    return Finding(
        group="machine",
        name="processor",
        status="note" if is_slow and features else "ok",
        found=f"{platform.machine()}, {cores} cores to use, {platform.system()}{known}",
        switches_off="nothing, but training on this processor is slow" if is_slow else None,
    )


def _cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    flags = set(match[1].split()) if match else set()
    return tuple(feature for feature in _CPU_FEATURES if feature in flags)


def _memory() -> Finding:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return Finding(group="machine", name="memory", status="note", found="cannot be read")
    limit = _memory_limit()
    usable = min(total, limit) if limit is not None else total
    found = f"{usable / _GIB:.1f} GiB"
    if usable < total:
        found += f" for this container, of {total / _GIB:.1f}"
    is_low = usable < _LOW_MEMORY_GIB * _GIB
    return Finding(
        group="machine",
        name="memory",
        status="note" if is_low else "ok",
        found=found,
        switches_off="perhaps training: it wants 4 GiB or more" if is_low else None,
    )


def _memory_limit() -> int | None:
    """Bytes that a container's control group allows; None for no limit."""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text.isdigit():
            return int(text)
    return None


def _disk(home: Path) -> Finding:
    name = f"disk at {home.absolute()}"
    folder = home.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding(
            group="machine",
            name=name,
            status="broken",
            found=str(error),
            switches_off="whatever writes data or runs there",
        )
    if not os.access(folder, os.W_OK):
        return Finding(
            group="machine",
            name=name,
            status="broken",
            found="not writable",
            switches_off="whatever writes data or runs there",
            hint="name another place with the environment variable ROIKIT_HOME",
        )
    is_low = free < _LOW_DISK_GIB * _GIB
    return Finding(
        group="machine",
        name=name,
        status="note" if is_low else "ok",
        found=f"{free / _GIB:.1f} GiB free",
        switches_off="perhaps conversion and checkpoints: little space" if is_low else None,
    )


def _import_all() -> tuple[dict[str, ImportOutcome], dict[str, object] | None]:
    """Import every package that is there, in two processes at once."""
    modules = {dist: module for dist, (module, _) in REQUIRED.items()}
    modules |= {dist: module for dist, (module, _, _) in OPTIONAL.items()}
    present = [
        module for module in modules.values() if module_folder(module.split(".")[0]) is not None
    ]
    # those that load torch, and the others; each takes about half of the time
    heavy = {"torch", "torchvision", "transformers", "accelerate", "webdataset", "safetensors"}
    heavy |= {"efficientnet_lite_pytorch", "peft", "tokenizers", "gguf"}
    with_torch = [module for module in present if module in heavy]
    others = [module for module in present if module not in heavy]
    # torch first: if it is what is broken, it should be named, not what imports it
    with_torch.sort(key=lambda module: module != "torch")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(try_imports, with_torch, with_devices="torch" in with_torch)
        second = pool.submit(try_imports, others)
        outcomes, devices = first.result()
        outcomes |= second.result()[0]
    return outcomes, devices


def _devices(devices: dict[str, object] | None, torch: ImportOutcome | None) -> Iterator[Finding]:
    if devices is None:
        why = "torch is missing" if torch is None else "torch could not be asked"
        yield Finding(group="device", name="accelerators", status="note", found=why)
        return
    gpus = devices.get("cuda")
    for i, gpu in enumerate(gpus if isinstance(gpus, list) else []):
        yield Finding(group="device", name=f"cuda:{i}", status="ok", found=str(gpu))
    if devices.get("mps"):
        yield Finding(group="device", name="mps", status="ok", found="Apple GPU")
    if not gpus and not devices.get("mps"):
        has_driver = shutil.which("nvidia-smi") is not None
        yield Finding(
            group="device",
            name="accelerators",
            status="note",
            found="none: everything runs on the CPU",
            hint="nvidia-smi is there, but torch sees no GPU: check driver and torch build"
            if has_driver
            else None,
        )
    if "error" in devices:
        yield Finding(
            group="device", name="accelerators", status="broken", found=str(devices["error"])
        )
    yield Finding(group="device", name="cpu", status="ok", found=str(devices.get("cpu", "")))


def _required_packages(imports: dict[str, ImportOutcome]) -> Iterator[Finding]:
    conditions = declared_requirements()
    for dist in sorted(REQUIRED.keys() | conditions.keys()):
        module, use = REQUIRED.get(dist, (dist.replace("-", "_"), "what uses it"))
        condition = conditions.get(dist, "")
        hint = f"pip install '{dist}{condition}'"
        yield _package("package", dist, module, condition, use, hint, imports, is_required=True)


def _optional_packages(imports: dict[str, ImportOutcome]) -> Iterator[Finding]:
    for dist, (module, use, hint) in OPTIONAL.items():
        yield _package("optional", dist, module, "", use, hint, imports, is_required=False)


def _package(
    group: Group,
    dist: str,
    module: str,
    condition: str,
    use: str,
    hint: str,
    imports: dict[str, ImportOutcome],
    *,
    is_required: bool,
) -> Finding:
    version = installed_version(dist)
    outcome = imports.get(module)
    status: Status = "ok"
    found = version or "version unknown"
    if module_folder(module.split(".")[0]) is None:
        status = "broken" if version else "missing"
        found = f"{version} is recorded, but its files are gone" if version else "not installed"
    elif outcome is not None and outcome.error is not None:
        status, found = "broken", f"{found}: {outcome.error}"
        hint = f"pip install --force-reinstall '{dist}{condition}'"
    elif version and not is_new_enough(version, condition):
        status, found = "old", f"{version}, expected {condition}"
    is_ok = status == "ok"
    return Finding(
        group=group,
        name=dist,
        status=status,
        found=found,
        is_required=is_required,
        switches_off=None if is_ok else use,
        hint=None if is_ok else hint or None,
    )


def _weights() -> Iterator[Finding]:
    for package, (pattern, magic, use, hint) in WEIGHTS.items():
        folder = module_folder(package)
        files = sorted(folder.glob(pattern)) if folder is not None else []
        status: Status = "ok"
        if folder is None:
            status, found = "missing", "not installed"
        elif not files:
            status, found = "broken", f"no `{pattern}` in {folder}"
        else:
            found = f"{files[0].name}, {files[0].stat().st_size / 1e6:.0f} MB"
            with files[0].open("rb") as file:
                if file.read(len(magic)) != magic:
                    status, found = "broken", f"{files[0].name} does not start as it should"
        is_ok = status == "ok"
        yield Finding(
            group="weights",
            name=package,
            status=status,
            found=found,
            switches_off=None if is_ok else use,
            hint=None if is_ok else hint,
        )


def _java() -> Finding:
    use = "METEOR; BLEU, ROUGE-L and CIDEr are then computed on plain words, not PTB's tokens"
    return _tool("java", ("java",), "-version", use, "on Debian and Ubuntu: default-jre-headless")


def _browser() -> Finding:
    use = "nothing in this version, which has no web page"
    return _tool("browser", _BROWSERS, "--version", use, None)


def _tool(name: str, programs: Sequence[str], flag: str, use: str, hint: str | None) -> Finding:
    """Ask the first program that is there for its version."""
    path = next(filter(None, map(shutil.which, programs)), None)
    if path is None:
        return Finding(
            group="tool",
            name=name,
            status="missing",
            found="not installed",
            switches_off=use,
            hint=hint,
        )
    try:
        done = subprocess.run(
            [path, flag],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            check=False,
        )
        said = (done.stdout.strip() or done.stderr.strip()).splitlines()
        problem = None if done.returncode == 0 else f"`{flag}` ended with {done.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        said, problem = [], str(error)
    if problem is not None:
        return Finding(
            group="tool",
            name=name,
            status="broken",
            found=f"{path}: {problem}",
            switches_off=use,
            hint=hint,
        )
    return Finding(
        group="tool", name=name, status="ok", found=f"{said[0] if said else '?'} at {path}"
    )


if __name__ == "__main__":
    report = examine()
    sys.stdout.writelines(f"{line}\n" for line in plain_lines(report))
    sys.exit(0 if report.is_usable else 3)
