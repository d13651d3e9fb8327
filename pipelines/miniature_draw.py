"""Draws a scene of the miniature world: scene graph in, JPEG bytes out, always the same bytes.

Objects are drawn at several times their size and averaged down, so that shapes stay clear at 22
pixels; backgrounds are dull and of middle brightness, so that every colour stands out.
"""

import io

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image, ImageDraw

from pipelines.miniature_scene import Scene, Thing, outline

JPEG_QUALITY = 92

_RGB: dict[str, tuple[int, int, int]] = {
    "red": (222, 32, 38),
    "orange": (247, 130, 14),
    "yellow": (248, 222, 38),
    "green": (30, 160, 62),
    "blue": (34, 92, 232),
    "purple": (150, 46, 190),
    "black": (16, 16, 18),
    "white": (248, 248, 248),
}
#: Second tone of stripes and dots, as a share of the first; black cannot be darker and gets grey.
_SHADE = 0.42
_BLACK_SHADE = (128.0, 128.0, 132.0)

Pixels = npt.NDArray[np.float32]


def draw_jpeg(scene: Scene, seed: int) -> bytes:
    """Return the picture of `scene` as a JPEG file; `seed` is the world's."""
    # sRGB colours this small smear when their chroma is halved, hence 4:4:4
    data = io.BytesIO()
    picture = Image.fromarray(draw(scene, seed))
    picture.save(data, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return data.getvalue()


def draw(scene: Scene, seed: int) -> npt.NDArray[np.uint8]:
    """Return the picture of `scene`, uint8 (H, W, 3) RGB."""
    rng = np.random.default_rng([seed, scene.index])
    canvas = _background(rng, scene.background, scene.width, scene.height)
    for thing in scene.things:
        _draw_thing(rng, canvas, thing)
    pixels: npt.NDArray[np.uint8] = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
    return pixels


def _background(rng: np.random.Generator, kind: str, width: int, height: int) -> Pixels:
    """A dull background, float32 (H, W, 3), 0 to 255."""
    first, second = _dull(rng), _dull(rng)
    ys, xs = np.ogrid[0:height, 0:width]
    if kind == "plain":
        mix = np.zeros((height, width))
    elif kind == "shaded":
        angle = rng.uniform(0, 2 * np.pi)
        ramp = np.cos(angle) * xs / width + np.sin(angle) * ys / height
        mix = (ramp - ramp.min()) / (ramp.max() - ramp.min())
    elif kind == "grainy":
        mix = rng.random((height, width))
        second = first + np.where(second > first, 42, -42).astype(np.float32)
    elif kind == "tiled":
        side = float(rng.integers(10, 22))
        offset_x, offset_y = rng.uniform(0, side, 2)
        tiles = np.floor((xs + offset_x) / side) + np.floor((ys + offset_y) / side)
        mix = tiles % 2
        second = first + (second - first) * 0.6
    else:  # cloudy
        coarse = Image.fromarray(rng.random((6, 6), np.float32))
        mix = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return first + mix[..., None].astype(np.float32) * (second - first)


def _dull(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    grey = rng.uniform(100, 180)
    return (grey + rng.uniform(-14, 14, 3)).astype(np.float32)


def _draw_thing(rng: np.random.Generator, canvas: Pixels, thing: Thing) -> None:
    """Paint one object onto `canvas` (H, W, 3), in place."""
    times = 4
    x0, y0 = int(thing.box_xyxy[0]) - 1, int(thing.box_xyxy[1]) - 1
    x1, y1 = int(thing.box_xyxy[2]) + 2, int(thing.box_xyxy[3]) + 2
    size = ((x1 - x0) * times, (y1 - y0) * times)
    # PIL's pixel centres lie on whole numbers, ours half a pixel further
    points = [((x - x0) * times - 0.5, (y - y0) * times - 0.5) for x, y in outline(thing)]
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).polygon(points, fill=255)
    window = canvas[y0:y1, x0:x1]
    alpha = _averaged(mask, times)
    colour = np.array(_RGB[thing.colour], np.float32) * np.float32(rng.uniform(0.92, 1.0))
    window += alpha * (colour - window)
    if thing.pattern != "plain":
        # a rim in the first tone, or stripes would break up the outline of a small star
        ImageDraw.Draw(mask).line([*points, points[0]], fill=0, width=round(2.2 * times))
        second = Image.fromarray(np.asarray(mask) * _pattern(rng, thing, size, times))
        shade = np.array(_BLACK_SHADE, np.float32) if thing.colour == "black" else colour * _SHADE
        window += _averaged(second, times) * (shade - window)


def _pattern(
    rng: np.random.Generator, thing: Thing, size: tuple[int, int], times: int
) -> npt.NDArray[np.bool_]:
    """Where the second tone goes: bool (h, w), in enlarged pixels."""
    width, height = size
    # grows slower than the object does, so that a close-up shows more of them
    period = 1.45 * thing.extent_px**0.42
    if thing.pattern == "striped":
        # diagonal: what a pixel is depends on x + y alone
        along = (np.arange(width + height) / times) * np.sqrt(0.5) + rng.uniform(0, period)
        stripes: npt.NDArray[np.bool_] = (along % period) < 0.42 * period
        return sliding_window_view(stripes, width)[:height]
    phase_x, phase_y = rng.uniform(0, period, 2)
    dx = (np.arange(width) / times + phase_x) % period - period / 2
    dy = (np.arange(height) / times + phase_y) % period - period / 2
    dots: npt.NDArray[np.bool_] = (dx * dx)[None] + (dy * dy)[:, None] < (0.33 * period) ** 2
    return dots


def _averaged(mask: Image.Image, times: int) -> Pixels:
    """Average blocks of `times` × `times` pixels of 0 to 255: float32 (h, w, 1) of 0 to 1."""
    return np.asarray(mask.reduce(times), np.float32)[..., None] / np.float32(255)
