"""Wrong gradients, statistics and masks of batch normalisation and dropout."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn.backend import Array
from minicnn.gradcheck.museum.fault import IMAGES, MADE_UP, Fault
from minicnn.layers import BatchNorm2D, Dropout, Layer
from minicnn.windows import batch_last


class BatchNormConstantStatistics(BatchNorm2D):
    """Mean and variance are treated as constants, although they depend on x: dx is dy, scaled."""

    def backward(self, dy, saved, need_dx=True):
        _, grads = super().backward(dy, saved)
        return dy * _slope(self, dy, saved), grads


class BatchNormConstantVariance(BatchNorm2D):
    """The mean is differentiated but the variance is not, so the last of dx's three terms, the one
    along x_hat, is missing."""

    def backward(self, dy, saved, need_dx=True):
        _, grads = super().backward(dy, saved)
        dx = dy * _slope(self, dy, saved)
        return dx - dx.mean(axis=(0, 2, 3), keepdims=True), grads


class BatchNormUnbiasedForward(BatchNorm2D):
    """Forward divides the variance by M - 1, as a library may by default, but backward is written
    for M."""

    def forward(self, x):
        m = x.size // x.shape[1]
        return _normalised(self, x, lambda var: 1 / np.sqrt(var * (m / (m - 1)) + self.eps))


class BatchNormEpsOutsideRoot(BatchNorm2D):
    """eps is added to the standard deviation. In a channel that is nearly blank it is then 1e-5
    instead of sqrt(1e-5) = 0.003, and noise is blown up."""

    def forward(self, x):
        return _normalised(self, x, lambda var: 1 / (np.sqrt(var) + self.eps))


class BatchNormWeightForgotten(BatchNorm2D):
    """dx is not multiplied by weight. The weights start as ones, so at first it is right."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        return dx / self.params["weight"].astype(dx.dtype)[:, None, None], grads


class BatchNormWeightOfInput(BatchNorm2D):
    """dweight is summed over x instead of x_hat."""

    def forward(self, x):
        y, saved = super().forward(x)
        return y, (saved, x)

    def backward(self, dy, saved, need_dx=True):
        saved, x = saved
        dx, grads = super().backward(dy, saved)
        return dx, grads | {"weight": (dy * x).sum(axis=(0, 2, 3))}

    def updates(self, saved):
        return super().updates(saved[0])


class BatchNormMomentumExchanged(BatchNorm2D):
    """momentum is the weight of the old average, as in some libraries, so with 0.1 the last batch
    has a weight of nine tenths."""

    def updates(self, saved):
        other = copy.copy(self)
        other.momentum = 1 - self.momentum
        return BatchNorm2D.updates(other, saved)


class BatchNormBiasedRunningVariance(BatchNorm2D):
    """running_var averages the variance divided by M; divided by M - 1 it would estimate the
    variance of all images."""

    def updates(self, saved):
        x_hat, inverse_std, mean, var = saved
        m = x_hat[0].size
        return super().updates((x_hat, inverse_std, mean, var * ((m - 1) / m)))


class BatchNormInferenceByBatch(BatchNorm2D):
    """Inference normalises over the batch too, so the result for an image depends on the others."""

    def __call__(self, x):
        return self.forward(x)[0]


class BatchNormLearnsInInference(BatchNorm2D):
    """The running statistics are updated in inference too: the test set leaks into the network."""

    def __call__(self, x):
        y = super().__call__(x)
        for name, array in self.updates(self.forward(x)[1]).items():
            self.state[name][...] = array
        return y


class DropoutNotScaled(Dropout):
    """Neither forward nor backward divides the kept entries by 1 - p, so all sums are larger in
    inference than in training."""

    def forward(self, x):
        y, keep = super().forward(x)
        return y * (1 - self.p), keep

    def backward(self, dy, saved, need_dx=True):
        return super().backward(dy, saved)[0] * (1 - self.p), {}


class DropoutScaledInBackward(Dropout):
    """Only the gradient is divided by 1 - p."""

    def forward(self, x):
        y, keep = super().forward(x)
        return y * (1 - self.p), keep


class DropoutOtherMask(Dropout):
    """Backward draws a mask of its own."""

    def backward(self, dy, saved, need_dx=True):
        _, other = self.at((*self.key, 1)).forward(dy)
        return super().backward(dy, other)


class DropoutInInference(Dropout):
    """Inference drops entries as training does."""

    def __call__(self, x):
        return self.forward(x)[0]


def _slope(layer: BatchNorm2D, dy: Array, saved: Any) -> Array:
    """weight * inverse_std, (C, 1, 1): the slope dy/dx if the statistics were constants."""
    weight, _ = layer._affine(dy)
    return (weight * saved[1])[..., None]


def _normalised(
    layer: BatchNorm2D, x: Array, inverse_std_of: Callable[[Array], Array]
) -> tuple[Array, Any]:
    """The forward pass of a batch norm with a different function of the variance."""
    _, (_, _, mean, var) = BatchNorm2D.forward(layer, x)
    weight, bias = (array[..., None] for array in layer._affine(x))
    inverse_std = inverse_std_of(var)
    x_hat = (x - mean[..., None]) * inverse_std[..., None]
    return weight * x_hat + bias, (batch_last(x_hat), inverse_std, mean, var)


def _norm(wrong: type[Layer], cause: str, *beside: str, seen: str = MADE_UP) -> Fault:
    arguments = {"num_features": 2}
    return Fault(BatchNorm2D, wrong, IMAGES, cause, arguments, lambda x: 2 * x + 1, beside, seen)


def _dropout(wrong: type[Layer], cause: str, *beside: str, seen: str = MADE_UP) -> Fault:
    return Fault(Dropout, wrong, IMAGES, cause, {"p": 0.25}, beside=beside, seen=seen)


_BY_ONE = "M and M - 1 mixed up in the variance"
_EXCHANGED = "momentum and 1 - momentum exchanged"
_MIXED = "images of a batch mixed"

FAULTS = [
    _norm(BatchNormConstantStatistics, "mean and variance taken as constants"),
    _norm(BatchNormConstantVariance, "variance taken as a constant"),
    _norm(BatchNormUnbiasedForward, _BY_ONE),
    _norm(BatchNormEpsOutsideRoot, "forward is wrong", "forward", seen="pjreddie/darknet#17"),
    _norm(BatchNormWeightForgotten, "not multiplied by weight"),
    _norm(BatchNormWeightOfInput, "as if y were x * weight"),
    _norm(
        BatchNormMomentumExchanged,
        _EXCHANGED,
        "updates",
        seen="Jermmy/pytorch-quantization-demo#17",
    ),
    _norm(BatchNormBiasedRunningVariance, _BY_ONE, "updates", seen="tinygrad/tinygrad#807"),
    _norm(BatchNormInferenceByBatch, _MIXED, seen="floodsung/LearningToCompare_FSL#48"),
    _norm(BatchNormLearnsInInference, "argument changed", "inference", seen="chainer/chainer#1580"),
    _dropout(DropoutNotScaled, "forward is wrong", "forward"),
    _dropout(DropoutScaledInBackward, "times 1/(1 - p)"),
    _dropout(DropoutOtherMask, "not the mask of forward"),
    _dropout(DropoutInInference, "inference is wrong", "inference", seen="tensorflow/skflow#79"),
]
