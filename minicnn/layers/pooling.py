"""Pooling: each window of a channel becomes one number, its maximum or its mean.

With windows[c, i, j, p, q], what tap (i, j) of output (p, q) reads, as in windows.py:

    max      y[c, p, q] = max_{i,j} windows[c, i, j, p, q]         padding counts as -infinity  (1)
             dwindows[c, i, j, p, q] = dy[c, p, q] at the tap of the maximum, else 0            (2)
    average  y[c, p, q] = sum_{i,j} windows[c, i, j, p, q] / count[p, q]                        (3)
             dwindows[c, i, j, p, q] = dy[c, p, q] / count[p, q]                                (4)

where count is KH*KW, padding included, or, with count_include_pad=False, the number of taps inside
the image. An entry of x may lie in several windows: dx adds up what it gets from each.

Where several taps of a window share the maximum, y has no derivative; the first of them, row by
row, takes all of dy, so that no gradient is created or lost.

If the window is the whole image, it does not have to slide:

    global average   y[n, c] = sum_{h,w} x[n, c, h, w] / (H*W)                                  (5)
                     dx[n, c, h, w] = dy[n, c] / (H*W)                                          (6)

Source: Y. LeCun et al., "Gradient-based learning applied to document recognition", 1998, for the
average; M. Ranzato et al., "Unsupervised learning of invariant feature hierarchies with
applications to object recognition", CVPR 2007, for the maximum; M. Lin, Q. Chen, S. Yan, "Network
in network", ICLR 2014, for the global average.
"""

import functools
import math
from collections.abc import Iterator

from minicnn.arguments import Padding, Shape, Size, flag, require
from minicnn.backend import Array, array_module, masked
from minicnn.checks import check_gradient, check_images, check_input
from minicnn.layers.base import Layer, Result
from minicnn.windows import Window, batch_first, batch_last


class Pool2D(Layer):
    """What both poolings share: the geometry of the window."""

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Padding = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        stride = kernel_size if stride is None else stride
        self.window = Window.of(kernel_size, stride, padding, dilation)
        self.ceil_mode = flag("ceil_mode", ceil_mode)
        fits = all(max(sides) < span for sides, span in zip(self.window.padding, self.window.span))
        sentence = f"padding must be smaller than what the kernel spans, {self.window.span}"
        require(fits, f"{sentence}, or a window would see no pixel", padding)

    def __repr__(self) -> str:
        ceil_mode = ", ceil_mode=True" if self.ceil_mode else ""
        return f"{type(self).__name__}({self.window.arguments(self.window.kernel)}{ceil_mode})"

    def output_shape(self, x_shape: Shape) -> Shape:
        check_images(self, x_shape)
        return *x_shape[:2], *self._window_over(x_shape).output_size(x_shape[2:])

    def _window_over(self, x_shape: Shape) -> Window:
        """The window over images of this shape: ceil_mode gives it more padding."""
        return self.window.extended(x_shape[2:]) if self.ceil_mode else self.window


class MaxPool2D(Pool2D):
    """x (N, C, H, W) -> y (N, C, OH, OW), the maximum of each window; OH, OW as in windows.py.

    kernel_size, stride (the kernel size if None), padding (smaller than what the kernel spans) and
    dilation are an int or (height, width), in pixels; padding also (top, bottom, left, right), or
    "same" with stride 1. Padding counts as minus infinity. With `ceil_mode`, pixels left over at
    the bottom and right, fewer than a stride, get windows too, which reach beyond the image.
    """

    def forward(self, x: Array) -> tuple[Array, tuple[Array, Array]]:
        check_input(self, x)
        window = self._window_over(x.shape)
        y = window.pad(x, -math.inf)
        for axis in 0, 1:  # the maximum of a window is that of the maxima of its columns
            y = functools.reduce(array_module(x).maximum, window.taps_along(axis, y))  # (1)
        return batch_first(y), (x, y)

    def backward(self, dy: Array, saved: tuple[Array, Array], need_dx: bool = True) -> Result:
        x, y = saved
        check_gradient(self, dy, batch_first(y).shape, y)
        if not need_dx:
            return None, {}
        window = self._window_over(x.shape)
        taps = window.taps(window.pad(x, math.nan))  # nan equals nothing, so padding never wins
        return window.from_taps(_dtaps(taps, y, batch_last(dy)), x.shape, dy), {}


