"""Convolution (as in all of deep learning, cross-correlation: the kernel is not flipped).

With windows[c, i, j, p, q], what tap (i, j) of output (p, q) reads, as in windows.py,

    y[n, o, p, q] = sum_{c,i,j} weight[o, c, i, j] * windows[n, c, i, j, p, q] + bias[o]       (1)

Each product is added to one y, so it sends dy * windows to its weight and dy * weight to its
entry of x; where windows overlap, an entry of x receives from all that cover it:

    dweight[o, c, i, j] = sum_{n,p,q} dy[n, o, p, q] * windows[n, c, i, j, p, q]               (2)
    dwindows[n, c, i, j, p, q] = sum_o weight[o, c, i, j] * dy[n, o, p, q]                     (3)
    dx = col2im(dwindows), without the border that is padding                                  (4)
    dbias[o] = sum_{n,p,q} dy[n, o, p, q]                                                      (5)

As products of matrices, with a row of columns = im2col(x) for each (c, i, j):

    Y = W columns + b        dW = dY columns^T        dX = col2im(W^T dY)

Stride, padding and dilation need no case of their own in backward: they are all in im2col, which
is linear, and col2im is its transpose. With groups the channels are split, in and out alike, and
each group is a convolution of its own: the products are stacks of `groups` matrices.

The columns are formed a few output rows at a time, so that they stay in the cache, and again in
backward, which costs about what reading them back would; so all that has to be kept is x. Where
there are few output channels, two rows of outputs count as twice the channels, as in rows.py.

Source: Y. LeCun et al., "Gradient-based learning applied to document recognition", 1998;
K. Chellapilla, S. Puri, P. Simard, "High performance convolutional neural networks for document
processing", 2006, for im2col.
"""

import numpy as np

from minicnn.backend import Array, aligned_empty, array_module, scratch_bytes, small_product
from minicnn.checks import (
    Pair,
    Shape,
    check_device,
    check_float,
    check_gradient,
    check_images,
    flag,
    integer,
    pair,
)
from minicnn.initializers import glorot_uniform
from minicnn.layers.base import Gradients, Layer
from minicnn.layers.rows import Rows
from minicnn.windows import Window, batch_first, im2col


