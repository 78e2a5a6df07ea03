"""The museum of wrong gradients: real mistakes, each in a layer or loss that is right otherwise.

They were found in published projects, or are asked about again and again; many of them still train.
The checker has to catch each one, and to name the mistake of most.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from minicnn.backend import Array
from minicnn.gradcheck.check import LossLayer, check_gradients
from minicnn.gradcheck.diagnosis import diagnose_update
from minicnn.gradcheck.report import Finding, Report
from minicnn.layers import (
    GELU,
    AvgPool2D,
    BatchNorm2D,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Flatten,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sigmoid,
    Tanh,
)
from minicnn.losses import softmax_cross_entropy, squared_error
from minicnn.windows import batch_first, batch_last, im2col


class MaxPoolOverlapAssigned(MaxPool2D):
    """An entry that is the maximum of two windows keeps only the last one's gradient: `=` where
    `+=` is needed. Right for windows side by side, such as 2x2 with stride 2."""

    def backward(self, dy, saved, need_dx=True):
        x, y = saved
        padded = self.window.pad(x, np.nan)
        dpadded = np.zeros_like(padded)
        for tap, dtap in zip(self.window.taps(padded), self.window.taps(dpadded)):
            dtap[...] = np.where(tap == y, batch_last(dy), dtap)
        return self.window.unpad(dpadded), {}


class MaxPoolZeroPadding(MaxPool2D):
    """The padding counts as 0 instead of minus infinity, so where all of a window is negative the
    padding wins. Backward is the exact derivative of that, so only the output gives it away."""

    def forward(self, x):
        padded = self.window.pad(x)
        y = np.max(self.window.view(padded), axis=(1, 2))
        return batch_first(y), (x, y)

    def backward(self, dy, saved, need_dx=True):
        x, y = saved
        padded = self.window.pad(x)
        dpadded = np.zeros_like(padded)
        for tap, dtap in zip(self.window.taps(padded), self.window.taps(dpadded)):
            dtap += batch_last(dy) * (tap == y)
        return self.window.unpad(dpadded), {}


class MaxPoolEveryTie(MaxPool2D):
    """Every entry that equals the maximum gets the whole gradient: four equal pixels, as in any
    blank part of an image, turn 1 into 4."""

    def backward(self, dy, saved, need_dx=True):
        x, y = saved
        padded = self.window.pad(x, np.nan)
        dpadded = np.zeros_like(padded)
        for tap, dtap in zip(self.window.taps(padded), self.window.taps(dpadded)):
            dtap += batch_last(dy) * (tap == y)
        return self.window.unpad(dpadded), {}


class AvgPoolShareForgotten(AvgPool2D):
    """Forward divides by the size of the window, backward does not: as if each entry had the whole
    of the mean."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        return dx * math.prod(self.window.kernel), grads


class AvgPoolUpstreamIgnored(AvgPool2D):
    """Backward spreads 1 instead of dy. A check with an upstream gradient of ones accepts it."""

    def backward(self, dy, saved, need_dx=True):
        return super().backward(np.ones_like(dy), saved)


class ConvPaddingKept(Conv2D):
    """dx comes out with the border of the padding still around it, and the layer before fails."""

    def backward(self, dy, saved, need_dx=True):
        border = [(0, 0), (0, 0), *self.window.padding]
        dx, grads = super().backward(dy, saved)
        return np.pad(dx, border), grads


class ConvCropped(Conv2D):
    """The padding is cut off dx at two sides instead of all four, so it is moved by the padding."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        for axis, (before, _) in zip((2, 3), self.window.padding):
            dx = np.roll(dx, before, axis)
        return dx, grads


class ConvRowsLeftOver(Conv2D):
    """dx gets the size that the windows cover. Where they do not divide the image, some of its rows
    and columns are in no window and are missing from dx."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        covered = [
            (outputs - 1) * stride + span - sum(padding)
            for outputs, stride, span, padding in zip(
                dy.shape[2:], self.window.stride, self.window.span, self.window.padding
            )
        ]
        return dx[:, :, : covered[0], : covered[1]], grads


