"""Regions drawn on their picture: numbered, coloured boxes that can be read at any picture size.

Pixels and regions in, a PIL image or PNG bytes out; and the picture put on the screen of terminals
that can show one. Nothing here knows samples' files or models.
"""

import base64
import functools
import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from roikit.errors import UsageError, ValidationError
from roikit.masks import decode_mask
from roikit.sample import Region

Rgb = tuple[int, int, int]
Protocol = Literal["kitty", "iterm2"]

#: Colours in order of region number, far apart for most eyes; numbers tell regions apart where they
#: repeat. Source: the first twelve of Sasha Trubetskoy's list of distinct colours.
COLOURS: tuple[tuple[str, Rgb], ...] = (
    ("red", (230, 25, 75)),
    ("green", (60, 180, 75)),
    ("yellow", (255, 225, 25)),
    ("blue", (0, 130, 200)),
    ("orange", (245, 130, 48)),
    ("purple", (145, 30, 180)),
    ("cyan", (70, 240, 240)),
    ("magenta", (240, 50, 230)),
    ("lime", (210, 245, 60)),
    ("pink", (250, 190, 212)),
    ("teal", (0, 128, 128)),
    ("lavender", (220, 190, 255)),
)

#: A picture is enlarged until its longer side has this many pixels, or labels could not be read.
MIN_SIDE_PX = 640
#: Longer side of the copy that a terminal shows.
INLINE_SIDE_PX = 800
_MAX_LABEL_CHARS = 32
_KITTY_CHUNK = 4096


def colour(number: int) -> tuple[str, Rgb]:
    """Return name and RGB of the colour that region `number` (1-based) is drawn in."""
    return COLOURS[(number - 1) % len(COLOURS)]


