"""The rounding errors on derivations/winograd.md: `python docs/winograd_errors.py`.

Convolutions of 64 channels in float32, of normal numbers, forward and backward, against float64:
by im2col, and in Winograd's form with several sets of points. It prints the root mean square of
the errors, divided by that of the results.
"""

import math
from unittest import mock

import numpy as np

from minicnn import Conv2D
from minicnn.layers import winograd

SETS = {
    "0, 1, -1, 2, -2": (0, 1, -1, 2, -2),
    "0, 1, -1, 1/2, -2": (0, 1, -1, 1 / 2, -2),
    "0, 3/4, -3/4, 3/2, -3/2": winograd.POINTS,
}
RESULTS = "y", "dx", "dweight"


def convolution(kernel, dtype):
    """y, dx and dweight of a layer, for an image and dy of normal numbers."""
    rng = np.random.default_rng(0)
    layer = Conv2D(64, 64, kernel, padding="same", bias=False, rng=rng).astype(dtype)
    x, dy = rng.standard_normal((2, 4, 64, 16, 16), np.float32).astype(dtype)
    y, saved = layer.forward(x)
    dx, grads = layer.backward(dy, saved)
    return y, dx, grads["weight"]


def errors(kernel, **constants):
    """For each result, with these constants of the module."""
    with mock.patch.multiple(winograd, GAIN=math.inf):
        exact = convolution(kernel, np.float64)
    with mock.patch.multiple(winograd, **constants):
        found = convolution(kernel, np.float32)
    return [np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)) for a, b in zip(found, exact)]


def table():
    lines = [f"{'points, and infinity':<26}" + "".join(f"{name:>9}" for name in RESULTS)]
    forms = {"im2col": {"GAIN": math.inf}} | {name: {"POINTS": SETS[name]} for name in SETS}
    for kernel in 3, 5:
        lines.append(f"{kernel}x{kernel} kernel, tiles of {7 - kernel}x{7 - kernel} outputs")
        for name, constants in forms.items():
            numbers = "".join(f"{error:9.1e}" for error in errors(kernel, **constants))
            lines.append(f"  {name:<24}{numbers}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
