"""The command line: each command parses, calls the library, and renders what came back.

Results go to stdout (text, or one JSON document with `--json`), everything else to stderr. Heavy
libraries are imported inside the commands, so that `roikit --help` starts at once. Errors are ended
by `roikit/__main__.py`.
"""

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roikit import __version__, paths
from roikit.errors import ChecksFailedError, RoikitError, UsageError

if TYPE_CHECKING:
    from pipelines.run import SplitReport

log = logging.getLogger(__name__)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn region-annotated images into instruction shards; train, measure and use "
    "region-aware vision-language models.",
)
manifest_app = typer.Typer(no_args_is_help=True, help="The database over all shards.")
mix_app = typer.Typer(no_args_is_help=True, help="What a training mixture comes to.")
DATA, TRAINING, USE, ELSE = "Data", "Training", "Use", "Else"
app.add_typer(manifest_app, name="manifest", rich_help_panel=DATA)
app.add_typer(mix_app, name="mix", rich_help_panel=DATA)


class BoxFormat(StrEnum):
    """How `--box` is read."""

    XYXY = "xyxy"
    XYWH = "xywh"


class Stage(StrEnum):
    """The steps of training, in order."""

    ALIGN = "align"
    STAGE1 = "stage1"
    STAGE2 = "stage2"


Shards = Annotated[
    Path,
    typer.Option(
        "--shards",
        default_factory=paths.shards_dir,
        show_default="data/shards",
        help="Folder of the shards.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what stands there from before.")
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Items a benchmark at most.", show_default="all")
]
Seed = Annotated[int, typer.Option(help="Seed of everything drawn at random.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes working at once.", show_default="one a core")
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Folder of a run or model.", show_default="the newest of runs/stage2, runs/stage1"
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"roikit {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error came from; may stand anywhere.")
    ] = False,
) -> None:
    """Do nothing: `--version` ends in its callback, `roikit/__main__.py` takes `--debug`."""


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that were given: what is None keeps the library's default."""
    return {name: value for name, value in options.items() if value is not None}


def _quiet_transformers() -> None:
    """Keep transformers' own bars (loading, writing weights) out of ours; downloads keep theirs."""
    from huggingface_hub.utils import enable_progress_bars  # type: ignore[attr-defined]
    from transformers.utils import logging

    logging.disable_progress_bar()
    if sys.stderr.isatty():
        enable_progress_bars()


# --- data ---


@app.command(rich_help_panel=DATA)
def datasets(shards: Shards, as_json: Json = False) -> None:
    """List the datasets that can be converted, and what is converted already.

    Example: roikit datasets
    """
    from pipelines.registry import DATASETS
    from roikit import render
    from shards.commit import list_datasets

    there = list_datasets(shards)
    found: list[dict[str, Any]] = [
        {"name": name, "title": spec.title, "source": paths.source_dir(name)}
        | {"expects": spec.expects}
        | {"converted": {info.split: info.samples for info in there if info.dataset == name}}
        for name, spec in DATASETS.items()
    ]
    if as_json:
        return render.document(found)
    for one in found:
        one["expects"] = " ".join(one["expects"])
        one["converted"] = ", ".join(f"{s} {n:,}" for s, n in one["converted"].items()) or None
    columns = ("name", "dataset", "looked for in", "expects there", "samples converted")
    render.table(columns, [tuple(one.values()) for one in found])


