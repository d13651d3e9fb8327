"""The command line: every command, by panel, in the order `roikit --help` shows them.

Each command parses, calls the library, and renders what came back (`commands/`). Results go to
stdout (text, or one JSON document with `--json`), everything else to stderr. Heavy libraries are
imported inside the commands, so that `roikit --help` starts at once. Errors are ended by
`roikit/__main__.py`.
"""

from typing import Annotated

import typer

from commands import (
    ablate,
    chat,
    convert,
    datasets,
    evaluate,
    export,
    import_gpt4roi,
    label,
    leaks,
    look,
    machine,
    miniature,
    mix,
    runs,
    show,
    stats,
    train,
)
from roikit import __version__

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn region-annotated images into instruction shards; train, measure and use "
    "region-aware vision-language models.",
)


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


DATA, TRAINING, USE, ELSE = "Data", "Training", "Use", "Else"
manifest_app = typer.Typer(no_args_is_help=True, help="The database over all shards.")
mix_app = typer.Typer(no_args_is_help=True, help="What a training mixture comes to.")
app.add_typer(manifest_app, name="manifest", rich_help_panel=DATA)
app.add_typer(mix_app, name="mix", rich_help_panel=DATA)
runs_app = typer.Typer()
runs_app.callback(invoke_without_command=True)(runs.list_runs)
app.add_typer(runs_app, name="runs", rich_help_panel=TRAINING)
export_app = typer.Typer(no_args_is_help=True, help="Shards in other tools' forms.")
app.add_typer(export_app, name="export", rich_help_panel=DATA)

app.command(rich_help_panel=DATA)(datasets.datasets)
app.command(rich_help_panel=DATA)(convert.convert)
app.command(rich_help_panel=DATA)(label.label)
app.command(rich_help_panel=DATA)(miniature.miniature)
app.command(rich_help_panel=DATA)(look.verify)
app.command(rich_help_panel=DATA)(stats.stats)
app.command(rich_help_panel=DATA)(show.show)
app.command(rich_help_panel=DATA)(look.query)
manifest_app.command("rebuild")(look.rebuild_manifest)
app.command(rich_help_panel=DATA)(leaks.leaks)
app.command(rich_help_panel=DATA)(leaks.list_pictures)
mix_app.command("explain")(mix.explain)
export_app.command()(export.coco)
export_app.command()(export.llava)
export_app.command()(export.energon)
app.command(rich_help_panel=TRAINING)(train.train)
runs_app.command()(runs.show)
runs_app.command()(runs.compare)
runs_app.command()(runs.plot)
app.command(rich_help_panel=TRAINING)(ablate.ablate)
app.command("eval", rich_help_panel=USE)(evaluate.evaluate)
app.command(rich_help_panel=USE)(evaluate.report)
app.command(rich_help_panel=USE)(chat.chat)
app.command(rich_help_panel=USE)(import_gpt4roi.import_gpt4roi)
app.command(rich_help_panel=ELSE)(machine.demo)
app.command(rich_help_panel=ELSE)(machine.doctor)
