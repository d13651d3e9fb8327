"""Where a conversion's files lie, given as paths or URLs, brought to folders of this machine.

`pipelines/run.py` knows folders only. A source behind a URL becomes a local tree of its annotation
files, shards behind a URL a local side (`shards/remote.py`); what an error says of these folders is
said of the URLs instead.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipelines import remote_source
from roikit import remote
from roikit.errors import RoikitError, UsageError
from shards.remote import local_side

Place = Path | str  #: a path, or a URL as text, without a login


@dataclass(kw_only=True, slots=True)
class Places:
    """What a conversion reads and writes, as folders of this machine."""

    source: Path = Path()
    out: Path = Path()
    image_roots: tuple[Path, ...] = ()
    below: Path  #: folder for all that belongs to URLs
    urls: dict[Path, str] = field(default_factory=dict)  #: what each such folder stands for

    def file(self, place: Place | None) -> Path | None:
        """Return a file of an option, fetched where it is a URL."""
        if not isinstance(place, str):
            return place
        here = remote_source.fetch_file(place, self.below / "files")
        self.urls[here] = place
        return here


@contextlib.contextmanager
def brought_here(
    source: Place,
    out: Place,
    image_roots: Sequence[Place] = (),
    *,
    below: Path,
    workers: int = 1,
    dry_run: bool = False,
    tell: remote_source.Tell = lambda done, total: None,
) -> Iterator[Places]:
    """Bring a conversion's places here, and let errors inside the block speak of URLs.

    Args:
        source: the dataset's official files.
        out: root of the shards.
        image_roots: further folders of pictures.
        below: folder for all that belongs to URLs.
        workers: as the conversion will be given.
        dry_run: as the conversion will be given; the store of `out` is left alone then.
        tell: told of progress in fetching annotation files.

    Raises:
        UsageError: no such bucket, access is denied, or the URL cannot be used so.
        RemoteError: a store does not answer.
    """
    for url in (source, out, *image_roots):
        if isinstance(url, str) and url.startswith("memory://") and workers > 1:
            raise UsageError(
                f"`{url}`: memory is one process's own, {workers} workers were asked for",
                hint="give --workers 1",
            )
    here = Places(below=below)
    with _speaking_of_urls(here.urls):
        if isinstance(out, str):
            if not dry_run:
                remote.check_writable(out)
            here.out = local_side(out, below / "shards")
            here.urls[here.out] = out
        else:
            here.out = out
        if isinstance(source, str):
            here.source = remote_source.fetch_source(source, below / "sources", tell)
            here.urls[here.source] = source
        else:
            here.source = source
        for root in image_roots:
            if isinstance(root, str):
                folder = remote_source.list_pictures(root, below / "pictures")
                here.urls[folder] = root
            else:
                folder = root
            here.image_roots += (folder,)
        yield here


@contextlib.contextmanager
def _speaking_of_urls(urls: dict[Path, str]) -> Iterator[None]:
    try:
        yield
    except RoikitError as error:
        for folder, url in urls.items():
            for text in (str(folder.absolute()), str(folder)):
                error.args = (str(error).replace(text, url),)
                error.hint = error.hint and error.hint.replace(text, url)
        raise
