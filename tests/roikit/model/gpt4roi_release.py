"""A release of GPT4RoI's form with its true names and small layers, on random numbers.

LLaMA of two layers with a tokenizer of LLaMA's kind, CLIP of 24 layers and 64 channels, the delta
between them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaTokenizer

WIDTH, INNER = 32, 64
ADDED = ("[PAD]", "<im_patch>", "<bbox>", "<point>", "<im_start>", "<im_end>")


#: CLIP's two halves; the vision model alone is used.
CLIP_VISION = {
    "hidden_size": INNER,
    "intermediate_size": 64,
    "num_hidden_layers": 24,
    "num_attention_heads": 4,
    "image_size": 224,
    "patch_size": 14,
}
CLIP_TEXT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """The three folders."""

    delta: Path
    base: Path
    vision: Path
    deltas: dict[str, Tensor]
    bases: dict[str, Tensor]


def tokenizer() -> LlamaTokenizer:
    """A tokenizer of LLaMA's kind: blanks become `▁`, what is unknown becomes bytes."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for i in range(256):
        vocabulary[f"<0x{i:02X}>"] = len(vocabulary)
    for character in "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789#:.,?'":
        vocabulary[character] = len(vocabulary)
    merges = [("#", "#"), ("##", "#"), ("▁", "r"), ("▁", "s"), ("▁", "H"), ("▁", "A")]
    for one, two in merges:
        vocabulary[one + two] = len(vocabulary)
    return LlamaTokenizer(vocab=vocabulary, merges=merges)


def language_shapes(
    rows: int, width: int = WIDTH, layers: int = 2, inner: int = 48
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of LLaMA's tensors, the old tables of sines included."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (rows, width),
        "model.norm.weight": (width,),
        "lm_head.weight": (rows, width),
    }
    for i in range(layers):
        at = f"model.layers.{i}"
        for name in "qkvo":
            shapes[f"{at}.self_attn.{name}_proj.weight"] = (width, width)
        shapes[f"{at}.mlp.gate_proj.weight"] = (inner, width)
        shapes[f"{at}.mlp.up_proj.weight"] = (inner, width)
        shapes[f"{at}.mlp.down_proj.weight"] = (width, inner)
        shapes[f"{at}.input_layernorm.weight"] = (width,)
        shapes[f"{at}.post_attention_layernorm.weight"] = (width,)
        shapes[f"{at}.self_attn.rotary_emb.inv_freq"] = (8,)
    return shapes


def region_shapes(width: int = WIDTH, inner: int = INNER) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released region module, below `model.spi_module.`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(4):
        shapes[f"mlvl_fuse.input_conv.{i}.weight"] = (inner, inner + 2, 1, 1)
        shapes[f"mlvl_fuse.input_conv.{i}.bias"] = (inner,)
        shapes[f"roi_align.pconvs.{i}.weight"] = (inner, inner, 3, 3)
        shapes[f"roi_align.pconvs.{i}.bias"] = (inner,)
    for i in range(5):
        shapes[f"mlvl_fuse.fuse_convs.{i}.conv.weight"] = (inner, inner, 3, 3)
        shapes[f"mlvl_fuse.fuse_convs.{i}.gn.weight"] = (inner,)
        shapes[f"mlvl_fuse.fuse_convs.{i}.gn.bias"] = (inner,)
    box = {"0": (256, 4), "2": (256,), "3": (inner, 256), "5": (inner,)}
    for layer, shape in box.items():
        shapes[f"roi_align.pos_embedd.{layer}.weight"] = shape
        shapes[f"roi_align.pos_embedd.{layer}.bias"] = shape[:1]
    shapes["roi_align.flatten_linear.weight"] = (inner, inner * 14 * 14)
    shapes["roi_align.flatten_linear.bias"] = (inner,)
    shapes["roi_align.updims.weight"] = (width, inner)
    shapes["roi_align.updims.bias"] = (width,)
    return shapes


def projector_shapes(width: int = WIDTH, channels: int = INNER) -> dict[str, tuple[int, ...]]:
    return {"model.mm_projector.weight": (width, channels), "model.mm_projector.bias": (width,)}


def random(
    shapes: Mapping[str, tuple[int, ...]], seed: int, dtype: torch.dtype
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(shape, generator=generator) * 0.05).to(dtype)
        for name, shape in shapes.items()
    }


def zeros(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes.items()}


def write_clip(folder: Path) -> None:
    torch.manual_seed(3)
    CLIPVisionModel(CLIPVisionConfig(**CLIP_VISION)).save_pretrained(folder)


def write_llama(folder: Path, tensors: Mapping[str, Tensor], *, width: int = WIDTH) -> None:
    """LLaMA as it was converted at the time: two torch files with an index, odd special ids."""
    folder.mkdir(parents=True)
    layers = 1 + max(int(n.split(".")[2]) for n in tensors if n.startswith("model.layers."))
    LlamaConfig(
        vocab_size=len(tensors["lm_head.weight"]),
        hidden_size=width,
        intermediate_size=len(tensors["model.layers.0.mlp.gate_proj.weight"]),
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    ).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    write_halves(folder, tensors)


def write_halves(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write two torch files with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(tensors)
    halves = {"a.bin": names[::2], "b.bin": names[1::2]}
    for file, held in halves.items():
        torch.save({name: tensors[name] for name in held}, folder / file)
    weight_map = {name: file for file, held in halves.items() for name in held}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def write_release(folder: Path) -> Release:
    """Write the three folders; the delta is one safetensors file in float16."""
    rows = len(tokenizer())
    base = random(language_shapes(rows), 1, torch.float16)
    shapes = language_shapes(rows + len(ADDED)) | projector_shapes()
    shapes |= {f"model.spi_module.{name}": shape for name, shape in region_shapes().items()}
    delta = random(shapes, 2, torch.float16)
    write_llama(folder / "llama", base)
    write_clip(folder / "clip")
    (folder / "delta").mkdir()
    save_file(delta, folder / "delta" / "model.safetensors")
    return Release(
        delta=folder / "delta",
        base=folder / "llama",
        vision=folder / "clip",
        deltas=delta,
        bases=base,
    )
