"""Which tensors of GPT4RoI's release, of LLaMA and of CLIP make each tensor of our model.

In: names and shapes of all four. Out: for each of ours where it lies, and what is added to it; the
numbers once a tensor is asked for. Knows no files but through `tensor_files.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from roikit.errors import RoikitError, UsageError, few
from roikit.model.released import PREFIX
from roikit.model.tensor_files import StoredTensor, read_tensor

#: Our names' beginnings, and what the released names have in their place. Source: the release's
#: module definitions.
_RENAMED = {
    "language_model.": "",
    "projector.layers.": "model.mm_projector.",
    "region_encoder.": PREFIX,
}
_VISION = "vision_tower.model."
#: Stored in full, not as a difference.
_WHOLE = ("model.mm_projector.", PREFIX)
#: Tables of sines that old LLaMA checkpoints carry; computed today.
_DROPPED = ".rotary_emb.inv_freq"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
#: Numbers summed at once: float32 copies of so many stand beside the tensor.
_CHUNK = 8_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleasedPart:
    """What one tensor of the result is made from."""

    name: str  #: in its file
    stored: StoredTensor
    base: StoredTensor | None = None  #: of the same name, to be added


def match_tensors(
    shapes: dict[str, tuple[int, ...]],
    *,
    deltas: dict[str, StoredTensor],
    bases: dict[str, StoredTensor],
    towers: dict[str, StoredTensor],
) -> dict[str, ReleasedPart]:
    """Find what each of our tensors is made from.

    Raises:
        UsageError: the names or shapes do not agree; names a few of each kind.
    """
    # a whole CLIP has a text model beside it; older files call the vision model by name
    tower_names = {name.removeprefix("vision_model."): name for name in towers}
    if any(name.startswith("vision_model.") for name in towers):
        tower_names = {s: n for s, n in tower_names.items() if n.startswith("vision_model.")}
    parts: dict[str, ReleasedPart] = {}
    missing: list[str] = []
    misshapen: list[str] = []
    used: set[str] = set()
    old = bases[EMBEDDING].shape[0]
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
                wanted = (old, shape[1]) if name in (EMBEDDING, HEAD) else shape
                if base.shape != wanted:
                    misshapen.append(f"`{name}` of the base {_lists(base.shape, wanted)}")
        if stored is None:
            missing.append(f"`{name}`")
            continue
        if stored.shape != shape:
            misshapen.append(f"`{name}` {_lists(stored.shape, shape)}")
        parts[ours] = ReleasedPart(name=name, stored=stored, base=base)
    known = used | {name for name in (*deltas, *bases) if name.endswith(_DROPPED)}
    unexpected = [f"`{name}`" for name in deltas if name not in known]
    unexpected += [f"`{name}` of the base" for name in bases if name not in known]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(problems.values()):
        told = "; ".join(f"{kind}: {few(names)}" for kind, names in problems.items() if names)
        raise UsageError(
            f"the release, the base and the tower do not make one model: {told}",
            hint="delta and base must be of one size (7B with 7B), and --vision the tower it was "
            "trained with, openai/clip-vit-large-patch14",
        )
    return parts


def make_tensor(part: ReleasedPart, dtype: torch.dtype) -> Tensor:
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


def dropped_tensors(deltas: Mapping[str, StoredTensor]) -> tuple[str, ...]:
    """Name the released tensors that a model does not need today."""
    return tuple(name for name in deltas if name.endswith(_DROPPED))


def _released_name(ours: str) -> str:
    for beginning, released in _RENAMED.items():
        if ours.startswith(beginning):
            return released + ours.removeprefix(beginning)
    raise RoikitError(f"`{ours}`: no name in the release is known for it")


def _lists(found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    return f"{list(found)} (expected {list(wanted)})"
