"""How the products of a convolution are cut and joined, for speed alone: read it as
`weight @ columns` at first.

Nothing here changes a result, apart from rounding. The constants are near the best both with
AVX-512 and with AVX2.

Blocks: columns are formed a few output rows at a time, so that they stay in the cache of a core.

Pieces: where OpenBLAS uses AVX-512, a large product is computed as several small ones, for which
OpenBLAS copies no matrix.

Rows: a product of matrices is slow if one of them has few rows, and the weight of a convolution has
only as many as there are output channels. R rows of outputs, one below the other, can pass for R
times as many channels: one window sees all that they see, and each of them uses a part of it. With
stride S in height and no dilation,

    y[n, o, R*p + r, q] = sum_{c,u,j} spread[o, r, c, u, j] * windows[n, c, u, j, p, q]
    spread[o, r, c, r*S + i, j] = weight[o, c, i, j], and 0 elsewhere                          (1)
    dweight[o, c, i, j] = sum_r dspread[o, r, c, r*S + i, j]                                   (2)

The first line is a convolution again, with a window that is (R - 1)*S rows higher and a stride of
R*S. For a 5x5 kernel and R = 2 it has 1.2 times the multiplications, zeros included, and 0.6 times
the columns. But its zeros times infinity are nan, so the rows are taken one at a time if x
(forward) or dy (backward) is not finite; not on a GPU, where that check would hold up the work.
"""

import functools
import operator
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import threadpoolctl

from minicnn.backend import Array, array_module, device_of, matmul
from minicnn.windows import Window, im2col

BLOCK_BYTES = {"cpu": 1 << 18, "gpu": 1 << 28}
"""Columns worth forming at once: what fits in a core's cache; a GPU wants few, large products."""

SMALL_IN_PLACE = {"SkylakeX", "Cooperlake", "SapphireRapids"}
"""The kernels of OpenBLAS that multiply small matrices without first copying them: those with
AVX-512. Up to a million multiplications a product is small."""


def piece_limit(libraries: list[dict[str, Any]]) -> int:
    """The most multiplications in one piece of a product. `libraries` are those of threadpoolctl,
    in the order in which they were loaded: the first for matrices is NumPy's."""
    first = next((library for library in libraries if library["user_api"] == "blas"), {})
    return 1_000_000 if first.get("architecture") in SMALL_IN_PLACE else sys.maxsize


PIECE = {"cpu": piece_limit(threadpoolctl.threadpool_info()), "gpu": sys.maxsize}

PIECE_WIDTHS = 256, 128, 64  # narrower pieces are slower than the whole
SHORTEST = 512  # shorter pieces of a sum of products are slower than the whole

FEW_CHANNELS = 16  # up to here two rows of outputs at a time pay on a CPU; not measured on a GPU

WORTH_ALIGNING = 1 << 16  # bytes; to align fewer takes longer than it saves


