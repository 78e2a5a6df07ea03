"""The gradient checker: is `backward` the derivative of `forward`?

The derivative of a scalar function f with respect to entry k of an array x is close to

    df/dx[k] = (f(x + step at k) - f(x - step at k)) / (2 step)                           (1)

with an error of order step^2 from the curvature of f, and of order 1e-16 |f| / step from rounding;
in float64 and with a step of 1e-6 both are small. A layer has many outputs: a random upstream
gradient dy makes them one number, whose gradients are what `backward(dy)` claims:

    f = sum of dy * layer(x)                                                              (2)
"""

from collections.abc import Callable

import numpy as np

from minicnn.backend import Array
from minicnn.layers import Layer


def numerical_gradient(
    function: Callable[[Array], float], array: Array, step: float = 1e-6
) -> Array:
    """Gradient of the scalar function(array) with respect to each entry of a float64 array.

    The entries are changed in place, one at a time, and restored.
    """
    if array.dtype != np.float64:
        raise ValueError(f"central differences need an array of float64 but got {array.dtype}")
    gradient = np.empty(array.shape)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + step
        above = function(array)
        array[index] = value - step
        below = function(array)
        array[index] = value
        gradient[index] = (above - below) / (2 * step)  # (1)
    return gradient


def check_gradients(layer: Layer, x: Array, rng: np.random.Generator) -> dict[str, float]:
    """Worst error of dx (under "x") and of each gradient of the parameters (under its name).

    An error is relative to the largest entry of the gradient. `x` and the parameters are float64.
    """
    y, saved = layer.forward(x)
    dy = rng.standard_normal(y.shape)
    dx, grads = layer.backward(dy, saved)

    def loss(_):
        return np.sum(dy * layer.forward(x)[0])  # (2)

    errors = {"x": _error(dx, numerical_gradient(loss, x))}
    for name, parameter in layer.params.items():
        errors[name] = _error(grads[name], numerical_gradient(loss, parameter))
    return errors


def _error(gradient: Array, expected: Array) -> float:
    if gradient.shape != expected.shape or not np.isfinite(gradient).all():
        return np.inf
    scale = max(np.max(np.abs(a), initial=0.0) for a in (gradient, expected))
    return float(np.max(np.abs(gradient - expected), initial=0.0) / scale) if scale else 0.0