class ConvUnpaddedInput(Conv2D):
    """dweight is summed over the image as it came, not over the padded one that forward used."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        ends = [(0, 0), (0, 0), *((0, sum(p)) for p in self.window.padding)]
        windows = self.window.view(batch_last(np.pad(saved, ends)))
        columns = im2col(windows).reshape(-1, dy.size // dy.shape[1])
        dweight = batch_last(dy).reshape(dy.shape[1], -1) @ columns.T
        return dx, grads | {"weight": dweight.reshape(grads["weight"].shape)}


class ConvKernelNotRotated(Conv2D):
    """dx slides the kernel over dy as forward slides it over x; it has to be turned by 180 degrees.
    A symmetric kernel hides it."""

    def backward(self, dy, saved, need_dx=True):
        turned = self.map_arrays(lambda p: p[..., ::-1, ::-1] if p.ndim == 4 else p)
        return Conv2D.backward(turned, dy, saved)[0], super().backward(dy, saved)[1]


class ConvOverlapAssigned(Conv2D):
    """col2im writes each tap's gradient where it adds: with stride 1 an entry keeps one of its
    KH*KW contributions."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        weight = self.params["weight"].astype(dx.dtype)
        dcolumns = np.einsum("ocij,nopq->ijcpqn", weight, dy)
        dpadded = np.zeros(self.window.padded_shape(saved.shape), dx.dtype)
        for dtap, taken in zip(
            self.window.taps(dpadded), dcolumns.reshape(-1, *dcolumns.shape[2:])
        ):
            dtap[...] = taken
        return self.window.unpad(dpadded), grads


class ConvLastImage(Conv2D):
    """A loop over the images assigns dweight instead of adding to it: the last image is left."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        return dx, grads | super().backward(dy[-1:], saved[-1:])[1]


class ConvBiasMean(Conv2D):
    """dbias is the mean over images and positions. The loss has taken the mean over the batch
    already, and the positions belong in a sum."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        return dx, grads | {"bias": dy.mean(axis=(0, 2, 3))}


class LinearBatchMean(Linear):
    """dweight is divided by N although the loss is a mean already; tested alone, each layer looks
    like a matter of convention."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        return dx, grads | {"weight": grads["weight"] / len(dy)}


class LinearTransposed(Linear):
    """dweight is X^T dY instead of dY^T X; where the layer is square, no shape complains."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        return dx, grads | {"weight": grads["weight"].T}


class LinearWeightNotTransposed(Linear):
    """dx multiplies by W^T, as forward does, instead of W; where the layer is square, it fits."""

    def backward(self, dy, saved, need_dx=True):
        _, grads = super().backward(dy, saved)
        return dy @ self.params["weight"].T.astype(dy.dtype), grads


