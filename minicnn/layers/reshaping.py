"""Flatten: every image as one row of features.

    y[n, (c*H + h)*W + w] = x[n, c, h, w]                                                  (1)
    dx[n, c, h, w] = dy[n, (c*H + h)*W + w]                                                (2)

Each entry is used once, so its gradient goes back to where the entry came from. Both directions
reshape the batch-last view, in which the rows of features already lie in memory.
"""

import math

from minicnn.arguments import Shape, sizes
from minicnn.backend import Array
from minicnn.checks import check_gradient, check_input
from minicnn.layers.base import Layer, Result


class Flatten(Layer):
    """x (N, ...) -> y (N, D), where D is the product of the other sizes, in row-major order."""

    def output_shape(self, x_shape: Shape) -> Shape:
        if len(sizes(self, x_shape)) < 2:
            raise ValueError(f"{self} expected x of shape (N, ...) but got {tuple(x_shape)}")
        return x_shape[0], math.prod(x_shape[1:])

    def forward(self, x: Array) -> tuple[Array, Shape]:
        n, d = check_input(self, x)
        batch_last = x.transpose(*range(1, x.ndim), 0)
        return batch_last.reshape(d, n).T, x.shape  # (1)

    def backward(self, dy: Array, saved: Shape, need_dx: bool = True) -> Result:
        check_gradient(self, dy, self.output_shape(saved))
        if not need_dx:
            return None, {}
        n, *sizes = saved
        return dy.T.reshape(*sizes, n).transpose(-1, *range(len(sizes))), {}  # (2)