class Rows:
    """`count` rows of outputs of a convolution, R above; `window` is what they see together."""

    def __init__(self, single: Window, count: int) -> None:
        (kh, kw), (sh, sw) = single.kernel, single.stride
        self.count = count
        self.parts = [slice(r * sh, r * sh + kh) for r in range(count)]
        kernel = kh + (count - 1) * sh, kw
        self.window = Window(kernel, (count * sh, sw), single.padding, single.dilation)

    def split(self, y: Array) -> Array:
        """y (O, OH, OW, N) -> (O, R, OH/R, OW, N), a view."""
        o, oh, ow, n = y.shape
        return y.reshape(o, oh // self.count, self.count, ow, n).swapaxes(1, 2)

    def spread(self, weight: Array, groups: int) -> Array:
        """weight (O, C/groups, KH, KW) -> spread, as a matrix for each group,
        (groups, O/groups*R, C/groups*U*KW)."""
        o, c = weight.shape[:2]
        shape = (o, self.count, c, *self.window.kernel)
        spread = array_module(weight).zeros(shape, weight.dtype)
        for r, part in enumerate(self.parts):
            spread[:, r, :, part] = weight  # (1)
        return spread.reshape(groups, o // groups * self.count, -1)

    def weight_gradient(self, dspread: Array) -> Array:
        """dspread (groups, O/groups*R, C/groups*U*KW) -> dweight (O, C/groups, KH, KW)."""
        o = dspread.shape[0] * dspread.shape[1] // self.count
        dspread = dspread.reshape(o, self.count, -1, *self.window.kernel)
        rows = (dspread[:, r, :, part] for r, part in enumerate(self.parts))
        return functools.reduce(operator.add, rows)  # (2)


def choose_rows(window: Window, channels: int, height: int, factor: Array | None) -> Rows:
    """Two rows of outputs at a time if that pays, else one.

    It pays for few output `channels`, an even `height` of the output, and a window without
    dilation whose `spread` is at most a quarter zeros. `factor`, by which `spread` will be
    multiplied, must be finite, which is checked on a CPU; None if there is no such product.
    """
    (kh, _), (sh, _), (dh, _) = window.kernel, window.stride, window.dilation
    few_zeros = dh == 1 and 3 * (kh + sh) <= 4 * kh
    two = channels <= FEW_CHANNELS and height % 2 == 0 and few_zeros
    if two and factor is not None and device_of(factor) == "cpu":
        two = all_finite(factor)
    return Rows(window, 2 if two else 1)


def all_finite(x: Array) -> bool:
    """Whether x holds neither infinity nor nan; False also if the sum of its squares overflows."""
    return bool(np.isfinite(np.vdot(x, x)))


def blocks(weight: Array, windows: Array, *views: Array) -> Iterator[tuple[Any, ...]]:
    """For a few rows of outputs at a time: (their slice, and the part of each of `views` in these
    rows, copied out by im2col). Each block reuses the memory of the one before.

    windows are (C, KH, KW, OH, OW, N), `views` these or outputs (O, R, OH, OW, N). The columns of
    a block stay in the cache, but are large beside the weight, whose gradient each block adds to.
    """
    oh = windows.shape[3]
    row_bytes = max(1, windows.nbytes // oh)
    block_bytes = max(BLOCK_BYTES[device_of(windows)], 4 * weight.nbytes)
    size = max(1, min(oh, block_bytes // row_bytes))
    memories = [aligned_empty(view[..., :size, :, :].size, view) for view in views]
    for first in range(0, oh, size):
        rows = slice(first, min(first + size, oh))
        yield rows, *[im2col(view[..., rows, :, :], m) for view, m in zip(views, memories)]


def product(weight: Array, columns: Array, out: Array | None = None) -> Array:
    """weight (groups, M, K) @ columns (groups, K, L) -> (groups, M, L), as small products, each
    with a piece of the columns, unless these would be narrow or of unequal widths."""
    (groups, m, k), length = weight.shape, columns.shape[2]
    limit = PIECE[device_of(weight)]
    widths = [w for w in PIECE_WIDTHS if length % w == 0 and m * k * w <= limit]
    if m * k * length <= limit or not widths:
        return matmul(weight, columns, out)
    y = np.empty((groups, m, length), weight.dtype) if out is None else out
    columns = columns.reshape(groups, k, -1, widths[0]).swapaxes(1, 2)
    matmul(weight[:, None], columns, y.reshape(groups, m, -1, widths[0]).swapaxes(1, 2))
    return y


def sum_of_products(a: Array, b: Array) -> Array:
    """a (groups, K, L) @ b (groups, L, M) -> (groups, K, M), as the sum of small products, each
    over an equal piece of L, unless these would be short or of unequal lengths."""
    (groups, k, length), m = a.shape, b.shape[2]
    fewest = -(-k * m * length // PIECE[device_of(a)])
    counts = range(fewest, length // SHORTEST + 1)
    count = next((n for n in counts if length % n == 0), 1) if fewest > 1 else 1
    if count == 1:
        return matmul(a, b)
    a = a.reshape(groups, k, count, -1).swapaxes(1, 2)
    return matmul(a, b.reshape(groups, count, -1, m)).sum(axis=1)


def aligned_empty(size: int, like: Array) -> Array:
    """Unset memory for `size` numbers of the dtype of `like`, on the same device. On a CPU, if it
    is large, it begins with a line of the cache: some small products are faster then than where
    NumPy puts arrays.
    """
    size_bytes = size * like.itemsize
    if size_bytes < WORTH_ALIGNING or device_of(like) == "gpu":
        return array_module(like).empty(size, like.dtype)
    memory = np.empty(size_bytes + 64, np.uint8)
    start = -memory.__array_interface__["data"][0] % 64
    return memory[start : start + size_bytes].view(like.dtype)
