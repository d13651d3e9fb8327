"""Picture bytes: their header without a full decode, and their pixels as upright 8-bit RGB.

Width and height always speak of the upright picture: an EXIF orientation stays in the bytes and is
applied here, by every reader alike. Sizes are checked before anything is decoded. Nothing here
knows boxes, files or shards.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import simplejpeg

from roikit.errors import CorruptSampleError
from roikit.jpeg_header import ordinary_jpeg_wh

#: The largest picture that is opened, in pixels; a larger one is refused from its header alone.
MAX_PIXELS = 89_478_485

_EXIF_ORIENTATION = 0x0112
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_EXTENSIONS = {
    "jpeg": "jpg",
    "png": "png",
    "webp": "webp",
    "gif": "gif",
    "bmp": "bmp",
    "tiff": "tif",
}

# What Pillow raises for damaged files, by format: its parsers do not agree on one class.
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError)
_PILLOW_ERRORS += (ArithmeticError, MemoryError, PIL.Image.DecompressionBombError)  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """What a picture's first bytes say."""

    width: int  #: pixels, of the upright picture
    height: int  #: pixels, of the upright picture
    orientation: int  #: EXIF, 1 to 8; 1 where none or a wrong one is given
    format: str  #: "jpeg", "png", "webp", "gif", "bmp" or "tiff"

    @property
    def stored_wh(self) -> tuple[int, int]:
        """Width and height of the pixels as stored, before they are turned upright."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(data: bytes) -> ImageHeader:
    """Read size, format and orientation without decoding pixels.

    Raises:
        CorruptSampleError: not a picture of a known format, or one of more than `MAX_PIXELS`.
    """
    image_wh = ordinary_jpeg_wh(data)
    if image_wh is not None and 0 < image_wh[0] * image_wh[1] <= MAX_PIXELS:
        width, height = image_wh
        return ImageHeader(width=width, height=height, orientation=1, format="jpeg")
    with _open(data) as picture:
        width, height = picture.size
        # Pillow calls a JPEG with several pictures in it (many phones write them) MPO.
        name = "jpeg" if picture.format == "MPO" else str(picture.format).lower()
        orientation = _orientation(picture)
    if orientation >= 5:
        width, height = height, width
    return ImageHeader(width=width, height=height, orientation=orientation, format=name)


def extension(header: ImageHeader) -> str:
    """Return the file extension that the content asks for, without a dot."""
    return _EXTENSIONS[header.format]


def is_complete(data: bytes, header: ImageHeader) -> bool:
    """Tell whether the format's end marker is there; True for formats without a known one.

    Cheap: pixels are not decoded, so a picture damaged in its middle passes. Bytes after the end
    marker are allowed, since cameras append previews and some servers append padding.
    """
    if header.format == "jpeg":
        return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    if header.format == "png":
        return data.rfind(b"IEND") > 0
    return True


def decode_rgb(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode to (H, W, 3) uint8 RGB, upright.

    Transparent pixels are laid over white. JPEGs with recoverable damage raise, rather than
    giving grey areas that nobody notices.

    Raises:
        CorruptSampleError: the bytes cannot be decoded in full.
    """
    header = read_header(data)
    pixels = _decode_jpeg(data) if header.format == "jpeg" else None
    if pixels is None:
        pixels = _decode_pillow(data)
    return np.ascontiguousarray(_upright(pixels, header.orientation))


def _open(data: bytes) -> PIL.Image.Image:
    try:
        picture = PIL.Image.open(io.BytesIO(data), formats=_FORMATS)
    except PIL.UnidentifiedImageError as error:
        # Pillow's message holds a memory address, and rejections must be the same in every run
        raise CorruptSampleError("not a readable picture: of no known format") from error
    except _PILLOW_ERRORS as error:
        raise CorruptSampleError(f"not a readable picture: {_first_line(error)}") from error
    width, height = picture.size
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise CorruptSampleError(
            f"picture of {width} x {height}: expected 1 to {MAX_PIXELS:,} pixels in all"
        )
    return picture


def _orientation(picture: PIL.Image.Image) -> int:
    try:
        # The base class's method: PNG's own would decode the picture to look for late metadata.
        value = PIL.Image.Image.getexif(picture).get(_EXIF_ORIENTATION, 1)
    except _PILLOW_ERRORS:
        return 1  # broken metadata says nothing about the pixels
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _decode_jpeg(data: bytes) -> npt.NDArray[np.uint8] | None:
    """Decode a grey or colour JPEG; None for CMYK, which is Pillow's."""
    try:
        colorspace = simplejpeg.decode_jpeg_header(data, strict=False)[2]
        if colorspace in ("CMYK", "YCCK"):
            return None
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    except ValueError as error:
        # Stray bytes between two markers are skipped by every decoder and cost no pixel.
        if "extraneous bytes before marker" not in str(error):
            raise CorruptSampleError(f"JPEG cannot be decoded: {_first_line(error)}") from error
        return None
    return pixels


def _decode_pillow(data: bytes) -> npt.NDArray[np.uint8]:
    try:
        with _open(data) as picture:
            return np.array(_to_rgb(picture))
    except _PILLOW_ERRORS as error:
        raise CorruptSampleError(f"picture cannot be decoded: {_first_line(error)}") from error


def _to_rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    if picture.mode.startswith(("I", "F")):  # 16 bits and more: Pillow would clip, not scale
        values = np.asarray(picture, dtype=np.float64)
        top = max(65535.0 if picture.mode != "F" else 1.0, float(values.max(initial=0.0)))
        scaled = np.clip(values / top * 255.0, 0, 255).round().astype(np.uint8)
        return PIL.Image.fromarray(scaled).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        white = PIL.Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return PIL.Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB")


def _upright(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[Any]:
    """Turn (H, W, 3) pixels as EXIF orientation 1 to 8 asks."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    flip_x = orientation in (2, 3, 6, 7)
    flip_y = orientation in (3, 4, 7, 8)
    return pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
