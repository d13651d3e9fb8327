"""What stands beside the weights of GPT4RoI's release: its folders, tokenizer and configuration.

In: the folders of the delta, LLaMA and CLIP. Out: the tokenizer with the release's tokens in their
rows, and the configuration that those weights belong to. Knows nothing of tensors but row counts.
"""

from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from roikit.config import ModelRecipe
from roikit.errors import UsageError
from roikit.model.configuration import RoikitConfig
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.templates import FORMATS, ChatFormat, set_format

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


def given_folder(path: Path, option: str) -> Path:
    """Return the folder that an option names.

    Raises:
        UsageError: there is none.
    """
    if not path.is_dir():
        raise UsageError(
            f"{option} {path}: expected a folder, found {'a file' if path.exists() else 'nothing'}",
            hint="docs/gpt4roi.md says what to download",
        )
    return path


def vision_folder(vision: str) -> Path:
    """Return the tower's folder, fetched where a name on the hub is given.

    Raises:
        UsageError: neither a folder nor to be fetched.
    """
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


def release_tokenizer(
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


def release_config(
    recipe: ModelRecipe,
    speech: ChatFormat,
    tokenizer: PreTrainedTokenizerFast,
    *,
    base: Path,
    tower: Path,
    rows: int,
) -> RoikitConfig:
    """Describe the model that the release's weights are of.

    Args:
        recipe: the reference's.
        speech: its way of speaking.
        tokenizer: the release's.
        base: LLaMA's folder.
        tower: CLIP's folder.
        rows: of the release's embedding.

    Raises:
        UsageError: a configuration that cannot be read, or another tower than the recipe's.
    """
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


def _format_name(speech: ChatFormat) -> str:
    return next(name for name, known in FORMATS.items() if known is speech)


def _read_config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{folder}: `config.json` cannot be read: {str(error).strip().splitlines()[0]}",
            hint="download the whole folder, not the weights alone",
        ) from error
