"""Arguments are checked where they come in; what does not fit gets one sentence: what was expected,
what came, how to mend it."""

import numpy as np

from minicnn.backend import Array, array_module, device_of

Pair = tuple[int, int]
Shape = tuple[int, ...]


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


def check_float(owner: object, x: Array) -> None:
    """Raises ValueError unless x is an array of floats."""
    array_module(x)
    if x.dtype.kind != "f":
        raise ValueError(
            f"{owner} expected a float array but got {x.dtype}: images of bytes, for example, "
            f"become floats as x.astype('float32') / 255"
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
    if len(x_shape) != 4:
        raise ValueError(f"{owner} expected x of shape (N, C, H, W) but got {tuple(x_shape)}")
    if channels is not None and x_shape[1] != channels:
        raise ValueError(
            f"{owner} expected {channels} input channels but got {x_shape[1]}, "
            f"in x of shape {tuple(x_shape)}"
        )


def check_gradient(owner: object, dy: Array, y_shape: Shape) -> None:
    """Raises ValueError unless the upstream gradient has the shape of the output."""
    if dy.shape != y_shape:
        raise ValueError(f"{owner} expected dy of y's shape {y_shape} but got {dy.shape}")
