"""Measure on a benchmark, and print results."""

from pathlib import Path
from typing import Annotated, Any

import typer

from commands.options import Device, Dtype, Json, Limit, Model, Overwrite, Seed, Shards
from commands.quiet import quiet_transformers
from roikit import paths
from roikit.errors import UsageError


def evaluate(
    name: Annotated[
        str, typer.Argument(help="vg-caption, vcr or coco-category.", show_default=False)
    ],
    shards: Shards,
    model: Model = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Score another system's answers from this JSON file instead."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Evaluation split.", show_default="the benchmark's")
    ] = None,
    limit: Limit = None,
    controls: Annotated[
        str, typer.Option(help="Controls to run: swapped, blank, both with a comma, or none.")
    ] = "swapped,blank",
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at once.")] = 8,
    out: Annotated[
        Path | None,
        typer.Option(help="Result file, .json.", show_default="runs/eval/NAME-SPLIT.json"),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Measure a model, or another system's answers, on a benchmark.

    Writes one JSON file and, beside it, every answer as Parquet; the scores also go into the card
    of a model that `roikit train` made. The control `swapped` gives each region the box of another
    one of the same picture, `blank` an empty picture.

    Example: roikit eval vcr --model runs/stage2 --limit 1000
    """
    from roikit import render, runs
    from roikit.evaluate import benchmarks
    from roikit.evaluate.predictions import Predictions, read_predictions
    from roikit.evaluate.predictor import ModelPredictor
    from roikit.evaluate.report import card_row
    from roikit.evaluate.report import render as result_table
    from roikit.evaluate.result import save
    from roikit.evaluate.run import evaluate as run
    from shards.read import iter_samples, open_split
    from shards.seen import seen_in_training

    benchmark = benchmarks.get(name)
    split = split or benchmark.split
    out = out or paths.runs_dir() / "eval" / f"{name}-{split}.json"
    if out.exists() and not overwrite:  # before the work, not after it
        raise UsageError(f"`{out}` exists", hint="pass --overwrite, or another --out")
    data_root = open_split(shards, benchmark.dataset, split).merkle_root
    predictor: ModelPredictor | Predictions
    folder: Path | None = None
    about: dict[str, Any] = {}
    if predictions is not None:
        if model is not None:
            raise UsageError("--predictions and --model: expected one of them, got both")
        predictor = read_predictions(predictions)
    else:
        from roikit.model.generate import load_model

        quiet_transformers()
        folder = Path(model) if model is not None else runs.default_model(paths.runs_dir())
        predictor = ModelPredictor(load_model(folder, device=device, dtype=dtype))
        about = {"system": str(folder), "system_hash": runs.weights_sha256(folder)}
        trained = runs.trained_on(folder)
        about["leak"] = seen_in_training(shards, eval=(benchmark.dataset, split), trained=trained)
    with render.progress(name, "items") as progress:
        result = run(
            name,
            iter_samples(shards, benchmark.dataset, split, tasks=[benchmark.task]),
            predictor=predictor,
            batch_size=batch_size,
            limit=limit,
            seed=seed,
            controls=[] if controls == "none" else controls.split(","),
            data_root=data_root,
            progress=lambda done: progress(done, limit),
            **about,
        )
    record = save(result, out, overwrite=overwrite)
    if folder is not None:
        from roikit.train.card import add_scores

        try:
            add_scores(folder, f"{name}@{split}", card_row(result))
        except OSError as error:  # the result is safe; models of others are often read-only
            render.note(f"{folder}: its card does not have the scores: {error.strerror}")
    if as_json:
        return render.document(record)
    render.console().print(result_table(result))
    render.note(f"wrote {out}")


def report(
    results: Annotated[
        list[Path] | None,
        typer.Argument(help="Result files.", show_default="all of runs/eval"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print results beside the published numbers.

    Example: roikit report runs/eval/vcr-val.json
    """
    from roikit import render
    from roikit.evaluate.report import report as tables
    from roikit.evaluate.result import load

    folder = paths.runs_dir() / "eval"
    files = results or sorted(folder.glob("*.json"))
    if not files:
        raise UsageError(f"{folder}: found no results", hint="`roikit eval` makes them")
    loaded = [load(path) for path in files]
    if as_json:
        return render.document([result.record for result in loaded])
    render.console().print(tables(loaded))
