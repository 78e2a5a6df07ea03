"""Convolution (as in all of deep learning, cross-correlation: the kernel is not flipped).

With windows[c, i, j, p, q], what tap (i, j) of output (p, q) reads, as in windows.py,

    y[n, o, p, q] = sum_{c,i,j} weight[o, c, i, j] * windows[n, c, i, j, p, q] + bias[o]       (1)

Each product is added to one y, so it sends dy * windows to its weight and dy * weight to its
entry of x; where windows overlap, an entry of x receives a share from each that covers it:

    dweight[o, c, i, j] = sum_{n,p,q} dy[n, o, p, q] * windows[n, c, i, j, p, q]               (2)
    dwindows[n, c, i, j, p, q] = sum_o weight[o, c, i, j] * dy[n, o, p, q]                     (3)
    dx = col2im(dwindows), without the border that is padding                                  (4)
    dbias[o] = sum_{n,p,q} dy[n, o, p, q]                                                      (5)

As products of matrices, where K has a row for each o, and columns = im2col(x) one for each
(c, i, j):

    Y = K columns + b        dK = dY columns^T        dX = col2im(K^T dY)

Backward has no special case for stride, padding or dilation: they are all in im2col, which is
linear, and col2im is its transpose. Groups split the input and output channels alike, and each
group is a convolution of its own: the products are stacks of `groups` matrices.

The columns are formed a few output rows at a time, so that they stay in the cache. Backward forms
them again, which costs about as much as reading them back would, so only x has to be kept. With
few output channels, two rows of outputs count as twice the channels: see products.py. Where many
channels meet many, winograd.py computes the same with fewer multiplications: skip it at first.

Source: Y. LeCun et al., "Gradient-based learning applied to document recognition", 1998;
K. Chellapilla, S. Puri, P. Simard, "High performance convolutional neural networks for document
processing", 2006, for im2col.
"""

from typing import Any

import numpy as np
from numpy.random import Generator

from minicnn.arguments import Padding, Shape, Size, flag, integer
from minicnn.backend import Array, array_module
from minicnn.checks import check_gradient, check_images, check_input
from minicnn.initializers import glorot_uniform
from minicnn.layers import winograd
from minicnn.layers.base import Gradients, Layer, Result
from minicnn.layers.products import blocks, choose_rows, product, sum_of_products
from minicnn.windows import Window, batch_first


