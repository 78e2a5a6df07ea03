"""Convolution in four ways that take the same arguments and give the same results.

`loops` takes the products of weight and pixel one by one, as loops.py defines them. The other
three are written here for one group; with several, each group is a convolution of its own, on its
share of the channels. windows[c, i, j, p, q, n] is what tap (i, j) of output (p, q) reads in image
n, as in windows.py.

The equations of a convolution, numbered as in layers/conv.py:

    y[n, o, p, q] = sum_{c,i,j} weight[o, c, i, j] * windows[c, i, j, p, q, n] + bias[o]    (1)
    dweight[o, c, i, j] = sum_{n,p,q} dy[n, o, p, q] * windows[c, i, j, p, q, n]            (2)
    dwindows[c, i, j, p, q, n] = sum_o weight[o, c, i, j] * dy[n, o, p, q]                  (3)
    dx = col2im(dwindows), without the border that is padding                               (4)
    dbias[o] = sum_{n,p,q} dy[n, o, p, q]                                                   (5)

`im2col` copies the windows out, one column for each output, and multiplies matrices:

    Y = K columns + b        dK = dY columns^T        dcolumns = K^T dY

`windows` sums over the strided view itself and copies nothing. Backward adds dwindows to the padded
dx tap by tap: windows overlap, but no two outputs read the same pixel with the same tap.

`toeplitz` writes the convolution of one image as a matrix T, with a row for each entry of y and a
column for each entry of x. Two taps of one output never read the same pixel, because they lie at
least one dilation apart; so each entry of T is a single weight, or zero:

    T[(o, p, q), (c, h, w)] = weight[o, c, i, j] if tap (i, j) of (p, q) reads (h, w)       (6)
    y = T x                                                                                 (7)
    dx = T^T dy                                                                             (8)
    dweight[o, c, i, j] = sum of dT = dy x^T over the entries of T that hold this weight    (9)

Source: V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning", 2016, section
4.1 for T; K. Chellapilla, S. Puri, P. Simard, "High performance convolutional neural networks for
document processing", 2006, for im2col.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minicnn.arguments import Padding, Shape, Size, integer, numbers
from minicnn.backend import Array
from minicnn.checks import check_float, check_gradient, check_images
from minicnn.reference import loops
from minicnn.windows import Window, batch_first, im2col

LARGEST_MATRIX = 10_000_000
"""The most entries that `toeplitz` will make."""


class Convolution(NamedTuple):
    """forward(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> y
    backward(dy, x, weight, stride=1, padding=0, dilation=1, groups=1) -> (dx, dweight, dbias)

    x (N, C, H, W), weight (O, C/groups, KH, KW), bias (O,), y (N, O, OH, OW); each gradient has the
    shape of its array. stride, padding (with zeros) and dilation are an int or (height, width), in
    pixels; padding also (top, bottom, left, right) or "same". Raises ValueError if shapes do not
    fit; all but `loops` also raise it for arrays that do not hold floats. `loops` computes in
    float64, the others in the dtype of x and weight.
    """

    forward: Callable
    backward: Callable


def _im2col_forward(x: Array, weight: Array, window: Window, groups: int) -> Array:
    windows = window.view(window.pad(x))  # (C, KH, KW, OH, OW, N)
    filters, columns = _matrices(weight, windows, groups)
    y = filters @ columns  # (1)
    return batch_first(y.reshape(len(weight), *windows.shape[3:]))


def _im2col_backward(
    dy: Array, x: Array, weight: Array, window: Window, groups: int
) -> tuple[Array, Array]:
    padded = window.pad(x)
    windows = window.view(padded)  # (C, KH, KW, OH, OW, N)
    filters, columns = _matrices(weight, windows, groups)
    dy = dy.transpose(1, 2, 3, 0).reshape(*filters.shape[:2], -1)
    dweight = dy @ columns.transpose(0, 2, 1)  # (2)
    dcolumns = filters.transpose(0, 2, 1) @ dy  # (3)
    dpadded = np.zeros_like(padded)
    window.col2im(dcolumns.reshape(windows.shape), dpadded)  # (4)
    return window.unpad(dpadded), dweight.reshape(weight.shape)  # (4)


def _matrices(weight: Array, windows: Array, groups: int) -> tuple[Array, Array]:
    """K (groups, O/groups, C/groups*KH*KW) and the columns (groups, C/groups*KH*KW, OH*OW*N)."""
    filters = weight.reshape(groups, -1, weight[0].size)
    return filters, im2col(windows).reshape(groups, weight[0].size, -1)


def _windows_forward(x: Array, weight: Array, window: Window, groups: int) -> Array:
    windows = _split(window.view(window.pad(x)), groups)
    y = np.einsum("gocij,gcijpqn->gopqn", _split(weight, groups), windows)  # (1)
    return batch_first(y.reshape(len(weight), *y.shape[2:]))


def _windows_backward(
    dy: Array, x: Array, weight: Array, window: Window, groups: int
) -> tuple[Array, Array]:
    padded = window.pad(x)
    windows, filters = _split(window.view(padded), groups), _split(weight, groups)
    dy = _split(dy.transpose(1, 2, 3, 0), groups)
    dweight = np.einsum("gopqn,gcijpqn->gocij", dy, windows)  # (2)
    dpadded = np.zeros_like(padded)
    for (i, j), tap in zip(np.ndindex(window.kernel), window.taps(dpadded)):
        dtap = np.einsum("goc,gopqn->gcpqn", filters[..., i, j], dy)  # (3)
        tap += dtap.reshape(tap.shape)  # (4)
    return window.unpad(dpadded), dweight.reshape(weight.shape)


def _toeplitz_forward(x: Array, weight: Array, window: Window, groups: int) -> Array:
    matrix = _matrix(weight, x.shape, window, groups)
    y = x.reshape(-1, matrix.shape[1]) @ matrix.T  # (7)
    return y.reshape(len(x), len(weight), *window.output_size(x.shape[2:]))


def _toeplitz_backward(
    dy: Array, x: Array, weight: Array, window: Window, groups: int
) -> tuple[Array, Array]:
    matrix = _matrix(weight, x.shape, window, groups)
    images, dy = x.reshape(-1, matrix.shape[1]), dy.reshape(-1, matrix.shape[0])
    dx = dy @ matrix  # (8)
    dmatrix = dy.T @ np.pad(images, ((0, 0), (0, 1)))  # (9), with zeros for taps in the padding
    held = dmatrix[_places(weight.shape, x.shape, window, groups)]
    dweight = held.sum(axis=(-2, -1))  # (9)
    return dx.reshape(x.shape), dweight.reshape(weight.shape)


def toeplitz(
    weight: Array,
    x_shape: Shape,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Array:
    """The matrix (O*OH*OW, C*H*W) that turns x[n].ravel() into y[n].ravel(), for x of shape
    (N, C, H, W). Raises ValueError if shapes do not fit, or above LARGEST_MATRIX entries."""
    weight = numbers("weight", weight)
    window = _window(x_shape, weight.shape, stride, padding, dilation, groups)
    return _matrix(weight, x_shape, window, groups)


def _matrix(weight: Array, x_shape: Shape, window: Window, groups: int) -> Array:
    oh, ow = window.output_size(x_shape[2:])
    outputs, pixels = len(weight) * oh * ow, math.prod(x_shape[1:])
    if outputs * pixels > LARGEST_MATRIX:
        raise ValueError(
            f"the matrix would be {outputs:,} x {pixels:,} = {outputs * pixels:,} entries, "
            f"{outputs * pixels * weight.itemsize / 1e6:,.0f} MB, but the limit is "
            f"{LARGEST_MATRIX:,} entries: use smaller images, or another of CONVOLUTIONS"
        )
    matrix = np.zeros((outputs, pixels + 1), weight.dtype)
    places = _places(weight.shape, x_shape, window, groups)
    matrix[places] = _split(weight, groups)[..., None, None]  # (6)
    return matrix[:, :-1]


def _places(
    weight_shape: Shape, x_shape: Shape, window: Window, groups: int
) -> tuple[Array, Array]:
    """The row and column in T of each weight at each output; together they have the shape
    (groups, O/groups, C/groups, KH, KW, OH, OW). Taps in the padding are in column C*H*W."""
    oh, ow = window.output_size(x_shape[2:])
    outputs, pixels = weight_shape[0] * oh * ow, math.prod(x_shape[1:])
    rows = np.arange(outputs).reshape(groups, -1, 1, 1, 1, oh, ow)
    image = np.arange(pixels).reshape(1, *x_shape[1:])  # the value of a pixel is its column
    columns = window.view(window.pad(image, value=pixels))
    return rows, columns.reshape(groups, 1, *weight_shape[1:], oh, ow)


def _split(array: Array, groups: int) -> Array:
    """The first axis as (groups, its length / groups)."""
    return array.reshape(groups, len(array) // groups, *array.shape[1:])


def _window(
    x_shape: Shape, weight_shape: Shape, stride: Size, padding: Padding, dilation: Size, groups: int
) -> Window:
    """The geometry. Raises ValueError if x, weight and groups do not fit together."""
    groups = integer("groups", groups, 1)
    if len(weight_shape) != 4 or weight_shape[0] % groups:
        raise ValueError(
            f"expected weight of shape (O, C/groups, KH, KW), O a multiple of groups = {groups}, "
            f"but got {tuple(weight_shape)}"
        )
    owner = f"weight of shape {tuple(weight_shape)} with groups={groups}"
    check_images(owner, x_shape, groups * weight_shape[1])
    window = Window.of((weight_shape[2], weight_shape[3]), stride, padding, dilation)
    window.output_size(x_shape[2:])
    return window


def _convolution(forward: Callable, backward: Callable) -> Convolution:
    """The checks and the bias that all have in common, around forward(x, weight, window, groups) ->
    y without bias and backward(dy, x, weight, window, groups) -> (dx, dweight)."""

    def conv2d(
        x: Array,
        weight: Array,
        bias: Array | None = None,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
    ) -> Array:
        check_float("conv2d", x)
        check_float("conv2d", weight, "weight")
        window = _window(x.shape, weight.shape, stride, padding, dilation, groups)
        if bias is not None:
            check_float("conv2d", bias, "bias")
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(f"expected bias of shape {weight.shape[:1]} but got {bias.shape}")
        y = forward(x, weight, window, groups)
        if bias is not None:
            y += bias[:, None, None]
        return y

    def conv2d_backward(
        dy: Array,
        x: Array,
        weight: Array,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
    ) -> tuple[Array, Array, Array]:
        check_float("conv2d", x)
        check_float("conv2d", weight, "weight")
        window = _window(x.shape, weight.shape, stride, padding, dilation, groups)
        check_gradient("conv2d", dy, (len(x), len(weight), *window.output_size(x.shape[2:])))
        return *backward(dy, x, weight, window, groups), dy.sum(axis=(0, 2, 3))  # (5)

    return Convolution(conv2d, conv2d_backward)


CONVOLUTIONS = {
    "loops": Convolution(loops.conv2d, loops.conv2d_backward),
    "im2col": _convolution(_im2col_forward, _im2col_backward),
    "windows": _convolution(_windows_forward, _windows_backward),
    "toeplitz": _convolution(_toeplitz_forward, _toeplitz_backward),
}
