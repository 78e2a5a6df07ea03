"""Activations: one function applied to every entry, y = f(x), so that dx = dy * f'(x).

    sigmoid   y = 1 / (1 + exp(-x))                                                        (1)
              dx = dy * y * (1 - y)                                                        (2)
    tanh      y = tanh(x)                                                                  (3)
              dx = dy * (1 - y**2)                                                         (4)
    ReLU      y = max(x, 0)                                                                (5)
              dx = dy where y > 0, else 0; at the kink x = 0 the derivative is taken as 0  (6)
    leaky     y = x where x > 0, else slope*x, so y = max(x, slope*x) for a slope up to 1  (7)
    ReLU      dx = dy where y > 0, else slope*dy, as it is at the kink                     (8)
    GELU      y = x * Phi(x) = max(x, 0) - a*Phi(-a)     where a = |x|                     (9)
              dx = dy * (Phi(x) + x*phi(x))                                                (10)

All derivatives but the last are written in terms of y, which the next layer keeps anyway, so x need
not be kept. For the sigmoid: exp(-x) = (1 - y)/y, so f' = exp(-x) / (1 + exp(-x))**2 =
y**2 * (1 - y)/y = y*(1 - y). For x below -88 in float32 (-709 in float64), exp(-x) is infinite,
and y is 0, as it should be.

Phi(x) is the share of a normal distribution that lies below x, and phi is its density. Because
Phi(x) = 1 - Phi(-x), (9) has x - x*Phi(-x) for x*Phi(x) where x > 0; and with
s = Phi(-a) - a*phi(a), Phi(x) + x*phi(x) is 1 - s there and s elsewhere. GELU falls before it
rises, so y does not determine the derivative: forward computes it and saves that instead.

Source: Y. LeCun et al., "Efficient BackProp", 1998, section 4.4; V. Nair, G. Hinton, "Rectified
linear units improve restricted Boltzmann machines", ICML 2010; A. Maas, A. Hannun, A. Ng,
"Rectifier nonlinearities improve neural network acoustic models", ICML 2013; D. Hendrycks,
K. Gimpel, "Gaussian error linear units (GELUs)", 2016.
"""

import numpy as np

from minicnn.arguments import share
from minicnn.backend import Array, along_memory, array_module, masked
from minicnn.checks import check_float, check_gradient
from minicnn.layers.base import Layer, Result
from minicnn.layers.normal import density_and_tail


class Activation(Layer):
    """Any shape in, the same shape out, no parameters. A subclass gives a function of each entry
    and, in terms of its result y, the gradient."""

    def _function(self, x: Array) -> Array | tuple[Array, Array]:
        """y, for x; or y and what backward needs in its place."""
        raise NotImplementedError

    def _gradient(self, y: Array, dy: Array) -> Array:
        """dx, for y, or what is saved in its place, and dy."""
        raise NotImplementedError

    def forward(self, x: Array) -> tuple[Array, Array]:
        check_float(self, x)
        y = along_memory(self._function, x)
        return y if isinstance(y, tuple) else (y, y)

    def backward(self, dy: Array, saved: Array, need_dx: bool = True) -> Result:
        check_gradient(self, dy, saved.shape, saved)
        return (along_memory(self._gradient, saved, dy) if need_dx else None), {}


class Sigmoid(Activation):
    """y = 1 / (1 + exp(-x)), between 0 and 1."""

    def _function(self, x: Array) -> Array:
        xp = array_module(x)
        y = xp.asarray(-x)  # if x has no axes, -x is a number
        with np.errstate(over="ignore", under="ignore"):
            xp.exp(y, out=y)
        y += 1
        return xp.divide(1, y, out=y)  # (1)

    def _gradient(self, y: Array, dy: Array) -> Array:
        dx = 1 - y
        dx *= y
        dx *= dy  # (2)
        return dx


class Tanh(Activation):
    """y = tanh(x), between -1 and 1."""

    def _function(self, x: Array) -> Array:
        return array_module(x).tanh(x)  # (3)

    def _gradient(self, y: Array, dy: Array) -> Array:
        return dy * (1 - y * y)  # (4)


class ReLU(Activation):
    """y = max(x, 0)."""

    def _function(self, x: Array) -> Array:
        return array_module(x).maximum(x, 0)  # (5)

    def _gradient(self, y: Array, dy: Array) -> Array:
        return masked(dy, y > 0)  # (6)


class LeakyReLU(Activation):
    """y = x where x > 0, else negative_slope * x, with a slope from 0 to 1."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = share("negative_slope", negative_slope)

    def _function(self, x: Array) -> Array:
        return array_module(x).maximum(x, self.negative_slope * x)  # (7)

    def _gradient(self, y: Array, dy: Array) -> Array:
        step = (y > 0).astype(y.dtype)
        return dy * array_module(y).maximum(step, self.negative_slope)  # (8)


class GELU(Activation):
    """y = x * Phi(x), where Phi(x) is the share of a normal distribution that lies below x;
    PyTorch's GELU(approximate="none")."""

    def _function(self, x: Array) -> tuple[Array, Array]:
        xp = array_module(x)
        a = xp.minimum(abs(x), 40)  # beyond which the tail is 0, and infinity times 0 would be nan
        density, tail = density_and_tail(a)
        y = xp.maximum(x, 0) - a * tail  # (9)
        step = (x > 0).astype(x.dtype)
        return y, step + (1 - 2 * step) * (tail - a * density)  # (10), for dy = 1

    def _gradient(self, slope: Array, dy: Array) -> Array:
        return dy * slope  # (10)
