"""Wrong gradients of activations."""

import math

import numpy as np

from minicnn.gradcheck.museum.fault import IMAGES, ROWS, Fault
from minicnn.layers import GELU, LeakyReLU, ReLU, Sigmoid, Tanh


class SigmoidOfOutput(Sigmoid):
    """The derivative is a function of x but is given y, so it takes the sigmoid of a sigmoid."""

    def backward(self, dy, saved, need_dx=True):
        again, _ = super().forward(saved)
        return super().backward(dy, again)


class SigmoidOverflow(Sigmoid):
    """exp(x) / (1 + exp(x)) is infinity over infinity, or NaN, from x = 89 on in float32."""

    def forward(self, x):
        y = np.exp(x) / (1 + np.exp(x))
        return y, y


class SigmoidFloat64(Sigmoid):
    """A float64 scalar of NumPy among float32 arrays makes everything after it float64, at half the
    speed and twice the memory."""

    def forward(self, x):
        y, saved = super().forward(x)
        return np.float64(1) * y, saved


class TanhPrecedence(Tanh):
    """(1 - y)**2 where 1 - y**2 was meant. Tests of shapes pass."""

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


class LeakyReLUOtherSide(LeakyReLU):
    """The slope is taken where x is positive, and dy goes through where it is negative."""

    def _gradient(self, y, dy):
        return np.where(y > 0, self.negative_slope * dy, dy)


class LeakyReLUSlopeForgotten(LeakyReLU):
    """Backward is still that of ReLU, so that no gradient leaks."""

    def _gradient(self, y, dy):
        return dy * (y > 0)


class GELUOfApproximation(GELU):
    """Forward is exact, but backward is the derivative of the approximation with tanh."""

    def forward(self, x):
        y, _ = super().forward(x)
        factor, share = math.sqrt(2 / math.pi), 0.044715
        t = np.tanh(factor * (x + share * x**3))
        inner = factor * (1 + 3 * share * x * x)
        return y, (1 + t + x * (1 - t * t) * inner) / 2


FAULTS = [
    Fault(Sigmoid, SigmoidOfOutput, ROWS, "x and y mixed up", seen="dwhitena/gophernet#6"),
    Fault(Sigmoid, SigmoidOverflow, ROWS, "overflow"),
    Fault(Sigmoid, SigmoidFloat64, ROWS, "dtype lost", seen="Lasagne/Lasagne#563, of dropout"),
    Fault(Tanh, TanhPrecedence, ROWS, None),
    Fault(ReLU, ReLUWritesIntoUpstream, ROWS, "argument changed"),
    Fault(ReLU, ReLUInPlace, ROWS, "argument changed", seen="asked in pytorch/vision#807"),
    Fault(
        ReLU,
        ReLUMaskOfUpstream,
        ROWS,
        "not linear in the upstream gradient",
        seen="exacity/deeplearningbook-chinese#127",
    ),
    Fault(LeakyReLU, LeakyReLUOtherSide, IMAGES, "not the mask of forward"),
    Fault(
        LeakyReLU,
        LeakyReLUSlopeForgotten,
        IMAGES,
        "entries left at zero",
        seen="scientific-computing/FKB#15",
    ),
    Fault(
        GELU,
        GELUOfApproximation,
        IMAGES,
        "the derivative of an approximation",
        seen="harvard-edge/cs249r_book#1399",
    ),
]