class LinearBiasForgotten(Linear):
    """dbias is made as zeros and never filled in, so the bias stays what it was."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        return dx, grads | {"bias": np.zeros_like(grads["bias"])}


class LinearGradientsPileUp(Linear):
    """The gradients are kept in the layer and added to, and nobody sets them to zero."""

    total: Array | float = 0

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        self.total = self.total + grads["weight"]
        return dx, grads | {"weight": self.total}


class LinearKeepsInput(Linear):
    """The input is kept in the layer, so a second forward pass, of a test batch say, changes the
    gradient of the first."""

    def forward(self, x):
        self.x = x
        return super().forward(x)

    def backward(self, dy, saved, need_dx=True):
        return super().backward(dy, self.x)


class SigmoidOfOutput(Sigmoid):
    """The derivative y * (1 - y) is given y where it expects x, and takes the sigmoid again."""

    def backward(self, dy, saved, need_dx=True):
        again, _ = super().forward(saved)
        return super().backward(dy, again)


class SigmoidOverflow(Sigmoid):
    """exp(x) / (1 + exp(x)) is infinity over infinity, NaN, from x = 89 on in float32."""

    def forward(self, x):
        y = np.exp(x) / (1 + np.exp(x))
        return y, y


class SigmoidFloat64(Sigmoid):
    """A NumPy scalar of float64 among float32 arrays makes everything after it float64, at half the
    speed and twice the memory."""

    def forward(self, x):
        y, saved = super().forward(x)
        return np.float64(1) * y, saved


class TanhPrecedence(Tanh):
    """(1 - y)**2 where 1 - y**2 was meant. Tests of the shapes pass."""

    def backward(self, dy, saved, need_dx=True):
        return dy * (1 - saved) ** 2, {}


class ReLUWritesIntoUpstream(ReLU):
    """dx is made by setting entries of dy to zero, in the array that belongs to the caller."""

    def backward(self, dy, saved, need_dx=True):
        dy[saved <= 0] = 0
        return dy, {}


class ReLUInPlace(ReLU):
    """The output is written over the input, which the layer before may have kept."""

    def forward(self, x):
        return np.maximum(x, 0, out=x), x


class ReLUMaskOfUpstream(ReLU):
    """Backward applies ReLU to dy: it asks where dy is positive, not where x was."""

    def backward(self, dy, saved, need_dx=True):
        return np.maximum(dy, 0), {}


class FlattenOtherOrder(Flatten):
    """Forward lays out channel, row, column; backward takes them for row, column, channel. Every
    number is there, in the wrong place."""

    def backward(self, dy, saved, need_dx=True):
        n, c, h, w = saved
        return dy.reshape(n, h, w, c).transpose(0, 3, 1, 2), {}


class LeakyReLUOtherSide(LeakyReLU):
    """The slope is taken where x is positive, and dy goes through where it is negative."""

    def _gradient(self, dy, y):
        return np.where(y > 0, self.negative_slope * dy, dy)


class LeakyReLUSlopeForgotten(LeakyReLU):
    """Backward is still that of ReLU, so that no gradient leaks."""

    def _gradient(self, dy, y):
        return dy * (y > 0)


class GELUOfApproximation(GELU):
    """Forward is exact, and backward the derivative of the approximation with tanh."""

    def forward(self, x):
        y, _ = super().forward(x)
        factor, share = math.sqrt(2 / math.pi), 0.044715
        t = np.tanh(factor * (x + share * x**3))
        inner = factor * (1 + 3 * share * x * x)
        return y, (1 + t + x * (1 - t * t) * inner) / 2


class ConvTransposeKernelRotated(ConvTranspose2D):
    """Transposed is taken for turned by 180 degrees, and so dx for a convolution with the kernel
    turned back."""

    def backward(self, dy, saved, need_dx=True):
        turned = self.map_arrays(lambda p: p[..., ::-1, ::-1] if p.ndim == 4 else p)
        return ConvTranspose2D.backward(turned, dy, saved)[0], super().backward(dy, saved)[1]


class ConvTransposeChannelsExchanged(ConvTranspose2D):
    """The weight is (in, out, KH, KW) here and (out, in, KH, KW) in a convolution. dx takes one for
    the other; where both are equally many, it fits."""

    def backward(self, dy, saved, need_dx=True):
        other = self.map_arrays(lambda p: p.swapaxes(0, 1) if p.ndim == 4 else p)
        return ConvTranspose2D.backward(other, dy, saved)[0], super().backward(dy, saved)[1]


class BatchNormConstantStatistics(BatchNorm2D):
    """Mean and variance are taken as constants, although they are made of x: dx is dy, scaled."""

    def backward(self, dy, saved, need_dx=True):
        _, grads = super().backward(dy, saved)
        return dy * _slope(self, dy, saved), grads


class BatchNormConstantVariance(BatchNorm2D):
    """The mean is differentiated and the variance is not, so the last of dx's three terms, the one
    along x_hat, is missing."""

    def backward(self, dy, saved, need_dx=True):
        _, grads = super().backward(dy, saved)
        dx = dy * _slope(self, dy, saved)
        return dx - dx.mean(axis=(0, 2, 3), keepdims=True), grads


class BatchNormUnbiasedForward(BatchNorm2D):
    """The variance of forward is divided by M - 1, as a library's default may be, and backward is
    written for M."""

    def forward(self, x):
        m = x.size // x.shape[1]
        return _normalised(self, x, lambda var: 1 / np.sqrt(var * (m / (m - 1)) + self.eps))


class BatchNormEpsOutsideRoot(BatchNorm2D):
    """eps is added to the standard deviation. In a channel that is nearly blank it is then 1e-5
    instead of sqrt(1e-5) = 0.003, and noise is blown up."""

    def forward(self, x):
        return _normalised(self, x, lambda var: 1 / (np.sqrt(var) + self.eps))


class BatchNormWeightForgotten(BatchNorm2D):
    """dx is the one of x_hat, not multiplied by weight. The weights are ones at first, and then it
    is right."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        return dx / self.params["weight"].astype(dx.dtype)[:, None, None], grads


