"""From the tower's channels to the language model's width, for image and region cells alike."""

from pathlib import Path

import torch
from torch import Tensor, nn

from roikit.errors import UsageError
from roikit.model.tensor_files import list_file, read_tensor

#: Near the spread of what a new projector puts out, so that it is neither lost nor drowns the cell.
_IMAGE_EMBEDDING_STD = 0.3


class Projector(nn.Module):
    """One or two layers over each cell's channels.

    A region's tokens start as what this makes of its cells, so a language model that knows nothing
    yet cannot tell them from the picture's own: in trials from scratch it read texture off the
    region several times later for that. `image_embedding`, a vector added to image tokens alone,
    tells the two apart from the first step.

    Args:
        channels: C, of all levels together.
        width: D, the language model's.
        kind: `mlp`, two layers behind a norm, or `linear`, the single layer of LLaVA's first
            version and GPT4RoI.
        image_embedding: add the vector; it starts random.
    """

    def __init__(
        self, channels: int, width: int, *, kind: str = "mlp", image_embedding: bool = False
    ) -> None:
        super().__init__()
        self.layers: nn.Module = nn.Linear(channels, width)
        if kind == "mlp":
            self.layers = nn.Sequential(
                nn.LayerNorm(channels), self.layers, nn.GELU(), nn.Linear(width, width)
            )
        self.image_embedding = (
            nn.Parameter(torch.randn(width) * _IMAGE_EMBEDDING_STD) if image_embedding else None
        )

    def forward(self, cells: Tensor) -> Tensor:
        """Project cells (..., C) to (..., D)."""
        projected: Tensor = self.layers(cells)
        return projected

    def image_tokens(self, cells: Tensor) -> Tensor:
        """Project the picture's own cells (..., C) to its tokens (..., D)."""
        tokens: Tensor = self.layers(cells)
        return tokens if self.image_embedding is None else tokens + self.image_embedding


#: Parts of the names in LLaVA's files: `model.mm_projector.weight`, or without `model.`.
_LLAVA_NAME = "mm_projector."


def load_projector_weights(projector: Projector, file: Path) -> None:
    """Fill a linear projector from a file as LLaVA publishes them (`mm_projector.bin`).

    Args:
        projector: of kind `linear`.
        file: torch's format or safetensors, with `mm_projector.weight` and `mm_projector.bias`;
            other tensors in it (some have embeddings of new tokens) are passed over.

    Raises:
        UsageError: no such file, or it does not hold the projector of this size.
    """
    where = f"model.projector_weights: `{file}`"
    if not file.is_file():
        raise UsageError(
            f"{where}: no such file",
            hint="LLaVA's are at huggingface.co/liuhaotian/LLaVA-Pretrained-Projectors "
            "(docs/gpt4roi.md); name yours with --set model.projector_weights=FILE",
        )
    stored = {name: held for name, held in list_file(file).items() if _LLAVA_NAME in name}
    short = {name: name.rpartition(_LLAVA_NAME)[2] for name in stored}
    expected = {name: tuple(value.shape) for name, value in projector.layers.state_dict().items()}
    shapes = {short[name]: held.shape for name, held in stored.items()}
    if shapes != expected:
        raise UsageError(
            f"{where}: expected {_described(expected)}, found {_described(shapes) or 'none of it'}",
            hint='these are weights of one layer: `projector = "linear"`, and the widths of the '
            "tower and the language model they were trained between",
        )
    projector.layers.load_state_dict(
        {short[name]: read_tensor(name, held) for name, held in stored.items()}
    )


def _described(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"`{_LLAVA_NAME}{name}` {list(shape)}" for name, shape in shapes.items())
