"""Recipes: what a model is built from and how each stage trains it.

A recipe is a TOML file with `name`, `seed` and `keep_clean` (all may be left out), a table
`[model]` and one table a stage (`[align]`, `[stage1]`, `[stage2]`). Unknown keys are refused with
the nearest known one. Every default stands here and nowhere else; a run saves its recipe resolved.
"""

import difflib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from roikit.errors import UsageError

STAGES = ("align", "stage1", "stage2")
#: of the model, as a recipe's `train` names them
PARTS = ("vision_tower", "projector", "region_encoder", "language_model")
#: Benchmarks whose pictures training leaves out, as DATASET@SPLIT, where a recipe names no others.
#: A fixed list, whatever is converted. `lvis@val` holds 15,000 pictures of COCO's training split.
KEEP_CLEAN = (
    "coco@val",
    "refcoco@val",
    "refcoco@testA",
    "refcoco@testB",
    "refcoco+@val",
    "refcoco+@testA",
    "refcoco+@testB",
    "refcocog@val",
    "refcocog@test",
    "flickr30k@val",
    "flickr30k@test",
    "vg@test",
    "vcr@val",
    "vcr@test",
    "lvis@val",
    "paco@test",
    "visual7w@test",
)
#: Keys that stand before the tables.
_ROOT_KEYS = ("name", "seed", "keep_clean")
#: Ways to show a region to the language model; `text` writes its box as coordinates.
REGION_ENCODERS = ("replay", "pooled", "deformable", "gpt4roi", "box", "text")
#: Tokens of a region as text: `[012,345,678,999]`, a token a character.
TEXT_REGION_TOKENS = 17
#: Those that read a region's surroundings alone, and so can read it from tiles.
TILED_ENCODERS = ("replay", "pooled", "deformable")
#: Keys of the model with a few allowed values.
_MODEL_CHOICES = {
    "region_encoder": REGION_ENCODERS,
    "projector": ("mlp", "linear"),
    "image_mode": ("pad", "squash"),
}
#: Keys of a stage with a few allowed values.
_CHOICES = {
    "optimizer": ("adamw", "muon"),
    "layout": ("plain", "packed", "grouped"),
    "dtype": ("auto", "bf16", "fp32"),
    "parallel": ("auto", "ddp", "fsdp"),
}
#: Keys of a stage that say how the work is done, not what is learned: a run that goes on may change
#: them (another machine has other memory).
FREE_KEYS = (
    "micro_batch",
    "parallel",
    "compile",
    "gradient_checkpointing",
    "save_every",
    "keep",
    "keep_best",
    "eval_every",
    "eval_size",
)
#: What a key's type is called in messages.
_KINDS = {bool: "true or false,", int: "a whole number", float: "a number", str: "text"}
_RECIPES = Path(__file__).parent / "recipes"
#: Keys of the model that concern its region encoder alone: with others, all other parts fit still.
ENCODER_KEYS = (
    "region_encoder",
    "region_grid",
    "roi_size",
    "region_width",
    "box_embedding",
    "use_masks",
    "max_tiles",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRecipe:
    """What the model is built from."""

    vision: str = (
        "plain"  #: `plain`, `efficientnet-lite0`, or a Hugging Face ViT (hub name or path)
    )
    vision_width: int = 128  #: of `plain`: channels
    vision_depth: int = 1  #: of `plain`: attention layers
    vision_layers: tuple[int, ...] = (-2,)  #: of a ViT: hidden states that become feature levels
    language: str = "scratch"  #: `scratch`, `smollm2-135m` (its package), or a hub name or path
    language_width: int = 192  #: of `scratch`: hidden size
    language_layers: int = 3  #: of `scratch`
    language_heads: int = 6  #: of `scratch`
    vocabulary: int = (
        4096  #: of `scratch`: largest number of tokens to learn from the training text
    )
    chat_template: str = (
        ""  #: file with a marked template, or `vicuna-v0`; empty: the tokenizer's own
    )
    projector: Literal["mlp", "linear"] = "mlp"  #: of image cells: `mlp`, or one `linear` layer
    projector_weights: str = ""  #: file with a finished projector, as LLaVA's `mm_projector.bin`
    levels: tuple[int, ...] = ()  #: of the tower's feature levels, those that are used; empty: all
    image_levels: tuple[int, ...] = ()  #: of those, what image tokens are made from; empty: all
    region_encoder: Literal["replay", "pooled", "deformable", "gpt4roi", "box", "text"] = (
        "replay"  #: how regions become tokens, see docs/regions.md
    )
    region_grid: int = 3  #: k; `replay` and `deformable` take k*k tokens a region
    roi_size: int = 0  #: cells along a side that a region is sampled at; 0: the encoder's own
    region_width: int = 0  #: of `gpt4roi`: inner channels; 0: the tower's
    box_embedding: bool = True  #: embed the box beside its features
    use_masks: bool = True  #: read a region that has a mask through it
    max_tiles: int = 1  #: tiles that a large picture is cut into for its regions; 1: none
    image_embedding: bool = False  #: a learned vector tells image tokens from region tokens
    image_size: int = 224  #: side of the square input, pixels
    image_mode: Literal["pad", "squash"] = (
        "pad"  #: `pad` keeps the aspect ratio, `squash` stretches
    )
    image_grid: int = 14  #: the picture takes image_grid * image_grid tokens
    seed: int = 0  #: of the random weights

    @property
    def num_image_tokens(self) -> int:
        """Tokens that a picture takes."""
        return self.image_grid * self.image_grid

    @property
    def num_region_tokens(self) -> int:
        """Tokens that a region takes."""
        return region_tokens(self.region_encoder, self.region_grid)


def region_tokens(encoder: str, grid: int) -> int:
    """Return how many tokens an encoder of `REGION_ENCODERS` makes of a region."""
    if encoder in ("replay", "deformable"):
        return grid * grid
    return TEXT_REGION_TOKENS if encoder == "text" else 1


def region_reach(encoder: str) -> float:
    """Return how far beyond its box an encoder may read a region, in sides of the box."""
    return 0.5 if encoder == "deformable" else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecipe:
    """How one stage trains."""

    mix: str = ""  #: sources and weights, `vcr:reasoning-single=2,vg=1`
    where: str = ""  #: only conversations for which this SQL condition on the manifest holds
    held_out: float = 0.0  #: share of the pictures that is never trained on, 0 to 0.5
    train: tuple[
        str, ...
    ] = ()  #: parts that learn: vision_tower projector region_encoder language_model
    steps: int = 0  #: optimiser steps; 0: as many as `epochs` take
    epochs: float = 1.0  #: passes over the mixture, where `steps` is 0
    batch_size: int = 8  #: conversations a step, over all processes together
    micro_batch: int = 0  #: conversations at once on a device; 0: all of its share of a step
    layout: Literal["plain", "packed", "grouped"] = (
        "plain"  #: how a step's conversations lie in rows: `plain`, `packed`, `grouped`
    )
    optimizer: str = "adamw"  #: `adamw`, or `muon` for matrices with AdamW for the rest
    lr: float = 2e-5  #: peak learning rate of AdamW
    lr_muon: float = 0.02  #: peak learning rate of Muon
    betas: tuple[float, ...] = (0.9, 0.98)  #: of AdamW
    weight_decay: float = 0.0  #: not applied to norms, biases and embeddings
    warmup: float = 0.03  #: steps if 1 or more, else a share of all steps
    grad_clip: float = 1.0  #: largest norm of the gradient; 0: no limit
    max_tokens: int = 2048  #: tokens a conversation, picture and regions included
    max_exchanges: int = 0  #: exchanges drawn from an independent list; 0: all
    asked_together: float = (
        0.0  #: share of those lists asked in one turn, answered region by region
    )
    redraw_wording: bool = False  #: draw the wording of questions anew at every pass
    flip: float = 0.0  #: share of the pictures that are mirrored, where no text speaks of sides
    crop: float = 0.0  #: share of the pictures that are cropped, never through a region
    colour: float = (
        0.0  #: strength of random changes of brightness, contrast and saturation, 0 to 1
    )
    lora_rank: int = 0  #: of LoRA adapters in the language model, whose weights then rest; 0: none
    lora_alpha: float = 32.0  #: LoRA's scale is alpha / rank
    lora_dropout: float = 0.0  #: share of the adapters' inputs that is dropped in training
    lora_targets: tuple[str, ...] = ("all-linear",)  #: names of layers, as peft takes them
    dtype: str = "auto"  #: `bf16` (autocast), `fp32`, or `auto`: bf16 where the device has it
    parallel: str = (
        "auto"  #: `ddp`, `fsdp`, or `auto`: fsdp where the language model's weights learn
    )
    compile: bool = False  #: torch.compile the language model's layers
    gradient_checkpointing: bool = False  #: compute layers again instead of keeping activations
    save_every: int = 200  #: steps between checkpoints
    keep: int = 2  #: checkpoints kept beside the latest
    keep_best: int = 0  #: further checkpoints kept: those of the lowest held-out loss
    eval_every: int = 0  #: steps between evaluations on the pictures held out; 0: none
    eval_size: int = 256  #: conversations of such an evaluation


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One stage of a preset, resolved."""

    name: str
    stage: str
    model: ModelRecipe = field(default_factory=ModelRecipe)
    run: StageRecipe = field(default_factory=StageRecipe)
    seed: int = 0  #: of the data's order
    keep_clean: tuple[str, ...] = KEEP_CLEAN  #: benchmarks, as DATASET@SPLIT

    def to_toml(self) -> str:
        """The resolved recipe as TOML, which `load_recipe` reads back."""
        model = _table("model", asdict(self.model))
        root = (
            f"name = {toml_value(self.name)}\nseed = {self.seed}\n"
            f"keep_clean = {toml_value(self.keep_clean)}\n"
        )
        return f"{root}\n{model}\n{_table(self.stage, asdict(self.run))}"


def recipe_names() -> list[str]:
    """Names of the recipes inside the package."""
    return sorted(path.stem for path in _RECIPES.glob("*.toml"))


def recipe_stages(name: str) -> tuple[str, ...]:
    """Stages that a recipe has, in their order.

    Args:
        name: a preset's name or a path to a TOML file.

    Raises:
        UsageError: no such recipe, or not TOML.
    """
    _, tables = _read(name)
    return tuple(stage for stage in STAGES if stage in tables)


def load_recipe(name: str, *, stage: str | None, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by name or path and apply overrides.

    Args:
        name: a preset's name (`tiny`) or a path to a TOML file.
        stage: one of `STAGES`; None takes the only one of a resolved recipe.
        overrides: `table.key=value` with a TOML value (quotes may be left out), where the table is
            `model` or a stage's name; also `seed=1` and `keep_clean=[]`.

    Raises:
        UsageError: no such recipe, table or key, or a value of the wrong type.
    """
    path, tables = _read(name)
    has_stages = [one for one in STAGES if one in tables]
    for override in overrides:
        _override(tables, override)
    allowed = (*_ROOT_KEYS, "model", *STAGES)
    for table, values in tables.items():
        if table not in allowed:
            raise _unknown_table(name, table, values, allowed)
        if table not in _ROOT_KEYS and not isinstance(values, dict):
            raise UsageError(f"recipe `{name}`: `{table}`: expected a table, got `{values}`")
    if stage is None:
        stage = next((s for s in STAGES if s in tables), STAGES[0])
    for table in (stage, *(one for one in STAGES if one in tables)):
        if table not in has_stages:  # an override alone makes no stage
            raise UsageError(
                f"recipe `{name}`: has no stage `{table}`",
                hint=f"it has: {', '.join(has_stages) or 'none'}",
            )
    for other in STAGES:  # an override of a stage that is not run now is still checked
        if other in tables:
            _check_stage(_build(StageRecipe, tables[other], other), other)
    seed = tables.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise UsageError(f"seed: expected a whole number, got `{seed}`")
    model = _build(ModelRecipe, tables.get("model", {}), "model")
    check_model(model)
    called = tables.get("name", path.stem)  # a run's `recipe.toml` tells what it was called
    if not isinstance(called, str) or not called:
        raise UsageError(f"name: expected text, got `{called}`")
    recipe = Recipe(
        name=called,
        stage=stage,
        model=model,
        run=_build(StageRecipe, tables[stage], stage),
        seed=seed,
        keep_clean=_benchmarks(tables.get("keep_clean", list(KEEP_CLEAN))),
    )
    check_learns(recipe)
    return recipe


def _read(name: str) -> tuple[Path, dict[str, Any]]:
    path = Path(name) if name.endswith(".toml") else _RECIPES / f"{name}.toml"
    if not path.is_file():
        raise UsageError(
            f"recipe `{name}`: no such file or preset", hint=f"presets: {', '.join(recipe_names())}"
        )
    try:
        return path, tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}") from error