def draw_regions(
    pixels: npt.NDArray[np.uint8], regions: Sequence[Region], *, min_side_px: int = MIN_SIDE_PX
) -> PIL.Image.Image:
    """Draw every region on a copy of the picture: its box, number and label, its mask and point.

    Args:
        pixels: (H, W, 3) uint8 RGB, upright.
        regions: `regions[0]` is drawn as 1; none gives the picture alone.
        min_side_px: a smaller picture is enlarged (by whole factors) until its longer side has
            this many pixels.

    Returns:
        An RGB image, as large as the picture or a whole number of times larger. A strip too narrow
        for labels gets a grey band at its right or lower edge, so that they have room.

    Raises:
        UsageError: a mask is not of the picture's size, or none.
    """
    picture = PIL.Image.fromarray(pixels)
    longer = max(picture.size)
    factor = max(1, -(-min_side_px // longer))
    if factor > 1:
        width, height = picture.size
        picture = picture.resize((width * factor, height * factor), PIL.Image.Resampling.BICUBIC)
    for number, region in enumerate(regions, start=1):
        if region.mask_rle is not None:
            picture = _with_mask(picture, region, number)
    line_px = max(2, round(max(picture.size) / 320))
    font_px = max(14, round(max(picture.size) / 42))
    font = _font(font_px)
    if regions:
        picture = _with_room(picture, (8 * font_px, 6 * font_px))
    pen = PIL.ImageDraw.Draw(picture)
    # Large boxes first, so that a small one inside a large one stays whole.
    by_area = sorted(enumerate(regions, start=1), key=lambda item: -_area(item[1]))
    for number, region in by_area:
        _draw_box(pen, region, number, factor, line_px)
    # A label should cover neither another one nor a box so small that it would hide it.
    taken = [
        _Rect(*_corners(region, factor))
        for region in regions
        if _area(region) * factor**2 < (5 * font_px) ** 2
    ]
    for number, region in enumerate(regions, start=1):
        _draw_label(pen, region, number, factor, line_px, font, taken, picture.size)
    return picture


def png_bytes(picture: PIL.Image.Image) -> bytes:
    """Encode as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def inline_protocol(environ: Mapping[str, str], *, is_terminal: bool) -> Protocol | None:
    """Tell how this terminal shows pictures inside its text; None where it does not, or may not.

    Decided from the environment alone, since asking the terminal itself would need its answer on
    stdin. Inside tmux and screen nothing is shown: they do not pass pictures on by default.

    Source: the kitty graphics protocol and the iTerm2 inline images protocol.
    """
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if not is_terminal or "TMUX" in environ or term.startswith(("screen", "tmux", "dumb")):
        return None
    if "KITTY_WINDOW_ID" in environ or term in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    if program == "ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm", "mintty") or environ.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    return None


def inline_sequence(picture: PIL.Image.Image, protocol: Protocol) -> str:
    """Return the characters that make a terminal show `picture`, ended by a line feed.

    The picture is shrunk to at most `INLINE_SIDE_PX`, so that it fits a window.
    """
    small = picture.copy()
    small.thumbnail((INLINE_SIDE_PX, INLINE_SIDE_PX))
    data = png_bytes(small)
    text = base64.b64encode(data).decode("ascii")
    if protocol == "iterm2":
        return f"\x1b]1337;File=inline=1;size={len(data)};preserveAspectRatio=1:{text}\x07\n"
    chunks = [text[i : i + _KITTY_CHUNK] for i in range(0, len(text), _KITTY_CHUNK)]
    sequence = ""
    for i, chunk in enumerate(chunks):
        # a=T: send and show; f=100: PNG; q=2: the terminal does not answer on stdin
        keys = "a=T,f=100,q=2," if i == 0 else ""
        sequence += f"\x1b_G{keys}m={int(i < len(chunks) - 1)};{chunk}\x1b\\"
    return sequence + "\n"


def show(
    picture: PIL.Image.Image,
    *,
    write: Callable[[str], object],
    environ: Mapping[str, str],
    is_terminal: bool,
    png_path: Path | None,
) -> Path | None:
    """Show the picture in the terminal where that is possible; write it to `png_path` where given.

    Args:
        picture: what to show.
        write: takes text for the terminal, such as `sys.stdout.write`.
        environ: the process's environment.
        is_terminal: whether `write` goes to a terminal.
        png_path: where to write a PNG as well, replacing what is there; None writes none.

    Returns:
        `png_path` if the picture was not shown, so that the caller can say where it is.

    Raises:
        UsageError: `png_path` cannot be written.
    """
    if png_path is not None:
        try:
            png_path.parent.mkdir(parents=True, exist_ok=True)
            png_path.write_bytes(png_bytes(picture))
        except OSError as error:
            raise UsageError(f"`{png_path}`: cannot be written: {error.strerror}") from error
    protocol = inline_protocol(environ, is_terminal=is_terminal)
    if protocol is None:
        return png_path
    write(inline_sequence(picture, protocol))
    return None


@dataclass(frozen=True, slots=True)
class _Rect:
    """A label's place in pixels of the drawing."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlap(self, other: "_Rect") -> float:
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        return max(0.0, width) * max(0.0, height)


def _area(region: Region) -> float:
    x0, y0, x1, y1 = region.box_xyxy
    return (x1 - x0) * (y1 - y0)


def _draw_box(
    pen: PIL.ImageDraw.ImageDraw, region: Region, number: int, factor: int, line_px: int
) -> None:
    x0, y0, x1, y1 = _corners(region, factor)
    # A box of a pixel or two still shows, and its lines do not cross.
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
    rgb = colour(number)[1]
    # The dark line around the coloured one keeps it visible on a ground of its own colour.
    edge = max(1, line_px // 3)
    dark = (x0 - edge, y0 - edge, x1 + edge, y1 + edge)
    pen.rectangle(dark, outline=(0, 0, 0), width=line_px + 2 * edge)
    pen.rectangle((x0, y0, x1, y1), outline=rgb, width=line_px)
    if region.point_xy is not None:
        x, y = region.point_xy[0] * factor, region.point_xy[1] * factor
        radius = 2 * line_px
        circle = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(circle, fill=rgb, outline=(0, 0, 0), width=edge)


def _corners(region: Region, factor: int) -> tuple[int, int, int, int]:
    """First and last pixel inside the box, in the drawing."""
    x0, y0, x1, y1 = region.box_xyxy
    left, top = int(np.floor(x0 * factor)), int(np.floor(y0 * factor))
    right, bottom = int(np.ceil(x1 * factor)) - 1, int(np.ceil(y1 * factor)) - 1
    return left, top, right, bottom


def _draw_label(
    pen: PIL.ImageDraw.ImageDraw,
    region: Region,
    number: int,
    factor: int,
    line_px: int,
    font: Any,
    taken: list[_Rect],
    drawing_wh: tuple[int, int],
) -> None:
    text = str(number)
    if region.label:
        label = " ".join(region.label.split())
        is_long = len(label) > _MAX_LABEL_CHARS
        text += f" {label[: _MAX_LABEL_CHARS - 1]}…" if is_long else f" {label}"
    margin = max(2, line_px)
    bounds = pen.textbbox((0, 0), text, font=font)
    # One height for all labels, whether their letters have tails or not.
    tall = pen.textbbox((0, 0), "Ag1", font=font)
    width, height = bounds[2] - bounds[0] + 2 * margin, tall[3] - tall[1] + 2 * margin
    place = _label_place(_corners(region, factor), width, height, taken, drawing_wh)
    taken.append(place)
    rgb = colour(number)[1]
    pen.rectangle((place.x0, place.y0, place.x1 - 1, place.y1 - 1), fill=rgb)
    luminance = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
    ink = (0, 0, 0) if luminance > 128 else (255, 255, 255)
    pen.text(
        (place.x0 + margin - bounds[0], place.y0 + margin - tall[1]), text, fill=ink, font=font
    )


def _label_place(
    corners: tuple[int, int, int, int],
    width: float,
    height: float,
    taken: Sequence[_Rect],
    drawing_wh: tuple[int, int],
) -> _Rect:
    """Choose where a label stands: above its box where it can, never outside the picture.

    The first place that covers nothing taken wins; if none does, the one that covers least.
    """
    x0, y0, x1, y1 = corners
    candidates = [
        (x0, y0 - height),  # above
        (x0, y0),  # inside, top left
        (x1 - width, y0 - height),
        (x1 - width, y0),
        (x0, y1 + 1),  # below
        (x1 - width, y1 + 1),
        (x0, y1 - height),
        (x1 + 1, y0),  # right of it
        (x0 - width, y0),
        *((x0, y1 + 1 + step * height) for step in (1, 2, 3)),
        *((x0, y0 - step * height) for step in (2, 3, 4)),
    ]
    best: tuple[float, _Rect] | None = None
    for left, top in candidates:
        inside_left = min(max(left, 0), max(0, drawing_wh[0] - width))
        inside_top = min(max(top, 0), max(0, drawing_wh[1] - height))
        place = _Rect(inside_left, inside_top, inside_left + width, inside_top + height)
        covered = sum(place.overlap(other) for other in taken)
        if covered == 0:
            return place
        if best is None or covered < best[0]:
            best = (covered, place)
    assert best is not None
    return best[1]


def _with_room(picture: PIL.Image.Image, at_least_wh: tuple[int, int]) -> PIL.Image.Image:
    width, height = max(picture.width, at_least_wh[0]), max(picture.height, at_least_wh[1])
    if (width, height) == picture.size:
        return picture
    larger = PIL.Image.new("RGB", (width, height), (96, 96, 96))
    larger.paste(picture)
    return larger


def _with_mask(picture: PIL.Image.Image, region: Region, number: int) -> PIL.Image.Image:
    rle = region.mask_rle
    assert rle is not None
    factor_h, rest_h = divmod(picture.height, rle.size[0])
    factor_w, rest_w = divmod(picture.width, rle.size[1])
    if rest_h or rest_w or factor_h != factor_w:
        raise UsageError(
            f"region{number}: expected a mask of the picture's size, "
            f"got {rle.size[1]} x {rle.size[0]}"
        )
    try:
        inside = decode_mask(rle)
    except ValidationError as error:
        raise UsageError(f"region{number}: mask: {error}") from error
    opacity = PIL.Image.fromarray(96 * inside.astype(np.uint8)).resize(
        picture.size, PIL.Image.Resampling.NEAREST
    )
    layer = PIL.Image.new("RGB", picture.size, colour(number)[1])
    return PIL.Image.composite(layer, picture, opacity)


@functools.cache
def _font(height_px: int) -> Any:
    """Matplotlib's DejaVu Sans, which has most scripts' letters; else the font inside Pillow."""
    package = importlib.util.find_spec("matplotlib")
    if package is not None and package.origin is not None:
        file = Path(package.origin).parent / "mpl-data/fonts/ttf/DejaVuSans-Bold.ttf"
        try:
            return PIL.ImageFont.truetype(str(file), height_px)
        except OSError:
            pass  # a trimmed matplotlib
    return PIL.ImageFont.load_default(height_px)
