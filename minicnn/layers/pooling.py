"""Pooling: each window of a channel becomes one number, its maximum or its mean.

With windows[c, i, j, p, q], what tap (i, j) of output (p, q) reads, as in windows.py:

    max      y[c, p, q] = max_{i,j} windows[c, i, j, p, q]         padding counts as -infinity  (1)
             dwindows[c, i, j, p, q] = dy[c, p, q] at the tap of the maximum, else 0            (2)
    average  y[c, p, q] = sum_{i,j} windows[c, i, j, p, q] / count[p, q]                        (3)
             dwindows[c, i, j, p, q] = dy[c, p, q] / count[p, q]                                (4)

where count is KH*KW, padding included, or with count_include_pad=False the number of taps inside
the image. An entry of x may lie in several windows: dx adds up what it gets from each.

Where several taps of a window share the maximum, y has no derivative; the first of them, row by
row, takes all of dy, so that no gradient is made or lost.

Source: Y. LeCun et al., "Gradient-based learning applied to document recognition", 1998, for the
average; M. Ranzato et al., "Unsupervised learning of invariant feature hierarchies with
applications to object recognition", CVPR 2007, for the maximum.
"""

import math

from minicnn.arguments import Shape, Size, flag
from minicnn.backend import Array, array_module, masked
from minicnn.checks import check_gradient, check_images, check_input
from minicnn.layers.base import Layer, Result
from minicnn.windows import Window, batch_first, batch_last


class Pool2D(Layer):
    """What both poolings share: the geometry of the window."""

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
        super().__init__()
        self.window = Window.of(kernel_size, kernel_size if stride is None else stride, padding)
        kernel, padding = self.window.kernel, self.window.padding
        if any(2 * p > k for p, k in zip(padding, kernel)):
            raise ValueError(
                f"padding must be at most half of kernel_size, as in PyTorch, got padding "
                f"{padding} for kernel_size {kernel}"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.window.arguments(self.window.kernel)})"

    def output_shape(self, x_shape: Shape) -> Shape:
        check_images(self, x_shape)
        return *x_shape[:2], *self.window.output_size(x_shape[2:])


class MaxPool2D(Pool2D):
    """x (N, C, H, W) -> y (N, C, OH, OW), the maximum of each window; OH, OW as in windows.py.

    kernel_size, stride (the kernel size if None) and padding (per side, at most half of the
    kernel) are an int or (height, width), in pixels. Padding counts as minus infinity.
    """

    def forward(self, x: Array) -> tuple[Array, tuple[Array, Array]]:
        n, *sizes = check_input(self, x)
        xp = array_module(x)
        y = xp.full((*sizes, n), -xp.inf, x.dtype)
        for tap in self.window.taps(self.window.pad(x, -xp.inf)):
            xp.maximum(y, tap, out=y)  # (1)
        return batch_first(y), (x, y)

    def backward(self, dy: Array, saved: tuple[Array, Array], need_dx: bool = True) -> Result:
        x, y = saved
        check_gradient(self, dy, batch_first(y).shape, y)
        if not need_dx:
            return None, {}
        xp = array_module(x)
        padded = self.window.pad(x, xp.nan)  # equals nothing, so it is never taken for the maximum
        dy = batch_last(dy)
        dpadded = xp.zeros_like(padded)
        found = xp.zeros(y.shape, bool)
        for tap, dtap in zip(self.window.taps(padded), self.window.taps(dpadded)):
            first = (tap == y) & ~found
            found |= first
            dtap += masked(dy, first)  # (2)
        return self.window.unpad(dpadded), {}


class AvgPool2D(Pool2D):
    """x (N, C, H, W) -> y (N, C, OH, OW), the mean of each window; OH, OW as in windows.py.

    kernel_size, stride (the kernel size if None) and padding (per side, at most half of the
    kernel) are an int or (height, width), in pixels. The mean is over the whole window, the zeros
    of the padding included, or with `count_include_pad=False` over its entries inside the image.
    """

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        self.count_include_pad = flag("count_include_pad", count_include_pad)

    def __repr__(self) -> str:
        exclude = "" if self.count_include_pad else ", count_include_pad=False"
        return f"{super().__repr__()[:-1]}{exclude})"

    def forward(self, x: Array) -> tuple[Array, Shape]:
        check_input(self, x)
        y = self._sum(x)  # (3)
        y *= self._share(x.shape, y)  # (3)
        return batch_first(y), x.shape

    def backward(self, dy: Array, saved: Shape, need_dx: bool = True) -> Result:
        check_gradient(self, dy, self.output_shape(saved))
        if not need_dx:
            return None, {}
        dtaps = batch_last(dy) * self._share(saved, dy)  # (4)
        dpadded = array_module(dy).zeros(self.window.padded_shape(saved), dy.dtype)
        for dtap in self.window.taps(dpadded):
            if self.window.overlaps:
                dtap += dtaps
            else:
                dtap[...] = dtaps  # all that these entries get
        return self.window.unpad(dpadded), {}

    def _sum(self, x: Array) -> Array:
        """The sum of each window of x (N, C, H, W), as (C, OH, OW, N)."""
        taps = self.window.taps(self.window.pad(x))
        y = next(taps).copy()
        for tap in taps:
            y += tap
        return y

    def _share(self, x_shape: Shape, y: Array) -> float | Array:
        """1/count, one number or (1, OH, OW, 1) in the dtype and place of y."""
        if self.count_include_pad:
            return 1 / math.prod(self.window.kernel)
        return 1 / self._sum(array_module(y).ones((1, 1, *x_shape[2:]), y.dtype))
