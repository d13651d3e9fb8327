"""Hashes of pixels and looks, on drawn pictures and on photographs where they are installed."""

import io
from importlib.util import find_spec

import numpy as np
import PIL.Image
import pytest

from pipelines.photographs import find_picture, load_photographs
from roikit.errors import CorruptSampleError
from roikit.fingerprint import LOOK_BYTES, LOOK_DISTANCE, fingerprint
from roikit.images import decode_rgb

BICUBIC = PIL.Image.Resampling.BICUBIC


def encode(image: PIL.Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bits(data: bytes) -> np.ndarray:
    look = fingerprint(data).look
    assert look is not None and len(look) == LOOK_BYTES
    return np.unpackbits(np.frombuffer(look, np.uint8))


def blobs(seed: int, wh: tuple[int, int] = (160, 120)) -> PIL.Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return PIL.Image.fromarray(coarse).resize(wh, BICUBIC)


def test_the_same_pixels_in_other_bytes_have_the_same_pixel_hash() -> None:
    image = blobs(0)
    plain, packed = encode(image, compress_level=0), encode(image, "WEBP", lossless=True)
    assert plain != packed
    assert fingerprint(plain) == fingerprint(packed)
    image.putpixel((3, 3), tuple(255 - value for value in image.getpixel((3, 3))))  # type: ignore[union-attr]
    assert fingerprint(encode(image)).pixels != fingerprint(plain).pixels


def test_pixels_are_those_of_the_upright_picture() -> None:
    image = blobs(1)
    turned = PIL.Image.Exif()
    turned[0x0112] = 6  # stored lying on its side
    lying = encode(image.transpose(PIL.Image.Transpose.ROTATE_90), exif=turned)
    assert fingerprint(lying) == fingerprint(encode(image))


def test_the_same_values_in_another_shape_are_other_pixels() -> None:
    values = np.random.default_rng(0).integers(0, 255, (32, 64, 3), dtype=np.uint8)
    one, other = (
        fingerprint(encode(PIL.Image.fromarray(values.reshape(shape))))
        for shape in ((32, 64, 3), (64, 32, 3))
    )
    assert one.pixels != other.pixels


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_picture_without_detail_has_no_look(value: int) -> None:
    flat = PIL.Image.new("RGB", (80, 60), (value, value, value))
    assert fingerprint(encode(flat, "JPEG")).look is None


def test_a_damaged_picture_raises() -> None:
    with pytest.raises(CorruptSampleError):
        fingerprint(encode(blobs(0), "JPEG")[:300])


needs_photographs = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("skimage", "sklearn", "gradio")),
    reason="the photographs lie in packages that are not installed",
)


@needs_photographs
def test_copies_of_photographs_look_alike_and_different_photographs_do_not() -> None:
    images = [
        PIL.Image.fromarray(decode_rgb(find_picture(one).read_bytes()))
        for one in load_photographs()
    ]
    looks = [bits(encode(image, compress_level=1)) for image in images]
    for image, look in zip(images, looks, strict=True):
        width, height = image.size
        half = image.resize((width // 2, height // 2), BICUBIC)
        thumbnail = image.copy()
        thumbnail.thumbnail((160, 160))
        for copy in (
            encode(image, "JPEG", quality=40),
            encode(image.resize((224, 224), BICUBIC), "JPEG", quality=80),
            encode(half, "WEBP", quality=60),
            encode(thumbnail, "JPEG", quality=80),
            encode(image.convert("L"), "JPEG", quality=80),
        ):
            assert (bits(copy) != look).sum() <= LOOK_DISTANCE
    for i, look in enumerate(looks):
        for other in looks[:i]:
            assert (look != other).sum() > 2 * LOOK_DISTANCE
