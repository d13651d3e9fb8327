"""Whether what `forward` is given can be: shapes always, values where reading them costs nothing.

Shape suffixes: B rows of the batch, K tokens a feature (of a picture or a region), M cells along a
mask's side, N pictures, R regions, T tokens.
"""

import torch
from torch import Tensor

from roikit.errors import RoikitError


def check_pictures(pixel_values: Tensor, tile_values: Tensor | None) -> None:
    """Refuse pictures that the tower could not read, or could not read together.

    Args:
        pixel_values: (N, 3, S, S).
        tile_values: (T, 3, S, S).

    Raises:
        RoikitError: says which argument is wrong, and how.
    """
    shape = pixel_values.shape
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
        raise _wrong_shape("pixel_values", "(N, 3, S, S), normalised", pixel_values)
    if tile_values is not None and tile_values.shape[1:] != shape[1:]:
        side = shape[2]
        raise _wrong_shape("tile_values", f"(T, 3, {side}, {side}) as the pictures", tile_values)


def check_regions(
    pixel_values: Tensor,
    region_boxes: Tensor | None,
    region_image_index: Tensor | None,
    region_masks: Tensor | None,
) -> None:
    """Refuse regions that do not fit each other or the pictures.

    Values are looked at on a CPU alone: on an accelerator every look would wait for it.

    Args:
        pixel_values: (N, 3, S, S).
        region_boxes: (R, 4).
        region_image_index: (R,).
        region_masks: (R, M, M).

    Raises:
        RoikitError: says which argument is wrong, and how.
    """
    if region_boxes is None and region_image_index is None and region_masks is None:
        return
    if region_boxes is None or region_image_index is None:
        given = "region_image_index" if region_boxes is None else "region_boxes"
        given = "region_masks" if region_boxes is region_image_index else given
        raise RoikitError(
            f"forward: expected `region_boxes` and `region_image_index` together, got `{given}` "
            "alone"
        )
    if region_boxes.ndim != 2 or region_boxes.shape[1] != 4:
        raise _wrong_shape("region_boxes", "(R, 4), xyxy in fractions of the square", region_boxes)
    count = len(region_boxes)
    if region_image_index.shape != (count,):
        raise _wrong_shape("region_image_index", f"({count},), one a box", region_image_index)
    if region_image_index.is_floating_point():
        raise RoikitError(
            f"region_image_index: expected whole numbers, got {region_image_index.dtype}"
        )
    if region_masks is not None:
        shape = region_masks.shape
        if region_masks.ndim != 3 or shape[0] != count or shape[1] != shape[2]:
            raise _wrong_shape("region_masks", f"({count}, M, M), one a box", region_masks)
    if count and region_boxes.device.type == region_image_index.device.type == "cpu":
        _check_boxes(region_boxes)
        _check_index(region_image_index, len(pixel_values))


def check_tiles(
    tile_values: Tensor,
    tile_places: Tensor,
    tile_grids: Tensor,
    region_map_boxes: Tensor,
    *,
    num_pictures: int,
    num_regions: int,
) -> None:
    """Refuse tiles whose places, grids and boxes are not as many as they should be.

    Args:
        tile_values: (T, 3, S, S).
        tile_places: (T, 3).
        tile_grids: (N, 2).
        region_map_boxes: (R, 4).
        num_pictures: N.
        num_regions: R.

    Raises:
        RoikitError: says which argument is wrong, and how.
    """
    num_tiles = len(tile_values)
    if tile_places.shape != (num_tiles, 3):
        raise _wrong_shape(
            "tile_places", f"({num_tiles}, 3), picture, row and column a tile", tile_places
        )
    if tile_grids.shape != (num_pictures, 2):
        raise _wrong_shape(
            "tile_grids", f"({num_pictures}, 2), rows and columns a picture", tile_grids
        )
    if region_map_boxes.shape != (num_regions, 4):
        raise _wrong_shape("region_map_boxes", f"({num_regions}, 4), one a box", region_map_boxes)


def check_places(
    mask_BT: Tensor, picture_index: Tensor, *, num_pictures: int, tokens_each: int, what: str
) -> None:
    """Refuse placeholders that are not as many as the features that go there.

    Where each row holds one picture, they are counted row by row: a row with one too few and
    another with one too many would give each other's features away.

    Args:
        mask_BT: where the placeholders stand.
        picture_index: for each feature, which picture it is of.
        num_pictures: N.
        tokens_each: K.
        what: `image` or `region`, for the message.

    Raises:
        RoikitError: says how many there are of each, and in which row.
    """
    places_B = mask_BT.sum(dim=1)
    if num_pictures == len(mask_BT):
        counts_B = torch.zeros_like(places_B).index_add(
            0, picture_index, torch.ones_like(picture_index, dtype=places_B.dtype)
        )
        rows = [f"row {row} of the batch" for row in range(num_pictures)]
    else:
        places_B, counts_B = places_B.sum()[None], places_B.new_tensor([len(picture_index)])
        rows = ["the batch"]
    if torch.equal(places_B, counts_B * tokens_each):  # the one wait for an accelerator
        return
    features = "boxes" if what == "region" else "pictures"
    for row, places, count in zip(rows, places_B.tolist(), counts_B.tolist(), strict=True):
        if places != count * tokens_each:
            raise RoikitError(
                f"{what} tokens: {row} has {places} places, enough for "
                f"{places / tokens_each:g} {features} of {tokens_each} tokens, and got {count}",
                hint="give one for each that the prompt introduces, in order; `RoikitProcessor` "
                "writes the places and orders the boxes together",
            )


def _check_boxes(region_boxes: Tensor) -> None:
    is_finite = region_boxes.isfinite().all(dim=1)
    is_inside = ((region_boxes >= 0) & (region_boxes <= 1)).all(dim=1)
    has_area = (region_boxes[:, :2] < region_boxes[:, 2:]).all(dim=1)
    wrong = (~(is_finite & is_inside & has_area)).nonzero().flatten().tolist()
    if not wrong:
        return
    first = wrong[0]
    if not is_finite[first]:
        expected = "finite numbers"
    elif not is_inside[first]:
        expected = "fractions of the input square, 0 to 1"
    else:
        expected = "x0 < x1 and y0 < y1"
    shown = ", ".join(f"{value:g}" for value in region_boxes[first].tolist())
    raise RoikitError(f"region_boxes[{first}]: expected {expected}, got [{shown}]")


def _check_index(region_image_index: Tensor, num_pictures: int) -> None:
    index = region_image_index.tolist()
    for i, picture in enumerate(index):
        if not 0 <= picture < num_pictures:
            raise RoikitError(
                f"region_image_index[{i}]: expected 0 to {num_pictures - 1}, as there are "
                f"{num_pictures} pictures, got {picture}"
            )
        if i and picture < index[i - 1]:
            raise RoikitError(
                f"region_image_index[{i}]: expected no picture before the last one's, "
                f"got {picture} after {index[i - 1]}",
                hint="put boxes in the order of their tokens, row by row",
            )


def _wrong_shape(name: str, expected: str, found: Tensor) -> RoikitError:
    return RoikitError(f"{name}: expected shape {expected}, got {tuple(found.shape)}")