class BatchNormWeightOfInput(BatchNorm2D):
    """dweight is summed over x as it came, where x_hat belongs."""

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
    has nine tenths of it."""

    def updates(self, saved):
        other = copy.copy(self)
        other.momentum = 1 - self.momentum
        return BatchNorm2D.updates(other, saved)


class BatchNormBiasedRunningVariance(BatchNorm2D):
    """running_var is of the variance by M, where the one by M - 1 belongs, the estimate for all
    images."""

    def updates(self, saved):
        x_hat, inverse_std, mean, var = saved
        m = x_hat[0].size
        return super().updates((x_hat, inverse_std, mean, var * ((m - 1) / m)))


class BatchNormInferenceByBatch(BatchNorm2D):
    """Inference normalises by the batch too, so what is said of an image depends on the others, and
    of a single pixel there is nothing to say."""

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
    """What is kept is not divided by 1 - p, in forward and backward alike, so in inference all sums
    are larger than in training."""

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


class ResidualShortcutForgotten(Residual):
    """dx is the body's alone, and what the shortcut was made for, that dy reaches x as it is, does
    not happen."""

    def backward(self, dy, saved, need_dx=True):
        dx, _ = self.parts["body"].backward(dy, saved[0])
        return dx, super().backward(dy, saved)[1]


class ResidualShortcutTwice(Residual):
    """dy is added where the branches come together, and once more where they part."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        return dx + dy, grads


def cross_entropy_not_averaged(logits, labels):
    """The loss is a mean over the batch, its gradient is not: N times too large, which a smaller
    learning rate hides."""
    loss, dlogits = softmax_cross_entropy(logits, labels)
    return loss, dlogits * len(logits)


def cross_entropy_diagonal(logits, labels):
    """Softmax has a derivative by every logit of the row; only that by its own is kept."""
    loss, dlogits = softmax_cross_entropy(logits, labels)
    return loss, dlogits * (labels[:, None] == np.arange(logits.shape[1]))


def cross_entropy_overflow(logits, labels):
    """Without taking the row's maximum off first, exp overflows from 89 on in float32."""
    exp = np.exp(logits)
    p = exp / exp.sum(axis=1, keepdims=True)
    is_label = labels[:, None] == np.arange(logits.shape[1])
    return -np.log(p[is_label]).mean(), (p - is_label) / logits.dtype.type(len(logits))


def squared_error_opposite_sign(prediction, target):
    """Target minus prediction, which the square hides in the loss: every step goes uphill."""
    loss, dprediction = squared_error(prediction, target)
    return loss, -dprediction


def squared_error_without_two(prediction, target):
    """The 2 of the square is left out; right for half the square, which is not the loss."""
    loss, dprediction = squared_error(prediction, target)
    return loss, dprediction / 2


def _slope(layer: BatchNorm2D, dy: Array, saved: Any) -> Array:
    """weight * inverse_std, (C, 1, 1): the slope of y by x if the statistics were constants."""
    weight, _ = layer._affine(dy)
    return (weight * saved[1])[..., None]


def _normalised(
    layer: BatchNorm2D, x: Array, inverse_std_of: Callable[[Array], Array]
) -> tuple[Array, Any]:
    """The forward of a batch norm with another function of the variance."""
    _, (_, _, mean, var) = BatchNorm2D.forward(layer, x)
    weight, bias = (array[..., None] for array in layer._affine(x))
    inverse_std = inverse_std_of(var)
    x_hat = (x - mean[..., None]) * inverse_std[..., None]
    return weight * x_hat + bias, (batch_last(x_hat), inverse_std, mean, var)


