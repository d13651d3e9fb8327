"""LoRA adapters in the language model (Hu et al. 2021), through peft.

Only adapters learn there: the rows that image and region placeholders have in the embeddings rest
too. They are never read (features stand in their places) and never a target, so nothing is lost.
"""

from typing import Any

from torch import nn

from roikit.config import StageRecipe
from roikit.errors import UsageError


def add_adapters(language_model: Any, run: StageRecipe, *, stage: str) -> None:
    """Put adapters into the language model, in place, and freeze its own weights.

    Args:
        language_model: a Hugging Face causal language model.
        run: rank, scale, dropout and targets.
        stage: for messages.

    Raises:
        UsageError: peft is not installed, the language model is not to learn, or a target that
            names no layer.
    """
    if "language_model" not in run.train:
        raise UsageError(
            f"{stage}.lora_rank: {run.lora_rank} puts adapters into the language model, "
            f"which is not among `{stage}.train`",
            hint=f'add "language_model" to {stage}.train, or set {stage}.lora_rank=0',
        )
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UsageError(
            f"{stage}.lora_rank: LoRA needs the package `peft`",
            hint='make install, or pip install -e ".[lora]" where roikit lies',
        ) from error
    config = LoraConfig(
        r=run.lora_rank,
        lora_alpha=run.lora_alpha,  # type: ignore[arg-type]  # a float scales as well
        lora_dropout=run.lora_dropout,
        target_modules=_targets(language_model, run.lora_targets, stage),
    )
    inject_adapter_in_model(config, language_model)


def _targets(language_model: Any, names: tuple[str, ...], stage: str) -> str | list[str]:
    if names == ("all-linear",):
        return "all-linear"
    layers = [n for n, module in language_model.named_modules() if isinstance(module, nn.Linear)]
    for name in names:
        if not any(layer == name or layer.endswith(f".{name}") for layer in layers):
            there = sorted({layer.rpartition(".")[2] for layer in layers})
            raise UsageError(
                f"{stage}.lora_targets: `{name}`: no such layer in the language model",
                hint=f"all-linear, or some of: {', '.join(there)}",
            )
    return list(names)