def _benchmarks(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise UsageError(
            f'keep_clean: expected a list like `["coco@val", "vg@test"]`, got `{value}`',
            hint="an empty one, `--set keep_clean=[]`, leaves nothing out of training",
        )
    for name in value:
        if not all(name.partition("@")):
            raise UsageError(f"keep_clean: `{name}`: expected DATASET@SPLIT, e.g. `vg@test`")
    return tuple(value)


def _override(tables: dict[str, Any], text: str) -> None:
    key, separator, raw = text.partition("=")
    if not separator:
        raise UsageError(f"--set {text}: expected `table.key=value`")
    try:
        value = tomllib.loads(f"v = {raw.strip()}")["v"]
    except tomllib.TOMLDecodeError:
        value = _number_or_text(raw.strip())
    table, dot, name = key.strip().rpartition(".")
    if not dot:
        tables[name] = value
    elif table not in _ROOT_KEYS and isinstance(tables.setdefault(table, {}), dict):
        tables[table][name] = value
    else:
        raise UsageError(f"--set {text}: `{table}` is no table", hint=f"--set {table}=VALUE")


def _number_or_text(raw: str) -> float | str:
    """Read what TOML does not take as a value: `.01`, which people type, or a bare word."""
    try:
        return float(raw)
    except ValueError:
        return raw


def _build(kind: Any, values: Mapping[str, Any], table: str) -> Any:
    known = {f.name: f for f in fields(kind)}
    arguments = {}
    defaults = kind()
    for key, value in values.items():
        if key not in known:
            raise _unknown(f"{table}.{key}", key, known)
        default = getattr(defaults, key)
        arguments[key] = _checked(value, default, f"{table}.{key}", _element(known[key].type))
    return kind(**arguments)


def check_model(model: ModelRecipe) -> None:
    """Refuse a model table with a value that cannot be, before anything is read or fetched for it.

    Raises:
        UsageError: a size below 1, a width that cannot be quartered, an unknown region encoder,
            projector or image mode, or tiles for an encoder that cannot read them.
    """
    for name in ("image_size", "image_grid", "region_grid", "max_tiles"):
        if getattr(model, name) < 1:
            raise UsageError(f"model.{name}: expected 1 or more, got {getattr(model, name)}")
    for name in ("roi_size", "region_width"):
        if getattr(model, name) < 0:
            raise UsageError(f"model.{name}: expected 0 or more, got {getattr(model, name)}")
    if model.region_width % 4:  # the pyramid hands quarters of it to its neighbours
        raise UsageError(f"model.region_width: expected a multiple of 4, got {model.region_width}")
    _check_choices(model, "model", _MODEL_CHOICES)
    if model.max_tiles > 1 and model.region_encoder not in TILED_ENCODERS:
        raise UsageError(
            f"model.max_tiles: expected 1 with the region encoder `{model.region_encoder}`, "
            f"got {model.max_tiles}",
            hint=f"{', '.join(TILED_ENCODERS)} read regions from tiles",
        )


def check_learns(recipe: Recipe) -> None:
    """Refuse a stage in which nothing could learn, before anything is read for it.

    Raises:
        UsageError: it trains the region encoder alone, and the model has none.
    """
    if recipe.model.region_encoder == "text" and set(recipe.run.train) == {"region_encoder"}:
        raise UsageError(
            f"{recipe.stage}.train: the region encoder `text` has nothing that could learn",
            hint="boxes as text are the language model's to read: "
            f"--set '{recipe.stage}.train=[\"language_model\"]', or leave the stage out",
        )


def _check_choices(values: Any, table: str, choices: Mapping[str, Sequence[str]]) -> None:
    for name, allowed in choices.items():
        if getattr(values, name) not in allowed:
            either = f"{', '.join(f'`{one}`' for one in allowed[:-1])} or `{allowed[-1]}`"
            raise UsageError(f"{table}.{name}: expected {either}, got `{getattr(values, name)}`")


def _check_stage(run: StageRecipe, table: str) -> None:
    for name in ("batch_size", "save_every", "max_tokens", "eval_size"):
        if getattr(run, name) < 1:
            raise UsageError(f"{table}.{name}: expected 1 or more, got {getattr(run, name)}")
    amounts = ("steps", "epochs", "lr", "lr_muon", "warmup", "max_exchanges", "micro_batch")
    counts = ("keep", "keep_best", "eval_every", "lora_rank")
    for name in (*amounts, *counts, "weight_decay", "grad_clip", "lora_alpha"):
        value = getattr(run, name)
        if not (math.isfinite(value) and value >= 0):
            raise UsageError(f"{table}.{name}: expected 0 or more, got {value}")
    unknown = [part for part in run.train if part not in PARTS]
    if unknown:
        raise _unknown(f"{table}.train: `{unknown[0]}`", unknown[0], PARTS)
    _check_choices(run, table, _CHOICES)
    for name, most in (("asked_together", 1), ("flip", 1), ("crop", 1), ("colour", 1)):
        if not 0 <= getattr(run, name) <= most:
            raise UsageError(f"{table}.{name}: expected 0 to {most}, got {getattr(run, name)}")
    if not 0 <= run.held_out <= 0.5:
        raise UsageError(f"{table}.held_out: expected 0 to 0.5, got {run.held_out}")
    if not 0 <= run.lora_dropout < 1:
        raise UsageError(f"{table}.lora_dropout: expected 0 to below 1, got {run.lora_dropout}")
    if len(run.betas) != 2 or not all(0 <= beta < 1 for beta in run.betas):
        raise UsageError(f"{table}.betas: expected two numbers from 0 to below 1, got {run.betas}")
    if (run.eval_every or run.keep_best) and not run.held_out:
        raise UsageError(
            f"{table}.held_out: expected a share above 0 where eval_every or keep_best is set",
            hint=f"--set {table}.held_out=0.01 keeps one picture in a hundred out of training",
        )
    if run.keep_best and not run.eval_every:
        raise UsageError(f"{table}.eval_every: expected a number of steps where keep_best is set")


def _element(kind: Any) -> Any:
    """What a list's items are, from a field's annotation."""
    return get_args(kind)[0] if get_origin(kind) is tuple else None


def _checked(value: Any, default: Any, path: str, element: Any) -> Any:
    if isinstance(default, bool) or isinstance(value, bool):
        fits = isinstance(default, bool) and isinstance(value, bool)
    elif isinstance(default, float):
        fits = isinstance(value, int | float)
        value = float(value) if fits else value
    elif isinstance(default, tuple):
        takes = (int, float) if element is float else element
        fits = isinstance(value, list) and all(
            isinstance(item, takes) and not isinstance(item, bool) for item in value
        )
        if not fits:
            example = toml_value(default or ((0, 2) if element is int else ("projector",)))
            raise UsageError(f"{path}: expected a list like `{example}`, got `{value}`")
        value = tuple(map(element, value))
    else:
        fits = isinstance(value, type(default))
    if not fits:
        like = f"{_KINDS[type(default)]} like `{toml_value(default)}`"
        raise UsageError(f"{path}: expected {like}, got `{value}`")
    return value


def _unknown(what: str, key: str, known: Any) -> UsageError:
    near = difflib.get_close_matches(key, list(known), n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}"
    return UsageError(f"{what}: unknown key", hint=hint)


def _unknown_table(recipe: str, table: str, values: Any, allowed: Sequence[str]) -> UsageError:
    """Say what is wrong with a name before all tables: often a stage's key without its stage."""
    for kind, home in ((StageRecipe, "STAGE"), (ModelRecipe, "model")):
        if not isinstance(values, dict) and table in {f.name for f in fields(kind)}:
            return UsageError(
                f"recipe `{recipe}`: `{table}`: unknown key", hint=f"did you mean `{home}.{table}`?"
            )
    return _unknown(f"recipe `{recipe}`: `{table}`", table, allowed)


def _table(name: str, values: Mapping[str, Any]) -> str:
    return f"[{name}]\n" + "".join(
        f"{key} = {toml_value(value)}\n" for key, value in values.items()
    )


def toml_value(value: Any) -> str:
    """Return a key's value as TOML: whatever text holds, it comes back the same."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON's strings are TOML's, but for one character that TOML wants spelled out
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(toml_value, value))}]"
    return repr(value)
