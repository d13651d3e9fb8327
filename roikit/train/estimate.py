"""What a stage costs, before it is started: parameters, memory of a GPU, steps, hours.

Every figure says where it comes from: `measured` (a short trial, or counted from the data),
`computed` (from sizes, by the formulas below) or `assumed` (what the caller states). Works on
models on the meta device; knows no shards.

Memory of a GPU, where N is the number of GPUs that share the states (1 but for fsdp):

    weights    4 bytes a parameter / N (float32, frozen parts too)
    gradients  4 bytes a learning parameter / N
    optimiser  AdamW 8 bytes, Muon 4 bytes a learning parameter / N
    copies     bf16: 2 bytes a parameter outside the tower, cast while they compute; with fsdp only
               of two layers and of what stands outside the layers, and 6 bytes a parameter of the
               larger of these for gradients on their way
    activations  see footprint.py
    reserve    1 GiB for the CUDA context and libraries, and a tenth of the rest for fragments
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from roikit.config import PARTS, ModelRecipe, StageRecipe
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.skeleton import build_skeleton
from roikit.train.footprint import Footprint, Rows, measure_footprint
from roikit.train.muon import Muon
from roikit.train.optim import build_optimizers
from roikit.train.parallel import decoder_layers
from roikit.train.parts import choose_parts

GIB = 2**30
#: Of a GPU's memory: the CUDA context and the libraries' own.
CONTEXT_BYTES = 1 * GIB
#: Of all else: what the allocator cannot use.
FRAGMENTS = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part of the model."""

    name: str
    parameters: int
    learning: int  #: of those; LoRA's adapters come on top


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes on one GPU at the fullest moment of a step."""

    weights: float
    gradients: float
    optimizer: float
    copies: float
    activations: float
    reserve: float

    @property
    def total(self) -> float:
        """All of it."""
        states = self.weights + self.gradients + self.optimizer + self.copies
        return states + self.activations + self.reserve


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversations:
    """Lengths of a draw of the stage's conversations, as training encodes them."""

    tokens: tuple[int, ...]  #: of each, picture and regions included
    label_spans: tuple[int, ...]  #: of each: tokens from its first label on
    regions: tuple[int, ...]  #: of each: regions that its tokens introduce
    is_measured: bool  #: by the recipe's tokenizer; else estimated from words
    tiles: tuple[int, ...] = ()  #: of each: tiles that its regions are read from; empty: none


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatches:
    """What a GPU computes in one step."""

    count: int
    typical: Rows
    fullest: Rows
    padding: float  #: share of places that hold no token, 0 to 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """A model with a choice of learning parts, and what its steps take."""

    parts: tuple[Part, ...]
    adapters: int  #: LoRA's parameters
    optimizer_bytes: int
    root_parameters: int  #: outside the tower and the language model's layers
    layer_parameters: int  #: of one of the language model's layers
    typical: Footprint
    fullest: Footprint

    @property
    def parameters(self) -> int:
        """All of them, adapters included."""
        return sum(part.parameters for part in self.parts) + self.adapters

    @property
    def learning(self) -> int:
        """Those that learn."""
        return sum(part.learning for part in self.parts) + self.adapters


