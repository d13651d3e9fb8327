"""Look at training runs: list them, show one, compare several, plot their losses."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commands.options import Json, Overwrite
from roikit import paths
from roikit.errors import UsageError

if TYPE_CHECKING:
    from roikit.run_status import RunStatus

Several = Annotated[
    list[str], typer.Argument(metavar="RUN…", help="Names below runs/, or folders.")
]


def list_runs(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Option("--in", help="Where runs lie.", show_default="runs/")
    ] = None,
    as_json: Json = False,
) -> None:
    """List training runs and how they stand.

    Loss and tokens/s are means of the last 20 steps; held-out is the last evaluation's loss; hours
    are those of the steps taken, GPU-hours those times the processes.

    Example: roikit runs --in demo/runs
    """
    from roikit import render
    from roikit.run_status import find_runs, run_status

    if context.invoked_subcommand is not None:
        if folder is not None or as_json:
            name = context.invoked_subcommand
            raise UsageError(f"options go after `{name}`: roikit runs {name} …")
        return
    folder = folder or paths.runs_dir()
    found = [run_status(run) for run in find_runs(folder)]
    if as_json:
        return render.document(found)
    if not found:
        return render.note(f"{folder}: no runs; `roikit train` makes them")
    columns = (
        "run", "stage", "recipe", "state", "step", "loss", "held-out", "tokens/s", "hours",
        "GPU-hours", "spikes", "started", "from",
    )  # fmt: skip
    render.table(columns, [_row(one, folder) for one in found])


def show(
    run: Annotated[str, typer.Argument(help="Name below runs/, or a folder.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Show one run: how it stands, its data and recipe, what happened to it.

    Example: roikit runs show stage1
    """
    from roikit import render
    from roikit.run_status import read_run, resolve_run, run_status
    from roikit.train.events import read_events
    from roikit.train.watch import read_spikes

    folder = resolve_run(run, paths.runs_dir())
    status, told = run_status(folder), read_run(folder)
    events, spikes = list(read_events(folder)), read_spikes(folder)
    if as_json:
        return render.document({"status": status, **told, "events": events, "spikes": spikes})
    render.table(("run", str(folder)), _facts(status))
    render.line("")
    data = told.get("data") or {}
    splits = (data.get("splits") or {}).items()
    render.table(("data", "root"), [(name, str(root)[:16]) for name, root in splits])
    render.line("")
    render.line(str(told.get("resolved", "")).strip())
    if events:
        render.line("")
        render.table(("at", "event", "step", ""), [_event_row(event) for event in events])
    if spikes:
        render.line("")
        render.table(
            ("spike at step", "loss", "median before", "samples"),
            [(one["step"], one["loss"], one["median"], ", ".join(one["keys"])) for one in spikes],
        )


def compare(runs: Several, as_json: Json = False) -> None:
    """Compare runs: settings that differ, and losses at equal steps.

    A loss is the mean of the steps since the row above.

    Example: roikit runs compare stage2 runs/other-rate
    """
    from roikit import render
    from roikit.run_compare import compare_runs

    found = compare_runs(_resolved(runs))
    if as_json:
        return render.document(found)
    render.table(
        ("setting", *runs),
        [(one.key, *map(_setting_text, one.values)) for one in found.differences],
    )
    render.line("")
    has_held_out = any(value is not None for row in found.losses for value in row.held_out)
    columns = ["step", *(f"loss {name}" for name in runs)]
    if has_held_out:
        columns += [f"held-out {name}" for name in runs]
    render.table(
        columns,
        [(row.step, *row.losses, *(row.held_out if has_held_out else ())) for row in found.losses],
    )


def plot(
    runs: Several,
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("losses.png"),
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw the losses of runs in one picture, those on held-out pictures dashed.

    Example: roikit runs plot stage2 runs/other-rate --out losses.png
    """
    from roikit import render
    from roikit.train.metrics import METRICS_NAME, plot_losses

    folders = _resolved(runs, least=1)
    if out.exists() and not overwrite:
        raise UsageError(f"{out}: exists already", hint="name another --out, or --overwrite it")
    plot_losses({name: run / METRICS_NAME for name, run in zip(runs, folders, strict=True)}, out)
    if as_json:
        return render.document({"path": out, "runs": folders})
    render.line(str(out))


def _resolved(names: list[str], *, least: int = 2) -> list[Path]:
    from roikit.run_status import resolve_run

    if len(names) < least:
        raise UsageError(f"expected {least} or more runs, got {len(names)}")
    return [resolve_run(name, paths.runs_dir()) for name in names]


def _row(status: "RunStatus", folder: Path) -> tuple[Any, ...]:
    step = f"{status.step:,}" if status.steps is None else f"{status.step:,}/{status.steps:,}"
    started = status.started[:16].replace("T", " ") if status.started else None
    return (
        status.run.relative_to(folder), status.stage, status.recipe, status.state, step,
        status.loss, status.held_out, _whole(status.tokens_per_s), f"{status.hours:.2f}",
        None if status.gpu_hours is None else f"{status.gpu_hours:.2f}", status.spikes, started,
        _name(status.start),
    )  # fmt: skip


def _facts(status: "RunStatus") -> list[tuple[str, Any]]:
    return [
        ("stage", status.stage),
        ("recipe", status.recipe),
        ("state", status.state),
        ("step", f"{status.step:,} of {status.steps or 0:,}"),
        ("loss", status.loss),
        ("held-out loss", status.held_out),
        ("tokens/s", _whole(status.tokens_per_s)),
        ("hours", f"{status.hours:.2f}"),
        ("GPU-hours", None if status.gpu_hours is None else f"{status.gpu_hours:.2f}"),
        ("spikes", status.spikes),
        ("quarantined", status.quarantined),
        ("started", status.started),
        ("from", status.start),
    ]


def _event_row(event: dict[str, Any]) -> tuple[Any, ...]:
    said = event.get("message")
    if event["event"] == "started":
        count = event["processes"]
        processes = "1 process" if count == 1 else f"{count} processes"
        said = f"{processes} on {event['device']}, {event['host']}, pid {event['pid']}"
    return event["at"], event["event"], event.get("step"), said


def _setting_text(value: Any) -> str | None:
    """Return a setting as a recipe spells it, text without quotes; hashes by their first digits."""
    from roikit.config import toml_value

    if value is None:
        return None
    text = value if isinstance(value, str) else toml_value(value)
    is_hash = len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)
    return text[:16] if is_hash else text


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _name(start: str | None) -> str | None:
    return None if start is None else Path(start).name
