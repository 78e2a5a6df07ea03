"""Arguments are checked where they come in; what does not fit gets one sentence: what was expected,
what was given, how to fix it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minicnn.backend import Array, array_module, device_of

Pair = tuple[int, int]
Shape = tuple[int, ...]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def integer(name: str, value: int, minimum: int) -> int:
    """`value` as an int; ValueError if it is not an integer >= minimum."""
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_integer or value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {value!r}")
    return int(value)


def pair(name: str, value: int | Pair, minimum: int) -> Pair:
    """An int, or (height, width), as (height, width); ValueError if not integers >= minimum."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(values) != 2:
        raise ValueError(f"{name} must be an integer or (height, width), got {value!r}")
    return tuple(integer(name, v, minimum) for v in values)


def finite(name: str, value: float) -> float:
    """`value` as a float; ValueError if it is not a finite number."""
    is_number = isinstance(value, (int, float, np.integer, np.floating))
    if not is_number or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def float_dtype(dtype: Any) -> np.dtype:
    """`dtype` as a NumPy dtype; ValueError if it is not one that layers compute with."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found not in FLOATS:
        raise ValueError(f"expected a dtype of floats, float32 or float64, but got {dtype!r}")
    return found


def sizes(owner: object, shape: Sequence[int], minimum: int = 0) -> Shape:
    """`shape` as a tuple; ValueError if it is not one of integers >= minimum."""
    if not isinstance(shape, (tuple, list)):
        raise ValueError(f"{owner} expected a shape, a tuple of integers, but got {shape!r}")
    return tuple(integer(f"each size of shape {tuple(shape)}", size, minimum) for size in shape)


def check_float(owner: object, x: Array, name: str = "x") -> None:
    """Raises ValueError unless x, called `name`, is an array of float32 or float64. The sums of
    narrower floats overflow and lose digits: float16 ends at 65504 and counts to 2048."""
    array_module(x)
    if x.dtype not in FLOATS:
        images = " / 255 if it holds images of bytes" if x.dtype == np.uint8 else ""
        raise ValueError(
            f"{owner} expected {name} of float32 or float64 but got {x.dtype}: convert it with "
            f".astype('float32'){images}"
        )


def check_device(owner: object, name: str, x: Array, other: Array) -> None:
    """Raises ValueError unless x, called `name`, is where `other` is, on the host or on the GPU."""
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


def check_gradient(owner: object, dy: Array, y_shape: Shape) -> None:
    """Raises ValueError unless the upstream gradient is floats, of the shape of the output."""
    check_float(owner, dy, "dy")
    if dy.shape != y_shape:
        raise ValueError(f"{owner} expected dy of y's shape {y_shape} but got {dy.shape}")
