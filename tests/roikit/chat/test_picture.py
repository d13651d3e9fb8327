import io

import numpy as np
import PIL.Image
import pytest

from roikit.chat.picture import open_picture
from roikit.errors import UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encode(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def test_every_form_of_a_picture_gives_the_same_pixels(tmp_path):
    image = PIL.Image.fromarray(PIXELS)
    path = tmp_path / "photo.png"
    image.save(path)
    for given in (path, str(path), path.read_bytes(), image, PIXELS):
        picture = open_picture(given)
        assert picture.image_wh == (30, 20)
        np.testing.assert_array_equal(picture.pixels, PIXELS)


def test_a_turned_photograph_comes_out_upright_from_bytes_and_from_pil():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    data = encode(PIL.Image.fromarray(PIXELS), exif=exif)
    from_bytes = open_picture(data)
    from_pil = open_picture(PIL.Image.open(io.BytesIO(data)))
    assert from_bytes.image_wh == from_pil.image_wh == (20, 30)
    assert from_bytes.orientation == 6
    np.testing.assert_array_equal(from_bytes.pixels, from_pil.pixels)


def test_transparent_pixels_lie_over_white_whatever_the_form():
    clear = np.zeros((4, 5, 4), dtype=np.uint8)
    assert (open_picture(clear).pixels == 255).all()
    assert (open_picture(PIL.Image.fromarray(clear)).pixels == 255).all()
    assert (open_picture(encode(PIL.Image.fromarray(clear))).pixels == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_every_pil_mode_becomes_rgb(mode):
    image = PIL.Image.new(mode, (5, 4))
    picture = open_picture(image)
    assert picture.pixels.shape == (4, 5, 3)
    assert picture.pixels.dtype == np.uint8


def test_grey_arrays_are_read():
    grey = PIXELS[:, :, 0]
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(open_picture(grey).pixels, expected)
    np.testing.assert_array_equal(open_picture(grey[:, :, None]).pixels, expected)


def test_changing_the_callers_array_does_not_change_the_picture():
    array = PIXELS.copy()
    picture = open_picture(array)
    array[:] = 0
    np.testing.assert_array_equal(picture.pixels, PIXELS)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (np.zeros((4, 4, 3)), "uint8, got float64"),
        (np.zeros((3, 4, 4, 3), np.uint8), "got shape"),
        (np.zeros((0, 4, 3), np.uint8), "got shape"),
        (b"not a picture", "`image`"),
        (42, "got int"),
    ],
)
def test_what_is_no_picture_is_named(given, says):
    with pytest.raises(UsageError) as raised:
        open_picture(given)
    assert says in str(raised.value)


def test_wrong_paths_are_named(tmp_path):
    text = tmp_path / "notes.jpg"
    text.write_text("hello")
    for path, says in [
        (tmp_path / "absent.jpg", "no such picture"),
        (tmp_path, "found a folder"),
        (text, "not a readable picture"),
    ]:
        with pytest.raises(UsageError, match=says) as raised:
            open_picture(path)
        assert str(path) in str(raised.value)
