"""What is read without Pillow is what Pillow reads; what is not ordinary is left to it."""

import io

import numpy as np
import PIL.Image
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from roikit import images, jpeg_header
from roikit.errors import CorruptSampleError
from roikit.jpeg_header import ordinary_jpeg_wh


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (26, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    tags = PIL.Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


ORDINARY = {
    "colour": jpeg(),
    "grey": jpeg("L"),
    "progressive": jpeg(progressive=True),
    "not subsampled": jpeg(subsampling=0, quality=100),
    "a comment": jpeg(comment=b"by hand"),
    "restart markers": jpeg(restart_marker_blocks=2),
}
OTHERS = {
    "EXIF": jpeg(exif=exif(6)),
    "CMYK": jpeg("CMYK"),
    "a colour profile": jpeg(icc_profile=b"profile"),
    "XMP": jpeg(xmp=b'<x tiff:Orientation="6"/>'),
    "junk before a marker": jpeg()[:2] + b"?" + jpeg()[2:],
    "padding before a marker": jpeg()[:2] + b"\xff" + jpeg()[2:],
    "cut in the header": jpeg()[:100],
}


def as_pillow(data: bytes, monkeypatch: pytest.MonkeyPatch) -> object:
    with monkeypatch.context() as patched:
        patched.setattr(images, "ordinary_jpeg_wh", lambda data: None)
        return header_or_error(data)


def header_or_error(data: bytes) -> object:
    try:
        return images.read_header(data)
    except CorruptSampleError as error:
        return str(error)


@pytest.mark.parametrize("data", ORDINARY.values(), ids=ORDINARY)
def test_ordinary_jpegs_are_read_as_pillow_reads_them(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ordinary_jpeg_wh(data) == (40, 26)
    assert images.read_header(data) == as_pillow(data, monkeypatch)


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_all_others_are_left_to_pillow(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ordinary_jpeg_wh(data) is None
    assert header_or_error(data) == as_pillow(data, monkeypatch)


def test_an_orientation_is_heeded_whatever_holds_it() -> None:
    for name in ("EXIF", "XMP"):
        assert images.read_header(OTHERS[name]).orientation == 6
        assert images.decode_rgb(OTHERS[name]).shape == (40, 26, 3)


@pytest.mark.parametrize("wh", [(0, 26), (40, 0), (0xFFFF, 0xFFFF)])
def test_impossible_sizes_are_refused_in_pillows_words(
    wh: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = wh[1].to_bytes(2, "big") + wh[0].to_bytes(2, "big")
    assert isinstance(header_or_error(bytes(data)), str)
    assert header_or_error(bytes(data)) == as_pillow(bytes(data), monkeypatch)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(ORDINARY | OTHERS)),
    st.lists(st.tuples(st.integers(0, 640), st.integers(0, 255)), max_size=3),
    st.none() | st.integers(0, 700),
)
@example("colour", [], 3)
def test_damage_to_the_header_is_seen_as_pillow_sees_it(
    name: str, changes: list[tuple[int, int]], cut: int | None
) -> None:
    data = bytearray((ORDINARY | OTHERS)[name])
    for place, value in changes:
        if place < len(data):
            data[place] = value
    damaged = bytes(data[:cut])
    with pytest.MonkeyPatch.context() as patched:
        expected = as_pillow(damaged, patched)
    assert header_or_error(damaged) == expected


def test_pillow_is_not_asked_about_ordinary_jpegs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_open", None)
    assert images.decode_rgb(jpeg()).shape == (26, 40, 3)
    assert jpeg_header.ordinary_jpeg_wh(b"\x89PNG") is None
