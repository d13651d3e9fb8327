"""The model card of a run: where its weights come from, in words that the run's files back.

In: the recipe and what stands in the run's folder. Out: Markdown. It says nothing that was not
recorded; scores come in with `add_scores`, whenever a benchmark is run.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from roikit.config import Recipe
from roikit.runs import EXCLUDED_NAME
from roikit.train.metrics import METRICS_NAME, read_held_out, read_metrics

CARD_NAME = "README.md"
_SCORES = re.compile(r"(?<=## Scores\n\n).*?(?=\n\n## )", re.DOTALL)


def model_card(recipe: Recipe, model: nn.Module, run: Path, *, has_adapter: bool) -> str:
    """Return the text of a finished run's model card.

    Args:
        recipe: the run's.
        model: what is exported.
        run: its folder, with `run.json` and `metrics.jsonl`.
        has_adapter: whether LoRA's adapters lie apart in `adapter/`.
    """
    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    parts = [
        "---\nlibrary_name: transformers\ntags: [roikit, region-captioning]\n---",
        f"# {recipe.name} {recipe.stage}",
        "A vision-language model that is asked about boxes on a picture, trained with roikit. "
        f"It has {_count(model)} parameters.",
        "## Scores",
        "None was measured when this was written.",
        "## Training",
        _training(recipe, about, run, has_adapter=has_adapter),
        "## Data",
        _data(recipe, about["data"], run),
        "## Use",
        _use(has_adapter=has_adapter),
        "## Recipe",
        f"```toml\n{recipe.to_toml().strip()}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def add_scores(model: Path, benchmark: str, row: Mapping[str, str]) -> None:
    """Put a benchmark's row into the table of scores of a model's card, in place of an older one.

    Args:
        model: folder of the model, or of the run that holds it; without a card of ours it is left
            as it is.
        benchmark: with its split.
        row: what is said of it, by column; the columns are the same for all benchmarks.
    """
    file = (model / "model" if (model / "model").is_dir() else model) / CARD_NAME
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    found = _SCORES.search(text)
    if found is None:
        return
    name = f"`{benchmark}`"
    head, rule, new = _table(["benchmark", *row], [[name, *row.values()]]).splitlines()
    older = [line for line in found[0].splitlines() if line.startswith("| `")]
    rows = sorted([new, *(line for line in older if not line.startswith(f"| {name} |"))])
    table = "\n".join([head, rule, *rows])
    temporary = file.with_suffix(".tmp")
    temporary.write_text(text[: found.start()] + table + text[found.end() :], encoding="utf-8")
    temporary.replace(file)


def _count(model: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()):,}"


def _training(recipe: Recipe, about: Mapping[str, Any], run: Path, *, has_adapter: bool) -> str:
    lines = list(read_metrics(run / METRICS_NAME))
    start = "new weights, or pretrained parts that the recipe names"
    if about["start"]:
        # of a path on this machine what a reader elsewhere can make something of
        name = "/".join(Path(about["start"]).parts[-2:])
        start = f"`{name}` (SHA-256 of its weights: `{about['start_sha256']}`)"
        for part in about.get("new_parts", ()):  # absent in runs of before
            start += f"; the {part.replace('_', ' ')} is new"
    learned = ", ".join(part.replace("_", " ") for part in recipe.run.train)
    if has_adapter:
        learned += f"; of the language model LoRA adapters of rank {recipe.run.lora_rank}"
    rows = [
        ["recipe", f"{recipe.name}, {recipe.stage}, seed {recipe.seed}"],
        ["start", start],
        ["learned", learned],
    ]
    if lines:
        last = lines[-max(1, len(lines) // 50) :]
        rows += [
            ["steps", f"{lines[-1]['step']:,} of {recipe.run.batch_size} conversations"],
            ["tokens", f"{sum(line['tokens'] for line in lines):,}"],
            ["loss of the first step", f"{lines[0]['loss']:.4f}"],
            [
                f"mean loss of the last {len(last)} steps"
                if len(last) > 1
                else "loss of the last step",
                f"{sum(x['loss'] for x in last) / len(last):.4f}",
            ],
        ]
        for found in list(read_held_out(run / METRICS_NAME))[-1:]:
            rows.append([f"held-out loss, step {found['step']:,}", f"{found['held_out']:.4f}"])
    return _table(["", ""], rows)


def _data(recipe: Recipe, data: Mapping[str, Any], run: Path) -> str:
    sources: Mapping[str, int] = data.get("sources", {})
    licences: Mapping[str, str | None] = data.get("licences", {})
    text = [f"Mixture: `{data.get('mix', recipe.run.mix) or 'not recorded'}`"]
    if sources:
        rows = [[f"`{name}`", f"{count:,}"] for name, count in sources.items()]
        text.append(_table(["source", "conversations an epoch"], rows))
    if data.get("splits"):
        rows = [
            [f"`{name}`", f"`{root}`", licences.get(name) or "not recorded"]
            for name, root in data["splits"].items()
        ]
        text.append(_table(["shards", "Merkle root", "licence"], rows))
    if recipe.run.held_out:
        text.append(f"Held out of training: {recipe.run.held_out:.2%} of the pictures.")
    text.append(_kept_clean(recipe, data, run))
    return "\n\n".join(text)


def _kept_clean(recipe: Recipe, data: Mapping[str, Any], run: Path) -> str:
    if not recipe.keep_clean:
        return "No benchmark's pictures were left out of training."
    unresolved = set((data.get("kept_clean") or {}).get("unresolved", ()))
    clean = [name for name in recipe.keep_clean if name not in unresolved]
    file = run / EXCLUDED_NAME
    left_out = len(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else 0
    text = f"Benchmarks whose pictures were left out: {', '.join(clean) or 'none'}"
    text += f" ({left_out:,} identities of pictures)."
    if unresolved:
        text += (
            " Not kept clean, since their pictures were not known: "
            f"{', '.join(sorted(unresolved))}."
        )
    return text


def _use(*, has_adapter: bool) -> str:
    text = (
        "```python\nfrom roikit import load\n\n"
        'load("FOLDER").ask("photo.jpg", "What is <region1>?", boxes=[[10, 20, 110, 220]])\n```\n\n'
        "FOLDER is the one of this file. Weights are stored in the numbers they were trained in."
    )
    if has_adapter:
        text += (
            " LoRA's adapters are merged into them; apart they lie in `../adapter`, for "
            "`peft.PeftModel.from_pretrained(model.language_model, ...)` on the model that the "
            "run started from. What else learned is in this folder alone."
        )
    return text


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
