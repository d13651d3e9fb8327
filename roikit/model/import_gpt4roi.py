"""GPT4RoI's released weights as a model of ours: the delta added to LLaMA, CLIP put beside it.

In: the released delta, LLaMA's and CLIP's folders. Out: a `from_pretrained` folder. Everything is
checked from headers before the first byte is written; then one tensor at a time is read, summed and
written, so that memory holds the largest tensor and not the model.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig

from roikit.config import load_recipe
from roikit.errors import RoikitError, UsageError, few
from roikit.model.build import generation_defaults, make_processor
from roikit.model.configuration import RoikitConfig
from roikit.model.device import DTYPES, choose_dtype
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.processing import RoikitProcessor
from roikit.model.released_parts import (
    given_folder,
    release_config,
    release_tokenizer,
    vision_folder,
)
from roikit.model.released_tensors import (
    EMBEDDING,
    HEAD,
    ReleasedPart,
    dropped_tensors,
    make_tensor,
    match_tensors,
)
from roikit.model.templates import FORMATS
from roikit.model.tensor_files import OutFile, list_tensors, plan_files, write_file, write_index
from roikit.model.vision import CLIP_MEAN, CLIP_STD
from roikit.render import bytes_text

#: Beside the weights: configuration, tokenizer, index.
_EXTRA_BYTES = 10_000_000
_RECIPE = "gpt4roi-7b"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportPlan:
    """A checked import: nothing about it can be wrong any more but the disk."""

    config: RoikitConfig
    processor: RoikitProcessor
    generation: GenerationConfig
    parts: dict[str, ReleasedPart]  #: by our names, in the order they are written
    files: list[OutFile]
    dtype: torch.dtype
    dropped: tuple[str, ...]  #: released tensors that are not needed

    @property
    def num_bytes(self) -> int:
        """Return the size of the weights."""
        return sum(file.num_bytes for file in self.files)

    def num_parameters(self, prefix: str = "") -> int:
        """Return the numbers in the tensors whose names begin so."""
        return sum(
            torch.Size(shape).numel()
            for file in self.files
            for name, shape in file.tensors.items()
            if name.startswith(prefix)
        )


def plan_import(
    delta: Path, base: Path, vision: str, *, dtype: str = "auto", max_shard_bytes: int
) -> ImportPlan:
    """Check the three sources against each other and say what will be written.

    Args:
        delta: folder of the released delta.
        base: folder of LLaMA in Hugging Face's form; its `config.json` tells all sizes.
        vision: folder or hub name of CLIP ViT-L/14; its vision model alone is used.
        dtype: of the result: `fp32`, `bf16`, `fp16`, or `auto`: the delta's.
        max_shard_bytes: largest file of the result, bytes.

    Raises:
        UsageError: something is missing, left over or of another shape.
    """
    deltas, bases = (
        list_tensors(given_folder(delta, "--delta")),
        list_tensors(given_folder(base, "--base")),
    )
    for where, held in ((delta, deltas), (base, bases)):
        for name in (EMBEDDING, HEAD):
            if name not in held:
                raise UsageError(
                    f"{where}: expected `{name}` among the tensors, found {few(sorted(held))}",
                    hint="--delta is the folder of the release, --base the one of LLaMA in Hugging "
                    "Face's form",
                )
    rows = deltas[EMBEDDING].shape[0]
    recipe = load_recipe(_RECIPE, stage="stage1").model
    speech = FORMATS[recipe.chat_template]
    tokenizer = release_tokenizer(delta, base, speech, old=bases[EMBEDDING].shape[0], rows=rows)
    tower = vision_folder(vision)
    config = release_config(recipe, speech, tokenizer, base=base, tower=tower, rows=rows)
    named = {kind: name for name, kind in DTYPES.items()}
    numbers = choose_dtype(dtype, auto=named.get(deltas[EMBEDDING].dtype, "fp32"))
    config.dtype = numbers
    with torch.device("meta"):
        model = RoikitForConditionalGeneration(config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    parts = match_tensors(shapes, deltas=deltas, bases=bases, towers=list_tensors(tower))
    generation = GenerationConfig()
    generation_defaults(generation, tokenizer, speech)
    return ImportPlan(
        config=config,
        processor=make_processor(
            tokenizer,
            recipe,
            mean=CLIP_MEAN,
            std=CLIP_STD,
            stride=model.vision_tower.stride,
            image_token=speech.image_token,
            region_token=speech.region_token,
        ),
        generation=generation,
        parts=parts,
        files=plan_files(shapes, numbers, max_bytes=max_shard_bytes),
        dtype=numbers,
        dropped=dropped_tensors(deltas),
    )


def write_import(
    plan: ImportPlan,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Write the model; it stands at `out` only once it is whole.

    An import that was stopped leaves nothing there and starts over: it takes as long as reading
    and writing its bytes.

    Args:
        plan: of `plan_import`.
        out: folder of the model.
        overwrite: replace a model that stands there.
        progress: told the megabytes written, and of how many.

    Raises:
        UsageError: `out` holds something.
        RoikitError: the disk has too little room.
    """
    check_out(out, overwrite=overwrite)
    partial = out.absolute().with_name(f".{out.absolute().name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    _check_room(plan, out)
    partial.mkdir(parents=True)
    try:
        done = 0
        for file in plan.files:

            def tensors(names: tuple[str, ...] = tuple(file.tensors)) -> Iterator[Tensor]:
                nonlocal done
                for name in names:
                    tensor = make_tensor(plan.parts[name], plan.dtype)
                    yield tensor
                    done += tensor.nbytes
                    if progress is not None:
                        progress(done // 1_000_000, plan.num_bytes // 1_000_000)

            write_file(partial, file, plan.dtype, tensors())
        write_index(partial, plan.files)
        plan.config.save_pretrained(partial)
        plan.generation.save_pretrained(partial)
        plan.processor.save_pretrained(partial)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_out(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder that must not be written into.

    Raises:
        UsageError: it holds something that is no model of ours (LLaMA's own folder, say), or a
            model and `overwrite` is false.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        is_ours = (
            json.loads((out / "config.json").read_bytes())["model_type"] == RoikitConfig.model_type
        )
    except (OSError, ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise UsageError(
            f"{out}: expected an empty folder or a model of roikit, found something else",
            hint="choose another --out",
        )
    if not overwrite:
        raise UsageError(f"{out}: holds a model already", hint="give --overwrite to replace it")


def _check_room(plan: ImportPlan, out: Path) -> None:
    there = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    needed, free = plan.num_bytes + _EXTRA_BYTES, shutil.disk_usage(there).free
    if free < needed:
        raise RoikitError(
            f"{out}: expected {bytes_text(needed)} of room on the disk, found {bytes_text(free)}",
            hint="free some space, or name a folder on another disk with --out",
        )
