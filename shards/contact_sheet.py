"""Pairs of pictures side by side on one page, for a person to tell copies from look-alikes.

In: keys of samples. Out: one HTML file that holds everything it shows, thumbnails included.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import jinja2
import PIL.Image

from roikit.errors import UsageError
from roikit.images import decode_rgb
from roikit.path_errors import usable
from shards.atomic import write_bytes
from shards.leaks import LookAlike
from shards.read import read_sample

#: Pairs shown, the most alike; the page says how many there are.
MAX_PAIRS = 200
_THUMBNAIL_PX = 240

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Pictures that look alike</title>
<style>
body { font: 14px sans-serif; margin: 2em } td { padding: .5em 1em; vertical-align: top }
code { font-size: 12px } img { display: block; margin-bottom: .3em }
</style></head><body>
<h1>Pictures that look alike</h1>
<p>{{ shown }} of {{ total }} pairs, the most alike first. On the left the evaluation's picture, on
the right the one in training data.</p>
<table>{% for pair in pairs %}
<tr>{% for side in pair.sides %}<td><img src="data:image/jpeg;base64,{{ side.data }}" alt="">
<code>{{ side.key }}</code><br>{{ side.about }}</td>{% endfor %}
<td>{{ pair.distance }} of 256 bits differ</td></tr>{% endfor %}
</table></body></html>
"""


def write_contact_sheet(
    root: Path | str, pairs: Sequence[LookAlike], path: Path, *, overwrite: bool = False
) -> int:
    """Write the page.

    Args:
        root: the shards' root folder.
        pairs: what to show, in order; the first `MAX_PAIRS` are shown.
        path: the HTML file.
        overwrite: replace a file that is there.

    Returns:
        How many pairs it shows.

    Raises:
        UsageError: the file is there already.
        CorruptSampleError: a shard is damaged.
    """
    if path.exists() and not overwrite:
        raise UsageError(f"`{path}` exists", hint="pass --overwrite, or another name")
    shown = [
        {
            "sides": [_side(root, key) for key in (pair.evaluation, pair.training)],
            "distance": pair.distance,
        }
        for pair in pairs[:MAX_PAIRS]
    ]
    template = jinja2.Environment(autoescape=True).from_string(_PAGE)
    page = template.render(pairs=shown, shown=len(shown), total=len(pairs))
    with usable(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, page.encode())
    return len(shown)


def _side(root: Path | str, key: str) -> dict[str, str]:
    sample, image_bytes = read_sample(root, key)
    picture = PIL.Image.fromarray(decode_rgb(image_bytes))
    picture.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    image = sample.image
    return {
        "data": base64.b64encode(buffer.getvalue()).decode(),
        "key": key,
        "about": f"{image.native_id}, {image.file}, {image.width} x {image.height}",
    }