def micro_batches(lengths: Conversations, run: StageRecipe, gpus: int) -> MicroBatches:
    """Say what one GPU's share of a step looks like in the recipe's layout.

    `plain` pads to the longest of those drawn together, `grouped` likewise among conversations of
    like length, `packed` lets conversations share rows, so that a micro-batch is as full as usual.
    """
    share = -(-run.batch_size // gpus)
    size = min(share, run.micro_batch or share)
    order = list(range(len(lengths.tokens)))
    if run.layout == "grouped":
        order.sort(key=lengths.tokens.__getitem__)
    groups = [order[i : i + size] for i in range(0, len(order), size)]
    mean = sum(lengths.tokens) / len(order)
    regions = round(size * sum(lengths.regions) / len(order))
    tiles = lengths.tiles or (0,) * len(order)
    most_tiles = max(sum(tiles[i] for i in g) for g in groups)
    if run.layout == "packed":
        widths = [mean]
        span = mean  # labels stand anywhere in shared rows
    else:
        whole = [g for g in groups if len(g) == size] or groups
        widths = [float(max(lengths.tokens[i] for i in g)) for g in whole]
        span = max(lengths.label_spans)  # logits are computed where any of the rows has a label

    def rows(width: float, num_tiles: int) -> Rows:
        tokens = max(1, round(width))
        columns = max(1, min(tokens, round(span)))
        return Rows(
            pictures=size,
            rows=size,
            tokens=tokens,
            label_columns=columns,
            regions=regions,
            tiles=num_tiles,
        )

    typical = sum(widths) / len(widths)
    return MicroBatches(
        count=-(-share // size),
        typical=rows(typical, round(size * sum(tiles) / len(order))),
        fullest=rows(max(widths), most_tiles),
        padding=max(0.0, 1 - mean / typical),
    )


def measure_sizes(model: ModelRecipe, run: StageRecipe, batches: MicroBatches) -> Sizes:
    """Build the model's shape, choose what learns, and count.

    Raises:
        UsageError: the model's size cannot be known here.
    """
    skeleton = build_skeleton(model)
    choose_parts(skeleton, run.train)
    if run.lora_rank:
        skeleton.language_model.requires_grad_(False)
    parts = tuple(_part(skeleton, name) for name in PARTS)
    layers = decoder_layers(skeleton.language_model)
    in_layers = sum(_count(layer) for layer in layers)
    outside = sum(part.parameters for part in parts if part.name != "vision_tower") - in_layers
    optimizer_bytes = _optimizer_bytes(skeleton, run)
    adapters = attach_adapters(skeleton, run) if run.lora_rank else 0
    dtype = torch.float32 if run.dtype == "fp32" else torch.bfloat16
    typical = measure_footprint(skeleton, batches.typical, dtype=dtype)
    fullest = typical
    if batches.fullest != batches.typical:
        fullest = measure_footprint(skeleton, batches.fullest, dtype=dtype)
    return Sizes(
        parts=parts,
        adapters=adapters,
        optimizer_bytes=optimizer_bytes + 8 * adapters,  # AdamW's, whatever the others have
        root_parameters=outside,
        layer_parameters=in_layers // len(layers),
        typical=typical,
        fullest=fullest,
    )


def attach_adapters(model: RoikitForConditionalGeneration, run: StageRecipe) -> int:
    """Let every layer that is named pass through LoRA's two matrices too, as peft does it.

    Args:
        model: on the meta device; its language model is frozen.
        run: rank and targets.

    Returns:
        The matrices' parameters: rank * (inputs + outputs) of each layer.
    """
    language_model = model.language_model
    language_model.requires_grad_(False)
    head = language_model.get_output_embeddings()
    every = run.lora_targets == ("all-linear",)
    parameters = 0
    for name, module in list(language_model.named_modules()):
        is_named = every or name.rpartition(".")[2] in run.lora_targets
        if not isinstance(module, nn.Linear) or module is head or not is_named:
            continue
        module.lora_A = nn.Linear(module.in_features, run.lora_rank, bias=False, device="meta")
        module.lora_B = nn.Linear(run.lora_rank, module.out_features, bias=False, device="meta")
        module.register_forward_hook(_through_adapters)
        parameters += run.lora_rank * (module.in_features + module.out_features)
    return parameters


def _through_adapters(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    # peft takes float32, so that in bf16 each layer keeps a copy of its inputs
    copied = inputs[0].float().to(inputs[0].dtype)
    adapted: Tensor = module.lora_B(module.lora_A(copied))
    return output + adapted


def is_sharded(run: StageRecipe) -> bool:
    """Whether GPUs share the states: `fsdp`, or `auto` where the language model's weights learn."""
    learns = "language_model" in run.train and not run.lora_rank
    return run.parallel == "fsdp" or (run.parallel == "auto" and learns)


def memory(sizes: Sizes, run: StageRecipe, *, gpus: int) -> Memory:
    """Compute what one of `gpus` GPUs holds, by the formulas at the top."""
    shared = gpus if is_sharded(run) else 1
    weights = 4 * sizes.parameters / shared
    gradients = 4 * sizes.learning / shared
    optimizer = sizes.optimizer_bytes / shared
    tower = next(part.parameters for part in sizes.parts if part.name == "vision_tower")
    itemsize = 4 if run.dtype == "fp32" else 2
    if shared > 1:
        copies = itemsize * (sizes.root_parameters + 2 * sizes.layer_parameters)
        if sizes.learning:
            copies += (4 + itemsize) * max(sizes.root_parameters, sizes.layer_parameters)
    else:
        copies = 0 if itemsize == 4 else itemsize * (sizes.parameters - tower)
    activations = sizes.fullest.kept_bytes(checkpointing=run.gradient_checkpointing)
    used = weights + gradients + optimizer + copies + activations
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        copies=copies,
        activations=activations,
        reserve=CONTEXT_BYTES + FRAGMENTS * used,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """Settings under which a stage fits."""

    settings: str  #: as options of the command
    bytes: float  #: of a GPU, then


def advise(
    model: ModelRecipe,
    run: StageRecipe,
    sizes: Sizes,
    batches: MicroBatches,
    *,
    stage: str,
    gpus: int,
    gpu_bytes: float,
) -> list[Advice]:
    """Return settings that fit into `gpu_bytes`, those that change least first; perhaps none.

    Tried in turn, each on top of those before: gradient checkpointing, smaller micro-batches, more
    GPUs that share the states, LoRA.

    Args:
        model: the recipe's table.
        run: the stage's table; it does not fit.
        sizes: measured with it.
        batches: those that `sizes` was measured with.
        stage: for the options.
        gpus: how many there are.
        gpu_bytes: of each.
    """
    found: list[Advice] = []
    at_once = batches.fullest.pictures

    def fits(
        changed: StageRecipe, settings: Sequence[str], *, size: int, count: int = gpus
    ) -> bool:
        fewer = replace(sizes, fullest=sizes.fullest.scaled(size / at_once))
        needed = memory(fewer, changed, gpus=count).total
        if needed <= gpu_bytes:
            found.append(Advice(settings=" ".join(settings), bytes=needed))
        return needed <= gpu_bytes

    def setting(key: str, value: object) -> str:
        return f"--set {stage}.{key}={value}"

    said: list[str] = []
    if not run.gradient_checkpointing:
        run = replace(run, gradient_checkpointing=True)
        said.append(setting("gradient_checkpointing", "true"))
        if fits(run, said, size=at_once):
            return found
    size = at_once
    while size > 1:
        size //= 2
        if fits(run, [*said, setting("micro_batch", size)], size=size):
            return found
    said.append(setting("micro_batch", 1))
    sharded = run if is_sharded(run) else replace(run, parallel="fsdp")
    more = [*said, *([] if is_sharded(run) else [setting("parallel", "fsdp")])]
    for count in (2 * gpus, 4 * gpus, 8 * gpus):
        if fits(sharded, [f"--gpus {count}", *more], size=1, count=count):
            break
    if "language_model" in run.train and not run.lora_rank:
        run = replace(run, lora_rank=16)
        sizes = measure_sizes(model, run, replace(batches, typical=batches.fullest))
        fits(run, [*said, setting("lora_rank", 16)], size=1)
    return found


def _part(model: RoikitForConditionalGeneration, name: str) -> Part:
    module = getattr(model, name)
    learning = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return Part(name=name, parameters=_count(module), learning=learning)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _optimizer_bytes(model: nn.Module, run: StageRecipe) -> int:
    if not any(p.requires_grad for p in model.parameters()):
        return 0  # LoRA alone learns
    return sum(
        (4 if isinstance(optimizer, Muon) else 8) * parameter.numel()
        for optimizer in build_optimizers(model, run)
        for group in optimizer.param_groups
        for parameter in group["params"]
    )