class Conv2D(Layer):
    """x (N, in_channels, H, W) -> y (N, out_channels, OH, OW), with OH, OW as in windows.py.

    kernel_size, stride, padding (with zeros) and dilation are an int or (height, width), in pixels;
    padding also (top, bottom, left, right), or "same": with stride 1, y has the size of x, and the
    odd pixel of padding goes to the bottom and right. `groups` divides both channel counts.

    params: weight (out_channels, in_channels/groups, KH, KW), Glorot-uniform from `rng`; bias
    (out_channels,), zeros, absent with `bias=False`. Without `rng` the weights differ from run to
    run.

    With many channels, rounding errors are relative to the largest entries near an output, and
    zeros and ties are not exact: see winograd.py. On a GPU, infinity or nan in x or dy can make the
    neighbouring row nan too: see products.py.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rng: Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = integer("in_channels", in_channels, 1)
        self.out_channels = integer("out_channels", out_channels, 1)
        self.groups = integer("groups", groups, 1)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups must divide both channel counts, but {in_channels} % {groups} = "
                f"{in_channels % groups} and {out_channels} % {groups} = {out_channels % groups}"
            )
        self.window = Window.of(kernel_size, stride, padding, dilation)
        shape = (out_channels, in_channels // groups, *self.window.kernel)
        self.params["weight"] = glorot_uniform(shape, rng)
        if flag("bias", bias):
            self.params["bias"] = np.zeros(out_channels, np.float32)

    def __repr__(self) -> str:
        bias = "" if "bias" in self.params else ", bias=False"
        groups = f", groups={self.groups}" if self.groups > 1 else ""
        channels = f"{self.in_channels}, {self.out_channels}"
        return f"{type(self).__name__}({channels}, {self.window.arguments()}{groups}{bias})"

    def output_shape(self, x_shape: Shape) -> Shape:
        check_images(self, x_shape, self.in_channels)
        return x_shape[0], self.out_channels, *self.window.output_size(x_shape[2:])

    def multiply_adds(self, x_shape: Shape) -> int:
        n, _, oh, ow = self.output_shape(x_shape)
        return n * oh * ow * self.params["weight"].size

    def forward(self, x: Array) -> tuple[Array, Array]:
        check_input(self, x)
        return convolve(x, self.params, self.window, self.groups), x

    def backward(self, dy: Array, saved: Array, need_dx: bool = True) -> Result:
        x = saved
        check_gradient(self, dy, self.output_shape(x.shape), x)
        return convolve_backward(dy, x, self.params, self.window, self.groups, need_dx)


def convolve(x: Array, params: Gradients, window: Window, groups: int) -> Array:
    """y for x (N, C, H, W), the parameters of a Conv2D, with or without bias, and its geometry."""
    o, (oh, ow) = len(params["weight"]), window.output_size(x.shape[2:])
    if winograd.pays(params["weight"], window, groups, (oh, ow), x):
        return winograd.convolve(x, params, window, (oh, ow))
    padded = window.pad(x)
    rows = choose_rows(window, o // groups, oh, padded)
    weight = rows.spread(params["weight"].astype(x.dtype, copy=False), groups)
    bias = params["bias"][:, None, None, None, None] if "bias" in params else 0
    xp = array_module(x)
    y = xp.empty((o, oh, ow, len(x)), x.dtype)
    y_rows = rows.split(y)  # (O, R, OH/R, OW, N)
    windows = rows.window.view(padded)  # (C, KH, KW, OH/R, OW, N)
    for block, columns in blocks(weight, windows, windows):
        columns = columns.reshape(groups, weight.shape[2], -1)
        y_block = y_rows[:, :, block]
        xp.add(product(weight, columns).reshape(y_block.shape), bias, out=y_block)  # (1)
    return batch_first(y)


def convolve_backward(
    dy: Array, x: Array, params: Gradients, window: Window, groups: int, need_dx: bool = True
) -> Result:
    """(dx, grads) for dy, which has the shape of y, and the arguments of `convolve`."""
    if winograd.pays(params["weight"], window, groups, dy.shape[2:], dy, x):
        return winograd.convolve_backward(dy, x, params, window, need_dx)
    padded, dy = window.pad(x), dy.transpose(1, 2, 3, 0)
    o, oh, _, _ = dy.shape
    rows = choose_rows(window, o // groups, oh, dy if need_dx else None)
    weight = rows.spread(params["weight"].astype(x.dtype, copy=False), groups)
    dpadded = array_module(x).zeros_like(padded) if need_dx else None
    windows = rows.window.view(padded)  # (C, KH, KW, OH/R, OW, N)
    dweight: Any = None  # transposed
    for block, columns, dy_block in blocks(weight, windows, windows, rows.split(dy)):
        matrix = columns.reshape(groups, weight.shape[2], -1)
        dy_block = dy_block.reshape(*weight.shape[:2], -1)
        share = sum_of_products(matrix, dy_block.transpose(0, 2, 1))  # (2)
        dweight = share if dweight is None else dweight + share  # (2)
        if dpadded is not None:  # the columns are no longer needed: dcolumns take their place
            product(weight.transpose(0, 2, 1), dy_block, out=matrix)  # (3)
            rows.window.col2im(columns, rows.window.slab(dpadded, block))  # (4)
    grads = {"weight": rows.weight_gradient(dweight.transpose(0, 2, 1))}
    if "bias" in params:
        grads["bias"] = dy.sum(axis=(1, 2, 3))  # (5)
    return (None if dpadded is None else window.unpad(dpadded)), grads  # (4)
