"""Batch normalisation: each channel gets mean 0 and variance 1 over the batch, then a scale and a
shift of its own.

With x as a matrix, a row of M = N*H*W numbers for each channel c:

    mean[c] = (1/M) sum_m x[c, m]                                                          (1)
    var[c] = (1/M) sum_m (x[c, m] - mean[c])**2                                            (2)
    x_hat = (x - mean) * inverse_std, with inverse_std = 1 / sqrt(var + eps)               (3)
    y = weight * x_hat + bias                                                              (4)

Every x[c, m] also enters the mean and the variance, and through them all of row c of y. The three
paths together send back

    dbias[c] = sum_m dy[c, m]                                                              (5)
    dweight[c] = sum_m dy[c, m] * x_hat[c, m]                                              (6)
    dx = weight * inverse_std * (dy - dbias/M - x_hat * dweight/M)                         (7)

so dx has no component along a constant, nor (up to eps) along x_hat: shifting or scaling a row of x
does not change y.

In inference an image should not depend on the others, so training keeps running statistics,

    running = (1 - momentum) * running + momentum * statistic                              (8)
    y = weight * (x - running_mean) / sqrt(running_var + eps) + bias                       (9)

where the statistics are the mean and, as an estimate of the variance of all images, var * M/(M-1).

In `fit` the batch is a chunk of up to 64 images, which Hoffer et al. call a ghost batch, so that
workers need not exchange numbers in the middle of a step.

Source: S. Ioffe, C. Szegedy, "Batch normalization: accelerating deep network training by reducing
internal covariate shift", ICML 2015; E. Hoffer, I. Hubara, D. Soudry, "Train longer, generalize
better", NIPS 2017, for ghost batches.
"""

import numpy as np

from minicnn.arguments import Shape, flag, integer, positive, require, share
from minicnn.backend import Array, array_module
from minicnn.checks import check_gradient, check_images, check_input
from minicnn.layers.base import Layer, Result
from minicnn.windows import batch_first, batch_last

Saved = tuple[Array, Array, Array, Array]  # x_hat (C, H, W, N); inverse_std, mean, var (C, 1)


class BatchNorm2D(Layer):
    """x (N, num_features, H, W) -> y of the same shape, normalised over N, H and W in training, and
    with the running statistics in inference.

    eps is added to the variance; `momentum`, from 0 to 1, is the weight of the new statistics in
    (8); with `affine=False` there are no parameters, and y = x_hat.

    params: weight and bias (num_features,), ones and zeros. state: running_mean and running_var
    (num_features,), zeros and ones; num_batches_tracked, how many steps have updated them.
    """

    mixes_images = True

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        super().__init__()
        self.num_features = integer("num_features", num_features, 1)
        self.eps = positive("eps", eps)
        self.momentum = share("momentum", momentum)
        self.affine = flag("affine", affine)
        zeros, ones = np.zeros(num_features, np.float32), np.ones(num_features, np.float32)
        if self.affine:
            self.params |= {"weight": ones.copy(), "bias": zeros.copy()}
        tracked = np.zeros((), np.int64)
        self.state |= {"running_mean": zeros, "running_var": ones, "num_batches_tracked": tracked}

    def output_shape(self, x_shape: Shape) -> Shape:
        check_images(self, x_shape, self.num_features)
        return tuple(x_shape)

    def __call__(self, x: Array) -> Array:
        check_input(self, x)
        mean, var = (self._column(self.state[f"running_{name}"], x) for name in ("mean", "var"))
        weight, bias = self._affine(x)
        scale = weight / array_module(x).sqrt(var + self.eps)
        mean, scale, bias = (column[..., None, None] for column in (mean, scale, bias))
        return batch_first((x.transpose(1, 2, 3, 0) - mean) * scale + bias)  # (9)

    def forward(self, x: Array) -> tuple[Array, Saved]:
        n, c, h, w = check_input(self, x)
        sentence = f"{self} needs more than one number per channel, N*H*W > 1, in training"
        require(n * h * w > 1, sentence, x.shape)
        rows = batch_last(x).reshape(c, -1)
        mean = rows.mean(axis=1, keepdims=True)  # (1)
        x_hat = rows - mean
        var = (x_hat * x_hat).mean(axis=1, keepdims=True)  # (2)
        inverse_std = 1 / array_module(x).sqrt(var + self.eps)
        x_hat *= inverse_std  # (3)
        weight, bias = self._affine(x)
        y = weight * x_hat
        y += bias  # (4)
        y, x_hat = y.reshape(c, h, w, n), x_hat.reshape(c, h, w, n)
        return batch_first(y), (x_hat, inverse_std, mean, var)

    def backward(self, dy: Array, saved: Saved, need_dx: bool = True) -> Result:
        x_hat, inverse_std, _, _ = saved
        check_gradient(self, dy, batch_first(x_hat).shape, x_hat)
        shape = x_hat.shape
        rows, x_hat = batch_last(dy).reshape(len(x_hat), -1), x_hat.reshape(len(x_hat), -1)
        m = x_hat.shape[1]
        dbias = rows.sum(axis=1, keepdims=True)  # (5)
        dweight = (rows * x_hat).sum(axis=1, keepdims=True)  # (6)
        grads = {"weight": dweight[:, 0], "bias": dbias[:, 0]} if self.affine else {}
        if not need_dx:
            return None, grads
        weight, _ = self._affine(dy)
        dx = x_hat * (-dweight / m)
        dx += rows
        dx -= dbias / m
        dx *= weight * inverse_std  # (7)
        return batch_first(dx.reshape(shape)), grads

    def updates(self, saved: Saved) -> dict[str, Array]:
        x_hat, _, mean, var = saved
        m = x_hat[0].size
        updated = {"num_batches_tracked": self.state["num_batches_tracked"] + 1}
        for name, statistic in {"running_mean": mean, "running_var": var * (m / (m - 1))}.items():
            running = self.state[name]
            new = (1 - self.momentum) * running + self.momentum * statistic[:, 0]  # (8)
            updated[name] = new.astype(running.dtype, copy=False)
        return updated

    def _affine(self, x: Array) -> tuple[Array, Array]:
        """weight and bias (C, 1) in the dtype of x."""
        if self.affine:
            return self._column(self.params["weight"], x), self._column(self.params["bias"], x)
        ones = array_module(x).ones((self.num_features, 1), x.dtype)
        return ones, 0 * ones

    def _column(self, array: Array, x: Array) -> Array:
        return array.astype(x.dtype, copy=False)[:, None]
