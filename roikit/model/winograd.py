"""3x3 convolutions on a CPU in fewer multiplications, where no gradient is asked for.

Winograd's F(2x2, 3x3): four neighbouring results from 16 products instead of 36. oneDNN, which
torch computes with, does not do it in float32. With a thousand channels this takes two thirds of
its time, and its error, some 7e-7 of the largest value, is as small.
Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), section 4.1.

Shape suffixes: B pictures of a block, C channels in, H/W rows/columns, N pictures, O channels out,
X/Y columns/rows of 2x2 tiles.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

#: Fewer do not make up for adding before and after the products.
_MIN_CHANNELS = 256
_MIN_TILES = 1024
#: Tiles at once: as few as the products are still fast with.
_BLOCK = 512
#: From three weights in a line to the four that the products take.
_KERNEL = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


class Convolution:
    """`F.conv2d(maps, weight, bias, padding=1)` of maps with one kernel, each by the faster way.

    Args:
        weight: (O, C, 3, 3).
        bias: (O,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight = weight
        self._bias = bias
        self._products_16CO: Tensor | None = None  # made for the first maps that take it

    def __call__(self, maps_NCHW: Tensor) -> Tensor:
        """Return (N, O, H, W), channels-last in memory where it was computed by Winograd's way."""
        if not _pays(maps_NCHW, self._weight):
            # channels-last, oneDNN's convolution takes a sixth longer
            maps_NCHW = maps_NCHW if maps_NCHW.is_cuda else maps_NCHW.contiguous()
            return F.conv2d(maps_NCHW, self._weight, self._bias, padding=1)
        if self._products_16CO is None:
            self._products_16CO = _transformed(self._weight)
        result = _convolve(maps_NCHW, self._products_16CO)
        return result if self._bias is None else result.add_(self._bias[:, None, None])


def _pays(maps_NCHW: Tensor, weight: Tensor) -> bool:
    """Whether it is possible, and faster."""
    number, channels, height, width = maps_NCHW.shape
    learns = torch.is_grad_enabled() and (maps_NCHW.requires_grad or weight.requires_grad)
    return (
        maps_NCHW.device.type == "cpu"
        and maps_NCHW.dtype == weight.dtype == torch.float32
        and not learns
        and not torch.is_autocast_enabled("cpu")
        and min(channels, len(weight)) >= _MIN_CHANNELS
        and height % 2 == 0
        and width % 2 == 0
        and number * height * width >= 4 * _MIN_TILES
    )


def _transformed(weight: Tensor) -> Tensor:
    """The weights of the 16 products, (16, C, O)."""
    out, channels = weight.shape[:2]
    line = torch.tensor(_KERNEL)
    square = torch.kron(line, line)  # (16, 9)
    return (square @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(16, channels, out)


def _convolve(maps_NCHW: Tensor, products_16CO: Tensor) -> Tensor:
    number, channels, height, width = maps_NCHW.shape
    padded_NHWC = F.pad(maps_NCHW, (1, 1, 1, 1)).permute(0, 2, 3, 1).contiguous()
    result = maps_NCHW.new_empty(number, height, width, products_16CO.shape[2])
    rows, columns = height // 2, width // 2
    block_rows = max(1, min(rows, _BLOCK // columns))
    pictures = max(1, _BLOCK // (rows * columns)) if block_rows == rows else 1
    # made once: memory that is fresh from the system costs as much as what is done with it
    reads = maps_NCHW.new_empty(16 * pictures * block_rows * columns * channels)
    lines = maps_NCHW.new_empty(4 * pictures * block_rows * (width + 2) * channels)
    for n in range(0, number, pictures):
        for y in range(0, rows, block_rows):
            here = slice(2 * y, 2 * min(rows, y + block_rows))
            _convolve_block(
                padded_NHWC[n : n + pictures, here.start : here.stop + 2],
                products_16CO,
                result[n : n + pictures, here],
                lines,
                reads,
            )
    return result.permute(0, 3, 1, 2)


def _convolve_block(
    padded_BHWC: Tensor, products_16CO: Tensor, result_BHWO: Tensor, lines: Tensor, reads: Tensor
) -> None:
    """Convolve some rows of some pictures.

    Args:
        padded_BHWC: the rows and columns, and one more all around.
        products_16CO: transformed weights.
        result_BHWO: is written.
        lines: room for what is read along the rows.
        reads: room for what is read along both.
    """
    pictures, height, width, out = result_BHWO.shape
    rows, columns, channels = height // 2, width // 2, padded_BHWC.shape[3]
    lines_4BYWC = _room(lines, (4, pictures, rows, width + 2, channels))
    reads_16BYXC = _room(reads, (16, pictures, rows, columns, channels))
    _read_four([padded_BHWC[:, i : i + height - 1 : 2] for i in range(4)], lines_4BYWC)
    for i, line in enumerate(lines_4BYWC):
        neighbours = [line[:, :, j : j + width - 1 : 2] for j in range(4)]
        _read_four(neighbours, reads_16BYXC[4 * i : 4 * i + 4])
    product = torch.bmm(reads_16BYXC.view(16, -1, channels), products_16CO)
    product = product.view(4, 4, pictures, rows, columns, out)
    for i, line in enumerate(_two(product)):
        for j, value in enumerate(_two(line)):
            result_BHWO[:, i::2, j::2] = value


def _room(memory: Tensor, shape: tuple[int, ...]) -> Tensor:
    return memory[: math.prod(shape)].view(shape)


def _read_four(neighbours: list[Tensor], into: Tensor) -> None:
    """Write what the products read of four neighbours."""
    a, b, c, d = neighbours
    torch.sub(a, c, out=into[0])
    torch.add(b, c, out=into[1])
    torch.sub(c, b, out=into[2])
    torch.sub(b, d, out=into[3])


def _two(products: Tensor) -> tuple[Tensor, Tensor]:
    """Two neighbouring results from four products, (4, ...)."""
    first, second, third, fourth = products
    return (first + second).add_(third), (second - third).sub_(fourth)
