"""The slopes of a layer that has no formula on the page, measured by differences of its forward.

With dy they give dx by the chain rule, as in base.py. The layer's backward is used only to see how
much it differs between float32 and float64.
"""

import numpy as np

from minicnn.backend import Array
from minicnn.gradcheck.differences import slopes
from minicnn.layers import Layer

STEP = 1e-6  # of the differences, in float64, as a share of the spread of an array's entries
MOST_SLOPES = 200_000  # of one layer
KINK = 1e-4  # by this share of the largest slope, slopes to the right and left differ at a kink
MOST_NOISE = 1e-3  # as a share of a gradient's largest entry: float32 should be off by less


def measure(layer: Layer, arrays: dict[str, Array]) -> tuple[dict[str, Array], dict[str, float]]:
    """dy[m]/dx[k] of x and each parameter, (K, M), by central differences of forward; at a kink of
    y, also how far the slopes to the right and left are from them. And the noise: how much rounding
    changes the slopes, and in float32 the gradients."""
    dtype, y = arrays["x"].dtype, arrays["y"]
    inputs = [arrays[name] for name in ("x", *layer.params)]
    count = y.size * sum(array.size for array in inputs)
    if count > MOST_SLOPES or not is_finite([y, *inputs]):
        return {}, {}
    layer = layer.astype(np.float64)
    x, dy = (np.array(arrays[name], np.float64, order="C") for name in ("x", "dy"))

    def output() -> Array:
        return layer.forward(x.copy())[0].ravel()

    here, (dx, grads) = output(), layer.backward(dy.copy(), layer.forward(x.copy())[1])
    largest = max(np.abs(array).max(initial=0) for array in (here, *inputs))
    found, noise = {}, {}
    for name, array in {"x": x, **layer.params}.items():
        step = STEP * float(array.std() or np.abs(array).max() or 1) if array.size else STEP
        noise[f"slopes of {name}"] = float(4 * np.finfo(float).eps * largest / step)
        sides = [slopes(output, here, array, k, 1.0, step) for k in range(array.size)]
        right, left = np.moveaxis(np.reshape(sides, (array.size, 2, here.size)), 1, 0)
        found[f"slopes of {name}"] = ((right + left) / 2).astype(dtype)
        kinks = np.abs(right - left) / 2
        kinks[kinks < KINK * np.abs(found[f"slopes of {name}"]).max(initial=0)] = 0
        if kinks.any():
            found[f"kinks of {name}"] = kinks.astype(dtype)
        exact, given = {"x": dx, **grads}.get(name), arrays.get(f"d{name}")
        if exact is not None and given is not None and exact.shape == given.shape:
            off = np.abs(given - exact).max(initial=0)
            noise[f"d{name}"] = float(min(4 * off, MOST_NOISE * np.abs(exact).max(initial=0)))
    return found, noise


def is_finite(arrays: list[Array]) -> bool:
    """Whether all their entries are finite."""
    return all(bool(np.isfinite(array).all()) for array in arrays)
