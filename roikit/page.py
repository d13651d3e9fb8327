"""One self-contained HTML page from a template: no script, no network, every value escaped.

Templates and style lie in `roikit/pages/`. Values come from strangers' annotations: Jinja2 escapes
them, and the page's own policy forbids scripts and anything from outside, should one slip through.
"""

import functools
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from roikit.errors import UsageError


def render_page(template: str, **values: Any) -> str:
    """Fill `roikit/pages/<template>`.

    Args:
        template: the file's name.
        **values: what it names; one that is missing is an error of ours.
    """
    return _environment().get_template(template).render(**values)


def write_page(path: Path, page: str, *, overwrite: bool = False) -> None:
    """Write a page, making its folder.

    Raises:
        UsageError: something lies there and `overwrite` is false, or it cannot be written.
    """
    check_absent(path, overwrite=overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A lone surrogate can stand in a source's text and has no UTF-8.
        path.write_bytes(page.encode("utf-8", "replace"))
    except OSError as error:
        raise UsageError(f"`{path}`: cannot be written: {error.strerror}") from error


def check_absent(path: Path, *, overwrite: bool) -> None:
    """Refuse a name that is taken.

    Raises:
        UsageError: something lies there and `overwrite` is false.
    """
    if path.exists() and not overwrite:
        raise UsageError(f"`{path}`: is there already", hint="give --overwrite to replace it")


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    return environment


def _source(name: str) -> str:
    return files("roikit").joinpath("pages", name).read_text(encoding="utf-8")
