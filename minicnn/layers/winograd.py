"""Winograd's form of a convolution, which needs fewer multiplications; for speed alone.

Where many channels meet many, most of the time goes into products. With stride 1 and no dilation, a
tile of m x m outputs of a k x k kernel sees t x t entries d of the image, where t = m + k - 1. For
each pair of channels, im2col has m*m*k*k multiplications there, and this form t*t:

    y = A [(G w G^T) * (B d B^T)] A^T, summed over the input channels, where * is entry by entry

Polynomials show why, here along one axis. One with n coefficients has the values
powers(n) @ coefficients at t points p, where powers(n)[i, j] = p_i**j; the last point is infinity,
where the highest coefficient counts alone. The product of two, with m coefficients s and k
coefficients w, has t of them, which its values determine:

    powers(t)^-1 @ ((powers(k) @ w) * (powers(m) @ s))

This is the convolution of s and w. With w fixed it is a matrix, from m numbers to t. Its transpose
takes t numbers d to the m numbers y[a] = sum_u w[u] * d[a + u], a correlation:

    y = A @ ((G @ w) * (B @ d))

    A = powers(m)^T        G = powers(k)        B = (powers(t)^-1)^T                           (1)

A and B are the A^T and B^T of Lavin and Gray. Below, A, G and B stand for both axes:
A[(a, b), (i, j)] = A[a, i] * A[b, j]. With e for one of the t*t products (i, j) and l for a tile of
an image,

    U[e, o, c] = sum_{u,v} G[e, (u, v)] * weight[o, c, u, v]                                   (2)
    V[c, e, l] = sum_{h,w} B[e, (h, w)] * tiles[c, (h, w), l]                                  (3)
    M[o, e, l] = sum_c U[e, o, c] * V[c, e, l]                                                 (4)
    y[o, (a, b), l] = sum_e A[(a, b), e] * M[o, e, l] + bias[o]                                (5)

Each of these lines is linear, and backward takes their transposes:

    dM[o, e, l] = sum_{a,b} A[(a, b), e] * dy[o, (a, b), l]                                    (6)
    dU[e, o, c] = sum_l dM[o, e, l] * V[c, e, l]                                               (7)
    dweight[o, c, u, v] = sum_e G[e, (u, v)] * dU[e, o, c]                                     (8)
    dV[c, e, l] = sum_o U[e, o, c] * dM[o, e, l]                                               (9)
    dtiles[c, (h, w), l] = sum_e B[e, (h, w)] * dV[c, e, l]                                   (10)
    dx = col2im(dtiles), since tiles overlap                                                  (11)

t is 6 for every kernel, so one B serves all: 3x3 has tiles of 4x4 outputs, 5x5 of 2x2. Rounding
errors depend on the points. With these they are 3 to 6 times those of im2col, but relative to the
largest entries of a tile: in blank parts of an image, outputs that should be 0 or equal are nearly
so. Infinity and nan would fill a tile, so then im2col is used.

Source: S. Winograd, "Arithmetic Complexity of Computations", 1980; A. Lavin, S. Gray, "Fast
algorithms for convolutional neural networks", CVPR 2016; B. Barabasz et al., "Error analysis and
improving the accuracy of Winograd convolution for deep neural networks", 2020, for how rounding
depends on the points; docs/winograd_errors.py compares some.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np

from minicnn.arguments import Pair
from minicnn.backend import Array, device_of, matmul
from minicnn.layers.base import Gradients, Result
from minicnn.layers.products import aligned_empty, all_finite
from minicnn.windows import Window, batch_last, im2col

TILE = 6  # t
POINTS = (0, 3 / 4, -3 / 4, 3 / 2, -3 / 2)  # and infinity
PRODUCTS = TILE * TILE

GAIN = 1.4  # how many times fewer multiplications pay for the passes over memory
IMAGES = 64  # whose tiles are taken together
FEWEST = 64  # tiles; with fewer, products are slow
BLOCK = 6  # V and M of the tiles taken together are so many times as large as U


def powers(n: int) -> Array:
    """(t, n): the values at all points are powers(n) @ coefficients."""
    return np.vstack([np.vander(POINTS, n, increasing=True), np.eye(n)[-1]])


def pays(weight: Array, window: Window, groups: int, size: Pair, *factors: Array) -> bool:
    """Whether this form is faster for outputs of `size` (OH, OW), and can be used: the weight and
    the `factors`, each (N, channels, height, width), are finite."""
    (o, c, kh, kw), (oh, ow), n = weight.shape, size, len(factors[0])
    plain = window.stride == window.dilation == (1, 1) and groups == 1 and max(kh, kw) < TILE
    if not plain or device_of(weight) == "gpu":
        return False
    mh, mw = TILE + 1 - kh, TILE + 1 - kw
    tiles = n * -(-oh // mh) * -(-ow // mw)
    per_tile = PRODUCTS * c + o * c + mh * mw * o  # (3) to (5), for each of its products
    multiplications = PRODUCTS * (tiles * per_tile + kh * kw * o * c)  # and (2)
    few = max(FEWEST, o * c // (o + c) // 2)  # U would be more than twice as large as V and M
    if GAIN * multiplications > n * oh * ow * kh * kw * o * c or tiles < few:
        return False
    return all(map(all_finite, (weight, *map(batch_last, factors))))


class Tiles:
    """A convolution with outputs of `size` (OH, OW), cut into tiles: `x_window` and `y_window` see
    a tile's entries and its outputs; A, B, G and U are as above, for both axes."""

    def __init__(self, weight: Array, window: Window, size: Pair, dtype: np.dtype) -> None:
        (o, c, kh, kw), (top_bottom, left_right) = weight.shape, window.padding
        mh, mw = tile = TILE + 1 - kh, TILE + 1 - kw
        below, right = -size[0] % mh, -size[1] % mw  # outputs that complete the last tiles
        padding = (top_bottom[0], top_bottom[1] + below), (left_right[0], left_right[1] + right)
        self.x_window = Window((TILE, TILE), tile, padding)
        self.y_window = Window(tile, tile, ((0, below), (0, right)))
        self.G = np.kron(powers(kh), powers(kw)).astype(dtype)  # (1)
        self.A = np.kron(powers(mh), powers(mw)).T.astype(dtype, order="C")  # (1)
        inverse = np.linalg.inv(powers(TILE))
        self.B = np.kron(inverse, inverse).T.astype(dtype, order="C")  # (1)
        weight = weight.astype(dtype, copy=False).reshape(o * c, kh * kw)
        self.U = matmul(self.G, weight.T).reshape(PRODUCTS, o, c)  # (2)

    def blocks(self, x: Array, y: Array) -> Iterator[tuple[tuple, Array, Array, Array]]:
        """For some of the tiles of x (C, t, t, rows, columns, N) and y (O, m, m, rows, columns, N)
        at a time: their place, memory for a copy of them, and for their V and M."""
        (_, o, c), (rows, columns, n) = self.U.shape, x.shape[3:]
        images = even(n, IMAGES)
        together = max(1, BLOCK * o * c // (o + c) // images)
        across = even(columns, together)
        down = max(1, together // columns)
        most = min(rows, down) * across * images
        sizes = PRODUCTS * max(c, o), PRODUCTS * c, PRODUCTS * o
        copy, v, m = (aligned_empty(size * most, x) for size in sizes)
        for part in itertools.product(
            slices(rows, down), slices(columns, across), slices(n, images)
        ):
            place = ..., *part
            tiles = x[0, 0, 0][place].size
            V, M = (memory[: size * tiles] for memory, size in zip((v, m), sizes[1:]))
            yield place, copy, V.reshape(c, PRODUCTS, tiles), M.reshape(o, PRODUCTS, tiles)


def convolve(x: Array, params: Gradients, window: Window, size: Pair) -> Array:
    """As in conv.py, where this form pays."""
    weight = params["weight"]
    tiles = Tiles(weight, window, size, x.dtype)
    y = np.empty(tiles.y_window.padded_shape((len(x), len(weight), *size)), x.dtype)
    bias = params["bias"].reshape(-1, 1, 1, 1, 1, 1) if "bias" in params else 0
    x_tiles, y_tiles = tiles.x_window.view(tiles.x_window.pad(x)), tiles.y_window.view(y)
    for place, memory, V, M in tiles.blocks(x_tiles, y_tiles):
        columns = im2col(x_tiles[place], memory)
        matmul(tiles.B, columns.reshape(V.shape), V)  # (3)
        matmul(tiles.U, V.swapaxes(0, 1), M.swapaxes(0, 1))  # (4)
        outputs = y_tiles[place]
        sums = memory[: outputs.size].reshape(outputs.shape)
        matmul(tiles.A, M, sums.reshape(len(weight), len(tiles.A), -1))  # (5)
        np.add(by_rows(sums), bias, out=by_rows(outputs))  # (5)
    return tiles.y_window.unpad(y)


def convolve_backward(
    dy: Array, x: Array, params: Gradients, window: Window, need_dx: bool = True
) -> Result:
    """As in conv.py, where this form pays."""
    weight = params["weight"]
    tiles = Tiles(weight, window, dy.shape[2:], x.dtype)
    A_transposed, B_transposed = (np.ascontiguousarray(matrix.T) for matrix in (tiles.A, tiles.B))
    padded = tiles.x_window.pad(x)
    dpadded = np.zeros_like(padded) if need_dx else None
    x_tiles, dy_tiles = tiles.x_window.view(padded), tiles.y_window.view(tiles.y_window.pad(dy))
    dU, share = np.zeros_like(tiles.U), np.empty_like(tiles.U)
    for place, memory, V, M in tiles.blocks(x_tiles, dy_tiles):
        columns = im2col(x_tiles[place], memory)
        matmul(tiles.B, columns.reshape(V.shape), V)  # (3)
        outputs = im2col(dy_tiles[place], memory)  # in the place of the columns
        matmul(A_transposed, outputs.reshape(len(weight), len(tiles.A), -1), M)  # (6)
        dU += matmul(M.swapaxes(0, 1), V.transpose(1, 2, 0), share)  # (7)
        if dpadded is not None:  # dV and dtiles take the places of V and the outputs
            dtiles = columns
            matmul(tiles.U.transpose(0, 2, 1), M.swapaxes(0, 1), V.swapaxes(0, 1))  # (9)
            matmul(B_transposed, V, dtiles.reshape(V.shape))  # (10)
            add_tiles(dtiles, tiles.x_window.view(dpadded)[place], tiles.x_window.stride[1])
    dweight = matmul(dU.reshape(PRODUCTS, -1).T, tiles.G)  # (8)
    grads = {"weight": dweight.reshape(weight.shape)}
    if "bias" in params:
        grads["bias"] = dy.sum(axis=(0, 2, 3))
    return (None if dpadded is None else tiles.x_window.unpad(dpadded)), grads


def even(length: int, most: int) -> int:
    """The size of parts of about one size, each at most `most`."""
    return math.ceil(length / math.ceil(length / most))


def slices(length: int, step: int) -> list[slice]:
    return [slice(first, first + step) for first in range(0, length, step)]


def by_rows(tiles: Array) -> Array:
    """Tiles in the order of an image's memory, row by row: NumPy follows the order of axes."""
    return tiles.transpose(0, 3, 1, 4, 2, 5)


def add_tiles(dtiles: Array, into: Array, stride: int) -> None:
    """Adds tiles to a view of images, one row of tiles and `stride` columns of each tile at a time,
    since these do not overlap: fewer and longer additions than those of Window.col2im."""
    for row, first in itertools.product(range(dtiles.shape[3]), range(0, TILE, stride)):
        part = ..., slice(first, first + stride), slice(row, row + 1), slice(None), slice(None)
        view = by_rows(into[part])
        view += by_rows(dtiles[part])  # (11)
