"""Wrong gradients of linear layers, flattening and shortcuts."""

import numpy as np

from minicnn.backend import Array
from minicnn.gradcheck.museum.fault import IMAGES, MADE_UP, ROWS, Fault
from minicnn.layers import Flatten, Layer, Linear, Residual, Tanh


class LinearBatchMean(Linear):
    """dweight is divided by N although the loss is already a mean; in a test of the layer alone
    this looks like a matter of convention."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        return dx, grads | {"weight": grads["weight"] / len(dy)}


class LinearTransposed(Linear):
    """dweight is X^T dY instead of dY^T X; where the layer is square, no shape complains."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        return dx, grads | {"weight": grads["weight"].T}


class LinearWeightNotTransposed(Linear):
    """dx multiplies by A^T, as forward does, instead of A, the weight; in a square layer no shape
    complains."""

    def backward(self, dy, saved, need_dx=True):
        _, grads = super().backward(dy, saved)
        return dy @ self.params["weight"].T.astype(dy.dtype), grads


class LinearBiasForgotten(Linear):
    """dbias is allocated as zeros and never filled in, so the bias never changes."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        return dx, grads | {"bias": np.zeros_like(grads["bias"])}


class LinearGradientsPileUp(Linear):
    """The gradients are kept in the layer, added to, and never set to zero."""

    total: Array | float = 0

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        self.total = self.total + grads["weight"]
        return dx, grads | {"weight": self.total}


class LinearKeepsInput(Linear):
    """The input is kept in the layer, so a second forward pass, say of a test batch, changes the
    gradient of the first."""

    def forward(self, x):
        self.x = x
        return super().forward(x)

    def backward(self, dy, saved, need_dx=True):
        return super().backward(dy, self.x)


class FlattenOtherOrder(Flatten):
    """Forward lays out channel, row, column; backward takes them for row, column, channel. Every
    number is there, in the wrong place."""

    def backward(self, dy, saved, need_dx=True):
        n, c, h, w = saved
        return dy.reshape(n, h, w, c).transpose(0, 3, 1, 2), {}


class ResidualShortcutForgotten(Residual):
    """dx is the body's alone, without the dy that the shortcut passes straight to x."""

    def backward(self, dy, saved, need_dx=True):
        dx, _ = self.parts["body"].backward(dy, saved[0])
        return dx, super().backward(dy, saved)[1]


class ResidualShortcutTwice(Residual):
    """dy is added where the branches come together, and once more where they part."""

    def backward(self, dy, saved, need_dx=True):
        dx, grads = super().backward(dy, saved)
        return dx + dy, grads


def _square(wrong: type[Layer], cause: str, seen: str = MADE_UP) -> Fault:
    return Fault(Linear, wrong, ROWS, cause, {"in_features": 4, "out_features": 4}, seen=seen)


_BODY = {"body": Tanh()}

FAULTS = [
    _square(LinearBatchMean, "divided by N", "asked in SkalskiP/ILearnDeepLearning.py#29"),
    _square(LinearTransposed, "transposed"),
    _square(LinearWeightNotTransposed, "transposed"),
    _square(LinearBiasForgotten, "never computed"),
    _square(LinearGradientsPileUp, "gradients pile up"),
    _square(LinearKeepsInput, "a batch kept in the layer"),
    Fault(Flatten, FlattenOtherOrder, IMAGES, "right numbers in the wrong places"),
    Fault(
        Residual,
        ResidualShortcutForgotten,
        ROWS,
        "dy left out of a sum",
        _BODY,
        seen="jakeret/tf_unet#9",
    ),
    Fault(Residual, ResidualShortcutTwice, ROWS, "dy added once too often", _BODY),
]
