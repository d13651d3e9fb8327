"""Draws a scene of the miniature world: scene graph in, JPEG bytes out, always the same bytes.

Objects are drawn at several times their size and averaged down, so that shapes stay clear at 22
pixels; backgrounds are dull and of middle brightness, so that every colour stands out.
"""

import io

import numpy as np
import numpy.typing as npt
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
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    if kind == "plain":
        mix = np.zeros((height, width), np.float32)
    elif kind == "shaded":
        angle = rng.uniform(0, 2 * np.pi)
        ramp = np.cos(angle) * xs / width + np.sin(angle) * ys / height
        mix = (ramp - ramp.min()) / (ramp.max() - ramp.min())
    elif kind == "grainy":
        mix = rng.random((height, width), np.float32)
        second = first + np.where(second > first, 42, -42).astype(np.float32)
    elif kind == "tiled":
        side = float(rng.integers(10, 22))
        offset_x, offset_y = rng.uniform(0, side, 2)
        tiles = np.floor((xs + offset_x) / side) + np.floor((ys + offset_y) / side)
        mix = (tiles % 2).astype(np.float32)
        second = first + (second - first) * 0.6
    else:  # cloudy
        coarse = Image.fromarray(rng.random((6, 6), np.float32), "F")
        mix = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return first + mix[..., None] * (second - first)


def _dull(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    grey = rng.uniform(100, 180)
    return (grey + rng.uniform(-14, 14, 3)).astype(np.float32)


def _draw_thing(rng: np.random.Generator, canvas: Pixels, thing: Thing) -> None:
    """Paint one object onto `canvas` (H, W, 3), in place."""
    times = 4 if thing.extent_px < 50 else 3
    x0, y0 = int(thing.box_xyxy[0]) - 1, int(thing.box_xyxy[1]) - 1
    x1, y1 = int(thing.box_xyxy[2]) + 2, int(thing.box_xyxy[3]) + 2
    size = ((x1 - x0) * times, (y1 - y0) * times)
    # PIL's pixel centres lie on whole numbers, ours half a pixel further
    points = [((x - x0) * times - 0.5, (y - y0) * times - 0.5) for x, y in outline(thing)]
    mask_image = Image.new("L", size)
    ImageDraw.Draw(mask_image).polygon(points, fill=255)
    mask = np.asarray(mask_image, np.float32) / np.float32(255)
    second = _pattern(rng, thing, size, times)
    if thing.pattern != "plain":
        # a rim in the first tone, or stripes would break up the outline of a small star
        ImageDraw.Draw(mask_image).line([*points, points[0]], fill=0, width=round(2.2 * times))
        second *= np.asarray(mask_image, np.float32) > 0
    colour = np.array(_RGB[thing.colour], np.float32) * np.float32(rng.uniform(0.92, 1.0))
    shade = np.array(_BLACK_SHADE, np.float32) if thing.colour == "black" else colour * _SHADE
    alpha = _reduce(mask, times)
    dark = _reduce(second, times)[..., None]
    window = canvas[y0:y1, x0:x1]
    window *= 1 - alpha[..., None]
    window += (alpha[..., None] - dark) * colour + dark * shade


def _pattern(
    rng: np.random.Generator, thing: Thing, size: tuple[int, int], times: int
) -> npt.NDArray[np.float32]:
    """Where the second tone goes: float32 (h, w) of 0 and 1, in enlarged pixels."""
    width, height = size
    if thing.pattern == "plain":
        return np.zeros((height, width), np.float32)
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32) / times
    # grows slower than the object does, so that a close-up shows more of them
    period = 1.45 * thing.extent_px**0.42
    phase_x, phase_y = rng.uniform(0, period, 2)
    if thing.pattern == "striped":
        across = (xs + ys) * np.float32(np.sqrt(0.5)) + phase_x
        stripes: npt.NDArray[np.float32] = ((across % period) < 0.42 * period).astype(np.float32)
        return stripes
    dx = (xs + phase_x) % period - period / 2
    dy = (ys + phase_y) % period - period / 2
    dots: npt.NDArray[np.float32] = (dx * dx + dy * dy < (0.33 * period) ** 2).astype(np.float32)
    return dots


def _reduce(values: npt.NDArray[np.float32], times: int) -> npt.NDArray[np.float32]:
    """Average blocks of `times` × `times`."""
    height, width = values.shape[0] // times, values.shape[1] // times
    blocks = values.reshape(height, times, width, times)
    return np.asarray(blocks.mean(axis=(1, 3)), np.float32)
