import base64
import io
import re

import numpy as np
import PIL.Image
import pytest

from roikit import draw
from roikit.errors import UsageError
from roikit.sample import Region, Rle

GREY = 90


def grey(width, height):
    return np.full((height, width, 3), GREY, dtype=np.uint8)


def region(*box, **fields):
    return Region(box_xyxy=box, **fields)


def pixels_of(drawn, rgb):
    return np.argwhere((np.asarray(drawn) == rgb).all(axis=2))  # rows of (y, x)


def test_a_box_is_drawn_on_the_pixels_it_covers():
    drawn = draw.draw_regions(grey(1000, 800), [region(100, 200, 400, 500)])
    assert drawn.size == (1000, 800)
    red = pixels_of(drawn, draw.colour(1)[1])
    box = red[red[:, 0] >= 200]  # the label stands above
    assert box.min(axis=0).tolist() == [200, 100]
    assert box.max(axis=0).tolist() == [499, 399]
    assert tuple(np.asarray(drawn)[350, 250]) == (GREY,) * 3  # nothing inside is covered


def test_small_pictures_are_enlarged_by_whole_factors_with_their_boxes():
    drawn = draw.draw_regions(grey(100, 50), [region(10, 20, 60, 50)])
    assert drawn.size == (700, 350)
    red = pixels_of(drawn, draw.colour(1)[1])
    assert red[:, 1].max() == 60 * 7 - 1
    assert red[:, 0].max() == 50 * 7 - 1


@pytest.mark.parametrize("image_wh", [(1, 1), (128, 96), (640, 480), (4000, 3000), (3000, 6)])
def test_labels_are_as_tall_as_the_picture_needs(image_wh):
    width, height = image_wh
    drawn = draw.draw_regions(grey(width, height), [region(0, 0, width, height)])
    rows = pixels_of(drawn, (255, 255, 255))[:, 0]  # the white digit on red
    tall = rows.max() - rows.min() + 1
    assert tall >= 9
    assert tall >= max(drawn.size) / 90


def test_labels_do_not_cover_each_other_or_small_boxes():
    boxes = [(300, 300, 320, 320), (302, 302, 330, 330), (300, 300, 700, 700), (0, 0, 1000, 1000)]
    regions = [region(*box, label=f"thing {i}") for i, box in enumerate(boxes)]
    drawn = draw.draw_regions(grey(1000, 1000), regions)
    smallest = np.asarray(drawn)[303:316, 303:316]
    assert not (smallest == draw.colour(3)[1]).all(axis=2).any()
    # each label's ground is whole: its own colour fills more than a box's outline would
    areas = [len(pixels_of(drawn, draw.colour(number)[1])) for number in (1, 2)]
    assert min(areas) > 1000


def test_every_region_has_a_colour_and_they_repeat_after_the_last():
    assert len({rgb for _, rgb in draw.COLOURS}) == len(draw.COLOURS)
    assert draw.colour(1) == draw.colour(1 + len(draw.COLOURS))
    regions = [region(i * 20, 10, i * 20 + 15, 40) for i in range(30)]
    draw.draw_regions(grey(640, 64), regions)


def test_without_regions_the_picture_stays_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    before = pixels.copy()
    np.testing.assert_array_equal(np.asarray(draw.draw_regions(pixels, [])), pixels)
    draw.draw_regions(pixels, [region(1, 1, 9, 9)])
    np.testing.assert_array_equal(pixels, before)  # drawn on a copy


def test_masks_tint_their_pixels_and_points_are_marked():
    from pycocotools import mask as coco_mask

    inside = np.zeros((700, 700), dtype=np.uint8, order="F")
    inside[300:400, 300:400] = 1
    encoded = coco_mask.encode(inside)
    rle = Rle(size=tuple(encoded["size"]), counts=encoded["counts"].decode())
    masked = region(200, 200, 500, 500, mask_rle=rle, point_xy=(250.0, 250.0))
    pixels = np.asarray(draw.draw_regions(grey(700, 700), [masked]))
    assert tuple(pixels[350, 350]) != (GREY,) * 3
    assert tuple(pixels[450, 450]) == (GREY,) * 3
    assert tuple(pixels[250, 250]) == draw.colour(1)[1]
    with pytest.raises(UsageError, match="region1: expected a mask of the picture's size"):
        draw.draw_regions(grey(640, 480), [masked])


def test_png_bytes_decode_to_what_was_drawn():
    drawn = draw.draw_regions(grey(640, 480), [region(1, 1, 100, 100, label="été 犬\nlast")])
    again = PIL.Image.open(io.BytesIO(draw.png_bytes(drawn)))
    assert again.format == "PNG"
    np.testing.assert_array_equal(np.asarray(again), np.asarray(drawn))


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM_PROGRAM": "iTerm.app", "TMUX": "/tmp/tmux-0/default,1,0"}, None),
        ({}, None),
    ],
)
def test_the_terminal_is_known_by_its_environment(environ, expected):
    assert draw.inline_protocol(environ, is_terminal=True) == expected
    assert draw.inline_protocol(environ, is_terminal=False) is None


def noise(side):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def test_kitty_gets_the_picture_in_chunks_that_fit_together():
    sequence = draw.inline_sequence(noise(1000), "kitty")
    chunks = re.findall("\x1b_G([^;]*);([^\x1b]*)\x1b\\\\", sequence)
    assert len(chunks) > 1
    assert chunks[0][0] == "a=T,f=100,q=2,m=1"
    assert [keys for keys, _ in chunks[1:]] == ["m=1"] * (len(chunks) - 2) + ["m=0"]
    assert all(len(text) <= 4096 for _, text in chunks)
    png = base64.b64decode("".join(text for _, text in chunks))
    assert PIL.Image.open(io.BytesIO(png)).size == (draw.INLINE_SIDE_PX,) * 2


def test_a_picture_of_one_chunk_is_closed_at_once():
    sequence = draw.inline_sequence(PIL.Image.new("RGB", (4, 4)), "kitty")
    assert sequence.startswith("\x1b_Ga=T,f=100,q=2,m=0;")
    assert sequence.count("\x1b_G") == 1


def test_iterm_gets_the_size_it_is_told():
    sequence = draw.inline_sequence(noise(20), "iterm2")
    match = re.fullmatch("\x1b\\]1337;File=inline=1;size=(\\d+);[^:]*:([^\x07]*)\x07\n", sequence)
    assert len(base64.b64decode(match[2])) == int(match[1])


def test_a_picture_that_cannot_be_shown_is_written(tmp_path):
    written = []
    drawn = noise(20)
    path = tmp_path / "new" / "regions.png"
    options = {"write": written.append, "is_terminal": True}
    assert draw.show(drawn, environ={}, png_path=path, **options) == path
    assert PIL.Image.open(path).size == (20, 20)
    assert written == []
    assert draw.show(drawn, environ={"TERM": "xterm-kitty"}, png_path=None, **options) is None
    assert written[0].startswith("\x1b_G")
    with pytest.raises(UsageError, match="cannot be written"):
        draw.show(drawn, environ={}, png_path=path / "below.png", **options)