@dataclass(frozen=True)
class Fault:
    """An exhibit: `wrong` in the place of `right`, a layer or a loss, with an input that shows it.

    `arguments` make the layer, `x_shape` is the shape of its input, whose values are normal and
    then go through `values`. `cause` is what the checker says, None if the pattern gives no hint.
    `beside` names those of "forward", "inference" and "updates" in which the wrong layer is
    compared with the right one, since no gradient can give the mistake away.
    """

    right: type[Layer] | Callable
    wrong: type[Layer] | Callable
    x_shape: tuple[int, ...]
    cause: str | None
    arguments: dict[str, Any] = field(default_factory=dict)
    values: Callable[[Array], Array] = np.asarray
    beside: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.wrong.__name__

    @property
    def story(self) -> str:
        """How the mistake happens, in a sentence or two."""
        return " ".join((self.wrong.__doc__ or "").split())

    def check(self, seed: int = 0) -> Report:
        """What the checker says of it."""
        rng = np.random.default_rng(seed)
        x = self.values(rng.standard_normal(self.x_shape))
        if not isinstance(self.wrong, type):
            is_squared = self.right is squared_error
            labels = rng.integers(0, self.x_shape[1], len(x))
            target = rng.standard_normal(self.x_shape) if is_squared else labels
            return check_gradients(LossLayer(self.wrong, target), x, seed=seed)
        wrong, right = (
            kind(**self.arguments).astype(np.float64).at((seed,))
            for kind in (self.wrong, self.right)
        )
        for name, array in right.arrays.items():
            array[...] = rng.uniform(0.5, 1.5, array.shape)  # none that hides a mistake, as 1 does
            wrong.arrays[name][...] = array
        report = check_gradients(
            wrong,
            x,
            seed=seed,
            reference=(lambda x: right.forward(x)[0]) if "forward" in self.beside else None,
            inference=right if "inference" in self.beside else None,
        )
        found = tuple(_update_findings(wrong, right, x)) if "updates" in self.beside else ()
        return replace(report, findings=report.findings + found)


def _update_findings(wrong: Layer, right: Layer, x: Array) -> Iterator[Finding]:
    asked, expected = (layer.updates(layer.forward(x)[1]) for layer in (wrong, right))
    for name, new in expected.items():
        if not np.allclose(asked[name], new, rtol=1e-9):
            message = f"updates gives {name} {asked[name]}, the right layer {new}"
            yield Finding(name, message, diagnose_update(right, name, asked[name], new, x), "state")


_OVERLAP = {"kernel_size": 3, "stride": 2}
_CONV = {"in_channels": 2, "out_channels": 4, "kernel_size": 3, "padding": 1}
_STRIDED = {"in_channels": 2, "out_channels": 4, "kernel_size": 3, "stride": 2}
_SQUARE = {"in_features": 4, "out_features": 4}
_TRANSPOSED = {"in_channels": 2, "out_channels": 2, "kernel_size": 3, "stride": 2}
_NORM, _DROP, _BODY = {"num_features": 2}, {"p": 0.25}, {"body": Tanh()}
_IMAGES, _ROWS = (3, 2, 6, 8), (3, 4)
_ADD_UP = "overwritten where it should be added up"


def _batch_norm(wrong: type[Layer], cause: str, *beside: str) -> Fault:
    return Fault(BatchNorm2D, wrong, _IMAGES, cause, _NORM, lambda x: 2 * x + 1, beside)


