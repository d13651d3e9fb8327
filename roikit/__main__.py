"""The `roikit` command: run `cli.app`, and end every failure in one line, a hint and an exit code.

The one module of this package that looks up, at `cli`. `cli`, `commands`, `pipelines` and `shards`
are ordinary top-level names, so a file of that name in the working directory could stand before
ours: that is found before it runs. Exit codes: design, section 9.
"""

import errno
import importlib.util
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import NoReturn

from roikit.errors import PeerError, RoikitError, UsageError
from roikit.path_errors import WRONG_PATH
from roikit.runs import is_main_process

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

#: A process with nothing to say waits so long for `torchrun` to end it.
_PEER_GRACE_S = 5

_ROOT = Path(__file__).resolve().parents[1]


def main() -> NoReturn:
    """Run the command line in `sys.argv`; `--debug` may stand anywhere in it."""
    argv = sys.argv[1:]
    before_dashes = argv[: argv.index("--")] if "--" in argv else argv
    debug = "--debug" in before_dashes
    if debug:
        argv.remove("--debug")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        check_imports()
        from cli import app

        app(args=argv, prog_name="roikit")
        code = 0
    except SystemExit as ended:  # help, usage errors and Ctrl-C inside a command end this way
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if code == EXIT_INTERRUPTED:
            print("interrupted", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BaseException as error:
        if debug:
            traceback.print_exception(error)
        message, hint, code = describe(error)
        if hint is None and not isinstance(error, RoikitError) and not debug:
            hint = "run again with --debug to see where"
        from roikit.render import printable

        # of what all processes of a run are told alike, the first speaks
        is_said = isinstance(error, PeerError) or (_is_stopped(error) and not is_main_process())
        for kind, text in (("error", message), ("hint", hint)):
            if text is not None and not is_said:
                print(printable(f"{kind}: {' '.join(text.splitlines())}"), file=sys.stderr)
        if isinstance(error, PeerError):  # torchrun ends all when one ends: not before who speaks
            time.sleep(_PEER_GRACE_S)
    sys.exit(code)


def check_imports() -> None:
    """Make sure that the other top-level modules are the ones that belong to this package.

    Raises:
        UsageError: another module of that name stands first on the import path.
    """
    for name in ("cli", "commands", "pipelines", "shards"):
        spec = importlib.util.find_spec(name)
        places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
        found = [Path(place).resolve() for place in places if place is not None]
        if any(place.parent == _ROOT or place.parent == _ROOT / name for place in found):
            continue
        where = f"`{found[0]}`" if found else "nothing"
        raise UsageError(
            f"expected `{name}` from `{_ROOT}`, found {where}",
            hint="run roikit from another directory, or take the other one off PYTHONPATH",
        )


def describe(error: BaseException) -> tuple[str, str | None, int]:
    """Say what went wrong in one line.

    Returns:
        The message, what to do about it (None where nothing is known), and the exit code.
    """
    if isinstance(error, RoikitError):
        return str(error), error.hint, error.exit_code
    if _is_stopped(error):
        signum: int = error.signum  # type: ignore[attr-defined]
        return str(error), "the same command goes on from the last checkpoint", 128 + signum
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = f" at `{error.filename}`" if error.filename else ""
        hint = "free some space or choose another `--out`; what is finished is kept, run it again"
        return f"the disk is full{where}", hint, 1
    if isinstance(error, OSError) and error.filename is not None and error.errno in WRONG_PATH:
        hint = "give yourself the right, or choose another path"
        return f"`{error.filename}`: cannot be used: {error.strerror}", hint, UsageError.exit_code
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or type(error).__name__}", None, 1
    first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if _comes_from(error, "duckdb") and "lock" in first_line:
        return first_line, "another process writes the manifest: wait for it to end", 1
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return f"out of memory: {first_line}", "use a smaller batch, or another `--device`", 1
    return f"{type(error).__name__}: {first_line}".rstrip(": "), None, 1


def _is_stopped(error: BaseException) -> bool:
    """Whether training was stopped by a signal, its checkpoint saved."""
    return isinstance(getattr(error, "signum", None), int)


def _comes_from(error: BaseException, package: str) -> bool:
    return any(kind.__module__.lstrip("_").split(".")[0] == package for kind in type(error).__mro__)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    # SystemExit, so that `finally` blocks run; training has a handler of its own while it runs.
    raise SystemExit(EXIT_TERMINATED)


if __name__ == "__main__":
    main()
