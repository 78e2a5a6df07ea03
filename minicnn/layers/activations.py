"""Activations: one function applied to every entry, y = f(x), so that dx = dy * f'(x).

    sigmoid   y = 1 / (1 + exp(-x)) = (1 + tanh(x/2)) / 2                                  (1)
              dx = dy * y * (1 - y)                                                        (2)
    tanh      y = tanh(x)                                                                  (3)
              dx = dy * (1 - y**2)                                                         (4)
    ReLU      y = max(x, 0)                                                                (5)
              dx = dy where y > 0, else 0; at the kink x = 0 the derivative is taken as 0  (6)

Each derivative is written in y, which the next layer keeps anyway, so x can be forgotten. For the
sigmoid: exp(-x) = (1 - y)/y, so f' = exp(-x) / (1 + exp(-x))**2 = y**2 * (1 - y)/y = y*(1 - y).
The form with tanh cannot overflow, where exp(-x) does for large negative x; its price is that y is
exactly 0 below about x = -20 in float32 (-38 in float64), where it should be exp(x).

Source: Y. LeCun et al., "Efficient BackProp", 1998, section 4.4; V. Nair, G. Hinton, "Rectified
linear units improve restricted Boltzmann machines", ICML 2010.
"""

from minicnn.backend import Array, array_module, masked
from minicnn.checks import check_float, check_gradient
from minicnn.layers.base import Layer, Result


class Activation(Layer):
    """Any shape in, the same shape out, no parameters: a function of each entry and, in terms of
    its result y, the gradient that it lets through."""

    def _function(self, x: Array) -> Array:
        """y, for x."""
        raise NotImplementedError

    def _gradient(self, dy: Array, y: Array) -> Array:
        """dx, for dy and y."""
        raise NotImplementedError

    def forward(self, x: Array) -> tuple[Array, Array]:
        check_float(self, x)
        y = self._function(x)
        return y, y

    def backward(self, dy: Array, saved: Array, need_dx: bool = True) -> Result:
        y = saved
        check_gradient(self, dy, y.shape, y)
        return (self._gradient(dy, y) if need_dx else None), {}


class Sigmoid(Activation):
    """y = 1 / (1 + exp(-x)), between 0 and 1."""

    def _function(self, x: Array) -> Array:
        xp, half = array_module(x), x.dtype.type(0.5)
        y = xp.asarray(x * half)  # a number, if x has no axes
        xp.tanh(y, out=y)
        y *= half
        y += half  # (1)
        return y

    def _gradient(self, dy: Array, y: Array) -> Array:
        dx = 1 - y
        dx *= y
        dx *= dy  # (2)
        return dx


class Tanh(Activation):
    """y = tanh(x), between -1 and 1."""

    def _function(self, x: Array) -> Array:
        return array_module(x).tanh(x)  # (3)

    def _gradient(self, dy: Array, y: Array) -> Array:
        return dy * (1 - y * y)  # (4)


class ReLU(Activation):
    """y = max(x, 0)."""

    def _function(self, x: Array) -> Array:
        return array_module(x).maximum(x, 0)  # (5)

    def _gradient(self, dy: Array, y: Array) -> Array:
        return masked(dy, y > 0)  # (6)
