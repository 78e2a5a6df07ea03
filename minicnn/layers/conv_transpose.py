"""Transposed convolution: the transpose of Conv2D, which makes small images large.

A convolution without bias is a matrix T, y = T x, so its backward pass is dx = T^T dy. Here T^T
goes forward, from the size of y to that of x. What conv.py calls dy is x here, and its dx is y:
each entry of x sends the kernel, multiplied by that entry, to the pixels of its window, and where
windows overlap, these products add up:

    windows[n, c, i, j, p, q] = sum_o weight[o, c, i, j] * x[n, o, p, q]                        (1)
    y = col2im(windows) + bias, without the border that is padding                              (2)

Backward is the transpose of the transpose, that is, the convolution itself. The weight links the
same two arrays as there, with x and y exchanged:

    dx = T dy, the convolution of dy                                                            (3)
    dweight = the dweight of that convolution, of the image dy and the gradient x               (4)
    dbias[c] = sum_{n,h,w} dy[n, c, h, w]                                                       (5)

Its output size inverts windows.py's (1), which rounds down: S sizes of the large image have the
same H, and output_padding, from 0 to S - 1, chooses one of them:

    OH = (H - 1)*S - top - bottom + D*(KH - 1) + 1 + output_padding                             (6)

It adds rows at the bottom, which few windows reach or none; it pads nothing with zeros.

Source: V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter
4; M. Zeiler et al., "Deconvolutional networks", CVPR 2010.
"""

import numpy as np
from numpy.random import Generator

from minicnn.arguments import Padding, Shape, Size, flag, integer, pair, require
from minicnn.backend import Array, array_module
from minicnn.checks import check_gradient, check_images, check_input
from minicnn.layers.base import Layer, Result
from minicnn.layers.conv import Conv2D, convolve, convolve_backward
from minicnn.layers.products import blocks, choose_rows, product


class ConvTranspose2D(Layer):
    """x (N, in_channels, H, W) -> y (N, out_channels, OH, OW), with OH and OW as in (6).

    This is the transpose of a Conv2D from y to x, and takes its arguments: kernel_size, stride,
    padding, which is cut off y here, and dilation. output_padding, an int or (height, width), is
    smaller than the stride.

    params: weight (in_channels, out_channels/groups, KH, KW), Glorot-uniform from `rng`; bias
    (out_channels,), zeros, absent with `bias=False`.

    With many channels, backward rounds as in Conv2D. On a GPU, infinity or nan in x or dy can make
    the neighbouring row nan too: see products.py.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        *,
        rng: Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = integer("in_channels", in_channels, 1)
        self.out_channels = integer("out_channels", out_channels, 1)
        conv = Conv2D(
            out_channels, in_channels, kernel_size, stride, padding, dilation, groups, rng=rng
        )
        self.window, self.groups = conv.window, conv.groups
        self.output_padding = pair("output_padding", output_padding, 0)
        fits = all(more < stride for more, stride in zip(self.output_padding, self.window.stride))
        sentence = f"output_padding must be smaller than the stride, {self.window.stride}"
        require(fits, sentence, output_padding)
        self.params["weight"] = conv.params["weight"]
        if flag("bias", bias):
            self.params["bias"] = np.zeros(out_channels, np.float32)

    def __repr__(self) -> str:
        given = {
            "output_padding": (self.output_padding, (0, 0)),
            "groups": (self.groups, 1),
            "bias": ("bias" in self.params, True),
        }
        more = [f", {name}={value}" for name, (value, default) in given.items() if value != default]
        channels = f"{self.in_channels}, {self.out_channels}"
        return f"{type(self).__name__}({channels}, {self.window.arguments()}{''.join(more)})"

    def output_shape(self, x_shape: Shape) -> Shape:
        check_images(self, x_shape, self.in_channels)
        sizes = []
        for h, stride, padding, span, more in zip(
            x_shape[2:], self.window.stride, self.window.padding, self.window.span,
            self.output_padding,
        ):  # fmt: skip
            sizes.append((h - 1) * stride - sum(padding) + span + more)  # (6)
            require(
                h > 0 and sizes[-1] > 0,
                f"{self} makes (H - 1)*stride - padding + span + output_padding = ({h} - 1)*"
                f"{stride} - {sum(padding)} + {span} + {more} = {sizes[-1]} pixels: use less "
                f"padding or larger images",
                tuple(x_shape),
            )
        return x_shape[0], self.out_channels, *sizes

    def multiply_adds(self, x_shape: Shape) -> int:
        self.output_shape(x_shape)
        n, _, h, w = x_shape
        return n * h * w * self.params["weight"].size

    def forward(self, x: Array) -> tuple[Array, Array]:
        padded_shape = self.window.padded_shape(check_input(self, x))
        padded = array_module(x).empty(padded_shape, x.dtype)
        padded[...] = self.params["bias"][:, None, None, None] if "bias" in self.params else 0
        x_last = x.transpose(1, 2, 3, 0)
        rows = choose_rows(self.window, self.in_channels // self.groups, x.shape[2], x_last)
        weight = rows.spread(self.params["weight"].astype(x.dtype, copy=False), self.groups)
        windows = rows.window.view(padded)
        for block, x_block in blocks(weight, windows, rows.split(x_last)):
            x_block = x_block.reshape(*weight.shape[:2], -1)
            columns = product(weight.transpose(0, 2, 1), x_block)  # (1)
            columns = columns.reshape(windows[..., block, :, :].shape)
            rows.window.col2im(columns, rows.window.slab(padded, block))  # (2)
        return self.window.unpad(padded), x  # (2)

    def backward(self, dy: Array, saved: Array, need_dx: bool = True) -> Result:
        x = saved
        check_gradient(self, dy, self.output_shape(x.shape), x)
        weight = {"weight": self.params["weight"]}
        dx = convolve(dy, weight, self.window, self.groups) if need_dx else None  # (3)
        _, grads = convolve_backward(x, dy, weight, self.window, self.groups, need_dx=False)  # (4)
        if "bias" in self.params:
            grads["bias"] = dy.sum(axis=(0, 2, 3))  # (5)
        return dx, grads
