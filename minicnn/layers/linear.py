"""Linear layer: every output is a weighted sum of all inputs, plus a bias.

    y[n, o] = sum_i weight[o, i] * x[n, i] + bias[o]             Y  = X A^T + b   (1)
    dx[n, i] = sum_o dy[n, o] * weight[o, i]                     dX = dY A        (2)
    dweight[o, i] = sum_n dy[n, o] * x[n, i]                     dA = dY^T X      (3)
    dbias[o] = sum_n dy[n, o]                                                     (4)

Each follows from (1) by asking where a number is used: x[n, i] by every output of row n, and
weight[o, i] once by every row, so its gradient is a sum over the batch.

The code computes the transposes, Y^T = A X^T + b and so on: with the batch last in memory, these
products take the arrays as they lie.

Source: D. Rumelhart, G. Hinton, R. Williams, "Learning representations by back-propagating
errors", Nature 323, 1986.
"""

import numpy as np
from numpy.random import Generator

from minicnn.arguments import Shape, flag, integer, sizes
from minicnn.backend import Array, matmul
from minicnn.checks import check_gradient, check_input
from minicnn.initializers import glorot_uniform
from minicnn.layers.base import Layer, Result


class Linear(Layer):
    """x (N, in_features) -> y (N, out_features).

    params: weight (out_features, in_features), Glorot-uniform from `rng`; bias (out_features,),
    zeros, absent with `bias=False`. Without `rng` the weights differ from run to run.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rng: Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_features = integer("in_features", in_features, 1)
        self.out_features = integer("out_features", out_features, 1)
        self.params["weight"] = glorot_uniform((self.out_features, self.in_features), rng)
        if flag("bias", bias):
            self.params["bias"] = np.zeros(self.out_features, np.float32)

    def __repr__(self) -> str:
        bias = "" if "bias" in self.params else ", bias=False"
        return f"{type(self).__name__}({self.in_features}, {self.out_features}{bias})"

    def output_shape(self, x_shape: Shape) -> Shape:
        if len(sizes(self, x_shape)) != 2 or x_shape[1] != self.in_features:
            raise ValueError(
                f"{self!r} expected x of shape (N, {self.in_features}) but got {tuple(x_shape)}"
            )
        return x_shape[0], self.out_features

    def multiply_adds(self, x_shape: Shape) -> int:
        return self.output_shape(x_shape)[0] * self.params["weight"].size

    def forward(self, x: Array) -> tuple[Array, Array]:
        check_input(self, x)
        params = {name: p.astype(x.dtype, copy=False) for name, p in self.params.items()}
        y = matmul(params["weight"], x.T)  # (1)
        if "bias" in params:
            y += params["bias"][:, None]  # (1)
        return y.T, x

    def backward(self, dy: Array, saved: Array, need_dx: bool = True) -> Result:
        x = saved
        check_gradient(self, dy, self.output_shape(x.shape), x)
        grads = {"weight": matmul(dy.T, x)}  # (3)
        if "bias" in self.params:
            grads["bias"] = dy.sum(axis=0)  # (4)
        if not need_dx:
            return None, grads
        weight = self.params["weight"].astype(x.dtype, copy=False)
        return matmul(weight.T, dy.T).T, grads  # (2)
