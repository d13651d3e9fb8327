"""Weights of a saved model: all of them and no others, or a refusal.

transformers reports weights that a folder lacks and starts them at random; what such a model says
looks like an answer. Knows folders and names, not what the weights are for.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from roikit.errors import UsageError, few
from roikit.model.configuration import RoikitConfig
from roikit.model.modeling import RoikitForConditionalGeneration


def load_saved_model(folder: Path, dtype: torch.dtype) -> RoikitForConditionalGeneration:
    """Load the model of a `from_pretrained` folder, on the CPU.

    Raises:
        UsageError: the folder holds another kind of model, its files cannot be read, or its weights
            are not those that its configuration describes.
    """
    try:
        config = RoikitConfig.from_pretrained(folder)
        if config.model_type != RoikitConfig.model_type:
            raise UsageError(f"{folder}: expected a roikit model, found `{config.model_type}`")
        with _without_report():
            loaded, found = RoikitForConditionalGeneration.from_pretrained(
                folder,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, with the names
            )
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"{folder}: the model cannot be read: {reason}") from error
    # transformers' types have no overload for what it returns beside the model
    model: RoikitForConditionalGeneration = loaded
    problems = {
        "missing": [f"`{name}`" for name in found["missing_keys"]],
        "unexpected": [f"`{name}`" for name in found["unexpected_keys"]],
        "of another shape": [
            f"`{name}` {list(stored)} (expected {list(wanted)})"
            for name, stored, wanted in found["mismatched_keys"]
        ],
    }
    if any(problems.values()):
        told = "; ".join(f"{kind}: {few(sorted(x))}" for kind, x in problems.items() if x)
        raise UsageError(
            f"{folder}: the weights are not those of its `config.json`: {told}",
            hint="take both from one run or import; if this folder was saved by an older roikit, "
            "use it with that version, or train or import the model anew",
        )
    return model


@contextmanager
def _without_report() -> Iterator[None]:
    """Keep back transformers' table of weights that do not fit: the refusal says it in a line."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(is_other)  # a higher level would make transformers warn of other things
    try:
        yield
    finally:
        logger.removeFilter(is_other)
