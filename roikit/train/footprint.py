"""What one micro-batch costs: activations kept for the backward pass, and operations.

The model stands on the meta device, so its true sizes are run through without weights: what
autograd saves is added up, what matrix products compute is counted. Attention counts as a fused
kernel: its T x T weights are never kept. Knows no data and no device.

Shape suffixes: B rows, T tokens, D width, V vocabulary.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface

from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.regions import Regions
from roikit.train.parallel import decoder_layers

_ATTENTION = "roikit-footprint"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The shape of a micro-batch."""

    pictures: int  #: one a conversation
    rows: int  #: as many as pictures unless conversations share a row
    tokens: int  #: of a row, padding counted
    label_columns: int  #: of a row: places whose logits are computed
    regions: int  #: of the whole micro-batch
    tiles: int = 0  #: of the whole micro-batch, each as dear to the tower as a picture


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """What a forward and a backward pass over one micro-batch take."""

    activation_bytes: int  #: saved for the backward pass, all layers
    layer_bytes: int  #: of those, inside the language model's layers
    largest_layer_bytes: int
    layer_input_bytes: int  #: what gradient checkpointing keeps instead, all layers
    logits_bytes: int  #: logits and their gradient beyond what is saved, at the loss
    flops: float  #: forward and backward, a multiply-add as two
    layer_flops: float  #: forward through the layers: what checkpointing computes once more

    def kept_bytes(self, *, checkpointing: bool) -> int:
        """Return the most that lies there at once."""
        if not checkpointing:
            return self.activation_bytes + self.logits_bytes
        outside = self.activation_bytes - self.layer_bytes + self.layer_input_bytes
        # one layer is computed anew at a time, when the logits are gone
        return outside + max(self.largest_layer_bytes, self.logits_bytes)

    def scaled(self, factor: float) -> "Footprint":
        """Return that of `factor` times as many rows of the same length."""
        return replace(
            self,
            activation_bytes=round(self.activation_bytes * factor),
            layer_bytes=round(self.layer_bytes * factor),
            largest_layer_bytes=round(self.largest_layer_bytes * factor),
            layer_input_bytes=round(self.layer_input_bytes * factor),
            logits_bytes=round(self.logits_bytes * factor),
            flops=self.flops * factor,
            layer_flops=self.layer_flops * factor,
        )

    def total_flops(self, *, checkpointing: bool) -> float:
        """Return the operations of a step over this micro-batch."""
        return self.flops + (self.layer_flops if checkpointing else 0.0)


def measure_footprint(
    model: RoikitForConditionalGeneration, shape: Rows, *, dtype: torch.dtype
) -> Footprint:
    """Run shapes through a model on the meta device.

    Args:
        model: on the meta device; `requires_grad` says what learns. Cast to `dtype`.
        shape: of the micro-batch.
        dtype: what layers compute in.
    """
    model.to(dtype)
    layers = list(decoder_layers(model.language_model))
    saved = _Saved(model)
    AttentionInterface.register(_ATTENTION, saved.attend)
    for part in (model.language_model, getattr(model.vision_tower, "model", None)):
        if part is not None:
            part.set_attn_implementation(_ATTENTION)
    marks = _Marks()
    with FlopCounterMode(display=False) as counter, saved.watching(), marks.on(layers):
        marks.now = lambda: (saved.bytes, counter.get_total_flops() + saved.attention_flops)
        loss, logits_bytes = _forward(model, shape, dtype)
        if loss.requires_grad:
            loss.backward()
    inputs = len(layers) * shape.rows * shape.tokens * model.config.text_config.hidden_size
    return Footprint(
        activation_bytes=saved.bytes,
        layer_bytes=sum(num_bytes for num_bytes, _ in marks.spent),
        largest_layer_bytes=max(num_bytes for num_bytes, _ in marks.spent),
        layer_input_bytes=inputs * dtype.itemsize,
        logits_bytes=logits_bytes,
        flops=counter.get_total_flops() + saved.attention_flops,
        layer_flops=sum(flops for _, flops in marks.spent),
    )


def _forward(
    model: RoikitForConditionalGeneration, shape: Rows, dtype: torch.dtype
) -> tuple[Tensor, int]:
    """Return the loss, and the bytes of logits that autograd does not save."""
    config = model.config

    def empty(*sizes: int, of: torch.dtype = dtype) -> Tensor:
        return torch.empty(sizes, dtype=of, device="meta")

    side = config.image_size
    levels = model.feature_levels(empty(shape.pictures + shape.tiles, 3, side, side))
    pictures = [level[: shape.pictures] for level in levels]
    features = [model.image_features(pictures).flatten(0, 1)]
    if shape.regions and config.region_encoder != "text":
        index = empty(shape.regions, of=torch.long)
        boxes = empty(shape.regions, 4, of=torch.float32)
        regions = Regions(boxes_R4=boxes, image_index_R=index)
        # a region costs the same on any map, and nothing is kept of putting tiles together
        features.append(model.region_encoder(levels, regions, model.projector).flatten(0, 1))
    # placeholders are embedded like words and replaced: here features simply come first
    words_BTD = model.get_input_embeddings()(empty(shape.rows, shape.tokens, of=torch.long))
    placed = torch.cat([f.to(dtype) for f in features])[: shape.rows * shape.tokens]
    flat = torch.cat([placed, words_BTD.flatten(0, 1)[len(placed) :]])
    logits = model.language_model(
        inputs_embeds=flat.unflatten(0, (shape.rows, shape.tokens)),
        use_cache=False,
        logits_to_keep=shape.label_columns,
    ).logits.flatten(0, 1)
    targets = empty(len(logits), of=torch.long)
    # float32 gradient, and logits and gradient in the layers' own type
    return F.cross_entropy(logits.float(), targets), logits.numel() * (4 + 2 * dtype.itemsize)


class _Saved:
    """Adds up what autograd keeps, each storage once, parameters not counted."""

    def __init__(self, model: nn.Module) -> None:
        # a storage's Python object stays the same as long as it is held
        self._known = {id(s): s for s in (p.untyped_storage() for p in model.parameters())}
        self.bytes = 0
        self.attention_flops = 0.0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Count while the block runs."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in self._known:
            self._known[id(storage)] = storage
            self.bytes += storage.nbytes()
        return tensor

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, None]:
        """Attention's shapes, as a fused kernel keeps them: queries, keys, values and result."""
        batch, heads, tokens, width = query.shape
        products = 4.0 * batch * heads * tokens * key.shape[2] * width
        # in full, as is usual, though a causal kernel computes half
        self.attention_flops += products * (3 if query.requires_grad else 1)
        out: Tensor = _FusedAttention.apply(query, key, value)
        return out.transpose(1, 2), None


class _FusedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        query, key, value, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


class _Marks:
    """Notes what passing through each of some modules adds to two counters."""

    def __init__(self) -> None:
        self.now: Any = lambda: (0, 0.0)
        self.spent: list[tuple[int, float]] = []
        self._entered: tuple[int, float] = (0, 0.0)

    @contextlib.contextmanager
    def on(self, modules: list[nn.Module]) -> Iterator[None]:
        """Watch `modules` while the block runs."""

        def enter(*_: Any) -> None:
            self._entered = self.now()

        def leave(*_: Any) -> None:
            num_bytes, flops = self.now()
            self.spent.append((num_bytes - self._entered[0], flops - self._entered[1]))

        handles = [m.register_forward_pre_hook(enter) for m in modules]
        handles += [m.register_forward_hook(leave) for m in modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
