import io

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from roikit import boxes, images
from roikit.errors import CorruptSampleError


def picture(width: int = 24, height: int = 16, mode: str = "RGB") -> PIL.Image.Image:
    pixels = np.full((height, width, 3), 40, dtype=np.uint8)
    pixels[: height // 2, : width // 2] = (250, 30, 30)
    pixels[height // 2 :, : width // 2] = (30, 250, 30)
    return PIL.Image.fromarray(pixels).convert(mode)


def encoded(image: PIL.Image.Image, format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def turned(image: PIL.Image.Image, orientation: int, format: str = "JPEG") -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if format == "JPEG" else {}
    return encoded(image, format, exif=exif.tobytes(), **options)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied_as_pillow_does(orientation: int, format: str) -> None:
    data = turned(picture(), orientation, format)
    expected = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data))).convert("RGB")
    header = images.read_header(data)
    assert (header.width, header.height) == expected.size
    assert header.orientation == orientation
    assert header.stored_wh == (24, 16)
    decoded = images.decode_rgb(data)
    assert decoded.shape == (header.height, header.width, 3)
    assert np.abs(decoded.astype(int) - np.asarray(expected).astype(int)).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_follow_the_orientation(orientation: int) -> None:
    decoded = images.decode_rgb(turned(picture(), orientation, "PNG"))
    x0, y0, x1, y1 = boxes.orient([[0, 0, 12, 8]], (24, 16), orientation)[0].astype(int)
    red = np.all(decoded == (250, 30, 30), axis=2)
    assert red[y0:y1, x0:x1].all()
    assert red.sum() == 12 * 8


def test_a_wrong_orientation_value_is_ignored() -> None:
    assert images.read_header(turned(picture(), 9)).orientation == 1


@pytest.mark.parametrize(
    ("mode", "format"),
    [("L", "JPEG"), ("CMYK", "JPEG"), ("1", "PNG"), ("P", "PNG"), ("RGB", "WEBP"), ("P", "GIF"),
     ("RGB", "BMP"), ("L", "TIFF")],
)  # fmt: skip
def test_whatever_decodes_becomes_rgb(mode: str, format: str) -> None:
    data = encoded(picture(mode=mode), format)
    decoded = images.decode_rgb(data)
    assert decoded.shape == (16, 24, 3)
    assert decoded.dtype == np.uint8
    assert decoded[:8, :12].mean() > decoded[:, 12:].mean()


def test_sixteen_bits_are_scaled_and_transparency_lies_on_white() -> None:
    deep = PIL.Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16))
    assert images.decode_rgb(encoded(deep, "PNG"))[0, 0].tolist() == [128, 128, 128]
    clear = PIL.Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert images.decode_rgb(encoded(clear, "PNG"))[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_truncated_picture_is_noticed_without_decoding(
    format: str,
) -> None:
    data = encoded(picture(240, 160), format)
    cut = data[: len(data) * 2 // 3]
    assert images.is_complete(data, images.read_header(data))
    assert images.is_complete(data + b"\0" * 40, images.read_header(data))
    assert not images.is_complete(cut, images.read_header(cut))
    with pytest.raises(CorruptSampleError):
        images.decode_rgb(cut)


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"])
def test_bytes_that_are_no_picture_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptSampleError):
        images.read_header(data)


def test_size_is_bounded_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(CorruptSampleError, match="24 x 16"):
        images.read_header(encoded(picture()))


def test_extension_follows_the_content() -> None:
    assert images.extension(images.read_header(encoded(picture(), "PNG"))) == "png"
    assert images.extension(images.read_header(encoded(picture()))) == "jpg"


def test_what_is_no_picture_says_so_in_the_same_words_every_time() -> None:
    with pytest.raises(CorruptSampleError) as caught:
        images.read_header(b"certainly no picture")
    assert str(caught.value) == "not a readable picture: of no known format"