class Conv2D(Layer):
    """x (N, in_channels, H, W) -> y (N, out_channels, OH, OW), with OH, OW as in windows.py.

    kernel_size, stride, padding (per side, with zeros) and dilation are an int or (height, width),
    in pixels. `groups` divides both channel counts.

    params: weight (out_channels, in_channels/groups, KH, KW), Glorot-uniform from `rng`; bias
    (out_channels,), zeros, absent with `bias=False`. Without `rng` the weights differ from run to
    run.

    On a GPU, infinity or nan in x or dy can make the neighbouring row nan too: see rows.py.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.in_channels = integer("in_channels", in_channels, 1)
        self.out_channels = integer("out_channels", out_channels, 1)
        self.groups = integer("groups", groups, 1)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups must divide both channel counts, but {in_channels} % {groups} = "
                f"{in_channels % groups} and {out_channels} % {groups} = {out_channels % groups}"
            )
        self.window = Window(
            pair("kernel_size", kernel_size, 1),
            pair("stride", stride, 1),
            pair("padding", padding, 0),
            pair("dilation", dilation, 1),
        )
        shape = (out_channels, in_channels // groups, *self.window.kernel)
        self.params = {"weight": glorot_uniform(shape, rng)}
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
        check_float(self, x)
        check_device(self, "x", x, self.params["weight"])
        n, o, oh, ow = self.output_shape(x.shape)
        padded = self.window.pad(x)
        rows = Rows.together(self.window, o // self.groups, oh).or_single(padded)
        weight = self._matrix(rows, x.dtype)
        bias = self.params["bias"][:, None, None, None, None] if "bias" in self.params else 0
        windows = rows.window.view(padded)  # (C, KH, KW, OH/R, OW, N)
        xp = array_module(x)
        y = xp.empty((o, oh // rows.count, rows.count, ow, n), x.dtype)
        blocks = _blocks(windows, weight)
        memory = aligned_empty(windows[:, :, :, blocks[0]].size, x)
        for block in blocks:
            columns = im2col(windows[:, :, :, block], memory)
            columns = columns.reshape(self.groups, weight.shape[2], -1)
            y_block = y[:, block].swapaxes(1, 2)
            xp.add(_product(weight, columns).reshape(y_block.shape), bias, out=y_block)  # (1)
        return batch_first(y.reshape(o, oh, ow, n)), x

    def backward(
        self, dy: Array, saved: Array, need_dx: bool = True
    ) -> tuple[Array | None, Gradients]:
        x = saved
        check_gradient(self, dy, self.output_shape(x.shape))
        check_device(self, "dy", dy, x)
        n, o, oh, ow = dy.shape
        padded, dy = self.window.pad(x), dy.transpose(1, 2, 3, 0)
        rows = Rows.together(self.window, o // self.groups, oh)
        if need_dx:  # dweight leaves out what meets the zeros
            rows = rows.or_single(dy)
        weight = self._matrix(rows, x.dtype)
        windows = rows.window.view(padded)  # (C, KH, KW, OH/R, OW, N)
        dy_rows = dy.reshape(o, oh // rows.count, rows.count, ow, n).swapaxes(1, 2)
        xp = array_module(x)
        dpadded = xp.zeros_like(padded) if need_dx else None
        dweight = xp.zeros((self.groups, weight.shape[2], weight.shape[1]), x.dtype)  # transposed
        blocks = _blocks(windows, weight)
        memory = aligned_empty(windows[:, :, :, blocks[0]].size, x)
        dy_memory = aligned_empty(dy_rows[:, :, blocks[0]].size, x)
        for block in blocks:
            columns = im2col(windows[:, :, :, block], memory)
            matrix = columns.reshape(*dweight.shape[:2], -1)
            dy_block = im2col(dy_rows[:, :, block], dy_memory).reshape(*weight.shape[:2], -1)
            dweight += matrix @ dy_block.transpose(0, 2, 1)  # (2)
            if need_dx:  # the columns have been used, and dcolumns take their place
                _product(weight.transpose(0, 2, 1), dy_block, out=matrix)  # (3)
                rows.window.col2im(columns, rows.window.slab(dpadded, block))  # (4)
        dspread = dweight.transpose(0, 2, 1).reshape(o, rows.count, -1, *rows.window.kernel)
        grads = {"weight": rows.gather(dspread)}
        if "bias" in self.params:
            grads["bias"] = dy.sum(axis=(1, 2, 3))  # (5)
        return (self.window.unpad(dpadded) if need_dx else None), grads  # (4)

    def _matrix(self, rows: Rows, dtype: np.dtype) -> Array:
        """The weight as one matrix a group, (groups, O/groups*R, C/groups*KH*KW)."""
        spread = rows.spread(self.params["weight"].astype(dtype, copy=False))
        return spread.reshape(self.groups, self.out_channels // self.groups * rows.count, -1)


def _product(weight: Array, columns: Array, out: Array | None = None) -> Array:
    """weight (groups, M, K) @ columns (groups, K, L) -> (groups, M, L), as small products with a
    piece of the columns each, unless these would be narrow or of different widths."""
    (groups, m, k), length = weight.shape, columns.shape[2]
    pieces = 1
    while m * k * length > pieces * small_product(weight):
        pieces *= 2
    xp = array_module(weight)
    if pieces == 1 or length % pieces or length // pieces < 128:
        return xp.matmul(weight, columns, out=out)
    y = xp.empty((groups, m, length), weight.dtype) if out is None else out
    columns = columns.reshape(groups, k, pieces, -1).swapaxes(1, 2)
    xp.matmul(weight[:, None], columns, out=y.reshape(groups, m, pieces, -1).swapaxes(1, 2))
    return y


def _blocks(windows: Array, weight: Array) -> list[slice]:
    """Cuts the output rows of windows (C, KH, KW, OH, OW, N) into blocks whose columns stay in the
    cache, but are large beside the weight, whose gradient each block adds to."""
    oh = windows.shape[3]
    row_bytes = max(1, windows.nbytes // oh)
    block_bytes = max(scratch_bytes(windows), 4 * weight.nbytes)
    size = max(1, min(oh, block_bytes // row_bytes))
    return [slice(first, min(first + size, oh)) for first in range(0, oh, size)]
