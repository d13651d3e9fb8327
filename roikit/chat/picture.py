"""The picture a conversation is about, from whatever a caller has: a path, bytes, PIL or numpy.

Pixels come out upright, 8-bit RGB. The bytes are kept where there are any, so that a saved
conversation can name the very file it spoke of. Nothing here knows boxes or models.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageOps

from roikit import images
from roikit.errors import CorruptSampleError, UsageError

#: What stands for a picture: a path, encoded bytes, a PIL image, or an (H, W[, 3 or 4]) array.
ImageLike = str | Path | bytes | PIL.Image.Image | npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Picture:
    """An upright picture and what is known of where it came from."""

    pixels: npt.NDArray[np.uint8]  #: (H, W, 3) RGB, upright
    name: str  #: file name, or `image.png` where it came from memory
    path: Path | None = None  #: where it was read from
    data: bytes | None = None  #: the encoded bytes it was decoded from
    orientation: int = 1  #: EXIF orientation that `data` carries

    @property
    def image_wh(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def is_from_file(self) -> bool:
        """Whether the picture lies on disk under its own name."""
        return self.path is not None

    def encoded(self) -> bytes:
        """Return the bytes it came from; a picture from memory is encoded as PNG, without loss."""
        if self.data is not None:
            return self.data
        buffer = io.BytesIO()
        PIL.Image.fromarray(self.pixels).save(buffer, format="PNG")
        return buffer.getvalue()

    def sha256(self) -> str:
        """Hash of `encoded()`, in hex."""
        return hashlib.sha256(self.encoded()).hexdigest()


def open_picture(image: ImageLike) -> Picture:
    """Read a picture from a path, bytes, a PIL image or an array.

    Args:
        image: an array holds (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8 values in RGB order;
            as in files, transparent pixels are laid over white.

    Raises:
        UsageError: no such file, not a picture, or an array of another shape or type; names it.
    """
    if isinstance(image, str | Path):
        return _from_path(Path(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return _from_bytes(bytes(image), "image")
    if isinstance(image, PIL.Image.Image):
        return Picture(pixels=_pil_pixels(image), name="image.png")
    if isinstance(image, np.ndarray):
        return Picture(pixels=_array_pixels(image), name="image.png")
    raise UsageError(
        f"image: expected a path, bytes, a PIL image or a numpy array, got {type(image).__name__}"
    )


def _from_path(path: Path) -> Picture:
    path = path.expanduser()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"`{path}`: no such picture") from None
    except IsADirectoryError:
        raise UsageError(f"`{path}`: expected a picture, found a folder") from None
    except OSError as error:
        raise UsageError(f"`{path}`: cannot be read: {error.strerror or error}") from error
    return _from_bytes(data, str(path), path=path)


def _from_bytes(data: bytes, label: str, *, path: Path | None = None) -> Picture:
    try:
        header = images.read_header(data)
        pixels = images.decode_rgb(data)
    except CorruptSampleError as error:
        raise UsageError(f"`{label}`: {error}") from error
    name = path.name if path is not None else f"image.{images.extension(header)}"
    return Picture(pixels=pixels, name=name, path=path, data=data, orientation=header.orientation)


def _pil_pixels(image: PIL.Image.Image) -> npt.NDArray[np.uint8]:
    upright = PIL.ImageOps.exif_transpose(image)
    if upright.mode == "RGB":
        return np.array(upright)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
    # Through the one decoder, so that grey, 16-bit and transparent pixels turn out as from a file.
    buffer = io.BytesIO()
    upright.save(buffer, format="TIFF")
    return images.decode_rgb(buffer.getvalue())


def _array_pixels(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if array.dtype != np.uint8:
        raise UsageError(
            f"image: expected an array of uint8, got {array.dtype}",
            hint="scale it to 0..255 and call `.astype(numpy.uint8)`",
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    is_shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not is_shaped or 0 in array.shape:
        raise UsageError(
            f"image: expected (H, W), (H, W, 3) or (H, W, 4) values, got shape {array.shape}"
        )
    if array.ndim == 3 and array.shape[2] == 3:
        return np.array(array, order="C")
    return _pil_pixels(PIL.Image.fromarray(np.ascontiguousarray(array)))
