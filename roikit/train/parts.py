"""Which parts of a model learn, and what that asks of the others."""

from typing import Any

from roikit.config import PARTS, Recipe
from roikit.errors import RoikitError
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.train.lora import add_adapters
from roikit.train.parallel import decoder_layers


def prepare(model: RoikitForConditionalGeneration, recipe: Recipe) -> None:
    """Let the recipe's parts learn and make the rest as it asks, in place, before it is spread.

    Raises:
        UsageError: adapters that cannot be added.
    """
    run = recipe.run
    choose_parts(model, run.train)
    if run.lora_rank:
        add_adapters(model.language_model, run, stage=recipe.stage)
    if run.gradient_checkpointing:
        _checkpoint_activations(model)
    if run.compile:
        for layer in decoder_layers(model.language_model):
            layer.compile()


def choose_parts(model: RoikitForConditionalGeneration, parts: tuple[str, ...]) -> None:
    """Let the named parts learn and freeze the others.

    Raises:
        RoikitError: a name that is no part.
    """
    for name in parts:
        if name not in PARTS:
            raise RoikitError(f"train: expected parts among {', '.join(PARTS)}, got `{name}`")
    for part in PARTS:
        module = getattr(model, part)
        module.requires_grad_(part in parts)
        module.train(part in parts)


def _checkpoint_activations(model: Any) -> None:
    """Compute each layer's activations again in the backward pass instead of keeping them.

    A frozen language model keeps them too where a region encoder before it learns. It is in
    evaluation mode then, in which transformers' layers keep everything: their own switch is turned
    to training, and not that of the modules inside, whose dropout stays off.
    """
    # older versions of transformers know it by the second name alone
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})
    for layer in decoder_layers(model.language_model):
        layer.training = True