FAULTS = [
    Fault(MaxPool2D, MaxPoolOverlapAssigned, _IMAGES, _ADD_UP, _OVERLAP),
    Fault(
        MaxPool2D,
        MaxPoolZeroPadding,
        _IMAGES,
        "forward is wrong",
        _OVERLAP | {"padding": 1},
        lambda x: -1 - np.abs(x),
        beside=("forward",),
    ),
    Fault(
        MaxPool2D,
        MaxPoolEveryTie,
        _IMAGES,
        "a tie not counted exactly once",
        {"kernel_size": 2},
        np.round,
    ),
    Fault(AvgPool2D, AvgPoolShareForgotten, _IMAGES, "times KH*KW", _OVERLAP),
    Fault(AvgPool2D, AvgPoolUpstreamIgnored, _IMAGES, "upstream gradient ignored", _OVERLAP),
    Fault(Conv2D, ConvPaddingKept, _IMAGES, "gradient of the padding kept", _CONV),
    Fault(Conv2D, ConvCropped, _IMAGES, "shifted by (1, 1) pixels", _CONV),
    Fault(Conv2D, ConvRowsLeftOver, _IMAGES, "pixels left over at the border left out", _STRIDED),
    Fault(Conv2D, ConvUnpaddedInput, _IMAGES, None, _CONV),
    Fault(Conv2D, ConvKernelNotRotated, _IMAGES, "kernel rotated by 180 degrees", _CONV),
    Fault(Conv2D, ConvOverlapAssigned, _IMAGES, _ADD_UP, _CONV),
    Fault(Conv2D, ConvLastImage, _IMAGES, _ADD_UP, _CONV),
    Fault(Conv2D, ConvBiasMean, _IMAGES, "divided by N*OH*OW", _CONV),
    Fault(Linear, LinearBatchMean, _ROWS, "divided by N", _SQUARE),
    Fault(Linear, LinearTransposed, _ROWS, "transposed", _SQUARE),
    Fault(Linear, LinearWeightNotTransposed, _ROWS, "transposed", _SQUARE),
    Fault(Linear, LinearBiasForgotten, _ROWS, "never computed", _SQUARE),
    Fault(Linear, LinearGradientsPileUp, _ROWS, "gradients pile up", _SQUARE),
    Fault(Linear, LinearKeepsInput, _ROWS, "a batch kept in the layer", _SQUARE),
    Fault(Sigmoid, SigmoidOfOutput, _ROWS, "x and y mixed up"),
    Fault(Sigmoid, SigmoidOverflow, _ROWS, "overflow"),
    Fault(Sigmoid, SigmoidFloat64, _ROWS, "dtype lost"),
    Fault(Tanh, TanhPrecedence, _ROWS, None),
    Fault(ReLU, ReLUWritesIntoUpstream, _ROWS, "argument changed"),
    Fault(ReLU, ReLUInPlace, _ROWS, "argument changed"),
    Fault(ReLU, ReLUMaskOfUpstream, _ROWS, "not linear in the upstream gradient"),
    Fault(Flatten, FlattenOtherOrder, _IMAGES, "right numbers in the wrong places"),
    Fault(LeakyReLU, LeakyReLUOtherSide, _IMAGES, "another mask than in forward"),
    Fault(LeakyReLU, LeakyReLUSlopeForgotten, _IMAGES, "entries left at zero"),
    Fault(GELU, GELUOfApproximation, _IMAGES, "the derivative of an approximation"),
    Fault(
        ConvTranspose2D,
        ConvTransposeKernelRotated,
        _IMAGES,
        "kernel rotated by 180 degrees",
        _TRANSPOSED,
    ),
    Fault(ConvTranspose2D, ConvTransposeChannelsExchanged, _IMAGES, "transposed", _TRANSPOSED),
    _batch_norm(BatchNormConstantStatistics, "mean and variance taken as constants"),
    _batch_norm(BatchNormConstantVariance, "variance taken as a constant"),
    _batch_norm(BatchNormUnbiasedForward, "M and M - 1 mixed up in the variance"),
    _batch_norm(BatchNormEpsOutsideRoot, "forward is wrong", "forward"),
    _batch_norm(BatchNormWeightForgotten, "not multiplied by weight"),
    _batch_norm(BatchNormWeightOfInput, "as if y were x * weight"),
    _batch_norm(BatchNormMomentumExchanged, "momentum and 1 - momentum exchanged", "updates"),
    _batch_norm(BatchNormBiasedRunningVariance, "M and M - 1 mixed up in the variance", "updates"),
    _batch_norm(BatchNormInferenceByBatch, "images of a batch mixed"),
    _batch_norm(BatchNormLearnsInInference, "argument changed", "inference"),
    Fault(Dropout, DropoutNotScaled, _IMAGES, "forward is wrong", _DROP, beside=("forward",)),
    Fault(Dropout, DropoutScaledInBackward, _IMAGES, "times 1/(1 - p)", _DROP),
    Fault(Dropout, DropoutOtherMask, _IMAGES, "another mask than in forward", _DROP),
    Fault(
        Dropout,
        DropoutInInference,
        _IMAGES,
        "inference is wrong",
        _DROP,
        beside=("inference",),
    ),
    Fault(Residual, ResidualShortcutForgotten, _ROWS, "dy left out of a sum", _BODY),
    Fault(Residual, ResidualShortcutTwice, _ROWS, "dy added once too often", _BODY),
    Fault(softmax_cross_entropy, cross_entropy_not_averaged, _ROWS, "times N"),
    Fault(softmax_cross_entropy, cross_entropy_diagonal, _ROWS, "entries left at zero"),
    Fault(softmax_cross_entropy, cross_entropy_overflow, _ROWS, "overflow"),
    Fault(squared_error, squared_error_opposite_sign, _ROWS, "opposite sign"),
    Fault(squared_error, squared_error_without_two, _ROWS, "divided by 2"),
]