@app.command(rich_help_panel=DATA)
def convert(
    name: Annotated[
        str, typer.Argument(help="The dataset; `roikit datasets` lists them.", show_default=False)
    ],
    source: Annotated[
        Path | None,
        typer.Argument(help="Folder of the official files.", show_default="data/NAME"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the shards.", show_default="data/shards")
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="The dataset's own name; may be given several times.", show_default="all there"
        ),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(help="Further folder that pictures lie in; may be given several times."),
    ] = None,
    split_by: Annotated[
        str | None,
        typer.Option(help="Whose splits, where several lie side by side: unc, umd or google."),
    ] = None,
    split_file: Annotated[
        Path | None, typer.Option(help="File that lists the pictures of each split.")
    ] = None,
    detections: Annotated[Path | None, typer.Option(help="File of detected boxes.")] = None,
    categories: Annotated[
        Path | None,
        typer.Option(help="Annotation file that names the detected classes, e.g. LVIS's."),
    ] = None,
    faithful: Annotated[
        bool,
        typer.Option(
            "--faithful", help="Bring back GPT4RoI's defects that change the training text."
        ),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures a split, kept apart as e.g. train-first1000."),
    ] = None,
    seed: Seed = 0,
    workers: Workers = None,
    max_rejects: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of records that may be bad.", show_default="0.01"),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail where counts differ from the published ones.")
    ] = False,
    max_shard_bytes: Annotated[
        int | None, typer.Option(min=1, help="Largest shard.", show_default="256 MiB")
    ] = None,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and check everything, write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Convert a dataset's official files into shards.

    Bad records are rejected, counted and kept in the manifest with their place; the rest is
    converted. Interrupt it as you like: the same command goes on, and gives the same bytes.

    Example: roikit convert vcr data/vcr --split val --limit 1000
    """
    from pipelines import run
    from pipelines.draft import SourceOptions
    from roikit import render

    failed: run.FailedConversionError | None = None
    with render.progress(name, "pictures") as bar:
        try:
            reports = run.convert(
                name,
                source if source is not None else paths.source_dir(name),
                out if out is not None else paths.shards_dir(),
                splits=split or None,
                image_roots=images or (),
                options=SourceOptions(
                    split_by=split_by,
                    split_file=split_file,
                    detections=detections,
                    categories=categories,
                    faithful=faithful,
                ),
                limit=limit,
                seed=seed,
                workers=workers or os.cpu_count() or 1,
                strict=strict,
                overwrite=overwrite,
                dry_run=dry_run,
                progress=lambda p: bar(p.done, p.total, f"{name} {p.split}: {p.step}"),
                command=shlex.join(["roikit", *sys.argv[1:]]),
                **_given(max_rejects=max_rejects, max_shard_bytes=max_shard_bytes),
            )
        except run.FailedConversionError as error:  # committed all the same: say what there is
            reports, failed = error.reports, error
    if as_json:
        render.document(reports)
    else:
        _show_conversion(reports, dry_run=dry_run)
    if failed is not None:
        raise failed
    for difference in (text for report in reports for text in report.count_differences):
        log.warning("counts differ: %s", difference)


def _show_conversion(reports: "Sequence[SplitReport]", *, dry_run: bool) -> None:
    from roikit import render

    def official(count: int | None) -> int | str:
        return "-" if count is None else count

    columns = ("dataset", "split", "pictures", "published", "used", "records", "published", "used")
    rows = [
        (
            *(r.dataset, r.split, r.images_found, official(r.official_images), r.images_converted),
            *(r.records_found, official(r.official_records), r.records_converted),
            *(r.records_by_policy, r.faults, r.num_shards),
            *(render.bytes_text(r.num_bytes), f"{r.seconds:.1f}"),
        )
        for r in reports
    ]
    render.table((*columns, "left out by policy", "faults", "shards", "size", "seconds"), rows)
    rejected = [(r.dataset, r.split, code, n) for r in reports for code, n in r.rejections.items()]
    if rejected:
        render.line("")
        render.table(("dataset", "split", "rejected", "records"), rejected)
    if dry_run:
        render.note("dry run: nothing was written")
    elif all(report.was_done for report in reports):
        render.note("all of it was converted before; nothing was written")


@app.command(rich_help_panel=DATA)
def miniature(
    out: Annotated[Path, typer.Argument(help="Folder to make.", show_default=False)],
    images: Annotated[int, typer.Option(min=32, help="Different pictures in all.")] = 2000,
    seed: Seed = 0,
    workers: Workers = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw a miniature world as source trees in the official layouts.

    Example: roikit miniature data/miniature --images 2000 --seed 0
    """
    from pipelines.miniature import make_miniature
    from roikit import render

    with render.progress("drawing", "pictures") as progress:
        report = make_miniature(
            out,
            images=images,
            seed=seed,
            workers=workers,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        return render.document(report)
    rows = [(name, n, report.statements.get(name, 0)) for name, n in report.pictures.items()]
    render.table(("dataset split", "pictures", "statements"), rows)
    render.note(f"{report.images:,} pictures in {report.seconds:.1f} s; convert them with, e.g.,")
    render.note(f"roikit convert coco {out / 'coco'}")


@app.command(rich_help_panel=DATA)
def verify(
    shards: Shards,
    dataset: Annotated[
        str | None, typer.Argument(help="Only this dataset.", show_default="all")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only this split.", show_default="all")] = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Read every byte of the shards and check it against what was written.

    Exits with 3 where something is not as it was.

    Example: roikit verify coco --split val
    """
    from roikit import render
    from shards.verify import verify as check

    with render.progress("verifying", "shards") as progress:
        report = check(shards, dataset, split, workers=workers, progress=progress)
    if as_json:
        render.document(report)
    else:
        for problem in report.problems:
            render.line(str(problem))
        render.line(
            f"{report.splits} splits, {report.shards:,} shards, {report.samples:,} samples, "
            f"{render.bytes_text(report.tar_bytes)}: {len(report.problems):,} problems"
        )
    if not report.is_good:
        raise ChecksFailedError(
            f"{len(report.problems):,} problems found",
            hint="delete the files named above; `roikit convert` makes those shards anew",
        )


@app.command(rich_help_panel=DATA)
def stats(shards: Shards, as_json: Json = False) -> None:
    """Count what is in the shards, by dataset, split and task, and what was rejected.

    Example: roikit stats
    """
    from roikit import render
    from shards.stats import stats as count

    found = count(shards)
    if as_json:
        return render.document(found)
    render.table(
        ("dataset", "split", "task", "samples", "conversations", "exchanges", "answer words"),
        [
            (t.dataset, t.split, t.task, t.samples, t.conversations, t.exchanges, t.answer_words)
            for t in found.tasks
        ],
    )
    if found.rejections:
        render.line("")
        rows = [(r.dataset, r.split, r.code, r.records) for r in found.rejections]
        render.table(("dataset", "split", "rejected", "records"), rows)


@app.command(rich_help_panel=DATA)
def show(
    key: Annotated[str, typer.Argument(help="The sample's key.", show_default=False)],
    shards: Shards,
    save: Annotated[
        Path | None, typer.Option(help="Write the picture with its regions as PNG.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a sample: its picture with the regions drawn, and what is said about them.

    The picture appears in terminals that can show one (kitty, iTerm2); elsewhere `--save` it.

    Example: roikit show vcr-train-000000042 --save sample.png
    """
    from roikit import draw, render
    from roikit.images import decode_rgb
    from roikit.mentions import plain
    from shards.read import read_sample

    sample, image_bytes = read_sample(shards, key)
    drawn = draw.draw_regions(decode_rgb(image_bytes), sample.regions)
    written = draw.show(
        drawn,
        write=sys.stdout.write,
        environ=os.environ,
        is_terminal=sys.stdout.isatty() and not as_json,
        png_path=save,
    )
    if written is not None:
        render.note(f"wrote {written}")
    if as_json:
        return render.document(sample)
    image = sample.image
    render.line(f"{sample.key}  {image.file}  {image.width} x {image.height}  {image.native_id}")
    render.table(
        ("region", "colour", "box_xyxy", "label"),
        [
            (
                f"region{number}",
                draw.colour(number)[0],
                ",".join(f"{value:g}" for value in region.box_xyxy),
                region.label,
            )
            for number, region in enumerate(sample.regions, 1)
        ],
    )
    for conversation in sample.conversations:
        render.line(f"\n{conversation.task}  {conversation.id}")
        for turn in conversation.turns:
            render.line(f"  {turn.role:<9}  {plain(turn.text)}")
        choice = conversation.choice
        for i, option in enumerate(choice.options if choice is not None else ()):
            mark = "*" if choice is not None and i == choice.answer else " "
            render.line(f"  {mark} {i}  {plain(option)}")


@app.command(rich_help_panel=DATA)
def query(
    sql: Annotated[str, typer.Argument(help="One SQL statement.", show_default=False)],
    shards: Shards,
    as_json: Json = False,
) -> None:
    """Ask the manifest a question in SQL (DuckDB).

    Tables: datasets, shards, samples, images, regions, conversations, rejections, source_files and
    runs.

    Example: roikit query "select label, count(*) from regions group by label order by 2 desc"
    """
    from roikit import render
    from shards.manifest import query as ask

    columns, rows = ask(shards, sql)
    if as_json:
        return render.document([dict(zip(columns, row, strict=True)) for row in rows])
    render.table(columns, rows)


@manifest_app.command("rebuild")
def manifest_rebuild(shards: Shards, as_json: Json = False) -> None:
    """Make manifest.duckdb and the index again from the committed shards.

    Example: roikit manifest rebuild --shards data/shards
    """
    from roikit import render
    from shards.manifest import rebuild

    written = rebuild(shards)
    if as_json:
        return render.document({"manifest": written})
    render.line(str(written))


@app.command(rich_help_panel=DATA)
def leaks(
    shards: Shards,
    evaluation: Annotated[
        list[str] | None,
        typer.Option(
            "--eval",
            metavar="DATASET@SPLIT",
            help="An evaluation split; may be given several times.",
            show_default="every split that is not for training",
        ),
    ] = None,
    training: Annotated[
        list[str] | None,
        typer.Option(
            "--train",
            metavar="DATASET@SPLIT",
            help="A training split; may be given several times.",
            show_default="every split whose name starts with train",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Count the evaluation pictures that stand in the training splits too.

    Compared are the datasets' own ids (COCO's, as Visual Genome and others give them) and the
    bytes; resized copies under another name are not found.

    Example: roikit leaks --eval vg@test --train coco@train
    """
    from roikit import render
    from shards.commit import list_datasets
    from shards.identity import overlap

    all_splits = [(info.dataset, info.split) for info in list_datasets(shards)]
    asked = [_dataset_and_split(name) for name in evaluation or ()]
    asked = asked or [name for name in all_splits if not name[1].startswith("train")]
    trained = [_dataset_and_split(name) for name in training or ()]
    trained = trained or [name for name in all_splits if name[1].startswith("train")]
    if not asked or not trained:
        raise UsageError(
            f"{shards}: expected a split for evaluation and one for training",
            hint="convert them first, or name them with --eval and --train",
        )
    counts = [
        {"evaluation": "@".join(one), "training": "@".join(other)}
        | {"found": count.found, "total": count.total}
        for one in asked
        for other in trained
        if (count := overlap(shards, eval=one, train=[other]))
    ]
    if as_json:
        return render.document(counts)
    rows = [tuple(count.values()) for count in counts]
    render.table(("evaluation", "training", "also in training", "of pictures"), rows)


@mix_app.command("explain")
def mix_explain(
    shards: Shards,
    mix: Annotated[
        str | None,
        typer.Argument(help="DATASET[@SPLIT][:TASK][=WEIGHT],…", show_default="the recipe's"),
    ] = None,
    recipe: Annotated[str, typer.Option(help="Name or TOML file.")] = "small",
    stage: Annotated[Stage, typer.Option(help="Whose mixture of the recipe.")] = Stage.STAGE2,
    as_json: Json = False,
) -> None:
    """Say what an epoch of a mixture takes from each source, before training on it.

    Example: roikit mix explain vcr:reasoning-single=2,vg=1
    """
    from roikit import render
    from roikit.config import load_recipe
    from shards.stream import Stream

    text = mix or load_recipe(recipe, stage=stage.value).run.mix
    stream = Stream(shards, text, prefetch=0)
    rows = [
        {"source": name, "conversations": stream.source_lengths[name], "positions": quota}
        | {"passes": quota / stream.source_lengths[name], "share": quota / stream.epoch_length}
        for name, quota in stream.source_quotas.items()
    ]
    if as_json:
        return render.document({"mix": text, "epoch": stream.epoch_length, "sources": rows})
    columns = ("source", "conversations", "an epoch takes", "passes", "share")
    render.table(columns, [tuple(row.values()) for row in rows])
    render.line(f"an epoch has {stream.epoch_length:,} conversations")


# --- training ---


@app.command(rich_help_panel=TRAINING)
def train(
    stage: Annotated[Stage, typer.Argument(help="Which step.", show_default=False)],
    shards: Shards,
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or a TOML file.")] = "small",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="TABLE.KEY=VALUE",
            help="Override the recipe; may be given several times.",
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Run or model to start from.", show_default="the stage before, in runs/"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run.", show_default="runs/STAGE")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of data and weights.", show_default="the recipe's")
    ] = None,
    device: Device = "auto",
    dtype: Annotated[
        str | None, typer.Option(help="auto, bf16 or fp32.", show_default="the recipe's")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train one step; run again after an interruption, it goes on from its last checkpoint.

    align trains the image projector on captions, stage1 the region encoder on short texts, stage2
    all but the vision tower on long texts. Each starts from the one before.

    Example: roikit train stage1 --recipe tiny --set stage1.steps=300 --seed 1
    """
    from pipelines.stages import run_stage
    from roikit import render, runs
    from roikit.config import load_recipe

    _quiet_transformers()
    overrides = list(settings or ())
    if seed is not None:
        overrides += [f"seed={seed}", f"model.seed={seed}"]
    if dtype is not None:
        overrides.append(f"{stage.value}.dtype={dtype}")
    resolved = load_recipe(recipe, stage=stage.value, overrides=overrides)
    if start is None:
        start = runs.default_start(paths.runs_dir(), stage.value)
    with render.training(f"{resolved.name} {stage.value}") as live:
        result = run_stage(
            resolved,
            shards=shards,
            out=out or paths.runs_dir() / stage.value,
            start=start,
            device=device,
            overwrite=overwrite,
            on_start=live.start,
            on_step=lambda step: live.step(step.step, step.loss, step.tokens, step.seconds),
        )
    if as_json:
        return render.document(result)
    if result.last_loss is None:
        render.note("this run was finished before; --overwrite starts it anew")
    else:
        render.line(f"loss {result.last_loss:.4f} after {result.steps:,} steps")
    render.line(str(result.model))


# --- use ---


@app.command("eval", rich_help_panel=USE)
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

    Writes one JSON file and, beside it, every answer as Parquet. The control `swapped` gives each
    region the box of another one of the same picture, `blank` an empty picture.

    Example: roikit eval vcr --model runs/stage2 --limit 1000
    """
    from roikit import render, runs
    from roikit.evaluate import benchmarks
    from roikit.evaluate.predictions import Predictions, read_predictions
    from roikit.evaluate.predictor import ModelPredictor
    from roikit.evaluate.report import render as result_table
    from roikit.evaluate.result import save
    from roikit.evaluate.run import evaluate as run
    from shards.commit import load_dataset
    from shards.identity import LeakCount, overlap
    from shards.read import iter_samples

    benchmark = benchmarks.get(name)
    split = split or benchmark.split
    out = out or paths.runs_dir() / "eval" / f"{name}-{split}.json"
    if out.exists() and not overwrite:  # before the work, not after it
        raise UsageError(f"`{out}` exists", hint="pass --overwrite, or another --out")
    data_root = load_dataset(shards, benchmark.dataset, split).merkle_root
    predictor: ModelPredictor | Predictions
    about: dict[str, Any] = {}
    if predictions is not None:
        if model is not None:
            raise UsageError("--predictions and --model: expected one of them, got both")
        predictor = read_predictions(predictions)
    else:
        from roikit.model.generate import load_model

        _quiet_transformers()
        folder = Path(model) if model is not None else runs.default_model(paths.runs_dir())
        predictor = ModelPredictor(load_model(folder, device=device, dtype=dtype))
        about = {"system": str(folder), "system_hash": runs.weights_sha256(folder)}
        trained = runs.trained_on(folder)
        committed = trained is not None and all(_is_committed(shards, *one) for one in trained)
        leak: LeakCount | None = None
        if trained is not None and committed:
            leak = overlap(shards, eval=(benchmark.dataset, split), train=trained)
        about["leak"] = leak
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
    if as_json:
        return render.document(record)
    render.console().print(result_table(result))
    render.note(f"wrote {out}")


@app.command(rich_help_panel=USE)
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


@app.command(rich_help_panel=USE)
def chat(
    image: Annotated[Path, typer.Argument(help="The picture.", show_default=False)],
    box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X0,Y0,X1,Y1",
            help="A region, in pixels or as fractions of the picture; may be given several times.",
        ),
    ] = None,
    box_format: Annotated[BoxFormat, typer.Option(help="How boxes are read.")] = BoxFormat.XYXY,
    ask: Annotated[
        list[str] | None,
        typer.Option(help="Ask this and leave; may be given several times, for several turns."),
    ] = None,
    model: Model = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.0,
    seed: Seed = 0,
    save: Annotated[
        Path | None, typer.Option(help="With --ask: keep the conversation as NAME.json, NAME.png.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Talk about boxes on a picture: answers as they come, on stdout.

    Regions are called region1, region2, … in the order of the boxes. Without --ask, questions are
    read from the terminal (or a pipe); /help lists what else can be typed there.

    Example: roikit chat photo.jpg --box 10,20,300,410 --ask "What is region1 doing?"
    """
    from roikit import load, render, runs
    from roikit.chat import terminal

    if as_json and not ask:
        raise UsageError("--json: expected a question with --ask")
    if save is not None and not ask:
        raise UsageError("--save: expected a question with --ask", hint="in a conversation: /save")
    folder = model if model is not None else runs.default_model(paths.runs_dir())
    _quiet_transformers()
    session = load(folder, device=device, dtype=dtype).session(
        image,
        boxes=box or (),
        box_format=box_format.value,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    faces = terminal.standard_terminal(os.environ)
    if not ask:
        failed = terminal.converse(session, faces)
        if failed and not faces.is_interactive:
            raise RoikitError(f"{failed} lines could not be answered")
        return None
    answers = []
    for question in ask:
        if as_json:
            answers.append({"question": question, "answer": session.ask(question)})
        else:
            terminal.answer(session, question, faces)
    for path in session.save(save, overwrite=overwrite) if save is not None else ():
        render.note(f"wrote {path}")
    if as_json:
        return render.document(answers)
    return None


# --- else ---


@app.command(rich_help_panel=ELSE)
def demo(
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of everything it makes.", show_default="demo; demo-photos"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of world, weights and order.")] = 1,
    images: Annotated[
        int | None, typer.Option(min=32, help="Pictures to draw.", show_default="8000")
    ] = None,
    photos: Annotated[
        bool, typer.Option("--photos", help="On sixteen photographs, with pretrained parts.")
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option(help="Name of a recipe, or a TOML file.", show_default="tiny; photos: small"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="TABLE.KEY=VALUE",
            help="Override the recipe; may be given several times.",
        ),
    ] = None,
    limit: Limit = None,
    workers: Workers = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Run all of it on drawn scenes: draw, convert, train, evaluate, chat.

    Needs no data and no accelerator. What is finished is kept: run it again after an interruption.
    The table ends with controls: the same answers with the boxes swapped, and on blank pictures.
    With --photos, the same on photographs inside installed packages, with pretrained parts.

    Example: roikit demo --seed 2
    """
    from pipelines.demo import Watcher
    from pipelines.demo_miniature import run_demo
    from pipelines.demo_photographs import run_photographs_demo
    from roikit import render

    if photos and images is not None:
        raise UsageError("--images: the photographs are what they are; leave it out with --photos")
    out = out or Path("demo-photos" if photos else "demo")

    _quiet_transformers()

    class Shown(render.Phases, Watcher):
        """Shows on stderr what the demo is at."""

    with Shown() as watcher:
        run = run_photographs_demo if photos else run_demo
        report = run(
            out,
            seed=seed,
            overrides=settings or (),
            limit=limit,
            device=device,
            watcher=watcher,
            **_given(images=images, workers=workers, recipe=recipe),
        )
    if as_json:
        return render.document(report)
    render.table(
        ("benchmark", "score", "seen", "held-out", "swapped", "follows box", "blank", "items"),
        [
            (
                row.benchmark,
                *(None if score is None else f"{score:.1f}" for score in scores),
                row.items,
            )
            for row in report.rows
            if (scores := (row.score, row.seen, row.held_out, row.swapped, row.follows, row.blank))
        ],
    )
    for said in report.transcript:
        render.line(f"\n{said.image}\n  {said.question}\n  {said.answer}  (right: {said.truth})")
    for remark in (report.caveat, *report.seen_in_training):
        render.note(remark)
    render.note(f"the model: {report.model}")


@app.command(rich_help_panel=ELSE)
def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Read version numbers only, import nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what this machine has, and what each missing piece switches off.

    Exits with 3 where something required is missing or broken.

    Example: roikit doctor
    """
    from roikit import doctor as physician
    from roikit import render

    report = physician.examine(with_imports=not quick)
    if as_json:
        render.document(report)
    else:
        for text in physician.plain_lines(report):
            render.line(text)
    if not report.is_usable:
        raise ChecksFailedError(
            "something that roikit needs is missing or broken", hint="`make install` mends packages"
        )


def _dataset_and_split(name: str) -> tuple[str, str]:
    dataset, separator, split = name.partition("@")
    if not separator or not split:
        raise UsageError(f"`{name}`: expected DATASET@SPLIT, e.g. `vg@test`")
    return dataset, split


def _is_committed(shards: Path, dataset: str, split: str) -> bool:
    from shards.layout import commit_path

    return commit_path(shards, dataset, split).is_file()
