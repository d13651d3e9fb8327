"""Put pictures through a detector, batch after batch, into the cache.

In: pictures in the order of their names, a loaded detector, an open cache. Out: a cache that holds
every picture that can be read, its bytes' sha256, and a rejection for each of the others.

Float arithmetic depends a little on what shares a batch. So batches are cut by the order of names
and by shape alone, never by what is in the cache already, and a batch of which a part is there is
run whole, the known pictures staying as they are: a run that was killed goes on with the very
batches that it would have made.
"""

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipelines.detect_cache import Detected, DetectionCache
from pipelines.picture_files import PictureFile, cut_name
from pipelines.rejections import reject
from roikit.errors import CorruptSampleError, RoikitError
from roikit.images import decode_rgb, is_complete, read_header
from roikit.render import printable
from roikit.sample import Rejection

if TYPE_CHECKING:  # it imports torch, which conversion must not
    from roikit.model.detector import Detector, Prepared

log = logging.getLogger(__name__)

#: Batches' worth of pictures after which also batches that are not full are run: it bounds memory
#: where pictures have many shapes.
_PIECE_BATCHES = 8


@dataclass(kw_only=True, slots=True)
class Labelling:
    """A detector on its way through pictures, and what became of them so far."""

    detector: "Detector"
    cache: DetectionCache
    threshold: float  #: boxes at or below this score are left out
    max_boxes: int  #: a picture
    batch_size: int  #: pictures in the model at once
    hashes: dict[str, bytes] = field(default_factory=dict)  #: sha256 by name, where it is cached
    rejections: dict[str, Rejection] = field(default_factory=dict)  #: by name
    num_new: int = 0  #: pictures that the cache did not know

    def refuse(self, picture: PictureFile, code: str, message: str) -> None:
        """Leave a picture out, and say so."""
        # Bytes that are no UTF-8 stand in a name as half characters, which nothing can write.
        name = picture.name.encode("utf-8", "backslashreplace").decode()
        self.rejections[picture.name] = reject(code, message, file=name, record="")
        log.warning("%s", printable(f"{cut_name(name)}: {code}: {message}"))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Item:
    """A picture that can be read."""

    picture: PictureFile
    sha256: bytes
    shape: str
    prepared: "Prepared | None"  #: None where the cache knew the picture


class _UnusableError(RoikitError):
    """A picture cannot be used."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def label_all(
    job: Labelling,
    pictures: Sequence[PictureFile],
    *,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """See to it that the cache holds every picture that can be read.

    Args:
        job: tells afterwards what became of the pictures.
        pictures: in the order of their names.
        workers: threads that read and decode.
        progress: told (pictures done, pictures in all).

    Raises:
        RoikitError: the cache or the device cannot be used; what is done is kept.
    """
    piece = job.batch_size * _PIECE_BATCHES
    waiting: dict[str, list[_Item]] = {}  # by shape
    done = 0
    for number, item in enumerate(_read_ahead(job, pictures, workers), start=1):
        if item is None:
            done += 1
        else:
            waiting.setdefault(item.shape, []).append(item)
        is_over = number % piece == 0 or number == len(pictures)
        for shape in [s for s, own in waiting.items() if is_over or len(own) == job.batch_size]:
            batch = waiting.pop(shape)
            _run_batch(job, batch)
            done += len(batch)
        if progress is not None:
            progress(done, len(pictures))


def _read_ahead(
    job: Labelling, pictures: Sequence[PictureFile], workers: int
) -> Iterator[_Item | None]:
    """Load pictures in threads, since decoding and resizing leave the interpreter to others.

    Yields:
        In the order of `pictures`; None for one that was refused.
    """
    following: deque[tuple[PictureFile, Future[_Item]]] = deque()

    def first() -> _Item | None:
        picture, item = following.popleft()
        try:
            return item.result()
        except _UnusableError as error:
            job.refuse(picture, error.code, str(error))
            return None

    pool = ThreadPoolExecutor(workers)
    try:
        for picture in pictures:
            following.append((picture, pool.submit(_load, job, picture)))
            if len(following) > workers + job.batch_size:
                yield first()
        while following:
            yield first()
    finally:
        pool.shutdown(cancel_futures=True)


def _load(job: Labelling, picture: PictureFile, *, with_pixels: bool = False) -> _Item:
    """Read one picture; what the cache knows is decoded only `with_pixels`."""
    from roikit.model.detector import prepare

    try:
        picture.name.encode()
        data = picture.path.read_bytes()
    except UnicodeEncodeError:
        raise _UnusableError("E_IMAGE_UNREADABLE", "its name is not UTF-8") from None
    except FileNotFoundError:
        raise _UnusableError(
            "E_IMAGE_MISSING", f"no such file: `{cut_name(str(picture.path))}`"
        ) from None
    except (OSError, ValueError) as error:  # a name with a zero byte in it is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise _UnusableError("E_IMAGE_UNREADABLE", f"cannot be read: {reason}") from None
    sha256 = hashlib.sha256(data).digest()
    shape = job.cache.shapes.get(sha256)
    if shape is not None and not with_pixels:
        return _Item(picture=picture, sha256=sha256, shape=shape, prepared=None)
    try:
        header = read_header(data)
        if not is_complete(data, header):
            message = f"the {header.format.upper()} ends after {len(data):,} bytes"
            raise _UnusableError("E_IMAGE_TRUNCATED", f"{message} without its end mark")
        prepared = prepare(job.detector, decode_rgb(data))
    except CorruptSampleError as error:
        raise _UnusableError("E_IMAGE_UNREADABLE", str(error)) from error
    return _Item(picture=picture, sha256=sha256, shape=prepared.shape, prepared=prepared)


def _run_batch(job: Labelling, batch: Sequence[_Item]) -> None:
    """Put a batch of one shape through the detector, unless the cache knows all of it."""
    new = {item.sha256 for item in batch} - job.cache.shapes.keys()
    if new:
        _detect(job, _with_pixels(job, batch))
    for item in batch:
        if item.sha256 in job.cache.shapes:
            job.hashes[item.picture.name] = item.sha256
            job.num_new += item.sha256 in new


def _detect(job: Labelling, batch: Sequence[tuple[_Item, "Prepared"]]) -> None:
    from roikit.model.detector import detect

    if not batch:
        return
    found = detect(
        job.detector,
        [prepared for _, prepared in batch],
        threshold=job.threshold,
        max_boxes=job.max_boxes,
    )
    good = []
    for (item, prepared), regions in zip(batch, found, strict=True):
        if regions is not None:
            detected = Detected(
                sha256=item.sha256,
                image_wh=prepared.image_wh,
                input_shape=item.shape,
                regions=regions,
            )
            good.append(detected)
        elif item.sha256 not in job.cache.shapes:
            message = "the detector gave numbers that are not finite (try --dtype fp32)"
            job.refuse(item.picture, "E_VALUE_RANGE", message)
    job.cache.add(good)


def _with_pixels(job: Labelling, batch: Sequence[_Item]) -> list[tuple[_Item, "Prepared"]]:
    """Decode the pictures of a batch that the cache knew: the others are not run without them."""
    whole = []
    for item in batch:
        prepared = item.prepared
        if prepared is None:
            try:
                again = _load(job, item.picture, with_pixels=True)
            except _UnusableError:  # it went away just now; what was found in it stays
                continue
            prepared = again.prepared if again.sha256 == item.sha256 else None
        if prepared is not None:
            whole.append((item, prepared))
    return whole
