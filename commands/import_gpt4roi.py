"""Make a model of GPT4RoI's released weights."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from commands.options import Json, Overwrite
from commands.quiet import quiet_transformers
from roikit.errors import UsageError

_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def import_gpt4roi(
    delta: Annotated[Path, typer.Option(help="Folder of the released delta.", show_default=False)],
    base: Annotated[
        Path, typer.Option(help="Folder of LLaMA, in Hugging Face's form.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder of the model to make.", show_default=False)],
    vision: Annotated[
        str, typer.Option(help="Folder or hub name of CLIP ViT-L/14.")
    ] = "openai/clip-vit-large-patch14",
    dtype: Annotated[
        str,
        typer.Option(help="auto, fp32, bf16 or fp16.", show_default="auto, the delta's"),
    ] = "auto",
    max_shard_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Largest file of weights, e.g. 500MB.")
    ] = "2GB",
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a model of GPT4RoI's released weights: a delta over LLaMA, beside CLIP.

    The three are checked against each other before anything is written. Memory holds one tensor at
    a time. An import that was stopped starts over. docs/gpt4roi.md says what to download.

    Example: roikit import-gpt4roi --delta gpt4roi-7b-delta --base llama-7b-hf --out gpt4roi-7b
    """
    from roikit import render
    from roikit.model.import_gpt4roi import check_out, plan_import, write_import

    quiet_transformers()
    size = _size(max_shard_size)
    check_out(out, overwrite=overwrite)
    plan = plan_import(delta, base, vision, dtype=dtype, max_shard_bytes=size)
    if not dry_run:
        with render.progress("importing", "MB") as report:
            write_import(plan, out, overwrite=overwrite, progress=report)
    found: dict[str, Any] = {
        "out": out,
        "written": not dry_run,
        "parameters": plan.num_parameters(),
        "region_encoder_parameters": plan.num_parameters("region_encoder."),
        "dtype": str(plan.dtype).removeprefix("torch."),
        "bytes": plan.num_bytes,
        "files": len(plan.files),
        "tensors": len(plan.parts),
        "dropped": len(plan.dropped),
    }
    if as_json:
        return render.document(found)
    render.line(
        f"{plan.num_parameters() / 1e6:,.1f} M parameters, of them "
        f"{found['region_encoder_parameters'] / 1e6:,.1f} M in the region encoder"
    )
    verb = "would be" if dry_run else "are"
    render.line(
        f"{render.bytes_text(plan.num_bytes)} of {found['dtype']} {verb} in {len(plan.files)} "
        f"{'file' if len(plan.files) == 1 else 'files'} at {out}"
    )


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]b)", text.strip().lower())
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size < 1:
        raise UsageError(f"--max-shard-size: expected a size like `500MB` or `2GB`, got `{text}`")
    return size
