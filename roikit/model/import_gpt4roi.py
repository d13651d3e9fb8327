"""GPT4RoI's released weights as a model of ours: the delta added to LLaMA, CLIP put beside it.

In: the released delta, LLaMA's and CLIP's folders. Out: a `from_pretrained` folder. Everything is
checked from headers before the first byte is written; then one tensor at a time is read, summed and
written, so that memory holds the largest tensor and not the model.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from roikit.config import ModelRecipe, load_recipe
from roikit.errors import RoikitError, UsageError
from roikit.model.build import generation_defaults
from roikit.model.configuration import RoikitConfig
from roikit.model.device import DTYPES, choose_dtype
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.processing import RoikitProcessor
from roikit.model.templates import FORMATS, ChatFormat, set_format
from roikit.model.tensor_files import (
    OutFile,
    StoredTensor,
    list_tensors,
    plan_files,
    read_tensor,
    write_file,
    write_index,
)
from roikit.model.vision import CLIP_MEAN, CLIP_STD
from roikit.render import bytes_text

#: Our names' beginnings, and what the released names have in their place. Source: the release's
#: module definitions.
_RENAMED = {
    "language_model.": "",
    "projector.layers.": "model.mm_projector.",
    "region_encoder.": "model.spi_module.",
}
_VISION = "vision_tower.model."
#: Stored in full, not as a difference.
_WHOLE = ("model.mm_projector.", "model.spi_module.")
#: Tables of sines that old LLaMA checkpoints carry; computed today.
_DROPPED = ".rotary_emb.inv_freq"
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
#: Numbers summed at once: float32 copies of so many stand beside the tensor.
_CHUNK = 8_000_000
#: Names listed of each kind of problem.
_SHOWN = 3
#: Beside the weights: configuration, tokenizer, index.
_EXTRA_BYTES = 10_000_000
_RECIPE = "gpt4roi-7b"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What one tensor of the result is made from."""

    name: str  #: in its file
    stored: StoredTensor
    base: StoredTensor | None = None  #: of the same name, to be added


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportPlan:
    """A checked import: nothing about it can be wrong any more but the disk."""

    config: RoikitConfig
    processor: RoikitProcessor
    generation: GenerationConfig
    parts: dict[str, _Part]  #: by our names, in the order they are written
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
    deltas, bases = list_tensors(_folder(delta, "--delta")), list_tensors(_folder(base, "--base"))
    for where, held in ((delta, deltas), (base, bases)):
        for name in (_EMBEDDING, _HEAD):
            if name not in held:
                raise UsageError(
                    f"{where}: expected `{name}` among the tensors, found {_some(sorted(held))}",
                    hint="--delta is the folder of the release, --base the one of LLaMA in Hugging "
                    "Face's form",
                )
    rows = deltas[_EMBEDDING].shape[0]
    recipe = load_recipe(_RECIPE, stage="stage1").model
    speech = FORMATS[recipe.chat_template]
    tokenizer = _tokenizer(delta, base, speech, old=bases[_EMBEDDING].shape[0], rows=rows)
    tower = _vision_folder(vision)
    config = _config(recipe, speech, tokenizer, base=base, tower=tower, rows=rows)
    named = {kind: name for name, kind in DTYPES.items()}
    numbers = choose_dtype(dtype, auto=named.get(deltas[_EMBEDDING].dtype, "fp32"))
    config.dtype = numbers
    with torch.device("meta"):
        model = RoikitForConditionalGeneration(config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    parts = _match(shapes, deltas=deltas, bases=bases, towers=list_tensors(tower))
    generation = GenerationConfig()
    generation_defaults(generation, tokenizer, speech)
    return ImportPlan(
        config=config,
        processor=_processor(recipe, speech, tokenizer, config),
        generation=generation,
        parts=parts,
        files=plan_files(shapes, numbers, max_bytes=max_shard_bytes),
        dtype=numbers,
        dropped=tuple(name for name in deltas if name.endswith(_DROPPED)),
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
                    tensor = _make(plan.parts[name], plan.dtype)
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
        UsageError: it holds something that is no model, or a model and `overwrite` is false.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "config.json").is_file():
        raise UsageError(
            f"{out}: expected an empty folder or a model, found something else",
            hint="choose another --out",
        )
    if not overwrite:
        raise UsageError(f"{out}: holds a model already", hint="give --overwrite to replace it")


def _make(part: _Part, dtype: torch.dtype) -> Tensor:
    """Read a tensor, and add its base's, in float32."""
    own = read_tensor(part.name, part.stored)
    if part.base is None:
        return own.to(dtype)
    base = read_tensor(part.name, part.base)
    total = torch.empty(own.shape, dtype=dtype)
    step = max(1, _CHUNK * len(own) // own.numel())
    for start in range(0, len(own), step):
        rows = slice(start, min(start + step, len(own)))
        summed = own[rows].float()
        shared = base[rows].float()  # fewer rows, or none: those of the added tokens are whole
        summed[: len(shared)] += shared
        total[rows] = summed
    return total


def _match(
    shapes: dict[str, tuple[int, ...]],
    *,
    deltas: dict[str, StoredTensor],
    bases: dict[str, StoredTensor],
    towers: dict[str, StoredTensor],
) -> dict[str, _Part]:
    """Find what each of our tensors is made from.

    Raises:
        UsageError: the names or shapes do not agree; names a few of each kind.
    """
    # a whole CLIP has a text model beside it; older files call the vision model by name
    tower_names = {name.removeprefix("vision_model."): name for name in towers}
    if any(name.startswith("vision_model.") for name in towers):
        tower_names = {s: n for s, n in tower_names.items() if n.startswith("vision_model.")}
    parts: dict[str, _Part] = {}
    missing: list[str] = []
    misshapen: list[str] = []
    used: set[str] = set()
    old = bases[_EMBEDDING].shape[0]
    for ours, shape in shapes.items():
        base = None
        if ours.startswith(_VISION):
            short = ours.removeprefix(_VISION).removeprefix("vision_model.")
            name = tower_names.get(short, short)
            stored = towers.get(name)
        else:
            name = _released_name(ours)
            stored = deltas.get(name)
            used.add(name)
            if not name.startswith(_WHOLE):
                base = bases.get(name)
                if base is None:
                    missing.append(f"`{name}` of the base")
                    continue
                wanted = (old, shape[1]) if name in (_EMBEDDING, _HEAD) else shape
                if base.shape != wanted:
                    misshapen.append(f"`{name}` of the base {_lists(base.shape, wanted)}")
        if stored is None:
            missing.append(f"`{name}`")
            continue
        if stored.shape != shape:
            misshapen.append(f"`{name}` {_lists(stored.shape, shape)}")
        parts[ours] = _Part(name=name, stored=stored, base=base)
    known = used | {name for name in (*deltas, *bases) if name.endswith(_DROPPED)}
    unexpected = [f"`{name}`" for name in deltas if name not in known]
    unexpected += [f"`{name}` of the base" for name in bases if name not in known]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(problems.values()):
        told = "; ".join(f"{kind}: {_some(names)}" for kind, names in problems.items() if names)
        raise UsageError(
            f"the release, the base and the tower do not make one model: {told}",
            hint="delta and base must be of one size (7B with 7B), and --vision the tower it was "
            "trained with, openai/clip-vit-large-patch14",
        )
    return parts


def _released_name(ours: str) -> str:
    for beginning, released in _RENAMED.items():
        if ours.startswith(beginning):
            return released + ours.removeprefix(beginning)
    raise RoikitError(f"`{ours}`: no name in the release is known for it")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "nothing") + more


def _lists(found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    return f"{list(found)} (expected {list(wanted)})"


def _folder(path: Path, option: str) -> Path:
    if not path.is_dir():
        raise UsageError(
            f"{option} {path}: expected a folder, found {'a file' if path.exists() else 'nothing'}",
            hint="docs/gpt4roi.md says what to download",
        )
    return path


def _vision_folder(vision: str) -> Path:
    if Path(vision).is_dir():
        return Path(vision)
    from huggingface_hub import snapshot_download

    try:
        wanted = ["config.json", "preprocessor_config.json", "model.safetensors"]
        return Path(snapshot_download(vision, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--vision `{vision}`: neither a folder nor a model that can be fetched from here",
            hint="download openai/clip-vit-large-patch14 elsewhere and name its folder",
        ) from error


def _tokenizer(
    delta: Path, base: Path, speech: ChatFormat, *, old: int, rows: int
) -> PreTrainedTokenizerFast:
    """Load the release's tokenizer, or LLaMA's with the release's tokens behind it.

    Raises:
        UsageError: there is none, or its tokens are not those of the embedding's rows.
    """
    folder = delta if any((delta / name).is_file() for name in _TOKENIZER_FILES) else base
    try:
        loaded = AutoTokenizer.from_pretrained(folder)
        backend = loaded.backend_tokenizer
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise UsageError(
            f"{folder}: expected a tokenizer: {str(error).strip().splitlines()[0]}",
            hint="put LLaMA's `tokenizer.json` or `tokenizer.model` there",
        ) from error
    if isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):
        # The tokenizer of the time put a blank before every piece of text between its tokens.
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    # A plain class keeps that when it is loaded again; LLaMA's own sets it up anew.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        # LLaMA's first conversions for Hugging Face left these names empty
        bos_token=loaded.bos_token or "<s>",
        eos_token=loaded.eos_token or "</s>",
        unk_token=loaded.unk_token or "<unk>",
    )
    set_format(tokenizer, _format_name(speech))
    found = {token: tokenizer.convert_tokens_to_ids(token) for token in speech.tokens}
    wanted = {token: old + i for i, token in enumerate(speech.tokens)}
    if found != wanted or len(tokenizer) != rows:
        raise UsageError(
            f"{folder}: expected the tokens {', '.join(speech.tokens)} as {old} to {rows - 1}, the "
            f"rows of the delta, found {', '.join(map(str, found.values()))} of {len(tokenizer)}",
            hint="give the base's own tokenizer, of as many tokens as its embedding has rows",
        )
    return tokenizer


def _format_name(speech: ChatFormat) -> str:
    return next(name for name, known in FORMATS.items() if known is speech)


def _config(
    recipe: ModelRecipe,
    speech: ChatFormat,
    tokenizer: PreTrainedTokenizerFast,
    *,
    base: Path,
    tower: Path,
    rows: int,
) -> RoikitConfig:
    text, whole = _read_config(base), _read_config(tower)
    vision = getattr(whole, "vision_config", whole)
    layers = getattr(vision, "num_hidden_layers", 0)
    if layers < max(recipe.vision_layers) or getattr(vision, "image_size", 0) != recipe.image_size:
        raise UsageError(
            f"{tower}: expected a tower of {recipe.image_size} px and at least "
            f"{max(recipe.vision_layers)} layers, found "
            f"{getattr(vision, 'image_size', 'none')} px and {layers}",
            hint="--vision openai/clip-vit-large-patch14",
        )
    text.vocab_size = rows
    text.bos_token_id, text.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    text.pad_token_id = tokenizer.pad_token_id
    config = RoikitConfig.from_recipe(
        recipe,
        vision={
            "kind": "vit",
            "config": vision.to_dict(),
            "layers": list(recipe.vision_layers),
            "interpolate": False,
        },
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(speech.image_token),
        region_token_id=tokenizer.convert_tokens_to_ids(speech.region_token),
    )
    config.architectures = [RoikitForConditionalGeneration.__name__]
    return config


def _read_config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{folder}: `config.json` cannot be read: {str(error).strip().splitlines()[0]}",
            hint="download the whole folder, not the weights alone",
        ) from error


def _processor(
    recipe: ModelRecipe,
    speech: ChatFormat,
    tokenizer: PreTrainedTokenizerFast,
    config: RoikitConfig,
) -> RoikitProcessor:
    return RoikitProcessor(
        tokenizer=tokenizer,
        image_size=config.image_size,
        image_mode=recipe.image_mode,
        image_mean=CLIP_MEAN,
        image_std=CLIP_STD,
        num_image_tokens=config.num_image_tokens,
        num_region_tokens=config.num_region_tokens,
        image_token=speech.image_token,
        region_token=speech.region_token,
    )


def _check_room(plan: ImportPlan, out: Path) -> None:
    there = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    needed, free = plan.num_bytes + _EXTRA_BYTES, shutil.disk_usage(there).free
    if free < needed:
        raise RoikitError(
            f"{out}: expected {bytes_text(needed)} of room on the disk, found {bytes_text(free)}",
            hint="free some space, or name a folder on another disk with --out",
        )
