"""Our tars through the `webdataset` package, for those who bring their own webdataset code.

In: any URLs that webdataset opens. Out: a `webdataset.DataPipeline` over the same samples as
`shards.read.iter_samples` gives, front to back, to be extended with webdataset's own stages. Needs
the tars alone: no index, no commit, no manifest. So a shard that is missing, or was cut off exactly
between two samples, is not noticed here; `roikit verify` notices.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from roikit.errors import CorruptSampleError, ValidationError
from roikit.images import decode_rgb
from roikit.sample import Sample, decode_sample
from roikit.urls import without_secrets

#: What webdataset asks about an error: go on behind it (True), end (False), or it raises itself.
Handler = Callable[[Exception], bool]


def pipeline(
    urls: str | Path | Sequence[str | Path],
    *,
    nodesplitter: Callable[..., Any] | None = None,
    workersplitter: Callable[..., Any] | None = None,
    handler: Handler | None = None,
    pixels: bool = False,
) -> Any:
    """Return a pipeline over the samples of some tars, in the tars' order.

    Args:
        urls: one, which may be a brace pattern (`vcr-train-{000000..000007}.tar`), or a list of
            tars. Whatever webdataset opens: paths, `file:`, `http(s):`, `pipe:COMMAND`.
        nodesplitter: which tars a rank takes, such as `webdataset.split_by_node`. Default:
            webdataset's, which refuses more than one rank.
        workersplitter: which of them a DataLoader's worker takes. Default:
            `webdataset.split_by_worker`.
        handler: what to do about errors, such as `webdataset.warn_and_continue`. Default: raise.
        pixels: give each picture as (H, W, 3) uint8 RGB, upright, instead of its bytes.

    Returns:
        A `webdataset.DataPipeline` of (`Sample`, picture); it raises a `CorruptSampleError` that
        names tar and member where a picture and its record do not stand side by side, keys do not
        ascend, or a picture's bytes are not those that its record names.
    """
    import webdataset

    tars = str(urls) if isinstance(urls, str | Path) else [str(url) for url in urls]
    handler = handler or webdataset.reraise_exception
    return webdataset.DataPipeline(
        webdataset.SimpleShardList(tars),
        nodesplitter or webdataset.single_node_only,
        workersplitter or webdataset.split_by_worker,
        partial(webdataset.tariterators.url_opener, handler=handler),
        partial(webdataset.tariterators.tar_file_expander, handler=handler),
        partial(_samples, handler=handler, pixels=pixels),
    )


def _samples(
    members: Iterable[dict[str, Any]], *, handler: Handler, pixels: bool
) -> Iterator[tuple[Sample, Any]]:
    """Pair the members of tars: picture, then its record. An empty one ends a tar."""
    picture: dict[str, Any] | None = None
    previous = ("", "")  # tar and key
    for member in members:
        waiting, picture = picture, None
        try:
            if not member:
                previous = ("", "")
                if waiting is not None:
                    raise _without_record(waiting, "the shard ends")
                continue
            url, name = without_secrets(member["__url__"]), member["fname"]
            key, _, extension = name.partition(".")
            if extension != "json":
                picture = member
                if waiting is not None:
                    raise _without_record(waiting, f"found `{name}`")
                continue
            if waiting is None:
                raise CorruptSampleError(
                    f"{url}: member `{name}`: expected the picture of `{key}` before it"
                )
            if waiting["fname"].partition(".")[0] != key:
                raise _without_record(waiting, f"found `{name}`")
            if previous[0] == url and previous[1] >= key:
                raise CorruptSampleError(
                    f"{url}: member `{name}`: expected a key after `{previous[1]}`: its samples"
                    " were shuffled",
                    hint="copy shards as they are, and shuffle behind the pipeline",
                )
            previous = (url, key)
            found = _decoded(waiting, member, pixels=pixels)
        except CorruptSampleError as error:
            if handler(error):
                continue
            return
        yield found


def _without_record(picture: dict[str, Any], found: str) -> CorruptSampleError:
    name = picture["fname"]
    return CorruptSampleError(
        f"{without_secrets(picture['__url__'])}: member `{name}`: expected its record"
        f" `{name.partition('.')[0]}.json` behind it, {found}"
    )


def _decoded(
    picture: dict[str, Any], record: dict[str, Any], *, pixels: bool
) -> tuple[Sample, Any]:
    url, name, data = without_secrets(record["__url__"]), picture["fname"], picture["data"]
    try:
        sample = decode_sample(record["data"])
    except ValidationError as error:
        raise CorruptSampleError(f"{url}: member `{record['fname']}`: {error}") from error
    if f"{sample.key}.json" != record["fname"]:
        raise CorruptSampleError(
            f"{url}: member `{record['fname']}`: is the record of `{sample.key}`"
        )
    if hashlib.sha256(data).hexdigest() != sample.image.sha256:
        raise CorruptSampleError(f"{url}: member `{name}`: its bytes have changed")
    if not pixels:
        return sample, data
    try:
        return sample, decode_rgb(data)
    except CorruptSampleError as error:
        raise CorruptSampleError(f"{url}: member `{name}`: {error}") from error
