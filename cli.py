"""The command line: each command parses, calls one library function, and renders what came back.

Results go to stdout (text, or one JSON document with `--json`), everything else to stderr. The heavy
libraries are imported inside the commands, so that `roikit --help` starts at once. Errors are ended by
`roikit/__main__.py`.
"""

from pathlib import Path
from typing import Annotated

import typer

from roikit import __version__, paths

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn region-annotated images into instruction shards; train, measure and use "
    "region-aware vision-language models.",
)

DATA, TRAINING, USE, ELSE = "Data", "Training", "Use", "Else"


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
    """Set nothing up: `--version` ends in its callback, `--debug` is taken by `roikit/__main__.py`."""
