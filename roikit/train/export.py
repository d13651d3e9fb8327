"""The result of a run: a folder for `from_pretrained`, whatever the model was trained on.

    OUT/model/      safetensors, processor, model card; there only once it is whole
    OUT/adapter/    of a LoRA run: the adapters apart, as peft saves them
    OUT/loss.png

Weights keep the numbers they were trained in (fp32, also where autocast computed in bf16), so that
the next stage starts from what this one ended with; `load_model` takes a `dtype`.
"""

import copy
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from roikit.config import Recipe
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.processing import RoikitProcessor
from roikit.train.card import CARD_NAME, model_card
from roikit.train.checkpoint_files import sync
from roikit.train.metrics import plot_loss

#: Larger models are cut into files of so much, which load one after the other.
MAX_FILE_SIZE = "5GB"


def export(
    model: RoikitForConditionalGeneration, processor: RoikitProcessor, recipe: Recipe, out: Path
) -> None:
    """Write the model, LoRA's adapters merged into its weights.

    It is written under a temporary name and moved into place, and may be done again. With a process
    group every process calls this; the weights come together in the first one's memory, which
    writes them.

    Args:
        model: as trained, without DDP's wrapper; sharded or not, with adapters or not. Unchanged.
        processor: saved beside it.
        recipe: for the model card.
        out: the run's folder, with `run.json` and `metrics.jsonl`.
    """
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=whole)
    if dist.is_initialized() and dist.get_rank() != 0:
        return
    adapters = getattr(model.language_model, "peft_config", None)
    plain = _rebuild(model, weights, adapters, out / ".adapter")
    temporary = out / ".model"
    shutil.rmtree(temporary, ignore_errors=True)
    plain.save_pretrained(temporary, max_shard_size=MAX_FILE_SIZE)
    processor.save_pretrained(temporary)
    card = model_card(recipe, plain, out, has_adapter=bool(adapters))
    (temporary / CARD_NAME).write_text(card, encoding="utf-8")
    plot_loss(out / "metrics.jsonl", out / "loss.png", title=f"{recipe.name} {recipe.stage}")
    if adapters:  # before the model, whose being there says that the run is finished
        _put(out / ".adapter", out / "adapter")
    _put(temporary, out / "model")


def _rebuild(
    model: RoikitForConditionalGeneration,
    weights: dict[str, Any],
    adapters: dict[str, Any] | None,
    adapter_folder: Path,
) -> RoikitForConditionalGeneration:
    """Return the model on the CPU, neither sharded, compiled nor adapted, around `weights`.

    peft merges and saves adapters of whole models alone, so a copy is made for it; that is
    the same for every way of training. The copy has no weights before it is given these.
    """
    with torch.device("meta"):
        plain = RoikitForConditionalGeneration(copy.deepcopy(model.config))
    plain.generation_config = model.generation_config
    if not adapters:
        _fill(plain, weights)
        return plain
    from peft import get_peft_model

    ((_, config),) = adapters.items()
    with warnings.catch_warnings():  # peft asks transformers by a name that is to go
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(
            plain.language_model, copy.deepcopy(config), low_cpu_mem_usage=True
        )
    _fill(plain, weights)
    shutil.rmtree(adapter_folder, ignore_errors=True)
    # embeddings rest under LoRA; looking whether they do would ask the hub
    adapted.save_pretrained(adapter_folder, save_embedding_layers=False)
    # safe: into copies, since on one process `weights` are the trained model's own
    plain.language_model = adapted.merge_and_unload(safe_merge=True)
    return plain


def _fill(model: RoikitForConditionalGeneration, weights: dict[str, Any]) -> None:
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.eval()


def _put(temporary: Path, target: Path) -> None:
    """Move a written folder into place."""
    for path in temporary.rglob("*"):
        sync(path)
    sync(temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.replace(target)
    sync(target.parent)