def _dtaps(taps: Iterator[Array], y: Array, dy: Array) -> Iterator[Array]:
    """For each tap, dy where it is the first to hold the maximum y, else 0."""
    found = array_module(y).zeros(y.shape, bool)
    for tap in taps:
        first = (tap == y) > found
        found |= first
        yield masked(dy, first)  # (2)


class AvgPool2D(Pool2D):
    """x (N, C, H, W) -> y (N, C, OH, OW), the mean of each window; OH, OW as in windows.py.

    kernel_size, stride, padding, ceil_mode and dilation (which PyTorch lacks here) are as in
    MaxPool2D. The mean is over the whole window, including the zeros of the padding, or, with
    `count_include_pad=False`, over its entries inside the image. Entries beyond the padding, which
    a window may have with ceil_mode, never count.
    """

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Padding = 0,
        count_include_pad: bool = True,
        *,
        ceil_mode: bool = False,
        dilation: Size = 1,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)
        self.count_include_pad = flag("count_include_pad", count_include_pad)

    def __repr__(self) -> str:
        exclude = "" if self.count_include_pad else ", count_include_pad=False"
        return f"{super().__repr__()[:-1]}{exclude})"

    def forward(self, x: Array) -> tuple[Array, Shape]:
        check_input(self, x)
        window = self._window_over(x.shape)
        taps = window.taps(window.pad(x))
        y = next(taps) + next(taps, 0)  # (3); a new array, even of one tap
        for tap in taps:
            y += tap  # (3)
        y *= self._share(window, x.shape, y)  # (3)
        return batch_first(y), x.shape

    def backward(self, dy: Array, saved: Shape, need_dx: bool = True) -> Result:
        check_gradient(self, dy, self.output_shape(saved))
        if not need_dx:
            return None, {}
        window = self._window_over(saved)
        dtap = batch_last(dy) * self._share(window, saved, dy)  # (4)
        return window.from_taps([dtap] * math.prod(window.kernel), saved, dy), {}

    def _share(self, window: Window, x_shape: Shape, y: Array) -> float | Array:
        """1/count, one number or (1, OH, OW, 1) in the dtype and place of y."""
        if self.count_include_pad and not self.ceil_mode:
            return 1 / math.prod(window.kernel)
        xp = array_module(y)
        image = xp.ones((1, 1, *x_shape[2:]), y.dtype)
        counted = self.window.pad(image, float(self.count_include_pad))
        padded = xp.zeros(window.padded_shape(image.shape), y.dtype)
        padded[:, : counted.shape[1], : counted.shape[2]] = counted
        return 1 / xp.maximum(sum(window.taps(padded)), 1)  # a dilated window may see no pixel


class GlobalAvgPool2D(Layer):
    """x (N, C, H, W) -> y (N, C), the mean of each channel: features for a Linear."""

    def output_shape(self, x_shape: Shape) -> Shape:
        check_images(self, x_shape)
        require(0 not in x_shape[2:], f"{self} expected images of at least one pixel", x_shape)
        return tuple(x_shape[:2])

    def forward(self, x: Array) -> tuple[Array, Shape]:
        check_input(self, x)
        return x.mean(axis=(2, 3)), x.shape  # (5)

    def backward(self, dy: Array, saved: Shape, need_dx: bool = True) -> Result:
        n, c, h, w = saved
        check_gradient(self, dy, (n, c))
        if not need_dx:
            return None, {}
        dx = array_module(dy).empty((c, h, w, n), dy.dtype)
        dx[...] = dy.T[:, None, None] / (h * w)  # (6)
        return batch_first(dx), {}
