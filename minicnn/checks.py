"""Checks of the arrays and shapes that layers are given. A bad one raises ValueError in one
sentence: what was expected, what was given, how to fix it. arguments.py checks plain values."""

from typing import Any

import numpy as np

from minicnn.arguments import FLOATS, Shape, sizes
from minicnn.backend import Array, array_module, device_of


def check_float(owner: object, x: Array, name: str = "x") -> None:
    """Raises ValueError unless x, called `name`, is an array of float32 or float64. Sums of
    narrower floats overflow and lose digits: float16 ends at 65504 and counts only to 2048."""
    array_module(x)
    if x.dtype not in FLOATS:
        is_image = name == "x" and x.dtype == np.uint8
        images = " / 255 if it holds images of bytes" if is_image else ""
        raise ValueError(
            f"{owner} expected {name} in float32 or float64 but got {x.dtype}: convert it with "
            f".astype('float32'){images}"
        )


def check_device(owner: object, name: str, x: Array, other: Array) -> None:
    """Raises ValueError unless x, called `name`, is on the device of `other`."""
    if type(x) is not type(other) and device_of(x) != device_of(other):
        place = device_of(other)
        raise ValueError(
            f"{owner} expected {name} on the {place} but got it on the {device_of(x)}: move it "
            f"with minicnn.backend.to_device(array, {place!r})"
        )


def check_images(owner: object, x_shape: Shape, channels: int | None = None) -> None:
    """Raises ValueError unless `x_shape` is (N, C, H, W), with C = `channels` if that is given."""
    if len(sizes(owner, x_shape)) != 4:
        raise ValueError(f"{owner} expected x of shape (N, C, H, W) but got {tuple(x_shape)}")
    if channels is not None and x_shape[1] != channels:
        raise ValueError(
            f"{owner} expected {channels} input channels but got {x_shape[1]}, "
            f"in x of shape {tuple(x_shape)}"
        )


def check_input(layer: Any, x: Array) -> Shape:
    """The shape of the layer's output. Raises ValueError unless x holds floats, is on the layer's
    device, and has a shape that fits."""
    check_float(layer, x)
    for array in layer.arrays.values():
        check_device(layer, "x", x, array)
    return layer.output_shape(x.shape)


def check_gradient(owner: object, dy: Array, y_shape: Shape, saved: Array | None = None) -> None:
    """Raises ValueError unless the upstream gradient dy holds floats, has the shape of y, and is
    on the device of the `saved` array, if that is given."""
    check_float(owner, dy, "dy")
    if dy.shape != y_shape:
        raise ValueError(f"{owner}: dy must have y's shape {y_shape} but has {dy.shape}")
    if saved is not None:
        check_device(owner, "dy", dy, saved)
